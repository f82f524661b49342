//! Cluster: questions to this process and to all others of the channel layer.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;

use crate::channels::{ConnectionId, ConnectionInfo, NodeReply, NodeRequest};
use crate::services::Services;
use crate::telemetry::recent_ends::{End, EndFilter};

/// How long one question waits for other processes.
pub(crate) const WAIT_MAX: Duration = Duration::from_secs(1);

/// The process of a connection did not reply in time.
#[derive(Debug)]
pub(crate) struct Unanswered;

/// Asks the process of a connection. `None`: there is no such process.
pub(crate) async fn ask_node(
    services: &Services,
    id: ConnectionId,
    request: NodeRequest,
    wait: Duration,
) -> Result<Option<NodeReply>, Unanswered> {
    if id.node == services.layer.node() {
        return Ok(Some(services.answer(request).await));
    }
    let Some(remote) = services.layer.remote() else {
        return Ok(None);
    };
    let replies = remote.call_node(id.node, &request, wait).await;
    if replies.unanswered > 0 {
        return Err(Unanswered);
    }
    Ok(replies.replies.into_iter().next())
}

/// Asks all processes, this one included. Returns the replies, its own first, and the number of
/// processes that did not reply.
pub(crate) async fn ask_all(services: &Services, request: NodeRequest) -> (Vec<NodeReply>, usize) {
    let own = services.answer(request.clone());
    let Some(remote) = services.layer.remote() else {
        return (vec![own.await], 0);
    };
    let (own, others) = tokio::join!(own, remote.call_all(&request));
    let mut replies = others.replies;
    replies.insert(0, own);
    (replies, others.unanswered)
}

/// A page of the connections of all processes.
#[derive(Debug)]
pub(crate) struct ConnectionPage {
    pub(crate) connections: Vec<ConnectionInfo>,
    /// The id to continue after; `None` on the last page.
    pub(crate) cursor: Option<String>,
    /// The number of processes that did not reply.
    pub(crate) unanswered: usize,
}

/// A selection of connections, and where its page begins.
#[derive(Clone, Debug, Default)]
pub(crate) struct ConnectionFilter {
    pub(crate) user: Option<String>,
    pub(crate) route: Option<String>,
    pub(crate) group: Option<String>,
    /// The process and number after which the page begins.
    pub(crate) cursor: Option<(u64, u64)>,
    pub(crate) limit: usize,
}

/// Lists the connections of all processes that match, by process and number.
pub(crate) async fn connections(services: &Services, filter: &ConnectionFilter) -> ConnectionPage {
    let request = NodeRequest::List {
        user: filter.user.clone(),
        route: filter.route.clone(),
        group: filter.group.clone(),
        cursor: filter.cursor,
        limit: filter.limit + 1,
    };
    let (replies, unanswered) = ask_all(services, request).await;
    let mut by_node = BTreeMap::new();
    for reply in replies {
        if let NodeReply::List {
            node,
            is_cut,
            connections,
        } = reply
        {
            by_node.insert(node, (is_cut, connections));
        }
    }
    let mut connections: Vec<ConnectionInfo> = Vec::new();
    let mut is_more = false;
    for (is_cut, of_node) in by_node.into_values() {
        connections.extend(of_node);
        if is_cut {
            is_more = true; // connections of later nodes come after those left out
            break;
        }
    }
    is_more |= connections.len() > filter.limit;
    connections.truncate(filter.limit);
    let cursor = connections
        .last()
        .filter(|_| is_more)
        .map(|last| last.id.clone());
    ConnectionPage {
        connections,
        cursor,
        unanswered,
    }
}

/// The users in a group, over all processes.
#[derive(Debug, Default)]
pub(crate) struct GroupUsers {
    pub(crate) members: u64,
    pub(crate) anonymous: u64,
    /// Users that are not listed.
    pub(crate) left_out: u64,
    /// Name and number of connections, by id.
    pub(crate) users: BTreeMap<String, (String, u64)>,
    /// The number of processes that did not reply.
    pub(crate) unanswered: usize,
}

/// Returns the users in a group, over all processes.
pub(crate) async fn group_users(services: &Services, group: &str) -> GroupUsers {
    let request = NodeRequest::Group {
        group: group.to_owned(),
    };
    let (replies, unanswered) = ask_all(services, request).await;
    let mut found = GroupUsers {
        unanswered,
        ..GroupUsers::default()
    };
    for reply in replies {
        let NodeReply::Group {
            members,
            anonymous,
            users,
            left_out,
        } = reply
        else {
            continue;
        };
        found.members += members;
        found.anonymous += anonymous;
        found.left_out += left_out;
        for (id, name, connections) in users {
            found.users.entry(id).or_insert((name, 0)).1 += connections;
        }
    }
    found
}

/// The largest groups, over all processes.
#[derive(Debug, Default)]
pub(crate) struct GroupPage {
    /// Name, members and processes, the largest first.
    pub(crate) groups: Vec<(String, u64, u64)>,
    /// How many groups match, in the process that has most of them.
    pub(crate) matched: u64,
    /// The number of processes that did not reply.
    pub(crate) unanswered: usize,
}

/// Returns at most `limit` groups whose names contain a text, the largest first. Each process
/// reports its own largest ones.
pub(crate) async fn largest_groups(services: &Services, contains: &str, limit: usize) -> GroupPage {
    let request = NodeRequest::Groups {
        contains: contains.to_owned(),
        limit,
    };
    let (replies, unanswered) = ask_all(services, request).await;
    let mut matched = 0;
    let mut by_name: BTreeMap<String, (u64, u64)> = BTreeMap::new();
    for reply in replies {
        if let NodeReply::Groups {
            groups,
            groups_matched,
        } = reply
        {
            matched = matched.max(groups_matched);
            for (name, members) in groups {
                let of_name = by_name.entry(name).or_default();
                of_name.0 += members;
                of_name.1 += 1;
            }
        }
    }
    let mut groups: Vec<(String, u64, u64)> = by_name
        .into_iter()
        .map(|(name, (members, processes))| (name, members, processes))
        .collect();
    groups.sort_by(|one, other| other.1.cmp(&one.1).then_with(|| one.0.cmp(&other.0)));
    matched = matched.max(groups.len() as u64);
    groups.truncate(limit);
    GroupPage {
        groups,
        matched,
        unanswered,
    }
}

/// Returns the snapshots of all processes, this one's first, and the number of those that did not
/// reply.
pub(crate) async fn stats(services: &Services) -> (Vec<Value>, usize) {
    let (replies, unanswered) = ask_all(services, NodeRequest::Stats).await;
    let snapshots = replies.into_iter().filter_map(|reply| match reply {
        NodeReply::Stats { stats } => Some(stats),
        _ => None,
    });
    (snapshots.collect(), unanswered)
}

/// Returns the snapshot of this process; null before it is served.
pub(crate) async fn own_stats(services: &Services) -> Value {
    match services.answer(NodeRequest::Stats).await {
        NodeReply::Stats { stats } => stats,
        _ => Value::Null,
    }
}

/// Returns at most `limit` of the last ends of all processes that match, the newest first, and the
/// number of processes that did not reply.
pub(crate) async fn recent_ends(
    services: &Services,
    filter: EndFilter,
    limit: usize,
) -> (Vec<End>, usize) {
    let (replies, unanswered) = ask_all(services, NodeRequest::Ends { filter, limit }).await;
    let mut ends: Vec<End> = replies
        .into_iter()
        .flat_map(|reply| match reply {
            NodeReply::Ends { ends } => ends,
            _ => Vec::new(),
        })
        .collect();
    ends.sort_by(|one, other| other.at.cmp(&one.at).then(other.number.cmp(&one.number)));
    ends.truncate(limit);
    (ends, unanswered)
}

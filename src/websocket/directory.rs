//! Directory: answers requests about the sockets of this process.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use serde::Serialize;

use super::close::{Cause, CloseCode, Ending};
use super::inspection::inspect;
use super::socket_handle::SocketHandle;
use super::sockets::Sockets;
use crate::channels::{
    ChannelLayer, ConnectionInfo, Delivery, Event, GroupName, NodeReply, NodeRequest, RpcHandler,
    UserInfo, deliver_direct,
};
use crate::pace::Pace;
use crate::services::{Services, WeakServices};
use crate::stats::Snapshot;
use crate::telemetry::recent_ends::EndFilter;
use crate::timestamp::Timestamp;

/// The longest reply. A process rejects messages of twice that length from another.
const REPLY_BYTES_MAX: usize = 512 << 10;

/// The most groups or ends in one reply.
const LISTED_MAX: usize = 1000;

/// How many groups of one socket are listed.
const GROUPS_LISTED_MAX: usize = 1000;

/// Answers requests about the sockets of this process, from its own server API and from other
/// processes.
#[derive(Debug)]
pub(crate) struct Directory {
    sockets: Sockets,
    layer: ChannelLayer,
    /// The services hold this directory.
    owner: WeakServices,
}

impl RpcHandler for Directory {
    fn handle(&self, request: NodeRequest) -> Pin<Box<dyn Future<Output = NodeReply> + Send + '_>> {
        Box::pin(self.reply_to(request))
    }
}

impl Directory {
    pub(crate) fn new(sockets: Sockets, services: &Services) -> Self {
        Self {
            sockets,
            layer: services.layer.clone(),
            owner: services.downgrade(),
        }
    }

    async fn reply_to(&self, request: NodeRequest) -> NodeReply {
        match request {
            NodeRequest::Group { group } => self.group(&group),
            NodeRequest::Show { number } => match self.sockets.get(number) {
                Some(handle) => NodeReply::Connection(self.info(&handle)),
                None => NodeReply::NotFound,
            },
            NodeRequest::Send { number, event } => {
                let (Some(handle), Ok(event)) =
                    (self.sockets.get(number), Event::from_json(&event))
                else {
                    return NodeReply::NotFound;
                };
                let is_queued = deliver_direct(&*handle, event) == Delivery::Queued;
                NodeReply::Sent {
                    matched: 1,
                    queued: u64::from(is_queued),
                    dropped: u64::from(!is_queued),
                }
            }
            NodeRequest::End {
                number,
                user,
                code,
                reason,
            } => {
                let code = CloseCode::new(code).ok();
                let ending = Ending::chosen(Cause::Disconnected, code, reason);
                if let Some(number) = number {
                    let Some(handle) = self.sockets.get(number) else {
                        return NodeReply::NotFound;
                    };
                    handle.end(ending);
                    return NodeReply::Closed {
                        matched: 1,
                        closed: Some(1),
                    };
                }
                let is_users = |handle: &SocketHandle| {
                    let of = handle.scope().user.as_ref().map(|of| of.id.as_str());
                    of.is_some() && of == user.as_deref()
                };
                let closed = self.sockets.end(is_users, &ending, &Pace::AT_ONCE).await;
                NodeReply::Closed {
                    matched: closed as u64,
                    closed: None,
                }
            }
            NodeRequest::List {
                user,
                route,
                group,
                cursor,
                limit,
            } => {
                let node = self.layer.node();
                let after = match cursor {
                    Some((of, _)) if of > node => u64::MAX, // all of this process were listed
                    Some((of, number)) if of == node => number,
                    _ => 0,
                };
                let matches = |handle: &SocketHandle| {
                    let scope = handle.scope();
                    let is_of = |wanted: &Option<String>, found: Option<&str>| {
                        wanted.is_none() || wanted.as_deref() == found
                    };
                    is_of(&user, scope.user.as_ref().map(|user| user.id.as_str()))
                        && is_of(&route, Some(&handle.route().label))
                        && group.as_ref().is_none_or(|group| handle.is_in(group))
                };
                let found = self.sockets.list(matches, after, limit).await;
                let connections = within_bound(found.iter().map(|handle| self.info(handle)));
                NodeReply::List {
                    node,
                    is_cut: connections.len() < found.len(),
                    connections,
                }
            }
            NodeRequest::Info => NodeReply::Info {
                connections: self.sockets.len() as u64,
            },
            NodeRequest::Stats => self.stats(),
            NodeRequest::Inspect { number } => match self.sockets.get(number) {
                Some(handle) => NodeReply::Inspected {
                    inspected: inspect(&handle, self.info(&handle)).await,
                },
                None => NodeReply::NotFound,
            },
            NodeRequest::Groups { contains, limit } => {
                let limit = limit.min(LISTED_MAX);
                let (groups, matched) = self.layer.largest_groups(&contains, limit).await;
                let groups = groups
                    .into_iter()
                    .map(|(name, members)| (name.to_string(), members as u64));
                NodeReply::Groups {
                    groups: within_bound(groups),
                    groups_matched: matched as u64,
                }
            }
            NodeRequest::Ends { filter, limit } => self.ends(&filter, limit),
        }
    }

    fn stats(&self) -> NodeReply {
        let Some(services) = self.owner.upgrade() else {
            return NodeReply::NotFound;
        };
        let snapshot = Snapshot::take(&services, self.sockets.len());
        match serde_json::to_value(snapshot) {
            Ok(stats) => NodeReply::Stats { stats },
            Err(_) => NodeReply::NotFound,
        }
    }

    fn ends(&self, filter: &EndFilter, limit: usize) -> NodeReply {
        let Some(services) = self.owner.upgrade() else {
            return NodeReply::NotFound;
        };
        let mut ends = services.recent_ends.list(filter, limit.min(LISTED_MAX));
        for end in &mut ends {
            end.process.clone_from(&services.name);
        }
        NodeReply::Ends {
            ends: within_bound(ends.into_iter()),
        }
    }

    fn group(&self, group: &str) -> NodeReply {
        let Ok(group) = GroupName::new(group) else {
            return NodeReply::NotFound;
        };
        let members = self.layer.group_members(&group);
        let mut known = 0;
        let mut users: BTreeMap<&str, (&str, u64)> = BTreeMap::new();
        for user in members.iter().filter_map(|member| member.user.as_ref()) {
            known += 1;
            users.entry(&user.id).or_insert((&user.name, 0)).1 += 1;
        }
        let listed = users
            .iter()
            .map(|(id, (name, connections))| ((*id).to_owned(), (*name).to_owned(), *connections));
        let listed = within_bound(listed);
        NodeReply::Group {
            members: members.len() as u64,
            anonymous: (members.len() - known) as u64,
            left_out: (users.len() - listed.len()) as u64,
            users: listed,
        }
    }

    fn info(&self, handle: &Arc<SocketHandle>) -> ConnectionInfo {
        let scope = handle.scope();
        let sent = handle.send_stats();
        let user = scope.user.as_ref();
        ConnectionInfo {
            id: handle.connection_id(),
            node: format!("{:016x}", self.layer.node()),
            route: handle.route().label.to_string(),
            path: scope.path().into_owned(),
            user: user.map(|user| UserInfo {
                id: user.id.clone(),
                name: user.name.clone(),
            }),
            client: scope.client.map(|client| client.to_string()),
            groups: handle.group_names(GROUPS_LISTED_MAX),
            opened_at: Timestamp::ago(handle.age()).to_string(),
            queue_bytes: handle.queued_bytes() as u64,
            bytes_sent: sent.bytes,
            dropped: sent.dropped.into(),
        }
    }
}

/// Takes items while they fit into one reply.
fn within_bound<T: Serialize>(items: impl Iterator<Item = T>) -> Vec<T> {
    let mut bytes = 0;
    items
        .take_while(|item| {
            bytes += serde_json::to_string(item).map_or(0, |json| json.len());
            bytes <= REPLY_BYTES_MAX
        })
        .collect()
}

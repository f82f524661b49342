//! Node RPC: requests between processes, and from the server API to its own process.
//!
//! Requests and replies are JSON on the wire, after the head that `remote/wire.rs` writes. The
//! format assumes processes of the same version: a request that a process does not know is answered
//! with [`NodeReply::NotFound`].

use std::future::Future;
use std::pin::Pin;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::telemetry::recent_ends::{End, EndFilter};

/// A request to one process, or to all.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(tag = "ask", rename_all = "snake_case")]
pub enum NodeRequest {
    /// Asks for the members of a group. Answered with [`NodeReply::Group`].
    Group {
        /// The group's name.
        group: String,
    },
    /// Asks for a connection's details. Answered with [`NodeReply::Connection`].
    Show {
        /// The connection's number in its process.
        number: u64,
    },
    /// Sends an event to a connection. Answered with [`NodeReply::Sent`].
    Send {
        /// The connection's number in its process.
        number: u64,
        /// The event's JSON.
        event: String,
    },
    /// Closes a connection, or all connections of a user. Answered with [`NodeReply::Closed`].
    End {
        /// The connection's number in its process.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        number: Option<u64>,
        /// The user's id.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        user: Option<String>,
        /// The close code.
        code: u16,
        /// The close reason.
        reason: String,
    },
    /// Lists the connections that match. Answered with [`NodeReply::List`].
    List {
        /// Only those of the user with this id.
        user: Option<String>,
        /// Only those on this route.
        route: Option<String>,
        /// Only those in this group.
        group: Option<String>,
        /// Only those after this one: its process and number.
        cursor: Option<(u64, u64)>,
        /// The most connections to list.
        limit: usize,
    },
    /// Asks for the process's totals. Answered with [`NodeReply::Info`].
    Info,
    /// Asks for all figures of the process. Answered with [`NodeReply::Stats`].
    Stats,
    /// Asks for everything about a connection. Answered with [`NodeReply::Inspected`].
    Inspect {
        /// The connection's number in its process.
        number: u64,
    },
    /// Asks for the largest groups. Answered with [`NodeReply::Groups`].
    Groups {
        /// Only groups whose names contain this.
        contains: String,
        /// The most groups to list.
        limit: usize,
    },
    /// Asks for the last ends. Answered with [`NodeReply::Ends`].
    Ends {
        /// Only those that match.
        filter: EndFilter,
        /// The most ends to list.
        limit: usize,
    },
}

/// A reply to a [`NodeRequest`].
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(untagged)]
pub enum NodeReply {
    /// The members of a group in this process.
    Group {
        /// The number of members.
        members: u64,
        /// The number of anonymous members.
        anonymous: u64,
        /// Each user's id, name and number of connections.
        users: Vec<(String, String, u64)>,
        /// The number of users that are not listed, because the reply would be too long.
        left_out: u64,
    },
    /// A connection.
    Connection(ConnectionInfo),
    /// The connections that match.
    List {
        /// The process.
        node: u64,
        /// Whether more connections match than are listed, because the reply would be too long.
        is_cut: bool,
        /// The connections, ordered by number.
        connections: Vec<ConnectionInfo>,
    },
    /// The totals of the process.
    Info {
        /// The number of open connections.
        connections: u64,
    },
    /// The outcome of an event sent to a connection.
    Sent {
        /// The number of connections found.
        matched: u64,
        /// The number that queued the event.
        queued: u64,
        /// The number that dropped it.
        dropped: u64,
    },
    /// Connections are being closed.
    Closed {
        /// The number of connections found.
        matched: u64,
        /// The same, if one connection was named.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        closed: Option<u64>,
    },
    /// All figures of the process, as the server API shows them.
    Stats {
        /// The figures.
        stats: Value,
    },
    /// Everything about a connection, as the dashboard shows it.
    Inspected {
        /// The connection.
        inspected: Value,
    },
    /// The largest groups of the process.
    Groups {
        /// Name and number of members.
        groups: Vec<(String, u64)>,
        /// How many groups match.
        groups_matched: u64,
    },
    /// The last ends of the process, the newest first.
    Ends {
        /// The ends.
        ends: Vec<End>,
    },
    /// There is no such connection or group, or the request is not understood.
    NotFound,
}

/// A connection, as the server API shows it.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct ConnectionInfo {
    /// Its id, over all processes.
    pub id: String,
    /// Its process.
    pub node: String,
    /// The route's name or path.
    pub route: String,
    /// The request's path.
    pub path: String,
    /// The user, unless it is anonymous.
    pub user: Option<UserInfo>,
    /// The client's address, unless it connected through a unix socket.
    pub client: Option<String>,
    /// The groups that it is in.
    pub groups: Vec<String>,
    /// When it was opened (RFC 3339).
    pub opened_at: String,
    /// Bytes that wait for the client.
    #[serde(default)]
    pub queue_bytes: u64,
    /// Bytes that were sent to the client.
    #[serde(default)]
    pub bytes_sent: u64,
    /// Messages to the client that were dropped because it reads too slowly.
    #[serde(default)]
    pub dropped: u64,
}

/// A user, as the server API shows it.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct UserInfo {
    /// The user's id.
    pub id: String,
    /// The user's name.
    pub name: String,
}

/// Answers requests of other processes, and of this process's own server API.
pub trait RpcHandler: Send + Sync + 'static {
    /// Returns the reply to a request.
    fn handle(&self, request: NodeRequest) -> Pin<Box<dyn Future<Output = NodeReply> + Send + '_>>;
}

/// The replies of other processes to a request.
#[derive(Clone, Debug, Default)]
pub struct RpcReplies {
    /// One reply from each process that replied in time.
    pub replies: Vec<NodeReply>,
    /// The number of processes that did not; 1 if Redis itself did not take the request.
    pub unanswered: usize,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check<T>(value: &T, wire: &str)
    where
        T: Serialize + serde::de::DeserializeOwned + PartialEq + std::fmt::Debug,
    {
        assert_eq!(serde_json::to_string(value).unwrap(), wire);
        assert_eq!(serde_json::from_str::<T>(wire).unwrap(), *value);
    }

    #[test]
    fn requests_have_these_bytes_on_the_wire() {
        let group = "room".to_owned();
        check(
            &NodeRequest::Group { group },
            r#"{"ask":"group","group":"room"}"#,
        );
        check(
            &NodeRequest::Show { number: 7 },
            r#"{"ask":"show","number":7}"#,
        );
        let event = r#"{"n":1e2}"#.to_owned();
        check(
            &NodeRequest::Send { number: 7, event },
            r#"{"ask":"send","number":7,"event":"{\"n\":1e2}"}"#,
        );
        let end = |number, user: Option<&str>| NodeRequest::End {
            number,
            user: user.map(str::to_owned),
            code: 4000,
            reason: "bye".to_owned(),
        };
        check(
            &end(Some(7), None),
            r#"{"ask":"end","number":7,"code":4000,"reason":"bye"}"#,
        );
        check(
            &end(None, Some("5")),
            r#"{"ask":"end","user":"5","code":4000,"reason":"bye"}"#,
        );
        let list = NodeRequest::List {
            user: None,
            route: Some("/ws/".to_owned()),
            group: None,
            cursor: Some((3, 4)),
            limit: 101,
        };
        check(
            &list,
            r#"{"ask":"list","user":null,"route":"/ws/","group":null,"cursor":[3,4],"limit":101}"#,
        );
        check(&NodeRequest::Info, r#"{"ask":"info"}"#);
        check(&NodeRequest::Stats, r#"{"ask":"stats"}"#);
        check(
            &NodeRequest::Inspect { number: 7 },
            r#"{"ask":"inspect","number":7}"#,
        );
        let groups = NodeRequest::Groups {
            contains: "room".to_owned(),
            limit: 100,
        };
        check(&groups, r#"{"ask":"groups","contains":"room","limit":100}"#);
        let ends = NodeRequest::Ends {
            filter: EndFilter::default(),
            limit: 100,
        };
        check(
            &ends,
            r#"{"ask":"ends","filter":{"kinds":[],"route":null,"cause":null,"user":null},"limit":100}"#,
        );
    }

    #[test]
    fn replies_have_these_bytes_on_the_wire() {
        let group = NodeReply::Group {
            members: 3,
            anonymous: 1,
            users: vec![("5".to_owned(), "bob".to_owned(), 2)],
            left_out: 0,
        };
        check(
            &group,
            r#"{"members":3,"anonymous":1,"users":[["5","bob",2]],"left_out":0}"#,
        );
        let connection = |user| ConnectionInfo {
            id: "3.7".to_owned(),
            node: "3".to_owned(),
            route: "/ws/".to_owned(),
            path: "/ws/".to_owned(),
            user,
            client: None,
            groups: vec!["room".to_owned()],
            opened_at: "2026-01-01T00:00:00Z".to_owned(),
            queue_bytes: 1,
            bytes_sent: 2,
            dropped: 3,
        };
        let user = UserInfo {
            id: "5".to_owned(),
            name: "bob".to_owned(),
        };
        let shown = r#"{"id":"3.7","node":"3","route":"/ws/","path":"/ws/","user":{"id":"5","name":"bob"},"client":null,"groups":["room"],"opened_at":"2026-01-01T00:00:00Z","queue_bytes":1,"bytes_sent":2,"dropped":3}"#;
        check(&NodeReply::Connection(connection(Some(user))), shown);
        let list = NodeReply::List {
            node: 3,
            is_cut: false,
            connections: vec![connection(None)],
        };
        check(
            &list,
            r#"{"node":3,"is_cut":false,"connections":[{"id":"3.7","node":"3","route":"/ws/","path":"/ws/","user":null,"client":null,"groups":["room"],"opened_at":"2026-01-01T00:00:00Z","queue_bytes":1,"bytes_sent":2,"dropped":3}]}"#,
        );
        check(&NodeReply::Info { connections: 9 }, r#"{"connections":9}"#);
        let (matched, queued, dropped) = (1, 1, 0);
        let sent = NodeReply::Sent {
            matched,
            queued,
            dropped,
        };
        check(&sent, r#"{"matched":1,"queued":1,"dropped":0}"#);
        let closed = |closed| NodeReply::Closed { matched: 1, closed };
        check(&closed(Some(1)), r#"{"matched":1,"closed":1}"#);
        check(&closed(None), r#"{"matched":1}"#);
        check(&NodeReply::NotFound, "null");
    }
}

//! Call: what a page of the dashboard asks for, or does.

use serde::Deserialize;

use crate::telemetry::recent_ends::EndFilter;

/// One call, with the number that its reply repeats.
#[derive(Debug, Deserialize)]
pub(super) struct Request {
    pub(super) id: u64,
    #[serde(flatten)]
    pub(super) call: Call,
}

/// A call.
#[derive(Debug, Deserialize)]
#[serde(tag = "call", rename_all = "snake_case")]
pub(super) enum Call {
    /// All figures again, because updates were missed.
    Snapshot,
    /// The figures of all processes.
    Processes,
    /// A page of sockets.
    Sockets {
        #[serde(default)]
        user: Option<String>,
        #[serde(default)]
        route: Option<String>,
        #[serde(default)]
        group: Option<String>,
        /// The socket after which the page begins.
        #[serde(default)]
        cursor: Option<String>,
    },
    /// Everything about one socket.
    Socket { socket: String },
    /// Closes a socket.
    Close {
        socket: String,
        code: u16,
        #[serde(default)]
        reason: String,
    },
    /// Sends a text message to the client of a socket.
    Send { socket: String, text: String },
    /// The largest groups whose names contain a text.
    Groups {
        #[serde(default)]
        contains: String,
    },
    /// The users in a group.
    Group { group: String },
    /// Reads the configuration of this process again.
    Reload,
    /// The last ends.
    Ends {
        #[serde(default)]
        filter: EndFilter,
    },
}

impl Call {
    /// Returns whether the call asks other processes: its answer may come after those of later calls.
    pub(super) fn is_question(&self) -> bool {
        use Call::{Close, Reload, Send, Snapshot};
        !matches!(self, Close { .. } | Reload | Send { .. } | Snapshot)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_read_and_unknown_ones_are_not() {
        for good in [
            r#"{"id": 1, "call": "snapshot"}"#,
            r#"{"id": 1, "call": "sockets"}"#,
            r#"{"id": 1, "call": "sockets", "user": "5", "cursor": "a.1"}"#,
            r#"{"id": 1, "call": "close", "socket": "a.1", "code": 4000}"#,
            r#"{"id": 1, "call": "ends", "filter": {"kinds": ["failed"]}}"#,
        ] {
            serde_json::from_str::<Request>(good).unwrap();
        }
        for bad in [
            "",
            "[]",
            r#"{"call": "snapshot"}"#,
            r#"{"id": 1}"#,
            r#"{"id": 1, "call": "shutdown"}"#,
            r#"{"id": -1, "call": "snapshot"}"#,
            r#"{"id": 1, "call": "close"}"#,
            r#"{"id": 1, "call": "close", "socket": "a.1", "code": 70000}"#,
        ] {
            assert!(serde_json::from_str::<Request>(bad).is_err(), "{bad}");
        }
    }
}

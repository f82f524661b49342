//! Missing: what a 404 says to those who are one slash away from a WebSocket.

use super::http::target;
use super::table::Table;
use crate::scope::Scope;

/// `there is no such page`, and where the WebSocket is that the client may have meant: it is not redirected.
pub(super) fn sentence(table: &Table, scope: &Scope, what: &str) -> String {
    let other = target(table, scope).and_then(|target| table.websocket().other_slash(&target));
    match other {
        Some(other) => {
            let root_path = scope.root_path.as_deref().unwrap_or_default();
            format!("there is no such {what}; there is a WebSocket at {root_path}{other}")
        }
        None => format!("there is no such {what}"),
    }
}

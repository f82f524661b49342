//! HTTP/2 to an endpoint: requests share connections, each within the streams that the endpoint
//! allows.
//!
//! ```text
//!  request ── Connections::next ──> Place ── exchange::send ──> response, polled by the request
//!                  │ none free        ▲                         with its Incoming body
//!                  ├─ opens one ──────┤
//!                  └─ waits ──────────┘        connection::drive: a task for each connection
//! ```
//!
//! | file | subject |
//! |---|---|
//! | `connections.rs` | the connections to one endpoint, and which of them has room |
//! | `connection.rs` | one connection: its settings, and the task that reads and writes |
//! | `exchange.rs` | one request and its response |

mod connection;
mod connections;
mod exchange;
#[cfg(test)]
mod tests;

pub(super) use connection::begin;
pub(super) use connections::{Connections, Next, Opening, Place};
pub(super) use exchange::{Incoming, send};

use std::io;
use std::sync::Arc;

use super::error::ClientError;

/// Distinguishes an endpoint that breaks the protocol from a connection that failed.
fn classify(error: &h2::Error) -> ClientError {
    if error.is_library() {
        return ClientError::Invalid(format!("expected HTTP/2, found an error in it: {error}"));
    }
    let source = match error.get_io() {
        Some(io) => io::Error::new(io.kind(), error.to_string()),
        None => io::Error::other(error.to_string()),
    };
    ClientError::Connection {
        source: Arc::new(source),
    }
}

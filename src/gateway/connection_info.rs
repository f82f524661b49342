//! ConnectionInfo: the facts of the connection that a request came on.

use std::net::SocketAddr;
use std::sync::Arc;

use crate::auth::User;
use crate::config::Plaintext;
use crate::http::ClientEnd;
use crate::scope::{Scheme, ServerEnd};

/// The facts of the connection that a request came on.
#[derive(Clone, Debug)]
pub struct ConnectionInfo {
    /// The peer's address; `None` on a unix socket.
    pub peer: Option<SocketAddr>,
    /// The server's end.
    pub server: Option<Arc<ServerEnd>>,
    /// Plain or TLS.
    pub security: Scheme,
    /// The user of the connection, if a layer below HTTP identifies one, as the test kit does.
    pub user: Option<Arc<User>>,
    /// The client's end of the connection.
    pub client: ClientEnd,
    /// What the client gets because it does not encrypt.
    pub plaintext: Plaintext,
}

impl Default for ConnectionInfo {
    fn default() -> Self {
        Self {
            peer: None,
            server: None,
            security: Scheme::Plain,
            user: None,
            client: ClientEnd::default(),
            plaintext: Plaintext::Serve,
        }
    }
}

//! ConnectionInfo: the facts of the connection that a request came on.

use std::net::SocketAddr;
use std::sync::Arc;

use crate::auth::User;
use crate::http::Client;
use crate::scope::{Scheme, ServerAddress};

/// How a request came in: the facts of its connection.
#[derive(Clone, Debug)]
pub struct ConnectionInfo {
    /// The peer's address; none on a unix socket.
    pub peer: Option<SocketAddr>,
    /// Where it was accepted.
    pub server: Option<Arc<ServerAddress>>,
    /// Plain or TLS.
    pub security: Scheme,
    /// Who the connection belongs to, where something below HTTP knows it; the test kit does.
    pub user: Option<Arc<User>>,
    /// The client's end of the connection.
    pub client: Client,
}

//! Addresses: both ends of a connection, and whether it is encrypted.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::tls::TlsInfo;

/// How the client reached the server.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Scheme {
    /// Plain text.
    #[default]
    Plain,
    /// TLS, on this server or reported by a trusted proxy.
    Secure,
}

/// The server's end of a connection: ASGI's `scope["server"]`, and its TLS extension.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ServerEnd {
    /// The address.
    pub address: ServerAddress,
    /// The facts of the encryption; `None` if the server does not decrypt, but perhaps a proxy in
    /// front of it.
    pub tls: Option<TlsInfo>,
}

impl From<ServerAddress> for ServerEnd {
    fn from(address: ServerAddress) -> Self {
        Self { address, tls: None }
    }
}

/// The address of the server's end of a connection.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum ServerAddress {
    /// The local socket address.
    Tcp(SocketAddr),
    /// The path of the unix socket.
    Unix(Arc<str>),
}

/// The client's address: ASGI's `scope["client"]`.
///
/// A socket address without the IPv6 zone and flow label, which have no meaning on other machines:
/// an idle WebSocket needs 20 bytes instead of 32. Displayed as a socket address.
///
/// ```
/// use oneport::scope::ClientAddress;
///
/// let client: ClientAddress = "[2001:db8::1]:50000".parse::<std::net::SocketAddr>()?.into();
/// assert_eq!((client.ip().is_ipv6(), client.port()), (true, 50000));
/// assert_eq!(client.to_string(), "[2001:db8::1]:50000");
/// # Ok::<(), std::net::AddrParseError>(())
/// ```
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct ClientAddress {
    ip: IpAddr,
    port: u16,
}

impl ClientAddress {
    /// Returns the address.
    #[must_use]
    pub fn ip(self) -> IpAddr {
        self.ip
    }

    /// Returns the port; 0 if a trusted proxy named none.
    #[must_use]
    pub fn port(self) -> u16 {
        self.port
    }
}

impl From<SocketAddr> for ClientAddress {
    fn from(address: SocketAddr) -> Self {
        Self {
            ip: address.ip(),
            port: address.port(),
        }
    }
}

impl fmt::Display for ClientAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        SocketAddr::new(self.ip, self.port).fmt(f)
    }
}

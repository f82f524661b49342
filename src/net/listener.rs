//! Listener: accepts connections on a TCP address, a unix socket or an inherited descriptor.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use tokio::net::{TcpListener, UnixListener};

use super::address::{Scheme, ServerAddress, ServerEnd};
use super::bind::{Bind, Listen};
use super::socket_activation::{self, Inherited};
use super::stream::Stream;
use super::unix_listener::{self, SocketFile};

/// The most connections that the kernel queues until they are accepted.
pub(super) const BACKLOG: i32 = 4096;

/// An open listener.
#[derive(Debug)]
pub struct Listener {
    kind: Kind,
    /// Our side, if all connections share it; `None` when listening on all addresses.
    server: Option<Arc<ServerEnd>>,
    websocket_over_http2: bool,
    speaks_tls: bool,
}

#[derive(Debug)]
enum Kind {
    Tcp(TcpListener),
    Unix {
        /// The socket's file, unless it was inherited. The field comes before `listener`, so that
        /// the file is removed first: while the listener is open, no other file has its inode.
        #[expect(dead_code, reason = "removed when it is dropped")]
        file: Option<SocketFile>,
        listener: UnixListener,
        path: Arc<str>,
    },
}

/// An accepted connection.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) stream: Stream,
    /// The peer's address; `None` on a unix socket.
    pub(crate) peer: Option<SocketAddr>,
    /// Our side.
    pub(crate) server: Option<Arc<ServerEnd>>,
    pub(crate) scheme: Scheme,
}

impl Listener {
    /// Opens a `bind` entry; a host name may resolve to several listeners.
    pub async fn open(listen: &Listen) -> io::Result<Vec<Self>> {
        let kinds = match &listen.address {
            Bind::Tcp(address) => tokio::net::lookup_host(address)
                .await?
                .map(|address| tcp(address).map(Kind::Tcp))
                .collect::<io::Result<_>>()?,
            Bind::Unix(path) => {
                let (listener, file) =
                    unix_listener::open(path, listen.mode, listen.group.as_deref())?;
                vec![Kind::Unix {
                    listener,
                    path: path.to_string_lossy().into(),
                    file: Some(file),
                }]
            }
            Bind::Fd(descriptor) => vec![match socket_activation::take(*descriptor)? {
                Inherited::Tcp(listener) => Kind::Tcp(listener),
                Inherited::Unix { listener, path } => Kind::Unix {
                    file: None,
                    listener,
                    path,
                },
            }],
        };
        let listener = |kind| Self {
            server: common_address(&kind),
            kind,
            websocket_over_http2: listen.websocket_over_http2,
            speaks_tls: listen.tls,
        };
        Ok(kinds.into_iter().map(listener).collect())
    }

    /// Returns whether clients may open WebSockets over HTTP/2 (RFC 8441).
    pub(crate) fn allows_websocket_over_http2(&self) -> bool {
        self.websocket_over_http2
    }

    /// Returns whether connections may begin with TLS.
    pub(crate) fn speaks_tls(&self) -> bool {
        self.speaks_tls && matches!(self.kind, Kind::Tcp(_))
    }

    /// Returns the TCP address; `None` for a unix socket.
    #[must_use]
    pub fn address(&self) -> Option<SocketAddr> {
        match &self.kind {
            Kind::Tcp(listener) => listener.local_addr().ok(),
            Kind::Unix { .. } => None,
        }
    }

    /// Makes the kernel close connections whose client is unreachable: idle ones after a minute, by
    /// keep-alive probes, and those that acknowledge nothing for `unacknowledged_max`. Accepted
    /// connections inherit both settings.
    pub(crate) fn detect_dead_peers(&self, unacknowledged_max: Duration) -> io::Result<()> {
        let Kind::Tcp(listener) = &self.kind else {
            return Ok(());
        };
        let socket = SockRef::from(listener);
        let probes = TcpKeepalive::new()
            .with_time(Duration::from_secs(30))
            .with_interval(Duration::from_secs(10))
            .with_retries(3);
        socket.set_tcp_keepalive(&probes)?;
        #[cfg(target_os = "linux")]
        socket.set_tcp_user_timeout(Some(unacknowledged_max))?;
        Ok(())
    }

    /// Waits for the next connection. Cancel-safe.
    pub(super) async fn accept(&self) -> io::Result<Connection> {
        let (stream, peer, local) = match &self.kind {
            Kind::Tcp(listener) => {
                let (stream, peer) = listener.accept().await?;
                stream.set_nodelay(true)?;
                let local = match self.server {
                    Some(_) => None,
                    None => stream.local_addr().ok(),
                };
                let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
                (Stream::Tcp(stream), Some(peer), local)
            }
            Kind::Unix { listener, .. } => {
                let (stream, _) = listener.accept().await?;
                (Stream::Unix(stream), None, None)
            }
        };
        let server = self.server.clone();
        Ok(Connection {
            stream,
            peer,
            server: server.or_else(|| Some(Arc::new(ServerAddress::Tcp(local?).into()))),
            scheme: Scheme::Plain,
        })
    }
}

impl fmt::Display for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            Kind::Tcp(listener) => match listener.local_addr() {
                Ok(address) if self.speaks_tls => write!(f, "https://{address}"),
                Ok(address) => write!(f, "http://{address}"),
                Err(error) => write!(f, "an unknown address ({error})"),
            },
            Kind::Unix { path, .. } => write!(f, "unix:{path}"),
        }
    }
}

/// Returns the address that all connections of a listener share; `None` if it listens on all
/// addresses.
fn common_address(kind: &Kind) -> Option<Arc<ServerEnd>> {
    match kind {
        Kind::Tcp(listener) => listener
            .local_addr()
            .ok()
            .filter(|address| !address.ip().is_unspecified())
            .map(|address| Arc::new(ServerAddress::Tcp(address).into())),
        Kind::Unix { path, .. } => Some(Arc::new(ServerAddress::Unix(path.clone()).into())),
    }
}

fn tcp(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

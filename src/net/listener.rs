//! Listener: where connections come in.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

use super::address::ServerAddress;
use super::unix_listener::{self, SocketFile};
use crate::config::{Bind, Listen};

/// How many connections the kernel holds until they are accepted.
pub(crate) const BACKLOG: i32 = 4096;

/// How often a refused connection is read, a KiB at a time.
const REFUSED_READS_MAX: usize = 64;

/// A place where connections come in.
#[derive(Debug)]
pub struct Listener {
    kind: Kind,
    /// The server's side of all connections; none where each has its own.
    server: Option<Arc<ServerAddress>>,
    websocket_over_http2: bool,
}

#[derive(Debug)]
enum Kind {
    Tcp(TcpListener),
    Unix {
        /// The file that was made here. It goes before the listener does: until then its inode is not used again.
        #[expect(dead_code, reason = "removed when it is dropped")]
        file: Option<SocketFile>,
        listener: UnixListener,
        path: Arc<str>,
    },
}

/// A connection that came in.
pub(crate) enum Incoming {
    Tcp(TcpStream, SocketAddr),
    Unix(UnixStream),
}

impl Listener {
    /// Opens what a `bind` of the file names; a host name may give several.
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
            Bind::Fd(number) => vec![inherited(*number)?],
        };
        let listener = |kind| Self {
            server: common_address(&kind),
            kind,
            websocket_over_http2: listen.websocket_over_http2,
        };
        Ok(kinds.into_iter().map(listener).collect())
    }

    /// Tells whether WebSockets over HTTP/2 are taken here.
    pub(crate) fn takes_websocket_over_http2(&self) -> bool {
        self.websocket_over_http2
    }

    /// Returns the address it listens at; none for a unix socket.
    #[must_use]
    pub fn address(&self) -> Option<SocketAddr> {
        match &self.kind {
            Kind::Tcp(listener) => listener.local_addr().ok(),
            Kind::Unix { .. } => None,
        }
    }

    /// Has the system notice clients that vanished without a word: idle ones within a minute, by probes, and those that acknowledge
    /// nothing of what is sent to them after `unacknowledged_max`. Accepted connections inherit this.
    pub(crate) fn notice_vanished(&self, unacknowledged_max: Duration) -> io::Result<()> {
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
    pub(crate) async fn accept(&self) -> io::Result<Incoming> {
        match &self.kind {
            Kind::Tcp(listener) => {
                let (stream, peer) = listener.accept().await?;
                stream.set_nodelay(true)?;
                Ok(Incoming::Tcp(stream, peer))
            }
            Kind::Unix { listener, .. } => {
                let (stream, _) = listener.accept().await?;
                Ok(Incoming::Unix(stream))
            }
        }
    }

    /// Returns the server's side of a connection that came in here.
    pub(crate) fn server_of(&self, incoming: &Incoming) -> Option<Arc<ServerAddress>> {
        self.server.clone().or_else(|| match incoming {
            Incoming::Tcp(stream, _) => {
                let address = stream.local_addr().ok()?;
                Some(Arc::new(ServerAddress::Tcp(address)))
            }
            Incoming::Unix(_) => None,
        })
    }
}

impl Incoming {
    pub(crate) fn peer(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(_, peer) => Some(SocketAddr::new(peer.ip().to_canonical(), peer.port())),
            Self::Unix(_) => None,
        }
    }

    /// Sends a short answer to a connection that is refused, closes our side, and reads what the client sends until it closes
    /// its own: closing with unread bytes would reset the connection, and the answer could be lost. Gives up after `deadline`.
    pub(crate) async fn refuse(self, answer: &'static [u8], deadline: Duration) {
        async fn tell(mut stream: impl AsyncRead + AsyncWrite + Unpin, answer: &[u8]) {
            let mut scratch = [0; 1024];
            if stream.write_all(answer).await.is_err() || stream.shutdown().await.is_err() {
                return;
            }
            for _ in 0..REFUSED_READS_MAX {
                if !matches!(stream.read(&mut scratch).await, Ok(1..)) {
                    return;
                }
            }
        }
        let _ = match self {
            Self::Tcp(stream, _) => tokio::time::timeout(deadline, tell(stream, answer)).await,
            Self::Unix(stream) => tokio::time::timeout(deadline, tell(stream, answer)).await,
        };
    }
}

impl fmt::Display for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            Kind::Tcp(listener) => match listener.local_addr() {
                Ok(address) => write!(f, "http://{address}"),
                Err(error) => write!(f, "an unknown address ({error})"),
            },
            Kind::Unix { path, .. } => write!(f, "unix:{path}"),
        }
    }
}

/// Returns the address that all connections of a listener share: not so where it listens on all addresses.
fn common_address(kind: &Kind) -> Option<Arc<ServerAddress>> {
    match kind {
        Kind::Tcp(listener) => listener
            .local_addr()
            .ok()
            .filter(|address| !address.ip().is_unspecified())
            .map(|address| Arc::new(ServerAddress::Tcp(address))),
        Kind::Unix { path, .. } => Some(Arc::new(ServerAddress::Unix(path.clone()))),
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

/// A listener that the parent process opened (systemd's `LISTEN_FDS`): number 3 is the first.
fn inherited(number: i32) -> io::Result<Kind> {
    let mut inherited = listenfd::ListenFd::from_env();
    let at = usize::try_from(number - 3).map_err(|_| {
        io::Error::new(
            io::ErrorKind::InvalidInput,
            "inherited descriptors start at 3",
        )
    })?;
    if let Ok(Some(listener)) = inherited.take_tcp_listener(at) {
        listener.set_nonblocking(true)?;
        return Ok(Kind::Tcp(TcpListener::from_std(listener)?));
    }
    match inherited.take_unix_listener(at)? {
        Some(listener) => {
            listener.set_nonblocking(true)?;
            let address = listener.local_addr()?;
            let path: Arc<str> = address
                .as_pathname()
                .map_or_else(|| "inherited".into(), |path| path.to_string_lossy())
                .into();
            Ok(Kind::Unix {
                listener: UnixListener::from_std(listener)?,
                path,
                file: None,
            })
        }
        None => Err(io::Error::new(
            io::ErrorKind::NotFound,
            format!(
                "expected the parent process to pass descriptor {number} (LISTEN_FDS), found none"
            ),
        )),
    }
}

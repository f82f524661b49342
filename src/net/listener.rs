//! Listener: accepts connections on a TCP address, a unix socket or an inherited descriptor.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

use super::address::{Scheme, ServerAddress, ServerEnd};
use super::bind::{Bind, Listen};
use super::socket_activation::{self, Inherited};
use super::stream::Stream;
use super::unix_listener::{self, AccessChange, FileIdentity, SocketFile};

/// The most bytes of one connection that wait in the kernel to be sent, and the rest of a packet:
/// enough for a fast network, whose acknowledgements make room.
#[cfg(target_os = "linux")]
const UNSENT_BYTES_MAX: u32 = 128 * 1024;

/// An open listener.
#[derive(Debug)]
pub struct Listener {
    kind: Kind,
    /// Our side, if all connections share it; `None` when listening on all addresses.
    server: Option<Arc<ServerEnd>>,
    /// Whether it has the options of another process's entry.
    is_inherited: bool,
}

#[derive(Debug)]
enum Kind {
    Tcp(TcpListener),
    Unix {
        /// The socket's file, unless the parent process owns it. The field comes before `listener`,
        /// so that the file is removed first: while the listener is open, no other file has its
        /// inode.
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
    ///
    /// Warns if the kernel queues fewer connections than the entry's `backlog`.
    pub async fn open(listen: &Listen) -> io::Result<Vec<Self>> {
        let kinds = match &listen.address {
            Bind::Tcp(address) => tokio::net::lookup_host(address)
                .await?
                .map(|address| tcp(address, listen.backlog).map(Kind::Tcp))
                .collect::<io::Result<_>>()?,
            Bind::Unix(path) => {
                let (listener, file) = unix_listener::open(path, listen)?;
                vec![Kind::Unix {
                    listener,
                    path: path.to_string_lossy().into(),
                    file: Some(file),
                }]
            }
            Bind::Fd(descriptor) => vec![socket_activation::take(*descriptor)?.into()],
        };
        if !matches!(listen.address, Bind::Fd(_)) {
            warn_of_a_shorter_queue(listen);
        }
        Ok(kinds.into_iter().map(Self::from).collect())
    }

    /// Takes a listener that another process of this server has opened for the same entry. Its
    /// options and the file of a unix socket stay that process's, until [`Listener::take_over`]. A
    /// file that is gone is made anew, by another listener; one that is not the socket's any more is
    /// left alone.
    pub(crate) fn inherit(
        listen: &Listen,
        descriptor: OwnedFd,
        identity: Option<FileIdentity>,
    ) -> io::Result<Self> {
        let mut kind = Kind::from(Inherited::new(descriptor)?);
        if let (Kind::Unix { file, .. }, Bind::Unix(path)) = (&mut kind, &listen.address) {
            *file = identity.and_then(|identity| SocketFile::inherited(path, identity));
            if file.is_none() {
                if !path.is_symlink() && !path.try_exists()? {
                    tracing::warn!("{} was gone; listening there anew", path.display());
                    let (listener, file) = unix_listener::open(path, listen)?;
                    return Ok(Self::from(Kind::Unix {
                        listener,
                        path: path.to_string_lossy().into(),
                        file: Some(file),
                    }));
                }
                tracing::warn!(
                    "{} is another program's: no new client reaches this listener",
                    path.display()
                );
            }
        }
        Ok(Self {
            is_inherited: true,
            ..Self::from(kind)
        })
    }

    /// Sets how many connections the kernel queues, as the entry says. The queue of an inherited
    /// descriptor (`fd:`) is its owner's.
    pub(crate) fn set_backlog(&self, listen: &Listen) -> io::Result<()> {
        if matches!(listen.address, Bind::Fd(_)) {
            return Ok(());
        }
        let backlog = listen.backlog.into();
        match &self.kind {
            Kind::Tcp(listener) => SockRef::from(listener).listen(backlog)?,
            Kind::Unix { listener, .. } => SockRef::from(listener).listen(backlog)?,
        }
        warn_of_a_shorter_queue(listen);
        Ok(())
    }

    /// Returns the file of a unix socket that this server has opened, for another process.
    pub(crate) fn file_identity(&self) -> Option<FileIdentity> {
        match &self.kind {
            Kind::Tcp(_) => None,
            Kind::Unix { file, .. } => file.as_ref().map(SocketFile::identity),
        }
    }

    /// Returns a second descriptor of the listener, for another process.
    pub(crate) fn descriptor(&self) -> io::Result<OwnedFd> {
        match &self.kind {
            Kind::Tcp(listener) => listener.as_fd().try_clone_to_owned(),
            Kind::Unix { listener, .. } => listener.as_fd().try_clone_to_owned(),
        }
    }

    /// Makes this process the owner of an inherited listener: it has the options of its entry now,
    /// and the file of a unix socket is removed at its end.
    pub(crate) fn take_over(&self, listen: &Listen) {
        if let Kind::Unix {
            file: Some(file), ..
        } = &self.kind
        {
            file.take_over();
        }
        if !self.is_inherited {
            return;
        }
        let changed = self.set_access(listen);
        let changed = changed.map(|change| change.into_iter().for_each(AccessChange::keep));
        if let Err(error) = changed.and_then(|()| self.set_backlog(listen)) {
            tracing::error!("cannot set the options of {}: {error}", listen.address);
        }
    }

    /// Leaves the file of a unix socket to another process.
    pub(crate) fn give_up_file(&self) {
        if let Kind::Unix {
            file: Some(file), ..
        } = &self.kind
        {
            file.give_up();
        }
    }

    /// Sets the permissions of a unix socket's file as its entry says.
    pub(crate) fn set_access(&self, listen: &Listen) -> io::Result<Option<AccessChange>> {
        match &self.kind {
            Kind::Unix {
                file: Some(file), ..
            } => file.set_access(listen),
            _ => Ok(None),
        }
    }

    /// Returns whether connections can be encrypted. Those on a unix socket never are.
    pub(crate) fn is_tcp(&self) -> bool {
        matches!(self.kind, Kind::Tcp(_))
    }

    /// Returns the TCP address; `None` for a unix socket.
    #[must_use]
    pub fn address(&self) -> Option<SocketAddr> {
        match &self.kind {
            Kind::Tcp(listener) => listener.local_addr().ok(),
            Kind::Unix { .. } => None,
        }
    }

    /// Returns the place as a URL: `https://127.0.0.1:8000`, `unix:run/oneport.sock`.
    #[must_use]
    pub fn url(&self, speaks_tls: bool) -> String {
        match self.is_tcp() {
            true if speaks_tls => format!("https://{self}"),
            true => format!("http://{self}"),
            false => self.to_string(),
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

    /// Makes the kernel take at most [`UNSENT_BYTES_MAX`] that it has not sent yet. Accepted
    /// connections inherit it.
    ///
    /// Without it, a client that does not read makes `sendfile` and `write` copy megabytes into the
    /// kernel's memory at once: a thousand of them keep the threads of all connections busy, and take
    /// gigabytes. What is sent and not acknowledged is not bounded by it.
    pub(crate) fn bound_unsent(&self) -> io::Result<()> {
        #[cfg(target_os = "linux")]
        if let Kind::Tcp(listener) = &self.kind {
            SockRef::from(listener).set_tcp_notsent_lowat(UNSENT_BYTES_MAX)?;
        }
        Ok(())
    }

    /// Waits for the next connection. Cancel-safe.
    pub(super) async fn accept(&self) -> io::Result<Connection> {
        match &self.kind {
            Kind::Tcp(listener) => {
                let (stream, peer) = listener.accept().await?;
                self.tcp_connection(stream, peer)
            }
            Kind::Unix { listener, .. } => {
                let (stream, _) = listener.accept().await?;
                Ok(self.connection(Stream::Unix(stream), None, None))
            }
        }
    }

    /// Accepts a connection that has arrived; `None` if there is none.
    pub(super) fn try_accept(&self) -> io::Result<Option<Connection>> {
        let accepted = match &self.kind {
            Kind::Tcp(listener) => SockRef::from(listener).accept(),
            Kind::Unix { listener, .. } => SockRef::from(listener).accept(),
        };
        let (socket, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
            Err(error) => return Err(error),
        };
        socket.set_nonblocking(true)?;
        let connection = match peer.as_socket() {
            Some(peer) => self.tcp_connection(TcpStream::from_std(socket.into())?, peer)?,
            None => {
                let stream = UnixStream::from_std(socket.into())?;
                self.connection(Stream::Unix(stream), None, None)
            }
        };
        Ok(Some(connection))
    }

    fn tcp_connection(&self, stream: TcpStream, peer: SocketAddr) -> io::Result<Connection> {
        stream.set_nodelay(true)?;
        let local = match self.server {
            Some(_) => None,
            None => stream.local_addr().ok(),
        };
        let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
        Ok(self.connection(Stream::Tcp(stream), Some(peer), local))
    }

    fn connection(
        &self,
        stream: Stream,
        peer: Option<SocketAddr>,
        local: Option<SocketAddr>,
    ) -> Connection {
        let server = self.server.clone();
        Connection {
            stream,
            peer,
            server: server.or_else(|| Some(Arc::new(ServerAddress::Tcp(local?).into()))),
            scheme: Scheme::Plain,
        }
    }
}

impl From<Kind> for Listener {
    fn from(kind: Kind) -> Self {
        Self {
            server: common_address(&kind),
            kind,
            is_inherited: false,
        }
    }
}

impl From<Inherited> for Kind {
    fn from(inherited: Inherited) -> Self {
        match inherited {
            Inherited::Tcp(listener) => Self::Tcp(listener),
            Inherited::Unix { listener, path } => Self::Unix {
                file: None,
                listener,
                path,
            },
        }
    }
}

impl fmt::Display for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            Kind::Tcp(listener) => match listener.local_addr() {
                Ok(address) => address.fmt(f),
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

/// Warns if the kernel's own bound is lower than the `backlog`: it applies silently.
fn warn_of_a_shorter_queue(listen: &Listen) {
    let bound = std::fs::read_to_string("/proc/sys/net/core/somaxconn");
    let bound = bound.ok().and_then(|text| text.trim().parse::<u64>().ok());
    if let Some(somaxconn) = bound.filter(|bound| *bound < u64::from(listen.backlog)) {
        tracing::warn!(
            "{} queues only {somaxconn} connections until they are accepted, and its backlog is {}: raise net.core.somaxconn, or lower the backlog",
            listen.address,
            listen.backlog
        );
    }
}

fn tcp(address: SocketAddr, backlog: u16) -> io::Result<TcpListener> {
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
    socket.listen(backlog.into())?;
    TcpListener::from_std(socket.into())
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[tokio::test]
    async fn accepted_connections_inherit_the_bound_of_unsent_bytes() {
        let listen = Listen::from(Bind::Tcp("127.0.0.1:0".to_owned()));
        let listener = Listener::open(&listen).await.unwrap().remove(0);
        listener.bound_unsent().unwrap();
        let address = listener.address().unwrap();
        let (_client, accepted) = tokio::join!(TcpStream::connect(address), listener.accept());
        let Stream::Tcp(stream) = accepted.unwrap().stream else {
            panic!("expected a TCP stream");
        };
        let bound = SockRef::from(&stream).tcp_notsent_lowat().unwrap();
        assert_eq!(bound, UNSENT_BYTES_MAX);
    }
}

//! Socket activation: listeners that the parent process opened and passed on (systemd's
//! `LISTEN_FDS`).

use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, LazyLock};

use listenfd::ListenFd;
use parking_lot::Mutex;
use socket2::Socket;
use tokio::net::{TcpListener, UnixListener};

/// The number of the first descriptor that is passed on (`sd_listen_fds(3)`).
const FIRST: i32 = 3;

/// Those that are not taken yet. To read the environment removes its variables, so that children do
/// not take them for theirs.
static NOT_TAKEN: LazyLock<Mutex<ListenFd>> = LazyLock::new(|| Mutex::new(ListenFd::from_env()));

/// An inherited listener.
pub(super) enum Inherited {
    Tcp(TcpListener),
    Unix {
        listener: UnixListener,
        path: Arc<str>,
    },
}

/// Takes the listener behind a descriptor; each can be taken once.
pub(super) fn take(descriptor: i32) -> io::Result<Inherited> {
    let mut inherited = NOT_TAKEN.lock();
    let at = usize::try_from(descriptor - FIRST).map_err(|_| {
        io::Error::new(
            io::ErrorKind::InvalidInput,
            "inherited descriptors start at 3",
        )
    })?;
    if let Ok(Some(listener)) = inherited.take_tcp_listener(at) {
        return Inherited::new(listener.into());
    }
    match inherited.take_unix_listener(at)? {
        Some(listener) => Inherited::new(listener.into()),
        None => Err(io::Error::new(
            io::ErrorKind::NotFound,
            format!("the parent process passed no descriptor {descriptor} (LISTEN_FDS)"),
        )),
    }
}

impl Inherited {
    /// Reads of which kind a listener is.
    pub(super) fn new(descriptor: OwnedFd) -> io::Result<Self> {
        let socket = Socket::from(descriptor);
        socket.set_nonblocking(true)?;
        let address = socket.local_addr()?;
        if address.is_unix() {
            let path = address
                .as_pathname()
                .map_or_else(|| "inherited".into(), |path| path.to_string_lossy());
            return Ok(Self::Unix {
                path: path.into(),
                listener: UnixListener::from_std(socket.into())?,
            });
        }
        Ok(Self::Tcp(TcpListener::from_std(socket.into())?))
    }
}

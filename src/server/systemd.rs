//! systemd: tells the service manager the state of the process (`sd_notify(3)`).
//!
//! ```text
//! start ── READY ──> serving ──┬── RELOADING, MONOTONIC_USEC ──> READY (a reload)
//!                              ├── MAINPID ──> silent (another process has taken over, and says
//!                              │               READY)
//!                              └── STOPPING, EXTEND_TIMEOUT_USEC ──> end
//! ```
//!
//! A message is one datagram, sent without waiting: a service manager that reads none delays
//! nothing. Without `NOTIFY_SOCKET` nothing is sent.

use std::env;
use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// The variable with the service manager's socket.
const NOTIFY_SOCKET: &str = "NOTIFY_SOCKET";
/// The variables with the deadline of the watchdog, and with the process that it is for.
const WATCHDOG_USEC: &str = "WATCHDOG_USEC";
pub(super) const WATCHDOG_PID: &str = "WATCHDOG_PID";

/// The service manager (cheap to clone).
#[derive(Clone, Debug, Default)]
pub(super) struct Systemd(Option<Arc<Manager>>);

#[derive(Debug)]
struct Manager {
    socket: UnixDatagram,
    /// Whether this is the process that the service manager listens to. During a restart only one
    /// of two processes is.
    is_main: AtomicBool,
}

impl Systemd {
    /// Connects to the service manager that the environment names. `is_main` is whether it has
    /// started this process, and not an earlier process of this server.
    pub(super) fn from_environment(is_main: bool) -> Self {
        let Some(name) = env::var_os(NOTIFY_SOCKET).filter(|name| !name.is_empty()) else {
            return Self::default();
        };
        match connect(&name) {
            Ok(socket) => Self(Some(Arc::new(Manager {
                socket,
                is_main: AtomicBool::new(is_main),
            }))),
            Err(error) => {
                let name = name.display();
                tracing::warn!(
                    "cannot reach the service manager at {NOTIFY_SOCKET}={name}: {error}"
                );
                Self::default()
            }
        }
    }

    /// Returns whether there is a service manager.
    pub(super) fn is_there(&self) -> bool {
        self.0.is_some()
    }

    /// The server serves; also at the end of a reload.
    pub(super) fn ready(&self) {
        self.send("READY=1");
    }

    /// A reload begins. [`Systemd::ready`] ends it, whatever its outcome.
    pub(super) fn reloading(&self) {
        let now = clock_gettime(ClockId::Monotonic);
        let micros = i128::from(now.tv_sec) * 1_000_000 + i128::from(now.tv_nsec) / 1_000;
        self.send(&format!("RELOADING=1\nMONOTONIC_USEC={micros}"));
    }

    /// The server stops, and takes at most `within`.
    pub(super) fn stopping(&self, within: Duration) {
        let micros = within.as_micros();
        self.send(&format!("STOPPING=1\nEXTEND_TIMEOUT_USEC={micros}"));
    }

    /// The workers of the runtime answer.
    pub(super) fn alive(&self) {
        self.send("WATCHDOG=1");
    }

    /// A line about the state, for `systemctl status`.
    pub(super) fn status(&self, line: &str) {
        self.send(&format!("STATUS={line}"));
    }

    /// Another process has taken over. The service manager ignores this one from then on, so
    /// nothing more is sent.
    pub(super) fn hand_over(&self, pid: u32) {
        self.send(&format!("MAINPID={pid}"));
        if let Some(manager) = &self.0 {
            manager.is_main.store(false, Ordering::Relaxed);
        }
    }

    /// This process has taken over.
    pub(super) fn take_over(&self) {
        if let Some(manager) = &self.0 {
            manager.is_main.store(true, Ordering::Relaxed);
        }
    }

    fn send(&self, message: &str) {
        let Some(manager) = &self.0 else { return };
        if !manager.is_main.load(Ordering::Relaxed) {
            return;
        }
        if let Err(error) = manager.socket.send(message.as_bytes()) {
            tracing::warn!(message, "the service manager takes no message: {error}");
        }
    }
}

/// Returns how long the service manager waits for [`Systemd::alive`] before it ends the process;
/// `None` if it does not watch this process.
pub(super) fn watchdog() -> Option<Duration> {
    let number = |name| env::var(name).ok()?.parse::<u64>().ok();
    let is_ours = match env::var_os(WATCHDOG_PID) {
        Some(_) => number(WATCHDOG_PID) == Some(std::process::id().into()),
        None => true,
    };
    let micros = number(WATCHDOG_USEC).filter(|micros| is_ours && *micros > 0)?;
    Some(Duration::from_micros(micros))
}

/// Connects to a socket by its path, or by its name in the abstract namespace: `@name`.
fn connect(name: &OsStr) -> io::Result<UnixDatagram> {
    let address = match name.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        [b'/', ..] => SocketAddr::from_pathname(name)?,
        _ => {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "expected the path of a socket, or its name after @",
            ));
        }
    };
    let socket = UnixDatagram::unbound()?;
    socket.connect_addr(&address)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

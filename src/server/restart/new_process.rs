//! NewProcess: the process that is to take over, as the old one sees it.

use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use serde::Serialize;
use tokio::sync::oneshot;

use super::MARK;
use super::channel::{Channel, FromNew, FromOld};
use super::program::Program;
use crate::net::send_with_descriptor;
use crate::server::listeners::Inherited;
use crate::server::systemd::WATCHDOG_PID;
use crate::services::Services;

/// How long the descriptors may take to fit into the socket: it is empty, so they fit at once or
/// never.
const SEND_DEADLINE: Duration = Duration::from_secs(1);

/// How long a killed process may take to end. One that waits for a disk ends when that answers, and
/// is then its new parent's.
const KILL_DEADLINE: Duration = Duration::from_secs(1);

/// How often to look whether the process has ended.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// The most tickets in one message, a few hundred bytes each.
const TICKETS_AT_ONCE: usize = 200;

/// Variables that are for the process that the service manager has started: its inherited listeners
/// go another way, and its number is not the new one's.
const NOT_PASSED_ON: [&str; 4] = ["LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", WATCHDOG_PID];

/// A started process. Dropping it kills the process, unless [`NewProcess::keep`] was called.
#[derive(Debug)]
pub(in crate::server) struct NewProcess {
    child: Child,
    channel: Channel,
    is_kept: bool,
}

/// How a process has ended.
pub(super) enum Ended {
    By(ExitStatus),
    Killed,
}

impl NewProcess {
    /// Starts a program on a thread of its own: its file may be on a mount that does not answer. A
    /// process that nothing waits for any more is killed. Needs a tokio runtime.
    pub(super) fn spawn(
        program: Program,
        listeners: Vec<Inherited>,
    ) -> oneshot::Receiver<io::Result<Self>> {
        let (done, spawned) = oneshot::channel();
        let runtime = tokio::runtime::Handle::current();
        let start = move || {
            let _runtime = runtime.enter();
            let _ = done.send(start(&program, &listeners));
        };
        // A thread that cannot be started drops `done`.
        let _ = std::thread::Builder::new()
            .name("restart".to_owned())
            .spawn(start);
        spawned
    }

    /// Receives a message; `None` if the process has ended. Cancel-safe.
    pub(super) async fn receive(&mut self) -> io::Result<Option<FromNew>> {
        self.channel.receive().await
    }

    pub(super) async fn send(&mut self, message: &impl Serialize) -> io::Result<()> {
        self.channel.send(message).await
    }

    /// Ends the process: at once, or after `within` if it reports now that it accepts connections.
    pub(super) async fn stop(mut self, within: Duration) {
        // Also for a process behind a wrapper, which alone would be killed.
        let _ = self.send(&FromOld::Stop).await;
        let report = tokio::time::timeout(within.min(KILL_DEADLINE), self.receive());
        let is_ready = matches!(report.await, Ok(Ok(Some(FromNew::Ready { .. }))));
        self.end(if is_ready { within } else { Duration::ZERO })
            .await;
    }

    /// Waits for the end of the process, and kills it after `within`.
    pub(super) async fn end(mut self, within: Duration) -> Ended {
        if let Ok(status) = tokio::time::timeout(within, self.exit()).await {
            return Ended::By(status);
        }
        let _ = self.child.kill();
        let _ = tokio::time::timeout(KILL_DEADLINE, self.exit()).await;
        Ended::Killed
    }

    /// Lets the process outlive this one. The channel stays open, by which the other process sees
    /// that this one lives.
    pub(super) fn keep(&mut self) {
        self.is_kept = true;
    }

    /// Passes on the tickets that were issued since the last call: their clients come back to that
    /// process.
    pub(in crate::server) async fn pass_tickets(&mut self, services: &Services) {
        let mut tickets = services.settings().auth.take_tickets();
        while !tickets.is_empty() {
            let rest = tickets.split_off(tickets.len().min(TICKETS_AT_ONCE));
            // Without a reader there is no process that could serve them.
            if self.send(&FromOld::Tickets(tickets)).await.is_err() {
                return;
            }
            tickets = rest;
        }
    }

    /// Passes on tickets until the process ends.
    pub(in crate::server) async fn accompany(&mut self, services: &Services) -> ExitStatus {
        loop {
            if let Ok(Some(status)) = self.child.try_wait() {
                return status;
            }
            self.pass_tickets(services).await;
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Waits for the end of the process. Cancel-safe.
    async fn exit(&mut self) -> ExitStatus {
        loop {
            if let Ok(Some(status)) = self.child.try_wait() {
                return status;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}

impl Drop for NewProcess {
    fn drop(&mut self) {
        if self.is_kept || matches!(self.child.try_wait(), Ok(Some(_))) {
            return;
        }
        let _ = self.child.kill();
        let began = Instant::now();
        while began.elapsed() < KILL_DEADLINE && matches!(self.child.try_wait(), Ok(None)) {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::By(status) => status.fmt(f),
            Self::Killed => f.write_str("killed"),
        }
    }
}

fn start(program: &Program, listeners: &[Inherited]) -> io::Result<NewProcess> {
    let (ours, theirs) = UnixStream::pair()?;
    ours.set_write_timeout(Some(SEND_DEADLINE))?;
    for (bind, descriptor) in listeners {
        let line = super::channel::encode(&bind.to_string())?;
        send_with_descriptor(&ours, &line, descriptor)?;
    }
    io::Write::write_all(&mut &ours, b"\n")?;
    let channel = Channel::new(ours)?;
    let mut command = Command::new(program.path());
    command
        .args(program.arguments())
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .env(MARK, "1");
    for name in NOT_PASSED_ON {
        command.env_remove(name);
    }
    let child = command.spawn().map_err(|error| {
        io::Error::new(
            error.kind(),
            format!("{}: {error}", program.path().display()),
        )
    })?;
    Ok(NewProcess {
        child,
        channel,
        is_kept: false,
    })
}

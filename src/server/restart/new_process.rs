//! NewProcess: the process that is to take over, as the old one sees it.

use std::convert::Infallible;
use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde::Serialize;
use tokio::sync::oneshot;

use super::MARK;
use super::channel::{Channel, FromNew, FromOld, MESSAGE_BYTES_MAX, encode};
use super::program::Program;
use crate::auth::PassedTicket;
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

/// How much longer than its drain a process may take to end.
const END_MARGIN: Duration = Duration::from_secs(2);

/// How often to look whether the process has ended.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Variables that are for the process that the service manager has started: its inherited listeners
/// go another way, and its number is not the new one's.
const NOT_PASSED_ON: [&str; 4] = ["LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", WATCHDOG_PID];

/// A started process. Dropping it kills the process, unless [`NewProcess::keep`] was called.
///
/// With a wrapper around the program, the child that is killed is the wrapper, and may have ended
/// before. The program would take the end of the channel for that of this process, and serve beside
/// it. So each process that is not kept gets `Stop` first; one that has not begun to read finds the
/// message later.
#[derive(Debug)]
pub(in crate::server) struct NewProcess {
    child: Child,
    channel: Channel,
    is_kept: bool,
    /// Whether a request of a reload is queued of which the log does not know yet.
    passes_reload_on: bool,
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

    /// Returns whether the process has ended.
    pub(super) fn has_ended(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(Some(_)))
    }

    /// Ends the process: at once, or after `within` if it reports now that it accepts connections.
    pub(super) async fn stop(mut self, within: Duration) {
        let _ = self.send(&FromOld::Stop).await;
        let report = tokio::time::timeout(within.min(KILL_DEADLINE), self.receive());
        let is_ready = matches!(report.await, Ok(Ok(Some(FromNew::Ready { .. }))));
        self.ended(if is_ready {
            within.saturating_add(END_MARGIN)
        } else {
            Duration::ZERO
        })
        .await;
    }

    /// Ends a process that is not to take over, and kills it after `within`.
    pub(super) async fn end(mut self, within: Duration) -> Ended {
        let _ = self.send(&FromOld::Stop).await;
        self.ended(within).await
    }

    /// Waits for the end of the process, and kills it after `within`.
    async fn ended(mut self, within: Duration) -> Ended {
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
    pub(super) async fn pass_tickets(&mut self, services: &Services) {
        self.queue_tickets(services);
        // Without a reader there is no process that could serve them.
        let _ = self.channel.flush().await;
    }

    fn queue_tickets(&mut self, services: &Services) {
        let tickets = services.settings().auth.take_tickets();
        for line in ticket_lines(tickets, MESSAGE_BYTES_MAX) {
            self.channel.queue(&line);
        }
    }

    /// Passes on tickets, and the request of a reload if there is one. Cancel-safe.
    async fn pass_on(&mut self, services: &Services, reload: &AtomicBool) {
        self.queue_tickets(services);
        if let Some(sent) = self.pass_on_reload(reload).await {
            let has_ended = self.has_ended(); // one that stood still before, too
            tell_of_reload(sent.map_err(|error| match error.kind() {
                io::ErrorKind::TimedOut if has_ended => io::ErrorKind::BrokenPipe,
                kind => kind,
            }));
        }
    }

    /// The same at the end of this process, for at most `within`.
    pub(in crate::server) async fn pass_on_last(
        &mut self,
        services: &Services,
        reload: &AtomicBool,
        within: Duration,
    ) {
        let passed = tokio::time::timeout(within, self.pass_on(services, reload)).await;
        if passed.is_err() && self.passes_reload_on {
            tell_of_reload(Err(io::ErrorKind::TimedOut));
        }
    }

    /// Sends what is queued, with the request of a reload. Returns whether that was sent, or `None`
    /// without one. Cancel-safe: the next call tells of the one that this call has queued.
    async fn pass_on_reload(&mut self, reload: &AtomicBool) -> Option<io::Result<()>> {
        if reload.swap(false, Ordering::Relaxed) {
            if let Ok(line) = encode(&FromOld::Reload) {
                self.channel.queue(&line);
            }
            self.passes_reload_on = true;
        }
        let sent = self.channel.flush().await;
        std::mem::take(&mut self.passes_reload_on).then_some(sent)
    }

    /// Tells of each request of a reload that there is no process for it: it has ended.
    pub(in crate::server) async fn ignore_reloads(
        &mut self,
        services: &Services,
        reload: &AtomicBool,
    ) -> Infallible {
        loop {
            self.pass_on(services, reload).await;
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Passes on tickets and requests of a reload until the process ends.
    pub(in crate::server) async fn accompany(
        &mut self,
        services: &Services,
        reload: &AtomicBool,
    ) -> ExitStatus {
        loop {
            if let Ok(Some(status)) = self.child.try_wait() {
                return status;
            }
            self.pass_on(services, reload).await;
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
        if self.is_kept {
            return;
        }
        self.channel.send_at_once(&FromOld::Stop);
        if self.has_ended() {
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

fn tell_of_reload(sent: Result<(), io::ErrorKind>) {
    match sent {
        Ok(()) => tracing::info!("another process serves; SIGHUP is passed on to it"),
        Err(io::ErrorKind::TimedOut) => {
            tracing::warn!("the process that serves stands still; SIGHUP is ignored");
        }
        Err(_) => tracing::warn!("the process that serves has ended; SIGHUP is ignored"),
    }
}

/// Returns the messages of tickets, none longer than `bytes_max` unless a ticket alone is.
fn ticket_lines(mut tickets: Vec<PassedTicket>, bytes_max: usize) -> Vec<Vec<u8>> {
    if tickets.is_empty() {
        return Vec::new();
    }
    let rest = tickets.split_off(tickets.len().div_ceil(2));
    let message = FromOld::Tickets(tickets);
    let Ok(line) = encode(&message) else {
        return Vec::new();
    };
    let mut lines = match message {
        FromOld::Tickets(tickets) if line.len() > bytes_max && tickets.len() > 1 => {
            ticket_lines(tickets, bytes_max)
        }
        _ => vec![line],
    };
    lines.extend(ticket_lines(rest, bytes_max));
    lines
}

fn start(program: &Program, listeners: &[Inherited]) -> io::Result<NewProcess> {
    let (ours, theirs) = UnixStream::pair()?;
    ours.set_write_timeout(Some(SEND_DEADLINE))?;
    for one in listeners {
        let line = encode(&(one.bind.to_string(), one.file))?;
        send_with_descriptor(&ours, &line, &one.descriptor)?;
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
        passes_reload_on: false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process() -> (NewProcess, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let process = NewProcess {
            child: Command::new("sleep").arg("60").spawn().unwrap(),
            channel: Channel::new(ours).unwrap(),
            is_kept: false,
            passes_reload_on: false,
        };
        (process, theirs)
    }

    #[tokio::test]
    async fn a_process_that_stands_still_is_told_from_one_that_has_ended() {
        let none = AtomicBool::new(false);
        let requested = || AtomicBool::new(true);
        let kind = |sent: Option<io::Result<()>>| sent.map(|sent| sent.map_err(|e| e.kind()));
        let (mut process, theirs) = process();
        assert_eq!(kind(process.pass_on_reload(&none).await), None);
        assert_eq!(
            kind(process.pass_on_reload(&requested()).await),
            Some(Ok(()))
        );
        process.channel.queue(&vec![b'x'; 4 << 20]);
        // Cut off: what was requested is not forgotten.
        let reload = requested();
        let cut_off = process.pass_on_reload(&reload);
        let cut_off = tokio::time::timeout(Duration::from_millis(20), cut_off).await;
        assert!(cut_off.is_err() && process.passes_reload_on);
        tokio::time::pause();
        for reload in [none, requested()] {
            let sent = process.pass_on_reload(&reload).await;
            assert_eq!(kind(sent), Some(Err(io::ErrorKind::TimedOut)));
        }
        tokio::time::resume();
        drop(theirs);

        let (mut process, theirs) = self::process();
        drop(theirs);
        let sent = process.pass_on_reload(&requested()).await;
        assert_eq!(kind(sent), Some(Err(io::ErrorKind::BrokenPipe)));
    }

    #[tokio::test]
    async fn a_process_that_is_dropped_is_told_to_stop() {
        let (process, theirs) = process();
        drop(process);
        let mut channel = Channel::new(theirs).unwrap();
        assert_eq!(channel.receive().await.unwrap(), Some(FromOld::Stop));
    }

    #[test]
    fn tickets_are_split_into_messages_of_bounded_size() {
        let ticket = |name: String| -> PassedTicket {
            let left = serde_json::json!({ "secs": 30, "nanos": 0 });
            serde_json::from_value(serde_json::json!({
                "name": name, "user_id": "7", "user_name": "🦀".repeat(256),
                "is_staff": false, "login": null, "left": left,
            }))
            .unwrap()
        };
        assert!(ticket_lines(Vec::new(), 10_000).is_empty());
        let tickets: Vec<_> = (0..101).map(|number| ticket(number.to_string())).collect();
        let wanted = encode(&tickets).unwrap();
        let lines = ticket_lines(tickets, 10_000);
        let mut arrived = Vec::new();
        for line in &lines {
            assert!(line.len() <= 10_000);
            match serde_json::from_slice(line).unwrap() {
                FromOld::Tickets(tickets) => arrived.extend(tickets),
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(encode(&arrived).unwrap(), wanted);
        assert_eq!(ticket_lines(vec![ticket("alone".to_owned())], 10).len(), 1);
    }
}

//! Signals: SIGTERM, SIGINT, SIGHUP, SIGUSR1 and SIGUSR2.

use std::io;

use futures_util::FutureExt;
use tokio::signal::unix::{Signal as Stream, SignalKind, signal};
use tokio::sync::mpsc;

/// The most signals passed on that wait to be handled.
const PASSED_ON_MAX: usize = 8;

/// A request of the operator.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Signal {
    /// SIGTERM or SIGINT: drain and exit. A second one exits at once.
    Stop,
    /// SIGHUP: reload the configuration.
    Reload,
    /// SIGUSR1: reopen the log's files, which a program such as logrotate has renamed.
    ReopenLogs,
    /// SIGUSR2: replace this process by a new one.
    Restart,
    /// The process that this one has replaced was told to stop before that, and both stop.
    StopWithOld,
}

#[derive(Debug)]
pub(super) struct Signals {
    terminate: Stream,
    interrupt: Stream,
    hangup: Stream,
    user1: Stream,
    user2: Stream,
    /// Those that the old process passes on after a restart.
    passed_on: (mpsc::Sender<Signal>, mpsc::Receiver<Signal>),
    /// SIGXFSZ, sent for a file at its size limit (`ulimit -f`), would end the process. Handled, it
    /// only makes the write fail.
    _file_size: Stream,
}

impl Signals {
    pub(super) fn listen() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
            user1: signal(SignalKind::user_defined1())?,
            user2: signal(SignalKind::user_defined2())?,
            passed_on: mpsc::channel(PASSED_ON_MAX),
            _file_size: signal(SignalKind::from_raw(libc::SIGXFSZ))?,
        })
    }

    /// Waits for the next signal. Cancel-safe.
    pub(super) async fn next(&mut self) -> Signal {
        tokio::select! {
            _ = self.terminate.recv() => Signal::Stop,
            _ = self.interrupt.recv() => Signal::Stop,
            _ = self.hangup.recv() => Signal::Reload,
            _ = self.user1.recv() => Signal::ReopenLogs,
            _ = self.user2.recv() => Signal::Restart,
            Some(signal) = self.passed_on.1.recv() => signal,
        }
    }

    /// Returns where another process's signals for this one go.
    pub(super) fn passed_on(&self) -> mpsc::Sender<Signal> {
        self.passed_on.0.clone()
    }

    /// Takes a [`Signal::Reload`] that waits; returns whether there was one.
    pub(super) fn take_reload(&mut self) -> bool {
        self.hangup.recv().now_or_never().is_some()
    }
}

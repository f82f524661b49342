//! Restart: replaces the running process by a new one of the program that is now at the same path,
//! which takes over the open listeners (SIGUSR2).
//!
//! ```text
//!    old process                                                      new process
//! request ── thread: listeners into a socket pair ── spawns ──────────> OldProcess::take
//!    │                                                                    │ reads its file, opens
//!    │  Spawning, then Starting; still serving                            │ stores and listeners,
//!    │                                                                    │ accepts
//!    ├─ Failed ◄─────────────── its problems, for the log ────────────────┤ cannot start: exits
//!    ├─ Failed ◄─────────────── end of the stream ────────────────────────┤ crashes
//!    ├─ killed at `timeouts.restart`                                      │ hangs
//!    ├─ Ready ◄───────────────── ready, pid ──────────────────────────────┤
//!    │  stops accepting, MAINPID to the service manager                   │ waits
//!    ├────────────────────────── Tickets, not yet used ──────────────────>│
//!    ├────────────────────────── Go ─────────────────────────────────────>│ pid file, READY
//!    │  drains: every WebSocket gets 1012 ─ Tickets, Reload ─────────────>│ serves
//!    └─ exits ─────────────────── end of the stream ─────────────────────>│ OldProcess::ended
//! ```
//!
//! A process that is not to take over gets `Stop`, whatever it has reported: behind a wrapper that
//! is killed, or has ended, it would take the end of the stream for the death of the old process.
//!
//! Between the new process's first `accept` and the old one's last, both accept from the same
//! queues, so no connection is refused or reset. If the old process dies before it says `Go`, the
//! new one serves on: the listeners are its own.
//!
//! The socket pair is the new process's standard input, which is how a descriptor gets there
//! without unsafe code; the variable [`MARK`] tells it. The descriptors are closed on exec, so a
//! program that knows nothing of this inherits none.

mod channel;
mod new_process;
mod old_process;
mod program;

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use metrics::counter;
use tokio::sync::oneshot;
use tokio::time::Instant;

use self::channel::{FromNew, FromOld};
pub(super) use self::new_process::NewProcess;
pub(super) use self::old_process::Decision;
pub use self::old_process::OldProcess;
use self::program::Program;
use super::listeners::Inherited;
use crate::net::Bind;
use crate::services::Services;
use crate::tasks::Tasks;

/// The variable that tells a new process that its standard input is the socket of the old one.
const MARK: &str = "ONEPORT_HANDOVER";

/// How long a process that stops waits for a thread that starts a new one.
const SPAWN_DEADLINE: Duration = Duration::from_secs(5);

/// How long the report of a new process may take that is read after `timeouts.restart`.
const LAST_LOOK: Duration = Duration::from_millis(100);

/// Starts new processes, one at a time.
#[derive(Debug)]
pub(super) struct Restart {
    program: io::Result<Program>,
    state: State,
    tasks: Tasks,
}

#[derive(Debug)]
enum State {
    Idle,
    /// A thread starts the program.
    Spawning {
        spawned: oneshot::Receiver<io::Result<NewProcess>>,
        deadline: Instant,
    },
    /// The new process has not reported yet.
    Starting {
        process: NewProcess,
        deadline: Instant,
    },
}

/// The events that a [`State`] waits for.
enum Event {
    Spawned(io::Result<NewProcess>),
    /// A message; `None` if the process has ended, or closed its end.
    Reported(io::Result<Option<FromNew>>),
    Late,
}

impl State {
    /// Waits for the next event; forever when idle. Cancel-safe.
    async fn next(&mut self) -> Event {
        match self {
            Self::Idle => std::future::pending().await,
            Self::Spawning { spawned, deadline } => tokio::select! {
                biased;
                spawned = spawned => Event::Spawned(spawned.unwrap_or_else(|_| {
                    Err(io::Error::other("the thread that starts it failed"))
                })),
                () = tokio::time::sleep_until(*deadline) => Event::Late,
            },
            Self::Starting { process, deadline } => tokio::select! {
                biased; // a process that has reported may serve already
                reported = process.receive() => Event::Reported(reported),
                () = tokio::time::sleep_until(*deadline) => {
                    // This process may have stood still since the report.
                    let reported = tokio::time::timeout(LAST_LOOK, process.receive());
                    reported.await.map_or(Event::Late, Event::Reported)
                }
            },
        }
    }
}

impl Restart {
    /// Remembers the program of this process. Call it at the start, before a new program can be
    /// at its path.
    pub(super) fn new(tasks: Tasks) -> Self {
        Self {
            program: Program::of_this_process(),
            state: State::Idle,
            tasks,
        }
    }

    /// Starts a new process, which inherits the listeners and has `within` to report. Ignored while
    /// one starts. Returns whether one starts now.
    pub(super) fn request(
        &mut self,
        listeners: impl FnOnce() -> io::Result<Vec<Inherited>>,
        within: Duration,
    ) -> bool {
        if !matches!(self.state, State::Idle) {
            tracing::warn!("a restart is in progress; this one is ignored");
            return false;
        }
        if std::process::id() == 1 {
            tracing::error!(
                "process 1 cannot be replaced: its end ends the container. Start another container"
            );
            failed();
            return false;
        }
        let prepared = match (&self.program, listeners()) {
            (Ok(program), Ok(listeners)) => Ok((program.clone(), listeners)),
            (Err(error), _) => Err(error.to_string()),
            (_, Err(error)) => Err(format!("its listeners cannot be passed on: {error}")),
        };
        match prepared {
            Ok((program, listeners)) => {
                tracing::info!(program = %program.path().display(), "starting a new process");
                self.state = State::Spawning {
                    spawned: NewProcess::spawn(program, listeners),
                    deadline: Instant::now() + within,
                };
                true
            }
            Err(cause) => {
                tracing::error!("cannot start a new process: {cause}");
                failed();
                false
            }
        }
    }

    /// Returns a new process that is ready, and accepts connections already. Cancel-safe; pending
    /// until there is one.
    pub(super) async fn step(&mut self) -> Ready {
        loop {
            let event = self.state.next().await;
            if let Some(ready) = self.handle(event) {
                return ready;
            }
        }
    }

    fn handle(&mut self, event: Event) -> Option<Ready> {
        match (std::mem::replace(&mut self.state, State::Idle), event) {
            (State::Spawning { deadline, .. }, Event::Spawned(Ok(process))) => {
                self.state = State::Starting { process, deadline };
            }
            (_, Event::Spawned(Err(error))) => {
                tracing::error!("cannot start a new process: {error}");
                failed();
            }
            (State::Starting { mut process, .. }, Event::Reported(reported)) => {
                match reported {
                    Ok(Some(FromNew::Ready {
                        pid,
                        listeners,
                        pid_file,
                    })) if !process.has_ended() => {
                        let listeners = listeners.iter();
                        return Some(Ready {
                            process,
                            pid,
                            listeners: listeners.filter_map(|bind| bind.parse().ok()).collect(),
                            pid_file,
                        });
                    }
                    Ok(Some(FromNew::Failed { problems })) => problems
                        .iter()
                        .for_each(|problem| tracing::error!("{problem}")),
                    Err(error) => tracing::error!("the new process sent no valid report: {error}"),
                    // It may have died right after its report.
                    Ok(Some(FromNew::Ready { .. }) | None) => {}
                }
                // In a task: the process may take a moment to exit, and one behind a wrapper to
                // stop.
                self.tasks.spawn("restart", async move {
                    let ended = process.end(Duration::from_secs(1)).await;
                    tracing::error!("the new process did not start ({ended})");
                    failed();
                });
            }
            (state, Event::Late) => {
                tracing::error!("the new process was not ready in time (timeouts.restart)");
                failed();
                if let State::Starting { process, .. } = state {
                    self.tasks.spawn("restart", process.stop(Duration::ZERO));
                }
            }
            (state, Event::Spawned(_) | Event::Reported(_)) => self.state = state,
        }
        None
    }

    /// Ends a new process that is starting. One that accepts connections already has `within` for
    /// its drain.
    pub(super) async fn stop(self, within: Duration) {
        let process = match self.state {
            State::Idle => return,
            State::Spawning { spawned, .. } => {
                match tokio::time::timeout(within.min(SPAWN_DEADLINE), spawned).await {
                    Ok(Ok(Ok(process))) => process,
                    // Its thread kills what it still starts.
                    _ => return,
                }
            }
            State::Starting { process, .. } => process,
        };
        tracing::info!("the new process stops too");
        process.stop(within).await;
    }
}

/// A new process that accepts connections.
pub(super) struct Ready {
    process: NewProcess,
    /// Its number.
    pub(super) pid: u32,
    /// The addresses of the listeners that it has taken.
    pub(super) listeners: Vec<Bind>,
    /// Its pid file.
    pub(super) pid_file: Option<PathBuf>,
}

impl Ready {
    /// Tells it that this process accepts no more, and whether the configuration may have changed
    /// since it was started.
    pub(super) async fn go(mut self, reload: bool, services: &Services) -> NewProcess {
        self.process.keep();
        self.process.pass_tickets(services).await;
        let go = FromOld::Go { reload };
        if let Err(error) = self.process.send(&go).await {
            tracing::error!(pid = self.pid, "the new process does not listen: {error}");
        }
        self.process
    }
}

fn failed() {
    counter!("oneport_restarts_failed_total").increment(1);
    tracing::error!("restart failed; still serving");
}

//! Reload: replaces the running table with one compiled from the file, or keeps it and logs every
//! Problem.
//!
//! ```text
//!        request                       after SLOW
//! Idle ───────────> Loading ───────────────────────> Slow
//!   ▲  a thread reads │                                │
//!   │                 │ loaded: the table is replaced  │ loaded: as on the left
//!   ├─────────────────┴────────────────────────────────┤
//!   └─ request: the thread is abandoned, at most 16 ───┘
//! ```
//!
//! A request made while `Loading` starts another reload afterwards; several such requests start
//! one. The thread may wait for a file forever (a mount that does not answer), so nothing waits for
//! the thread: neither the signal to stop, nor the next request once the state is `Slow`.

use std::path::PathBuf;
use std::time::Duration;

use metrics::counter;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::{Instant, Interval, MissedTickBehavior};

use super::certificate_watch::report;
use super::drain::spread;
use super::file_watch::{FileSnapshot, WATCH_EVERY};
use super::run::configure_acme;
use crate::config::{Bind, Config, Listen, Problems, process_environment};
use crate::gateway::{Gateway, Registry, Table, compile_draft};
use crate::telemetry;

/// How to load the configuration, at start and at every reload.
#[derive(Clone, Debug)]
pub struct Reload {
    /// The main file.
    pub file: PathBuf,
    /// The views, consumers and middleware that the file may name.
    pub registry: Registry,
    /// Addresses that replace the file's `bind`, unless empty.
    pub bind: Vec<Bind>,
    /// Whether a changed file reloads the configuration.
    pub watch: bool,
}

/// A loaded configuration.
#[derive(Debug)]
pub struct Loaded {
    /// The settings.
    pub config: Config,
    /// The routes compiled from them.
    pub table: Table,
    /// Non-fatal warnings.
    pub warnings: Problems,
}

impl Reload {
    /// Reads and compiles the file. Returns the Problems of both stages at once.
    pub fn load(&self) -> Result<Loaded, Problems> {
        telemetry::start_metrics();
        let mut draft = Config::draft(&self.file, &process_environment)?;
        if !self.bind.is_empty() {
            draft.config.server.bind = self.bind.iter().cloned().map(Listen::from).collect();
        }
        let (table, warnings) = compile_draft(&draft, &self.registry)?;
        Ok(Loaded {
            config: draft.config,
            table,
            warnings,
        })
    }
}

/// How long a reload may take before the log warns.
const SLOW: Duration = Duration::from_secs(10);

/// The maximum number of abandoned threads of slow reloads.
const ABANDONED_MAX: usize = 16;

/// The result of the loading thread. Closed without a result if the thread panics.
type Loading = oneshot::Receiver<Box<Result<Loaded, Problems>>>;

/// Reloads the configuration on request, or when a file changes; one reload at a time.
pub(super) struct Reloader {
    gateway: Gateway,
    config: Config,
    reload: Reload,
    state: State,
    /// Whether a reload was requested and has not begun.
    is_requested: bool,
    /// The number of abandoned threads that may still wait for a file.
    abandoned: usize,
    watch: Watch,
}

/// The state of the current reload.
enum State {
    Idle,
    Loading {
        loading: Loading,
        slow_at: Instant,
    },
    /// The warning is logged; the next request abandons the thread.
    Slow {
        loading: Loading,
    },
}

/// The events that a [`State`] waits for.
enum Event {
    /// The thread has ended; `None` if it panicked.
    Loaded(Option<Box<Result<Loaded, Problems>>>),
    Slow,
}

impl State {
    /// Waits for the next event; forever when idle. Cancel-safe.
    async fn next(&mut self) -> Event {
        match self {
            Self::Idle => std::future::pending().await,
            Self::Loading { loading, slow_at } => tokio::select! {
                loaded = loading => Event::Loaded(loaded.ok()),
                () = tokio::time::sleep_until(*slow_at) => Event::Slow,
            },
            Self::Slow { loading } => Event::Loaded(loading.await.ok()),
        }
    }
}

/// Compares the watched files with their state at the last scan.
struct Watch {
    is_enabled: bool,
    interval: Interval,
    /// The running scan, on a thread of the blocking pool.
    scanning: Option<JoinHandle<FileSnapshot>>,
    last: Option<FileSnapshot>,
}

impl Watch {
    fn new(is_enabled: bool) -> Self {
        let mut interval = tokio::time::interval(WATCH_EVERY);
        interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self {
            is_enabled,
            interval,
            scanning: None,
            last: None,
        }
    }

    /// Waits for the next change; `take` takes a snapshot. Cancel-safe: an interrupted scan is
    /// awaited by the next call.
    async fn changed(&mut self, take: impl Fn() -> JoinHandle<FileSnapshot>) {
        if !self.is_enabled {
            return std::future::pending().await;
        }
        loop {
            let scanning = match &mut self.scanning {
                Some(scanning) => scanning,
                None => {
                    self.interval.tick().await;
                    self.scanning.insert(take())
                }
            };
            let scanned = scanning.await;
            self.scanning = None;
            if let Ok(snapshot) = scanned {
                let before = self.last.replace(snapshot);
                if before.is_some() && before != self.last {
                    return;
                }
            }
        }
    }
}

impl Reloader {
    pub(super) fn new(gateway: Gateway, config: Config, reload: Reload) -> Self {
        Self {
            gateway,
            config,
            watch: Watch::new(reload.watch),
            reload,
            state: State::Idle,
            is_requested: false,
            abandoned: 0,
        }
    }

    /// Requests a reload.
    pub(super) fn request(&mut self) {
        match self.state {
            State::Idle => {}
            State::Slow { .. } if self.abandoned < ABANDONED_MAX => {
                self.abandoned += 1;
                self.state = State::Idle;
                tracing::warn!("the previous reload does not finish; starting another one");
            }
            State::Loading { .. } | State::Slow { .. } => {
                tracing::warn!("a reload is in progress; another one follows it");
            }
        }
        self.is_requested = true;
    }

    /// Handles the next event. Cancel-safe; pending until there is an event.
    pub(super) async fn step(&mut self) {
        if self.is_requested && matches!(self.state, State::Idle) {
            self.is_requested = false;
            self.state = State::Loading {
                loading: start_loading(self.reload.clone()),
                slow_at: Instant::now() + SLOW,
            };
        }
        let (config, file) = (&self.config, &self.reload.file);
        let take = || {
            let documents = config.documents.clone();
            let (main, templates) = (file.clone(), config.templates.dir.clone());
            tokio::task::spawn_blocking(move || FileSnapshot::take(&documents, &main, &templates))
        };
        tokio::select! {
            event = self.state.next() => self.handle(event),
            () = self.watch.changed(take) => self.request(),
        }
    }

    fn handle(&mut self, event: Event) {
        match (std::mem::replace(&mut self.state, State::Idle), event) {
            (_, Event::Loaded(loaded)) => self.apply(loaded),
            (State::Loading { loading, .. } | State::Slow { loading }, Event::Slow) => {
                self.state = State::Slow { loading };
                tracing::warn!(
                    seconds = SLOW.as_secs(),
                    "the configuration is still being read; still serving the previous one"
                );
            }
            (State::Idle, Event::Slow) => {}
        }
    }

    /// Replaces the table, or keeps it and logs every Problem.
    fn apply(&mut self, loaded: Option<Box<Result<Loaded, Problems>>>) {
        let Loaded {
            mut config,
            mut table,
            warnings,
        } = match loaded.map(|loaded| *loaded) {
            Some(Ok(loaded)) => loaded,
            Some(Err(problems)) => {
                problems
                    .iter()
                    .for_each(|problem| tracing::error!("{problem}"));
                return refused();
            }
            // The thread panicked, which is already logged.
            None => return refused(),
        };
        warnings
            .iter()
            .for_each(|warning| tracing::warn!("{warning}"));
        let needs_restart = self.config.needs_restart(&config);
        if !needs_restart.is_empty() {
            tracing::warn!(
                keys = needs_restart.join(", "),
                "changed keys that take effect at the next start"
            );
        }
        self.apply_tls(&mut config, &mut table);
        let drain = self.config.server.timeouts.drain;
        let window = spread(self.gateway.sockets().len(), drain);
        self.config = config;
        counter!("oneport_reloads_total", "outcome" => "replaced").increment(1);
        // Runs in a task, because the sockets close one after the other, and a signal to stop must
        // not wait for them.
        let ending = self.gateway.replace(table, window);
        self.gateway.services().tasks.spawn("reload", async move {
            let ended = ending.await;
            tracing::info!(sockets_ended = ended, "reloaded");
        });
    }

    /// Applies `[server.tls]`. Adding or removing the section takes a restart: the listeners go on
    /// as they were opened, with the settings that they have.
    fn apply_tls(&self, config: &mut Config, table: &mut Table) {
        let Some(running) = self.gateway.services().tls.get() else {
            table.tls = None;
            return;
        };
        match &table.tls {
            Some(read) => {
                report(running.apply(&read.files));
            }
            None => {
                config.server.tls.clone_from(&self.config.server.tls);
                table.tls = self.gateway.tls();
            }
        }
        configure_acme(config, self.gateway.services());
    }
}

/// Loads the configuration on its own thread: a task of the blocking pool that waits for a file
/// would keep the runtime from shutting down.
fn start_loading(reload: Reload) -> Loading {
    let (done, loading) = oneshot::channel();
    // A thread that cannot be started drops `done`, which counts as a panic: the reload is refused.
    let _ = std::thread::Builder::new()
        .name("reload".to_owned())
        .spawn(move || drop(done.send(Box::new(reload.load()))));
    loading
}

fn refused() {
    counter!("oneport_reloads_total", "outcome" => "refused").increment(1);
    tracing::error!("reload failed; still serving the previous configuration");
}

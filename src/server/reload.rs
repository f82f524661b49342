//! Reload: a new table out of the file, or the old one and every Problem.

use std::path::PathBuf;
use std::time::Duration;

use metrics::counter;
use tokio::sync::oneshot;
use tokio::task::{JoinError, JoinHandle};
use tokio::time::{Instant, Interval, MissedTickBehavior};

use super::drain::spread;
use super::file_watch::{FileSnapshot, WATCH_EVERY};
use crate::config::{Bind, Config, Listen, Problems, process_environment};
use crate::gateway::{Gateway, Registry, Table, compile_draft};
use crate::telemetry;

/// Where the configuration comes from, and how it is made anew.
#[derive(Clone, Debug)]
pub struct Reload {
    /// The main file.
    pub file: PathBuf,
    /// The names in it.
    pub registry: Registry,
    /// Where to listen instead of at the file's `bind`; empty: there.
    pub bind: Vec<Bind>,
    /// Is the file watched?
    pub watch: bool,
}

/// A configuration that was read and compiled.
#[derive(Debug)]
pub struct Loaded {
    /// What is written.
    pub config: Config,
    /// What runs.
    pub table: Table,
    /// What is to be mended some time.
    pub warnings: Problems,
}

impl Reload {
    /// Reads and compiles the file. All Problems of both are returned at once.
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

/// After how long the log says that a reload takes long.
const SLOW: Duration = Duration::from_secs(10);

/// A reload that is under way, on a thread of its own: files may be on a mount that does not answer.
type Loading = oneshot::Receiver<Result<Loaded, Problems>>;

/// How many reloads that do not come to their end are given up for a new one.
const ABANDONED_MAX: usize = 16;

/// Reads the configuration anew when it is asked to, or sees a file change; one reload at a time.
///
/// Nothing here waits for the file system, so that a file that cannot be read to its end never delays the signal to stop.
pub(super) struct Reloader {
    gateway: Gateway,
    config: Config,
    reload: Reload,
    loading: Option<Loading>,
    /// When the log says that the reload takes long; none once it has.
    slow_at: Option<Instant>,
    /// Asked for while another one is under way.
    is_requested: bool,
    /// Threads that may still wait for a file.
    abandoned: usize,
    snapshot: Option<FileSnapshot>,
    scanning: Option<JoinHandle<FileSnapshot>>,
    scan_interval: Interval,
}

impl Reloader {
    pub(super) fn new(gateway: Gateway, config: Config, reload: Reload) -> Self {
        let mut scan_interval = tokio::time::interval(WATCH_EVERY);
        scan_interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self {
            gateway,
            config,
            reload,
            loading: None,
            slow_at: None,
            is_requested: false,
            abandoned: 0,
            snapshot: None,
            scanning: None,
            scan_interval,
        }
    }

    /// Asks for a reload. While one is under way it is remembered, and several are one.
    pub(super) fn request(&mut self) {
        let is_stuck = self.loading.is_some() && self.slow_at.is_none();
        if is_stuck && self.abandoned < ABANDONED_MAX {
            self.abandoned += 1;
            self.loading = None;
            tracing::warn!("the reload before did not come to its end: it is given up");
        } else if self.loading.is_some() {
            tracing::warn!("a reload is under way; the next one follows it");
        }
        self.is_requested = true;
    }

    /// Does the next thing there is to do. Cancel-safe; never completes while there is nothing to do.
    pub(super) async fn step(&mut self) {
        if self.is_requested && self.loading.is_none() {
            self.is_requested = false;
            self.slow_at = Some(Instant::now() + SLOW);
            self.loading = Some(start_loading(self.reload.clone()));
        }
        tokio::select! {
            read = read(&mut self.loading) => {
                self.loading = None;
                self.slow_at = None;
                self.apply(read);
            }
            () = until(self.slow_at) => {
                self.slow_at = None;
                tracing::warn!(
                    seconds = SLOW.as_secs(),
                    "the configuration is still being read; the previous one goes on"
                );
            }
            snapshot = joined(&mut self.scanning) => {
                self.scanning = None;
                if let Ok(snapshot) = snapshot {
                    let before = self.snapshot.replace(snapshot);
                    if before.is_some() && before != self.snapshot {
                        self.request();
                    }
                }
            }
            _ = self.scan_interval.tick(), if self.reload.watch && self.scanning.is_none() => {
                let documents = self.config.documents.clone();
                let (main, templates) = (self.reload.file.clone(), self.config.templates.dir.clone());
                self.scanning = Some(tokio::task::spawn_blocking(move || {
                    FileSnapshot::take(&documents, &main, &templates)
                }));
            }
        }
    }

    /// Replaces the table, or keeps it and logs every Problem.
    fn apply(&mut self, read: Option<Result<Loaded, Problems>>) {
        let Loaded {
            config,
            table,
            warnings,
        } = match read {
            Some(Ok(loaded)) => loaded,
            Some(Err(problems)) => {
                problems
                    .iter()
                    .for_each(|problem| tracing::error!("{problem}"));
                return refused();
            }
            // The panic is in the log.
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
        let drain = self.config.server.timeouts.drain;
        let window = spread(self.gateway.sockets().len(), drain);
        self.config = config;
        counter!("oneport_reloads_total", "outcome" => "replaced").increment(1);
        // Sockets end one after the other; a signal to stop does not wait for that.
        let ending = self.gateway.replace(table, window);
        self.gateway.services().tasks.spawn("reload", async move {
            let ended = ending.await;
            tracing::info!(sockets_ended = ended, "reloaded");
        });
    }
}

/// Reads the configuration on a thread of its own, which may wait for a file for ever.
fn start_loading(reload: Reload) -> Loading {
    let (done, loading) = oneshot::channel();
    // A thread that cannot be started drops `done`, which refuses the reload.
    let _ = std::thread::Builder::new()
        .name("reload".to_owned())
        .spawn(move || drop(done.send(reload.load())));
    loading
}

/// Waits for the end of a reload; for ever when there is none. None when it panicked. Cancel-safe.
async fn read(loading: &mut Option<Loading>) -> Option<Result<Loaded, Problems>> {
    match loading {
        Some(loading) => loading.await.ok(),
        None => std::future::pending().await,
    }
}

/// Waits for a task on a thread of its own; for ever when there is none. Cancel-safe.
async fn joined<T>(task: &mut Option<JoinHandle<T>>) -> Result<T, JoinError> {
    match task {
        Some(task) => task.await,
        None => std::future::pending().await,
    }
}

/// Waits for an instant; for ever when there is none.
async fn until(instant: Option<Instant>) {
    match instant {
        Some(instant) => tokio::time::sleep_until(instant).await,
        None => std::future::pending().await,
    }
}

fn refused() {
    counter!("oneport_reloads_total", "outcome" => "refused").increment(1);
    tracing::error!("reload failed; still serving the previous configuration");
}

//! Reload: replaces the running table with one compiled from the file, or keeps it and logs every
//! Problem.
//!
//! ```text
//!        request                       after SLOW
//! Idle ───────────> Loading ───────────────────────> Slow
//!   ▲  a thread reads │ prepared, then applied:        │ prepared: as on the left
//!   │                 │ table, TLS, listeners, limits  │
//!   ├─────────────────┴────────────────────────────────┤
//!   └─ request: the thread is abandoned, at most 16 ───┘
//! ```
//!
//! Everything that can fail comes first (`prepare.rs`): if it does, nothing has changed.
//!
//! A request made while `Loading` starts another reload afterwards; several such requests start
//! one. The thread may wait for a file forever (a mount that does not answer), so nothing waits for
//! the thread: neither the signal to stop, nor the next request once the state is `Slow`.

mod figures;
mod prepare;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;

use self::prepare::{Outcome, Prepared, Preparing, problem_of};
use super::certificate_watch::{report, watch_certificates};
use super::connection::HttpServer;
use super::drain::pace;
use super::file_watch::{FileSnapshot, Watch};
use super::listeners::Listeners;
use super::metrics_listeners::MetricsListeners;
use super::run::{apply_limits, configure_acme};
use super::systemd::Systemd;
use crate::config::{
    Bind, Config, KeyChange, Listen, LogConfig, Problems, ServerConfig, TakesEffect,
    process_environment,
};
use crate::gateway::{Gateway, Registry, Table, compile_draft};
use crate::net::{AccessChange, ServerTls};
use crate::reload_handle::{ReloadOutcome, ReloadReport, ReloadRequest};
use crate::telemetry::{self, LogFileError};

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

/// The maximum number of requests that wait for the report of one reload.
const WAITING_MAX: usize = 64;

/// Reloads the configuration on request, or when a file changes; one reload at a time.
pub(super) struct Reloader {
    gateway: Gateway,
    /// The configuration that the process has started with.
    started: Config,
    /// The configuration that was applied last.
    config: Config,
    reload: Reload,
    systemd: Systemd,
    state: State,
    /// Whether a reload was requested and has not begun.
    is_requested: bool,
    /// How many were requested so far.
    requested: u64,
    /// The number of abandoned threads that may still wait for a file.
    abandoned: usize,
    watch: Watch,
    /// Requests from within the process, and those whose report the next reload is.
    requests: Option<mpsc::Receiver<ReloadRequest>>,
    waiting: Vec<ReloadRequest>,
    /// The requests whose report the current reload is.
    answered: Vec<ReloadRequest>,
}

/// The state of the current reload.
enum State {
    Idle,
    Loading {
        preparing: Preparing,
        slow_at: Instant,
    },
    /// The warning is logged; the next request abandons the thread.
    Slow {
        preparing: Preparing,
    },
}

/// The events that a [`State`] waits for.
enum Event {
    Prepared(Box<Outcome>),
    Slow,
}

impl State {
    /// Waits for the next event; forever when idle. Cancel-safe.
    async fn next(&mut self) -> Event {
        match self {
            Self::Idle => std::future::pending().await,
            Self::Loading { preparing, slow_at } => tokio::select! {
                prepared = preparing => Event::Prepared(Box::new(prepared)),
                () = tokio::time::sleep_until(*slow_at) => Event::Slow,
            },
            Self::Slow { preparing } => Event::Prepared(Box::new(preparing.await)),
        }
    }
}

impl Reloader {
    pub(super) fn new(gateway: Gateway, config: Config, reload: Reload, systemd: Systemd) -> Self {
        figures::record_start(&config);
        Self {
            requests: gateway.services().reload.requests(),
            gateway,
            started: config.clone(),
            config,
            systemd,
            watch: Watch::new(reload.watch),
            reload,
            state: State::Idle,
            is_requested: false,
            requested: 0,
            abandoned: 0,
            waiting: Vec::new(),
            answered: Vec::new(),
        }
    }

    /// Returns `[server]` as it was applied last.
    pub(super) fn server(&self) -> &ServerConfig {
        &self.config.server
    }

    /// Ends the reloads of a server that stops: those who wait for one learn that there is none.
    /// Returns `[server]` as it was applied last.
    pub(super) fn into_server(self) -> ServerConfig {
        self.config.server
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
        self.requested += 1;
    }

    /// Returns how many reloads were requested so far.
    pub(super) fn requested(&self) -> u64 {
        self.requested
    }

    /// Handles the next event. Cancel-safe; pending until there is an event.
    pub(super) async fn step(
        &mut self,
        listeners: &mut Listeners<HttpServer>,
        metrics: &mut MetricsListeners,
    ) {
        if self.is_requested && matches!(self.state, State::Idle) {
            self.is_requested = false;
            self.answered.append(&mut self.waiting);
            self.systemd.reloading();
            self.state = State::Loading {
                preparing: prepare::start(
                    self.reload.clone(),
                    self.gateway.services().clone(),
                    listeners.addresses(),
                    metrics.addresses(),
                ),
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
            event = self.state.next() => self.handle(event, listeners, metrics),
            () = self.watch.changed(take) => self.request(),
            request = next_request(&mut self.requests) => {
                // Beyond that, the request learns that it is not served.
                if self.waiting.len() < WAITING_MAX {
                    self.waiting.push(request);
                }
                self.request();
            }
        }
    }

    fn handle(
        &mut self,
        event: Event,
        listeners: &mut Listeners<HttpServer>,
        metrics: &mut MetricsListeners,
    ) {
        match (std::mem::replace(&mut self.state, State::Idle), event) {
            (_, Event::Prepared(outcome)) => {
                let report = self.finish(*outcome, listeners, metrics);
                self.systemd.ready();
                for request in self.answered.drain(..) {
                    let _ = request.send(report.clone()); // it waits no longer
                }
            }
            (State::Loading { preparing, .. } | State::Slow { preparing }, Event::Slow) => {
                self.state = State::Slow { preparing };
                tracing::warn!(
                    seconds = SLOW.as_secs(),
                    "the configuration is still being read; still serving the previous one"
                );
            }
            (State::Idle, Event::Slow) => {}
        }
    }

    /// Applies what was prepared, or keeps the running configuration and logs every Problem.
    fn finish(
        &mut self,
        outcome: Outcome,
        listeners: &mut Listeners<HttpServer>,
        metrics: &mut MetricsListeners,
    ) -> ReloadReport {
        let applied = match outcome {
            Some(Ok(prepared)) => self.apply(prepared, listeners, metrics),
            Some(Err(problems)) => Err(sentences(&problems)),
            None => Err(vec!["the configuration could not be read".to_owned()]),
        };
        applied.unwrap_or_else(|problems| {
            for problem in &problems {
                tracing::error!("{problem}");
            }
            figures::record_refused();
            tracing::error!("reload failed; still serving the previous configuration");
            ReloadReport::of(ReloadOutcome::Refused, problems)
        })
    }

    /// Applies a configuration, or returns why it cannot be applied; then nothing has changed.
    fn apply(
        &mut self,
        prepared: Prepared,
        listeners: &mut Listeners<HttpServer>,
        metrics: &mut MetricsListeners,
    ) -> Result<ReloadReport, Vec<String>> {
        let Prepared {
            loaded,
            opened,
            opened_metrics,
            settings,
        } = prepared;
        let Loaded {
            config,
            table,
            warnings,
        } = loaded;
        let added = self.added_tls(&table);
        let added = added.map_err(|error| vec![format!("cannot set up TLS: {error}")])?;
        let mut access = listeners
            .set_access(&config.server.bind)
            .map_err(|error| sentences(&problem_of(&config.server.location, &error)))?;
        access.extend(
            metrics
                .set_access(&config)
                .map_err(|error| sentences(&problem_of(&config.metrics.location, &error)))?,
        );
        telemetry::reconfigure_log(&config.log.settings())
            .map_err(|error| sentences(&log_problems(&config.log, &error)))?;

        // From here on nothing fails.
        access.into_iter().for_each(AccessChange::keep);
        let warnings = sentences(&warnings);
        for warning in &warnings {
            tracing::warn!("{warning}");
        }
        let outcome = ReloadReport {
            outcome: ReloadOutcome::Replaced,
            problems: warnings,
            applied: self.config.changes(&config, TakesEffect::AtReload),
            needs_restart: self.started.changes(&config, TakesEffect::AtRestart),
        };
        if !outcome.needs_restart.is_empty() {
            tracing::warn!(
                keys = shown(&outcome.needs_restart),
                "changed keys that take effect at the next start"
            );
        }
        let services = self.gateway.services();
        let is_added = added.is_some();
        match (&table.tls, added) {
            (Some(_), Some(tls)) => services.tls.store(Some(Arc::new(tls))),
            (Some(read), None) => {
                if let Some(running) = services.tls.load_full() {
                    report(running.apply(&read.files));
                }
            }
            (None, _) => services.tls.store(None),
        }
        configure_acme(&config, services);
        services.replace_settings(settings);
        services.set_send_queue_total(&config);
        services.layer.reconfigure(&config.channel_layer);
        let pace = pace(&config.server);
        let ending = self.gateway.replace(table, pace);
        let limits = &config.server.limits;
        if limits.connections != self.config.server.limits.connections {
            listeners.admission().set_limit(limits.connections);
        }
        services.clients.set_limit(limits.connections_per_ip);
        services.group_limits.set(limits);
        apply_limits(limits, listeners.admission());
        for (listen, listener) in opened.iter() {
            let url = listener.url(listen.tls && config.server.tls.is_some());
            tracing::info!(listener = url, "listening");
        }
        let admission = listeners.admission().clone();
        let service = HttpServer::of(&self.gateway, &config, &admission);
        let closing = listeners.apply(&config.server.bind, opened, service);
        let closing_metrics = metrics.apply(&config, opened_metrics);
        if is_added {
            watch_certificates(&self.gateway);
        }
        figures::record_replaced(&config, outcome.needs_restart.len());
        self.config = config;
        let applied = shown(&outcome.applied);
        // Runs in a task, because the sockets close one after the other, and a signal to stop must
        // not wait for them.
        services.tasks.spawn("reload", async move {
            for address in closing.addresses() {
                tracing::info!(listener = %address, "no longer listening");
            }
            for address in closing_metrics.addresses() {
                tracing::info!(listener = %address, "no longer listening for metrics");
            }
            closing.finish().await;
            closing_metrics.finish().await;
            let ended = ending.await;
            tracing::info!(applied, sockets_ended = ended, "reloaded");
        });
        Ok(outcome)
    }

    /// Returns the TLS of a table, if the server does not speak it yet.
    fn added_tls(&self, table: &Table) -> io::Result<Option<ServerTls>> {
        let services = self.gateway.services();
        let read = table.tls.as_ref().filter(|_| services.tls.load().is_none());
        read.map(|read| ServerTls::new(services.certificates.clone(), &read.files))
            .transpose()
    }
}

/// Waits for a request from within the process. Cancel-safe.
async fn next_request(requests: &mut Option<mpsc::Receiver<ReloadRequest>>) -> ReloadRequest {
    match requests {
        Some(requests) => match requests.recv().await {
            Some(request) => request,
            None => std::future::pending().await,
        },
        None => std::future::pending().await,
    }
}

/// Returns the Problem of a log file that cannot be opened.
pub(crate) fn log_problems(written: &LogConfig, error: &LogFileError) -> Problems {
    let key = match error.is_access {
        true => "access_file",
        false => "file",
    };
    let mut problems = Problems::default();
    problems.error(written.location.key(key), error.to_string());
    problems
}

fn sentences(problems: &Problems) -> Vec<String> {
    problems.iter().map(ToString::to_string).collect()
}

fn shown(changes: &[KeyChange]) -> String {
    let changes: Vec<String> = changes.iter().map(ToString::to_string).collect();
    changes.join(", ")
}

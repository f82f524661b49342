//! Server: starts listeners and services, accepts connections, reloads, restarts, and drains.
//!
//! ```text
//! start, take_over ──> run ──> Serving ──┬── SIGTERM, SIGINT ──> drain (1001) ──> ended
//!                                 │      └── SIGUSR2, and the new process is ready ──> drain (1012)
//!                                 └── SIGHUP: reload; SIGUSR1: open the log's files again
//! ```

use std::io;
use std::sync::Arc;

use metrics::gauge;
use thiserror::Error;
use tokio_util::sync::CancellationToken;

use super::certificate_watch::watch_certificates;
use super::connection::HttpServer;
use super::drain::{Drained, drain, leave};
use super::listeners::{Listeners, OpenError, Opened, missing};
use super::main_process::MainProcess;
use super::metrics_listeners::MetricsListeners;
use super::reload::{Reload, Reloader};
use super::restart::{OldProcess, Restart};
use super::running::{Predecessor, Running, until_linked};
use super::signals::Signals;
use super::stores::open_stores;
use crate::acme::Acme;
use crate::config::{Bind, Config, LimitsConfig, Rate};
use crate::gateway::{Gateway, Table, otlp_settings};
use crate::net::{Admission, Listener, ServerTls};
use crate::otlp::Exporter;
use crate::services::Services;

/// A server with open listeners.
#[derive(Debug)]
pub struct Server {
    gateway: Gateway,
    config: Config,
    opened: Opened,
    /// The listeners of `metrics.bind`.
    metrics: Opened,
    main_process: MainProcess,
    restart: Restart,
    /// The process that this one takes over from.
    old: Option<Predecessor>,
    /// Set if there is one: until they are handled, signals end the process.
    signals: Option<Signals>,
}

/// Why a server did not start.
#[derive(Debug, Error)]
pub enum StartError {
    /// A listener cannot be opened.
    #[error("cannot listen at {bind}: {cause}")]
    Bind {
        /// The address.
        bind: Bind,
        /// The system's error.
        cause: io::Error,
    },
    /// A store of sessions or users cannot be opened.
    #[error("{0}")]
    Store(String),
    /// TLS cannot be set up.
    #[error("cannot set up TLS: {0}")]
    Tls(io::Error),
    /// Spans cannot be sent.
    #[error("cannot send traces: {0}")]
    Tracing(String),
    /// A signal handler cannot be installed.
    #[error("cannot handle signals: {0}")]
    Signals(io::Error),
    /// The pid file cannot be written.
    #[error("{0}")]
    PidFile(String),
}

impl From<OpenError> for StartError {
    fn from(error: OpenError) -> Self {
        let OpenError { bind, cause, .. } = error;
        Self::Bind { bind, cause }
    }
}

impl Server {
    /// Opens the listeners and services of a configuration. Needs a tokio runtime.
    pub async fn start(config: Config, table: Table) -> Result<Self, StartError> {
        Self::take_over(config, table, &mut None).await
    }

    /// Like [`Server::start`], with the listeners of the process that has started this one to take
    /// its place. `old` becomes `None`, unless the start fails.
    pub async fn take_over(
        config: Config,
        table: Table,
        old: &mut Option<OldProcess>,
    ) -> Result<Self, StartError> {
        let signals = match old {
            Some(_) => Some(Signals::listen().map_err(StartError::Signals)?),
            None => None,
        };
        let main_process =
            MainProcess::prepare(&config.server, old.is_none()).map_err(StartError::PidFile)?;
        let inherited = old.as_mut().map(OldProcess::take_listeners);
        let mut inherited = inherited.unwrap_or_default();
        let mut taken: Vec<Bind> = inherited.iter().map(|one| one.bind.clone()).collect();
        let wanted = &config.server.bind;
        let is_wanted = |bind: &Bind| {
            let mut all = wanted.iter().chain(&config.metrics.bind);
            all.any(|listen| listen.address == *bind)
        };
        taken.retain(is_wanted);
        let metrics = MetricsListeners::open(&config, &[], &mut inherited).await?;
        let opened = Opened::open(missing(wanted, &[]), inherited).await?;
        let services = Services::new(&config, table.templates().clone(), table.state())
            .map_err(StartError::Store)?;
        if let Some(settings) = otlp_settings(&config) {
            let exporter = Exporter::new(settings);
            let exporter = exporter.map_err(|error| StartError::Tracing(error.to_string()))?;
            exporter.start(&services.tasks, &services.clock);
        }
        let ended = CancellationToken::new();
        if old.is_some() {
            let _ = services.earlier_process.set(ended.clone());
        }
        if let Some(tls) = &table.tls {
            let started = ServerTls::new(services.certificates.clone(), &tls.files);
            let started = started.map_err(StartError::Tls)?;
            services.tls.store(Some(Arc::new(started)));
            configure_acme(&config, &services).loaded().await;
        }
        if table.uses_sessions() {
            let opened = open_stores(&config, &services.settings(), (true, true)).await;
            opened.map_err(|failure| StartError::Store(failure.sentence))?;
        }
        services.sweep_sessions();
        let gateway = Gateway::new(table, services);
        gateway.watch_logins();
        watch_certificates(&gateway);
        let restart = Restart::new(gateway.services().tasks.clone());
        let old = old.take().map(|process| Predecessor {
            process,
            listeners: taken,
            ended,
        });
        Ok(Self {
            gateway,
            config,
            opened,
            metrics,
            main_process,
            restart,
            old,
            signals,
        })
    }

    /// Returns the listeners.
    pub fn listeners(&self) -> impl Iterator<Item = &Listener> {
        self.opened.iter().map(|(_, listener)| listener)
    }

    /// Returns the URLs of the listeners.
    pub fn urls(&self) -> impl Iterator<Item = String> {
        let has_tls = self.config.server.tls.is_some();
        let opened = self.opened.iter();
        opened.map(move |(listen, listener)| listener.url(listen.tls && has_tls))
    }

    /// Returns the gateway behind the listeners.
    #[must_use]
    pub fn gateway(&self) -> &Gateway {
        &self.gateway
    }

    /// Serves until `stop` completes, and for `drain.delay` after it; then drains.
    pub async fn run_until(self, stop: impl Future<Output = ()>) -> Drained {
        let server = &self.config.server;
        let listeners = accept(&self.gateway, &self.config, self.opened);
        let metrics = MetricsListeners::accept(&self.gateway, &self.config, self.metrics);
        stop.await;
        leave(&self.gateway, server.drain.delay, "").await;
        listeners.close().finish().await; // no new connections
        let drained = drain(&self.gateway, server).await;
        metrics.close().await;
        drained
    }

    /// Serves until a signal stops the server or another process has taken its place, then drains.
    /// Reloads on SIGHUP. On a second stop signal during `drain.delay` or the drain, returns at once.
    pub async fn run(self, reload: Reload) -> Result<Drained, StartError> {
        let Self {
            gateway,
            config,
            opened,
            metrics,
            main_process,
            restart,
            old,
            signals,
        } = self;
        let signals = match signals {
            Some(signals) => signals,
            None => Signals::listen().map_err(StartError::Signals)?,
        };
        if old.is_some() {
            until_linked(gateway.services()).await;
        }
        let listeners = accept(&gateway, &config, opened);
        let metrics = MetricsListeners::accept(&gateway, &config, metrics);
        let systemd = main_process.systemd().clone();
        let mut running = Running {
            reloader: Reloader::new(gateway.clone(), config, reload, systemd),
            gateway,
            listeners,
            metrics,
            restart,
            main_process,
            signals,
            reloads_before: 0,
        };
        let end = match running.begin(old).await {
            Some(end) => end,
            None => running.serve().await,
        };
        Ok(running.end(end).await)
    }
}

/// Accepts on all listeners until the returned value is closed or dropped.
fn accept(gateway: &Gateway, config: &Config, opened: Opened) -> Listeners<HttpServer> {
    let services = gateway.services();
    let limits = &config.server.limits;
    let admission = Admission::new(limits.connections, services.clients.clone());
    apply_limits(limits, &admission);
    let mut listeners = Listeners::new(admission.clone(), services.tasks.clone());
    let service = HttpServer::of(gateway, config, &admission);
    // None is open yet, so there is nothing to close.
    drop(listeners.apply(&config.server.bind, opened, service));
    listeners
}

/// Applies the rates of connections, and publishes all limits.
pub(super) fn apply_limits(limits: &LimitsConfig, admission: &Admission) {
    for (key, _, value) in limits.listed() {
        gauge!("oneport_limit", "limit" => key).set(value);
    }
    admission.set_rate(limits.connection_rate.map(Rate::smooth_quota));
    let rate = limits.connection_rate_per_ip;
    admission
        .clients()
        .set_rate(rate.map(|rate| rate.quota(None)));
}

/// Passes a configuration to ACME.
pub(super) fn configure_acme<'s>(config: &Config, services: &'s Services) -> &'s Acme {
    let tls = config.server.tls.as_ref();
    let binds = config.server.bind.iter();
    let ports: Vec<u16> = binds.filter_map(|bind| bind.address.port()).collect();
    services.acme.configure(
        tls.and_then(|tls| tls.acme.as_ref()),
        &ports,
        &services.certificates,
        &services.tasks,
    );
    &services.acme
}

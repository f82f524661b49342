//! Server: starts listeners and services, accepts connections, reloads, and drains.

use std::io;
use std::time::Duration;

use thiserror::Error;
use tokio::task::JoinSet;

use super::certificate_watch::watch_certificates;
use super::connection::HttpServer;
use super::drain::{Drained, drain};
use super::reload::{Reload, Reloader};
use super::signals::{Signal, Signals};
use crate::acme::Acme;
use crate::config::{Bind, Config, Listen, StoreUrl};
use crate::database::diagnose;
use crate::gateway::{Gateway, Table};
use crate::net::{Acceptor, Admission, Listener, Refused, ServerTls};
use crate::services::Services;
use crate::telemetry;

/// How long a client may acknowledge nothing; twice `timeouts.request` if that is longer.
const UNACKNOWLEDGED_MIN: Duration = Duration::from_secs(60);

/// A server with open listeners.
#[derive(Debug)]
pub struct Server {
    gateway: Gateway,
    config: Config,
    listeners: Vec<Listener>,
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
    /// A signal handler cannot be installed.
    #[error("cannot handle signals: {0}")]
    Signals(io::Error),
}

impl Server {
    /// Opens the listeners and services of a configuration. Needs a tokio runtime.
    pub async fn start(config: Config, table: Table) -> Result<Self, StartError> {
        let mut listeners = Vec::new();
        // Exceeds the longest wait of a write, because a slow reader with a full buffer
        // acknowledges nothing.
        let unacknowledged_max = UNACKNOWLEDGED_MIN.max(config.server.timeouts.request * 2);
        for bind in &config.server.bind {
            let bind = &Listen {
                tls: bind.tls && table.tls.is_some(),
                ..bind.clone()
            };
            let opened = Listener::open(bind)
                .await
                .map_err(|cause| StartError::Bind {
                    bind: bind.address.clone(),
                    cause,
                })?;
            for listener in &opened {
                // Optional: without it, timeouts close these connections.
                let _ = listener.detect_dead_peers(unacknowledged_max);
            }
            listeners.extend(opened);
        }
        let services = Services::new(&config, table.templates().clone(), table.state())
            .map_err(StartError::Store)?;
        if let Some(tls) = &table.tls {
            let started = ServerTls::new(services.certificates.clone(), &tls.files);
            let _ = services.tls.set(started.map_err(StartError::Tls)?);
            configure_acme(&config, &services).loaded().await;
        }
        if table.uses_sessions() {
            open_stores(&config, &services).await?;
        }
        services.sweep_sessions(config.session.sweep_interval);
        let gateway = Gateway::new(table, services);
        gateway.watch_logins(config.session.check_interval);
        watch_certificates(&gateway);
        Ok(Self {
            gateway,
            config,
            listeners,
        })
    }

    /// Returns the listeners.
    #[must_use]
    pub fn listeners(&self) -> &[Listener] {
        &self.listeners
    }

    /// Returns the gateway behind the listeners.
    #[must_use]
    pub fn gateway(&self) -> &Gateway {
        &self.gateway
    }

    /// Serves until `stop` completes, then drains.
    pub async fn run_until(self, stop: impl Future<Output = ()>) -> Drained {
        let deadline = self.config.server.timeouts.drain;
        let gateway = self.gateway.clone();
        let accepting = self.accept();
        stop.await;
        drop(accepting); // no new connections
        drain(&gateway, deadline).await
    }

    /// Serves until a signal stops the server, and reloads on SIGHUP. On a second stop signal
    /// during the drain, returns at once.
    pub async fn run(mut self, reload: Reload) -> Result<Drained, StartError> {
        let mut signals = Signals::listen().map_err(StartError::Signals)?;
        let deadline = self.config.server.timeouts.drain;
        let gateway = self.gateway.clone();
        let config = std::mem::take(&mut self.config);
        self.config.server = config.server.clone();
        let accepting = self.accept();
        let mut reloader = Reloader::new(gateway.clone(), config, reload);
        loop {
            tokio::select! {
                signal = signals.next() => match signal {
                    Signal::Stop => break,
                    Signal::Reload => reloader.request(),
                    Signal::ReopenLogs => telemetry::reopen_logs(),
                },
                () = reloader.step() => {}
            }
        }
        drop(accepting);
        tracing::info!(
            sockets = gateway.sockets().len(),
            seconds = deadline.as_secs_f64(),
            "stopping; a second signal exits at once"
        );
        tokio::select! {
            drained = drain(&gateway, deadline) => Ok(drained),
            () = second_stop(&mut signals) => Ok(Drained { sockets: 0, cut_off: gateway.services().tasks.alive() }),
        }
    }

    /// Accepts on all listeners until the returned value is dropped.
    fn accept(self) -> Accepting {
        let services = self.gateway.services();
        let connections_max = self.config.server.limits.connections;
        let admission = Admission::new(connections_max, services.clients.clone());
        let refused = Refused::new();
        let mut accepting = JoinSet::new();
        for listener in self.listeners {
            let http_server = HttpServer::new(
                self.gateway.clone(),
                self.config.server.clone(),
                admission.clone(),
                &listener,
            );
            let acceptor = Acceptor::new(
                listener,
                http_server,
                admission.clone(),
                refused.clone(),
                services.tasks.clone(),
            );
            accepting.spawn(acceptor.run());
        }
        Accepting(accepting)
    }
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

/// Opens the stores of sessions and users. A database server may come up later: until then,
/// requests that need it get 503.
async fn open_stores(config: &Config, services: &Services) -> Result<(), StartError> {
    let users = async {
        match services.auth.users() {
            Some(users) => users.ready().await,
            None => Ok(()),
        }
    };
    let (sessions, users) = tokio::join!(services.sessions.ready(), users);
    for (key, url, opened) in [
        ("session.store", &config.session.store, sessions),
        ("auth.users", &config.auth.users, users),
    ] {
        match opened {
            Err(error) if matches!(url, StoreUrl::Sqlite(_) | StoreUrl::DjangoSqlite(_)) => {
                return Err(StartError::Store(diagnose(key, url, &error).await));
            }
            Err(error) => {
                let cause = diagnose(key, url, &error).await;
                let cause = cause.trim_start_matches(key).trim_start_matches(": ");
                tracing::warn!(store = %url, "{key} unavailable: {cause}; requests that need it get 503");
            }
            Ok(()) => {}
        }
    }
    // Last, so that no key file is written if the stores fail to open.
    let _ = services.secrets.key();
    Ok(())
}

/// The accept loops. Dropping it ends them and closes the listeners.
struct Accepting(#[expect(dead_code, reason = "held for its drop")] JoinSet<()>);

async fn second_stop(signals: &mut Signals) {
    loop {
        match signals.next().await {
            Signal::Stop => return,
            Signal::ReopenLogs => telemetry::reopen_logs(),
            Signal::Reload => {}
        }
    }
}

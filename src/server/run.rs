//! Server: starts listeners and services, accepts connections, reloads, and drains.

use std::io;
use std::sync::Arc;

use thiserror::Error;

use super::certificate_watch::watch_certificates;
use super::connection::HttpServer;
use super::drain::{Drained, drain, leave};
use super::listeners::{Inherited, Listeners, OpenError, Opened, missing};
use super::reload::{Reload, Reloader};
use super::signals::{Signal, Signals};
use crate::acme::Acme;
use crate::config::{Bind, Config, StoreUrl};
use crate::database::diagnose;
use crate::gateway::{Gateway, Table};
use crate::net::{Admission, Listener, Refused, ServerTls};
use crate::services::Services;
use crate::telemetry;
use crate::websocket::Cause;

/// A server with open listeners.
#[derive(Debug)]
pub struct Server {
    gateway: Gateway,
    config: Config,
    opened: Opened,
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

impl From<OpenError> for StartError {
    fn from(error: OpenError) -> Self {
        let OpenError { bind, cause, .. } = error;
        Self::Bind { bind, cause }
    }
}

impl Server {
    /// Opens the listeners and services of a configuration. Needs a tokio runtime.
    pub async fn start(config: Config, table: Table) -> Result<Self, StartError> {
        Self::inherit(config, table, Vec::new()).await
    }

    /// Like [`Server::start`], with listeners that another process has opened.
    pub(super) async fn inherit(
        config: Config,
        table: Table,
        inherited: Vec<Inherited>,
    ) -> Result<Self, StartError> {
        let missing = missing(&config.server.bind, &[]);
        let opened = Opened::open(missing, inherited).await?;
        let services = Services::new(&config, table.templates().clone(), table.state())
            .map_err(StartError::Store)?;
        if let Some(tls) = &table.tls {
            let started = ServerTls::new(services.certificates.clone(), &tls.files);
            let started = started.map_err(StartError::Tls)?;
            services.tls.store(Some(Arc::new(started)));
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
            opened,
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
        let server = self.config.server.clone();
        let gateway = self.gateway.clone();
        let accepting = self.accept();
        stop.await;
        leave(&gateway, server.drain.delay).await;
        accepting.close().finish().await; // no new connections
        drain(&gateway, &server, Cause::ServerDrain).await
    }

    /// Serves until a signal stops the server, and reloads on SIGHUP. On a second stop signal
    /// during `drain.delay` or the drain, returns at once.
    pub async fn run(self, reload: Reload) -> Result<Drained, StartError> {
        let mut signals = Signals::listen().map_err(StartError::Signals)?;
        let gateway = self.gateway.clone();
        let mut reloader = Reloader::new(gateway.clone(), self.config.clone(), reload);
        let mut listeners = self.accept();
        loop {
            tokio::select! {
                signal = signals.next() => match signal {
                    Signal::Stop => break,
                    Signal::Reload => reloader.request(),
                    Signal::ReopenLogs => telemetry::reopen_logs(),
                },
                () = reloader.step(&mut listeners) => {}
            }
        }
        let server = reloader.server();
        let stop = async {
            leave(&gateway, server.drain.delay).await;
            listeners.close().finish().await;
            tracing::info!(
                sockets = gateway.sockets().len(),
                seconds = server.timeouts.drain.as_secs_f64(),
                "stopping; a second signal exits at once"
            );
            drain(&gateway, server, Cause::ServerDrain).await
        };
        tokio::select! {
            drained = stop => Ok(drained),
            () = second_stop(&mut signals) => Ok(Drained { sockets: 0, cut_off: gateway.services().tasks.alive() }),
        }
    }

    /// Accepts on all listeners until the returned value is closed or dropped.
    fn accept(self) -> Listeners<HttpServer> {
        let Self {
            gateway,
            config,
            opened,
        } = self;
        let services = gateway.services();
        let connections_max = config.server.limits.connections;
        let admission = Admission::new(connections_max, services.clients.clone());
        let mut listeners =
            Listeners::new(admission.clone(), Refused::new(), services.tasks.clone());
        let service = HttpServer::of(&gateway, &config, &admission);
        // None is open yet, so there is nothing to close.
        drop(listeners.apply(&config.server.bind, opened, service));
        listeners
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

async fn second_stop(signals: &mut Signals) {
    loop {
        match signals.next().await {
            Signal::Stop => return,
            Signal::ReopenLogs => telemetry::reopen_logs(),
            Signal::Reload => {}
        }
    }
}

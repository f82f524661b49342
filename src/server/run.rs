//! Server: opens the listeners, accepts, reloads, and ends.

use std::any::Any;
use std::io;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use metrics::counter;
use thiserror::Error;
use tokio::sync::Semaphore;

use super::connection::HttpServer;
use super::drain::{Drained, drain};
use super::reload::{Reload, Reloader};
use super::signals::{Signal, Signals};
use crate::config::{Bind, Config, StoreUrl};
use crate::database::diagnose;
use crate::gateway::{ConnectionInfo, Gateway, Table};
use crate::http::Client;
use crate::net::Admission;
use crate::net::descriptors;
use crate::net::{Incoming, Listener};
use crate::scope::{Scheme, ServerAddress};
use crate::services::Services;
use crate::tasks::Tasks;
use crate::telemetry::Recurring;
use crate::websocket::Transport;

/// How long accepting pauses when the process is out of descriptors, or panicked.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// How many connections over the limit are answered at once, and how long each may take to read its answer.
const REFUSED_MAX: usize = 256;
const REFUSED_DEADLINE: Duration = Duration::from_secs(1);

/// After how long without an acknowledgement a client has vanished, unless `timeouts.request` is longer than half of that.
const UNACKNOWLEDGED_MIN: Duration = Duration::from_secs(60);

/// The answer to a connection over the limit.
const OVERLOADED: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\nretry-after: 1\r\nconnection: close\r\n\r\n";

/// A server that listens.
#[derive(Debug)]
pub struct Server {
    gateway: Gateway,
    config: Config,
    listeners: Vec<Listener>,
}

/// Why a server did not start.
#[derive(Debug, Error)]
pub enum StartError {
    /// An address cannot be listened at.
    #[error("cannot listen at {bind}: {cause}")]
    Bind {
        /// The address.
        bind: Bind,
        /// The system's reason.
        cause: io::Error,
    },
    /// Sessions or users cannot be kept.
    #[error("{0}")]
    Store(String),
    /// Signals cannot be listened to.
    #[error("cannot listen to signals: {0}")]
    Signals(io::Error),
}

impl Server {
    /// Opens the listeners of a configuration and starts what runs beside them. Needs a tokio runtime.
    pub async fn start(config: Config, table: Table) -> Result<Self, StartError> {
        let mut listeners = Vec::new();
        // Longer than any write is waited for, also of a client that reads slowly and acknowledges nothing meanwhile.
        let unacknowledged_max = UNACKNOWLEDGED_MIN.max(config.server.timeouts.request * 2);
        for bind in &config.server.bind {
            let opened = Listener::open(bind)
                .await
                .map_err(|cause| StartError::Bind {
                    bind: bind.address.clone(),
                    cause,
                })?;
            for listener in &opened {
                // Where the system cannot, deadlines notice them.
                let _ = listener.notice_vanished(unacknowledged_max);
            }
            listeners.extend(opened);
        }
        let services =
            Services::new(&config, table.templates().clone()).map_err(StartError::Store)?;
        if table.uses_sessions() {
            open_stores(&config, &services).await?;
        }
        services.sweep_sessions(config.session.sweep_interval);
        let gateway = Gateway::new(table, services);
        gateway.watch_logins(config.session.check_interval);
        Ok(Self {
            gateway,
            config,
            listeners,
        })
    }

    /// Returns where it listens.
    #[must_use]
    pub fn listeners(&self) -> &[Listener] {
        &self.listeners
    }

    /// Returns the gateway behind the listeners.
    #[must_use]
    pub fn gateway(&self) -> &Gateway {
        &self.gateway
    }

    /// Serves until `stop` completes; then drains.
    pub async fn run_until(self, stop: impl Future<Output = ()>) -> Drained {
        let deadline = self.config.server.timeouts.drain;
        let gateway = self.gateway.clone();
        let accepting = self.accept();
        stop.await;
        drop(accepting); // no new connections
        drain(&gateway, deadline).await
    }

    /// Serves until the operator stops it; reloads when asked. The second stop ends at once.
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
                },
                () = reloader.step() => {}
            }
        }
        drop(accepting);
        tracing::info!(
            sockets = gateway.sockets().len(),
            seconds = deadline.as_secs_f64(),
            "stopping; a second signal ends at once"
        );
        tokio::select! {
            drained = drain(&gateway, deadline) => Ok(drained),
            () = second_stop(&mut signals) => Ok(Drained { sockets: 0, cut_off: gateway.services().tasks.alive() }),
        }
    }

    /// Accepts on all listeners until the returned value is dropped.
    fn accept(self) -> Accepting {
        let clients = self.gateway.services().clients.clone();
        let admission = Admission::new(self.config.server.limits.connections, clients);
        let share = descriptors::share(descriptors::limit());
        let refused = Arc::new(Semaphore::new(REFUSED_MAX.min(share / 2)));
        let mut accepting = tokio::task::JoinSet::new();
        for listener in self.listeners {
            let acceptor = Acceptor {
                http_server: HttpServer::new(
                    self.gateway.clone(),
                    self.config.server.clone(),
                    admission.clone(),
                    listener.takes_websocket_over_http2(),
                ),
                admission: admission.clone(),
                refused: refused.clone(),
                tasks: self.gateway.services().tasks.clone(),
                gateway: self.gateway.clone(),
            };
            accepting.spawn(acceptor.keep(listener));
        }
        Accepting(accepting)
    }
}

/// Opens what sessions and users are kept in. A database of another process may come later: what needs it is 503 until then.
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
    // Only now: a start that fails on its stores writes no key file.
    let _ = services.secrets.key();
    Ok(())
}

/// The accepting tasks; dropping it ends them and closes the listeners.
struct Accepting(#[expect(dead_code, reason = "held for its drop")] tokio::task::JoinSet<()>);

/// What every listener needs.
struct Acceptor {
    gateway: Gateway,
    http_server: Arc<HttpServer>,
    admission: Admission,
    /// Connections over the limit that are told so.
    refused: Arc<Semaphore>,
    tasks: Tasks,
}

impl Acceptor {
    /// Accepts until the task is dropped. A panic ends one connection at most.
    async fn keep(self, listener: Listener) {
        loop {
            let accepting = AssertUnwindSafe(self.accept(&listener));
            if accepting.catch_unwind().await.is_err() {
                counter!("oneport_panics_total").increment(1);
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }

    async fn accept(&self, listener: &Listener) {
        let accepted = counter!("oneport_connections_total");
        let failures = Recurring::new();
        loop {
            match listener.accept().await {
                Ok(incoming) => {
                    accepted.increment(1);
                    let server = listener.server_of(&incoming);
                    self.admit(incoming, server);
                }
                Err(error) if is_connection_error(&error) => {}
                Err(error) => {
                    if let Some(times) = failures.is_due() {
                        tracing::error!(%error, times, listener = %listener, "connections cannot be accepted; trying again");
                    }
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    fn admit(&self, incoming: Incoming, server: Option<Arc<ServerAddress>>) {
        let peer = incoming.peer();
        let counted = self.gateway.counted(peer);
        let held: Box<dyn Any + Send> = match self.admission.admit(counted) {
            Some(admitted) => Box::new(admitted),
            None => {
                tracing::debug!(
                    peer = peer.map(tracing::field::display),
                    "connection refused"
                );
                // The refused have a bound of their own; beyond it they are closed without an answer.
                if let Ok(permit) = self.refused.clone().try_acquire_owned() {
                    self.tasks.spawn("refused connection", async move {
                        let _permit = permit;
                        incoming.refuse(OVERLOADED, REFUSED_DEADLINE).await;
                    });
                }
                return;
            }
        };
        let info = ConnectionInfo {
            peer,
            server,
            security: Scheme::Plain,
            user: None,
            client: Client::default(),
        };
        let http_server = self.http_server.clone();
        match incoming {
            Incoming::Tcp(stream, _) => self.tasks.spawn(
                "connection",
                http_server.serve(stream, info, held, Transport::Tcp),
            ),
            Incoming::Unix(stream) => self.tasks.spawn(
                "connection",
                http_server.serve(stream, info, held, Transport::Unix),
            ),
        }
    }
}

/// Errors of `accept` that say something of the connection, not of the listener.
fn is_connection_error(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
    )
}

async fn second_stop(signals: &mut Signals) {
    while signals.next().await != Signal::Stop {}
}

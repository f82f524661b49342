//! Server: opens the listeners, accepts, reloads, and ends.

use std::any::Any;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use metrics::counter;
use thiserror::Error;
use tokio::sync::Semaphore;
use tokio::task::JoinError;

use super::admission::Admission;
use super::connection::Protocol;
use super::drain::{Drained, drain, spread};
use super::listener::{Incoming, Listener};
use super::reload::{Loaded, Reload, Seen, WATCH_EVERY};
use super::signals::{Signal, Signals};
use crate::config::{Bind, Config, Place, ServerConfig, StoreUrl};
use crate::database::diagnose;
use crate::gateway::{Arrival, Gateway, Table};
use crate::http::Client;
use crate::scope::{Scheme, ServerAddress};
use crate::services::Services;
use crate::tasks::Tasks;
use crate::websocket::Transport;

/// How long accepting pauses when the process is out of descriptors.
const OUT_OF_DESCRIPTORS: Duration = Duration::from_millis(50);

/// How many connections over the limit are answered at once, and how long each may take to read its answer.
const REFUSED_MAX: usize = 256;
const REFUSED_DEADLINE: Duration = Duration::from_secs(1);

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
        for bind in &config.server.bind {
            let opened = Listener::open(bind)
                .await
                .map_err(|cause| StartError::Bind {
                    bind: bind.address.clone(),
                    cause,
                })?;
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
        let mut config = std::mem::take(&mut self.config);
        self.config.server = config.server.clone();
        let accepting = self.accept();
        let mut seen = Seen::look(&config.documents, &reload.file, &config.templates.dir);
        loop {
            tokio::select! {
                signal = signals.next() => match signal {
                    Signal::Stop => break,
                    Signal::Reload => read_again(&gateway, &mut config, &reload).await,
                },
                () = tokio::time::sleep(WATCH_EVERY), if reload.watch => {
                    let now = Seen::look(&config.documents, &reload.file, &config.templates.dir);
                    if now != seen {
                        seen = now;
                        read_again(&gateway, &mut config, &reload).await;
                    }
                }
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
        let limits = &self.config.server.limits;
        let admission = Admission::new(limits.connections, limits.connections_per_ip);
        let refused = Arc::new(Semaphore::new(REFUSED_MAX));
        let mut accepting = tokio::task::JoinSet::new();
        for listener in self.listeners {
            let door = Door {
                protocol: Protocol::new(
                    self.gateway.clone(),
                    self.config.server.clone(),
                    listener.takes_websocket_over_http2(),
                ),
                admission: admission.clone(),
                refused: refused.clone(),
                tasks: self.gateway.services().tasks.clone(),
            };
            accepting.spawn(door.keep(listener));
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
struct Door {
    protocol: Arc<Protocol>,
    admission: Admission,
    /// Connections over the limit that are told so.
    refused: Arc<Semaphore>,
    tasks: Tasks,
}

impl Door {
    async fn keep(self, listener: Listener) {
        let accepted = counter!("oneport_connections_total");
        loop {
            match listener.accept().await {
                Ok(incoming) => {
                    accepted.increment(1);
                    let server = listener.server_of(&incoming);
                    self.let_in(incoming, server);
                }
                Err(error) if is_of_one_connection(&error) => {}
                Err(error) => {
                    tracing::error!(%error, "cannot accept; trying again");
                    tokio::time::sleep(OUT_OF_DESCRIPTORS).await;
                }
            }
        }
    }

    fn let_in(&self, incoming: Incoming, server: Option<Arc<ServerAddress>>) {
        let peer = incoming.peer();
        let held: Box<dyn Any + Send> = match self.admission.admit(peer.map(|peer| peer.ip())) {
            Ok(admitted) => Box::new(admitted),
            Err(limit) => {
                tracing::debug!(
                    limit,
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
        let arrival = Arrival {
            peer,
            server,
            security: Scheme::Plain,
            user: None,
            client: Client::default(),
        };
        let protocol = self.protocol.clone();
        match incoming {
            Incoming::Tcp(stream, _) => self.tasks.spawn(
                "connection",
                protocol.serve(stream, arrival, held, Transport::Tcp),
            ),
            Incoming::Unix(stream) => self.tasks.spawn(
                "connection",
                protocol.serve(stream, arrival, held, Transport::Unix),
            ),
        }
    }
}

/// Errors of `accept` that say something of the connection, not of the listener.
fn is_of_one_connection(error: &io::Error) -> bool {
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

/// Reads the file again: replaces the table, or keeps it and prints every Problem.
async fn read_again(gateway: &Gateway, config: &mut Config, reload: &Reload) {
    let again = reload.clone();
    // Reading files may take its time; the runtime's workers are for sockets.
    let loaded: Result<Result<Loaded, _>, JoinError> =
        tokio::task::spawn_blocking(move || again.load()).await;
    match loaded {
        Ok(Ok(Loaded {
            config: new,
            table,
            warnings,
        })) => {
            warnings
                .iter()
                .for_each(|warning| tracing::warn!("{warning}"));
            if meaning(&new.server) != meaning(&config.server) {
                tracing::warn!(
                    "[server] changed: bind, workers, limits and timeouts take effect at the next start"
                );
            }
            let stores = |config: &Config| {
                (
                    without_places(&format!("{:?}{:?}", config.session, config.auth)),
                    config.server.secret_key.clone(),
                    config.server.secret_key_fallbacks.clone(),
                )
            };
            if stores(&new) != stores(config) {
                tracing::warn!(
                    "[session], [auth] or a secret key changed: stores, cookies and keys take effect at the next start"
                );
            }
            let window = spread(gateway.sockets().len(), config.server.timeouts.drain);
            *config = new;
            counter!("oneport_reloads_total", "outcome" => "replaced").increment(1);
            // Sockets end one after the other; a signal to stop does not wait for that.
            let ending = gateway.replace(table, window);
            gateway.services().tasks.spawn("reload", async move {
                let ended = ending.await;
                tracing::info!(sockets_ended = ended, "reloaded");
            });
        }
        Ok(Err(problems)) => {
            counter!("oneport_reloads_total", "outcome" => "refused").increment(1);
            problems
                .iter()
                .for_each(|problem| tracing::error!("{problem}"));
            tracing::error!("reload failed; still serving the previous configuration");
        }
        Err(error) => tracing::error!(
            %error,
            "reload failed; still serving the previous configuration"
        ),
    }
}

/// A text without the places in it.
fn without_places(text: &str) -> String {
    let mut plain = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("Place(") {
        plain.push_str(before);
        rest = after.split_once(')').map_or("", |(_, rest)| rest);
    }
    plain + rest
}

/// What a `[server]` says, wherever it stands.
fn meaning(server: &ServerConfig) -> String {
    format!(
        "{:?}",
        ServerConfig {
            place: Place::default(),
            ..server.clone()
        }
    )
}

//! The start of a connection: what comes before its first byte of HTTP.
//!
//! ```text
//! accepted ──> header of the PROXY protocol? ──> first byte of TLS? ──> handshake ──> HTTP
//!                  │ only a trusted proxy's         │ only if the listener speaks TLS    ▲
//!                  │ malformed: closed              ├─ another byte: plaintext ──────────┘
//!                  │ its client is over the         └─ none: closed
//!                  │ limit: its place is free,
//!                  │ 503, or closed
//! ```
//!
//! All of it counts against `timeouts.handshake`, together with the head of the first request. A
//! connection that needs none of it passes without a system call.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use http::HeaderValue;
use metrics::{counter, histogram};

use super::connection_ends::ConnectionEnds;
use super::connection_timeouts::ConnectionTimeouts;
use crate::config::Plaintext;
use crate::gateway::Gateway;
use crate::net::{
    AgreedProtocol, Announced, Connection, ConnectionCause, ConnectionPermit, FirstByte, Handshake,
    Scheme, ServerEnd, ServerTls, refuse,
};

/// A connection whose next byte is HTTP.
pub(super) struct Started {
    pub(super) connection: Connection,
    /// What the client gets because it does not encrypt.
    pub(super) plaintext: Plaintext,
    /// The value of `Strict-Transport-Security`, over TLS.
    pub(super) hsts: Option<HeaderValue>,
    pub(super) protocol: AgreedProtocol,
}

impl From<Connection> for Started {
    fn from(connection: Connection) -> Self {
        Self {
            connection,
            plaintext: Plaintext::Serve,
            hsts: None,
            protocol: AgreedProtocol::Any,
        }
    }
}

/// What a listener does before HTTP.
pub(super) struct ConnectionStart<'a> {
    pub(super) gateway: &'a Gateway,
    /// The TLS that connections may begin with.
    pub(super) tls: Option<&'a ServerTls>,
    /// The response to a client over its limit.
    pub(super) overloaded: &'static [u8],
    /// Where the ends before HTTP are kept.
    pub(super) ends: ConnectionEnds<'a>,
}

/// The connection is closed before HTTP.
struct Closed;

/// How far a connection has come before HTTP.
struct Progress {
    /// The client, as far as it is known.
    peer: Option<SocketAddr>,
    stage: Stage,
}

enum Stage {
    /// No byte of a header or of a handshake has come.
    Waiting,
    ProxyHeader,
    Handshake,
    /// Its client is over a limit.
    Refused,
}

impl ConnectionStart<'_> {
    /// Starts a connection; `None` if it is closed instead. One that is refused gives its permit
    /// back before it is answered.
    pub(super) async fn run(
        &self,
        connection: Connection,
        permit: &mut Option<ConnectionPermit>,
        timeouts: &Arc<ConnectionTimeouts>,
    ) -> Option<Started> {
        let is_trusted = self.gateway.trusts(connection.peer);
        if self.tls.is_none() && !is_trusted {
            return Some(connection.into());
        }
        let draining = self.gateway.services().tasks.draining_token();
        // Boxed, so that the connection's task does not reserve the space of a handshake.
        let starting = Box::pin(async {
            let mut progress = Progress {
                peer: connection.peer,
                stage: Stage::Waiting,
            };
            tokio::select! {
                started = self.start(connection, is_trusted, permit, &mut progress) => started.ok(),
                () = timeouts.expired() => {
                    tracing::debug!("connection closed: timed out before HTTP");
                    self.count_timed_out(&progress);
                    None
                }
                () = draining.cancelled() => None,
            }
        });
        starting.await
    }

    /// Counts a connection that was not ready for HTTP in time, and keeps its end if it has begun.
    fn count_timed_out(&self, progress: &Progress) {
        let cause = match progress.stage {
            Stage::Refused => return,
            Stage::Waiting => None,
            Stage::ProxyHeader => Some(ConnectionCause::ProxyHeader),
            Stage::Handshake => Some(ConnectionCause::TlsTimedOut),
        };
        if self.tls.is_some() {
            count_failed("timed_out");
        }
        if let Some(cause) = cause {
            self.ends.keep_timed_out(progress.peer, cause);
        }
    }

    async fn start(
        &self,
        mut connection: Connection,
        is_trusted: bool,
        permit: &mut Option<ConnectionPermit>,
        progress: &mut Progress,
    ) -> Result<Started, Closed> {
        let mut is_exempt = is_trusted;
        if is_trusted
            && let Some(client) = self.read_proxy_header(&mut connection, progress).await?
        {
            connection.peer = Some(client);
            progress.peer = connection.peer;
            is_exempt = self.gateway.trusts(Some(client));
            let counted = self.gateway.counted(Some(client)).zip(permit.as_mut());
            if let Some(Err(cause)) = counted.map(|(ip, permit)| permit.count_client(ip)) {
                self.ends.keep(Some(client), cause, "");
                progress.stage = Stage::Refused;
                let answer = permit.take().and_then(ConnectionPermit::into_answer);
                if let Some(_permitted) = answer {
                    refuse(connection.stream, self.overloaded, self.tls.is_some()).await;
                }
                return Err(Closed);
            }
        }
        let Some(tls) = self.tls else {
            return Ok(connection.into());
        };
        let settings = self.gateway.tls();
        match connection.stream.first_byte().await {
            FirstByte::Tls => {
                progress.stage = Stage::Handshake;
                Ok(Started {
                    hsts: settings.and_then(|settings| settings.hsts.clone()),
                    ..self.shake_hands(tls, connection).await?
                })
            }
            FirstByte::Other => Ok(Started {
                // A trusted proxy reports in its fields whether its client encrypts.
                plaintext: settings
                    .filter(|_| !is_exempt)
                    .map_or(Plaintext::Serve, |settings| settings.plaintext),
                ..connection.into()
            }),
            FirstByte::End => Err(Closed),
        }
    }

    /// Takes the header of the PROXY protocol; returns the client that it names.
    async fn read_proxy_header(
        &self,
        connection: &mut Connection,
        progress: &mut Progress,
    ) -> Result<Option<SocketAddr>, Closed> {
        let count =
            |outcome| counter!("oneport_proxy_headers_total", "outcome" => outcome).increment(1);
        // A connection that was made ahead, or a health check, sends nothing for a while, or ever.
        match connection.stream.first_byte().await {
            FirstByte::Other => progress.stage = Stage::ProxyHeader,
            FirstByte::Tls => return Ok(None),
            FirstByte::End => return Err(Closed),
        }
        let announced = connection.stream.read_proxy_header().await;
        progress.stage = Stage::Waiting;
        match announced {
            Ok(Announced::Nothing) => Ok(None),
            Ok(Announced::Local) => {
                count("local");
                Ok(None)
            }
            Ok(Announced::Client(client)) => {
                count("client");
                Ok(Some(client))
            }
            Err(error) => {
                count("refused");
                self.ends
                    .keep(connection.peer, ConnectionCause::ProxyHeader, &error);
                let peer = connection.peer.map(tracing::field::display);
                tracing::debug!(peer, %error, "connection closed");
                Err(Closed)
            }
        }
    }

    async fn shake_hands(
        &self,
        tls: &ServerTls,
        connection: Connection,
    ) -> Result<Started, Closed> {
        let Connection {
            stream,
            peer,
            server,
            ..
        } = connection;
        let started = Instant::now();
        let handshake = tls.accept(stream).await.map_err(|error| {
            let is_gone = matches!(
                error.kind(),
                ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset | ErrorKind::BrokenPipe
            );
            let (outcome, cause) = match is_gone {
                true => ("gone", ConnectionCause::TlsGone),
                false => ("failed", ConnectionCause::TlsFailed),
            };
            count_failed(outcome);
            self.ends.keep(peer, cause, &error);
            let peer = peer.map(tracing::field::display);
            tracing::debug!(peer, %error, "TLS handshake failed");
            Closed
        })?;
        let Handshake {
            stream,
            info,
            is_resumed,
            protocol,
        } = handshake;
        if protocol == AgreedProtocol::Challenge {
            count_failed("challenge");
            return Err(Closed);
        }
        let outcome = if is_resumed { "resumed" } else { "full" };
        count_handshake(outcome, info.version());
        histogram!("oneport_tls_handshake_duration_seconds", "outcome" => outcome)
            .record(started.elapsed().as_secs_f64());
        // Without an address the client has gone.
        let address = server.ok_or(Closed)?.address.clone();
        let server = Some(Arc::new(ServerEnd {
            address,
            tls: Some(info),
        }));
        let connection = Connection {
            stream,
            peer,
            server,
            scheme: Scheme::Secure,
        };
        Ok(Started {
            protocol,
            ..connection.into()
        })
    }
}

/// Counts a TLS handshake that failed.
fn count_failed(outcome: &'static str) {
    count_handshake(outcome, "none");
}

/// Counts a TLS handshake. `version`: the version that was agreed on, or "none".
fn count_handshake(outcome: &'static str, version: &'static str) {
    counter!("oneport_tls_handshakes_total", "outcome" => outcome, "version" => version)
        .increment(1);
}

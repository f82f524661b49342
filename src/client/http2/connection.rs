//! One connection: its settings, and the task that reads and writes.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use h2::{Ping, PingPong, client};
use tokio::time::{Instant, MissedTickBehavior};

use super::connections::{Connections, Opening, Place, STREAMS_MAX};
use crate::client::error::ClientError;
use crate::net::Stream;
use crate::tasks::Tasks;

/// How much of a response's body an endpoint may send before the reader takes it.
const STREAM_WINDOW: u32 = 512 * 1024;

/// The window of all streams together. It has room for the windows of all of them: a body that is
/// not read never stalls another.
const CONNECTION_WINDOW: u32 = STREAM_WINDOW * STREAMS_MAX as u32;

/// The longest head of a response.
const HEAD_BYTES_MAX: u32 = 64 * 1024;

/// The most bytes of a request's body that a stream buffers.
const SEND_BYTES_MAX: usize = 256 * 1024;

/// The streams that are opened before the endpoint has said how many it allows. Any other number
/// that the connection reports is the endpoint's.
pub(super) const UNSETTLED_STREAMS: usize = 13;

/// How long the endpoint may take to say it. Later, it is assumed to allow as many as that.
pub(super) const SETTLE_TIMEOUT: Duration = Duration::from_secs(1);

/// How often a connection in use is probed. Without an answer until the next time, it has failed.
const PING_INTERVAL: Duration = Duration::from_secs(20);

type Connection = client::Connection<Stream, Bytes>;

/// Begins HTTP/2 on a stream, with a place for the first request. A task of the server drives the
/// connection until it ends.
pub(in crate::client) async fn begin(
    stream: Stream,
    opening: &Opening,
    tasks: &Tasks,
) -> Result<Place, ClientError> {
    let begun = client::Builder::new()
        .enable_push(false)
        .initial_max_send_streams(UNSETTLED_STREAMS)
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_header_list_size(HEAD_BYTES_MAX)
        .max_send_buffer_size(SEND_BYTES_MAX)
        .handshake(stream)
        .await;
    let (sender, connection) = begun.map_err(|error| {
        let source = Arc::new(error);
        ClientError::Connect { source }
    })?;
    let (place, connections) = opening.opened(sender);
    let id = place.connection();
    let stopping = tasks.clone();
    tasks.spawn("http/2 connection", async move {
        tokio::select! {
            () = drive(connection, id, &connections) => {}
            () = stopping.stopping() => {}
        }
        if let Some(connections) = connections.upgrade() {
            connections.ended(id);
        }
    });
    Ok(place)
}

/// Drives a connection until it ends: by itself, because it was not used for a while, or because a
/// probe was not answered.
async fn drive(mut connection: Connection, id: u64, connections: &Weak<Connections>) {
    let mut probe = Probe::new(connection.ping_pong());
    let began = Instant::now();
    let mut settling = Some(began + SETTLE_TIMEOUT);
    let mut ticks = tokio::time::interval_at(began + PING_INTERVAL, PING_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut streams_max = UNSETTLED_STREAMS;
    loop {
        let settle_at = settling;
        let driven = poll_fn(|cx| {
            let polled = Pin::new(&mut connection).poll(cx);
            // The endpoint's settings have been read.
            let current = connection.max_concurrent_send_streams();
            if current != streams_max
                && let Some(connections) = connections.upgrade()
            {
                connections.settle(id, current);
                (streams_max, settling) = (current, None);
            }
            polled
        });
        let settle_timeout = async {
            match settle_at {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            ended = driven => {
                if let Err(error) = ended {
                    tracing::debug!(%error, "an outgoing connection ended");
                }
                return;
            }
            () = settle_timeout => {
                // The settings may have been read since the timeout was started.
                if settling.take().is_some()
                    && let Some(connections) = connections.upgrade()
                {
                    connections.settle(id, UNSETTLED_STREAMS);
                }
            }
            _ = ticks.tick() => {
                let in_use = connections.upgrade().is_none_or(|all| all.keep(id));
                if in_use && !probe.send() {
                    tracing::debug!("an outgoing connection does not answer");
                    return;
                }
            }
            () = probe.answered() => {}
        }
    }
}

/// The probes of a connection.
struct Probe {
    ping_pong: Option<PingPong>,
    is_waiting: bool,
}

impl Probe {
    fn new(ping_pong: Option<PingPong>) -> Self {
        Self {
            ping_pong,
            is_waiting: false,
        }
    }

    /// Sends a probe; returns false if the last one was not answered.
    fn send(&mut self) -> bool {
        if self.is_waiting {
            return false;
        }
        if let Some(ping_pong) = &mut self.ping_pong {
            self.is_waiting = ping_pong.send_ping(Ping::opaque()).is_ok();
        }
        true
    }

    /// Waits for the answer. Cancel-safe.
    async fn answered(&mut self) {
        match &mut self.ping_pong {
            Some(ping_pong) if self.is_waiting => {
                let _ = poll_fn(|cx| ping_pong.poll_pong(cx)).await;
                self.is_waiting = false;
            }
            _ => std::future::pending().await,
        }
    }
}

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
use crate::client::limited_io::{LimitedIo, Progress};
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

/// How often a connection in use is probed. If nothing has arrived until the next time, it is
/// silent: it gets no more requests until something does. Those under way have deadlines of their
/// own, which may be longer than the endpoint is busy.
#[cfg(not(test))]
const PING_INTERVAL: Duration = Duration::from_secs(20);
#[cfg(test)]
pub(super) const PING_INTERVAL: Duration = Duration::from_millis(300);

type Connection = client::Connection<LimitedIo<Stream>, Bytes>;

/// Begins HTTP/2 on a stream, with a place for the first request. A task of the server drives the
/// connection until it ends.
pub(in crate::client) async fn begin(
    stream: Stream,
    opening: &Opening,
    tasks: &Tasks,
) -> Result<Place, ClientError> {
    let progress = Arc::new(Progress::default());
    progress.head_received(); // h2 limits heads itself
    let stream = LimitedIo::new(stream, usize::MAX, progress.clone());
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
    let (id, in_use) = (place.connection(), place.in_use());
    let probe = Probe::new(progress, in_use);
    let stopping = tasks.clone();
    tasks.spawn("http/2 connection", async move {
        tokio::select! {
            () = drive(connection, probe, id, &connections) => {}
            () = stopping.stopping() => {}
        }
        if let Some(connections) = connections.upgrade() {
            connections.ended(id);
        }
    });
    Ok(place)
}

/// Drives a connection until it ends: by itself, because it was not used for a while, or because it
/// is silent and has no requests left.
async fn drive(
    mut connection: Connection,
    mut probe: Probe,
    id: u64,
    connections: &Weak<Connections>,
) {
    probe.ping_pong = connection.ping_pong();
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
                let connections = connections.upgrade();
                let has_requests = connections.as_ref().is_none_or(|all| all.keep(id));
                let is_silent = probe.is_unanswered();
                if is_silent && probe.in_use.strong_count() == 0 {
                    tracing::debug!("an outgoing connection does not answer");
                    return;
                }
                if let Some(connections) = connections {
                    connections.set_silent(id, is_silent);
                }
                if has_requests {
                    probe.send();
                }
            }
            () = probe.answered() => {
                if let Some(connections) = connections.upgrade() {
                    connections.set_silent(id, false);
                }
            }
        }
    }
}

/// The probes of a connection.
struct Probe {
    ping_pong: Option<PingPong>,
    is_waiting: bool,
    progress: Arc<Progress>,
    /// Alive while the connection is in the list, or has requests.
    in_use: Weak<()>,
}

impl Probe {
    fn new(progress: Arc<Progress>, in_use: Weak<()>) -> Self {
        Self {
            ping_pong: None,
            is_waiting: false,
            progress,
            in_use,
        }
    }

    /// Sends a probe, unless the last one waits for its answer.
    fn send(&mut self) {
        if let Some(ping_pong) = self.ping_pong.as_mut().filter(|_| !self.is_waiting) {
            self.is_waiting = ping_pong.send_ping(Ping::opaque()).is_ok();
        }
    }

    /// Returns whether a probe waits for its answer, and nothing else has arrived since the last
    /// call either.
    fn is_unanswered(&self) -> bool {
        let has_bytes = self.progress.take_bytes();
        self.is_waiting && !has_bytes
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

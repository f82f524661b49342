//! SocketRoute: the state that all sockets of one route share.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use metrics::{Counter, Gauge, Histogram, counter, gauge, histogram};

use super::backlog::Backlog;
use super::close::Cause;
use super::settings::SocketSettings;
use super::socket_handle::SocketHandle;

/// The state that all sockets of one route share. A socket keeps it until it ends, across reloads.
#[derive(Debug)]
pub struct SocketRoute {
    /// Its name in the file, or its path if it has none; the route's label in the log and the
    /// metrics.
    pub label: Arc<str>,
    /// Equal for equal routes; a reload compares it.
    pub fingerprint: u64,
    /// Its limits and timeouts.
    pub settings: SocketSettings,
    pub(crate) metrics: RouteMetrics,
    /// The shared bound of its sockets for waiting messages; set before the route is served.
    backlog: OnceLock<Arc<Backlog>>,
}

/// The route's metrics, looked up once.
#[derive(Debug)]
pub(crate) struct RouteMetrics {
    pub(super) open: Gauge,
    pub(super) received: Counter,
    pub(super) received_bytes: Counter,
    /// Of sockets that have ended; `SocketReadings` adds those of the open ones.
    pub(super) sent: Counter,
    pub(super) sent_bytes: Counter,
    pub(super) dropped: Counter,
    duration: Histogram,
    /// The most bytes that were ever queued for one socket.
    queued_max: AtomicUsize,
    queued_max_gauge: Gauge,
    /// By cause; each is registered when its first socket ends. Causes with the same label share a
    /// metric.
    closed: [OnceLock<Counter>; Cause::ALL.len()],
}

impl SocketRoute {
    /// Creates a route's shared state.
    #[must_use]
    pub fn new(label: Arc<str>, fingerprint: u64, settings: SocketSettings) -> Self {
        let name = || label.to_string();
        let metrics = RouteMetrics {
            open: gauge!("oneport_websockets", "route" => name()),
            received: counter!("oneport_messages_received_total", "route" => name()),
            received_bytes: counter!("oneport_websocket_received_bytes_total", "route" => name()),
            sent: counter!("oneport_messages_sent_total", "route" => name()),
            sent_bytes: counter!("oneport_websocket_sent_bytes_total", "route" => name()),
            duration: histogram!("oneport_websocket_duration_seconds", "route" => name()),
            queued_max: AtomicUsize::new(0),
            queued_max_gauge: gauge!("oneport_websocket_queued_bytes_max", "route" => name()),
            dropped: counter!("oneport_messages_dropped_total", "route" => name(), "reason" => settings.slow_client.as_str()),
            closed: Default::default(),
        };
        Self {
            label,
            fingerprint,
            settings,
            metrics,
            backlog: OnceLock::new(),
        }
    }

    /// Sets the bound that messages count against while they wait for a consumer. The first call
    /// wins; later calls are ignored.
    pub(crate) fn set_backlog(&self, backlog: Arc<Backlog>) {
        let _ = self.backlog.set(backlog);
    }

    pub(super) fn backlog(&self) -> Option<&Arc<Backlog>> {
        self.backlog.get()
    }

    /// Counts a socket that has ended and is no longer registered.
    pub(super) fn count_end(&self, socket: &SocketHandle, cause: Cause) {
        let metrics = &self.metrics;
        metrics.open.decrement(1.0);
        metrics.duration.record(socket.age().as_secs_f64());
        metrics.sent.increment(socket.sent_messages().into());
        metrics.sent_bytes.increment(socket.send_stats().bytes);
        let counter = metrics.closed[cause as usize].get_or_init(|| {
            counter!("oneport_websockets_closed_total", "route" => self.label.to_string(), "cause" => cause.as_str())
        });
        counter.increment(1);
    }
}

impl RouteMetrics {
    /// Notes how many bytes are queued for one socket, after some were added.
    pub(super) fn note_queued(&self, bytes: usize) {
        if self.queued_max.load(Ordering::Relaxed) < bytes
            && self.queued_max.fetch_max(bytes, Ordering::Relaxed) < bytes
        {
            self.queued_max_gauge.set(bytes as f64);
        }
    }
}

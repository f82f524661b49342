//! Route: what all sockets of one route share.

use std::sync::Arc;

use metrics::{Counter, Gauge, counter, gauge};

use super::settings::SocketSettings;

/// What all sockets of one route share; a socket keeps it until it ends, whatever is reloaded meanwhile.
#[derive(Debug)]
pub struct Route {
    /// Its name in the file, or else its path: how the log and the metrics call it.
    pub label: Arc<str>,
    /// Tells whether a reload changed the route: equal for equal routes.
    pub fingerprint: u64,
    /// Its bounds and deadlines.
    pub settings: SocketSettings,
    pub(crate) metrics: RouteMetrics,
}

/// The route's metrics, looked up once.
#[derive(Debug)]
pub(crate) struct RouteMetrics {
    pub(super) open: Gauge,
    pub(super) received: Counter,
    pub(super) dropped: Counter,
}

impl Route {
    /// A route's shared part.
    #[must_use]
    pub fn new(label: Arc<str>, fingerprint: u64, settings: SocketSettings) -> Self {
        let name = || label.to_string();
        let metrics = RouteMetrics {
            open: gauge!("oneport_websockets", "route" => name()),
            received: counter!("oneport_messages_received_total", "route" => name()),
            dropped: counter!("oneport_messages_dropped_total", "route" => name()),
        };
        Self {
            label,
            fingerprint,
            settings,
            metrics,
        }
    }
}

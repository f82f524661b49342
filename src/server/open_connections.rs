//! Open connections: how many speak HTTP, by protocol and security.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use http::Version;
use metrics::{Gauge, gauge};

/// The index of a connection that has not sent a request yet.
const NONE: usize = 0;

const PROTOCOLS: [&str; 3] = ["none", "http1", "http2"];

const SECURITIES: [&str; 2] = ["plain", "tls"];

/// The gauges of open connections, by security and protocol.
pub(super) struct OpenConnections([[Gauge; PROTOCOLS.len()]; SECURITIES.len()]);

/// A connection that speaks HTTP, until it ends or is upgraded.
pub(super) struct OpenConnection {
    gauges: Arc<OpenConnections>,
    security: usize,
    protocol: AtomicUsize,
}

impl OpenConnections {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self(SECURITIES.map(|security| {
            PROTOCOLS.map(|protocol| {
                gauge!("oneport_connections", "protocol" => protocol, "security" => security)
            })
        })))
    }

    /// Counts a connection.
    pub(super) fn open(self: &Arc<Self>, is_secure: bool) -> OpenConnection {
        let connection = OpenConnection {
            gauges: self.clone(),
            security: usize::from(is_secure),
            protocol: AtomicUsize::new(NONE),
        };
        connection.gauge(NONE).increment(1.0);
        connection
    }
}

impl OpenConnection {
    /// Records the version of a request.
    #[inline]
    pub(super) fn record_request(&self, version: Version) {
        if self.protocol.load(Ordering::Relaxed) == NONE {
            self.record_first(version);
        }
    }

    #[cold]
    fn record_first(&self, version: Version) {
        let protocol = if version < Version::HTTP_2 { 1 } else { 2 };
        // Only the connection's own task calls this.
        self.protocol.store(protocol, Ordering::Relaxed);
        self.gauge(NONE).decrement(1.0);
        self.gauge(protocol).increment(1.0);
    }

    fn gauge(&self, protocol: usize) -> &Gauge {
        &self.gauges.0[self.security][protocol]
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.gauge(self.protocol.load(Ordering::Relaxed))
            .decrement(1.0);
    }
}

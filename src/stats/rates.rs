//! Rates: the change between two snapshots, per second.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::snapshot::Snapshot;

/// The change between two snapshots of one process, per second.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct Rates {
    /// HTTP responses, by class of status.
    pub requests: BTreeMap<String, f64>,
    /// Handshakes that were accepted.
    pub opened: f64,
    /// Sockets that ended.
    pub closed: f64,
    /// Messages from clients.
    pub messages_received: f64,
    /// Messages to clients.
    pub messages_sent: f64,
    /// Bytes from clients.
    pub bytes_received: f64,
    /// Bytes to clients.
    pub bytes_sent: f64,
    /// Processors in use, such as 1.5.
    pub cpu: f64,
    /// The seconds in which half of the requests ended; `None` if there were none.
    pub p50: Option<f64>,
    /// The same for 90 percent.
    pub p90: Option<f64>,
    /// The same for 99 percent.
    pub p99: Option<f64>,
}

impl Rates {
    /// Returns the change between two snapshots; none at all if the process has started again in
    /// between.
    #[must_use]
    pub fn between(before: &Snapshot, after: &Snapshot) -> Self {
        let seconds = after.uptime - before.uptime;
        if seconds <= 0.0 || before.node != after.node {
            return Self::default();
        }
        let per_second = |before: u64, after: u64| after.saturating_sub(before) as f64 / seconds;
        let requests = after.requests.iter().map(|(class, count)| {
            let earlier = before.requests.get(class).copied().unwrap_or_default();
            (class.clone(), per_second(earlier, *count))
        });
        let latency = after.latency.since(&before.latency);
        let (old, new) = (&before.messages, &after.messages);
        Self {
            requests: requests.collect(),
            opened: per_second(before.sockets.opened, after.sockets.opened),
            closed: per_second(before.sockets.closed, after.sockets.closed),
            messages_received: per_second(old.received, new.received),
            messages_sent: per_second(old.sent, new.sent),
            bytes_received: per_second(old.bytes_received, new.bytes_received),
            bytes_sent: per_second(old.bytes_sent, new.bytes_sent),
            cpu: (after.process.cpu_seconds - before.process.cpu_seconds).max(0.0) / seconds,
            p50: latency.quantile(0.5),
            p90: latency.quantile(0.9),
            p99: latency.quantile(0.99),
        }
    }

    /// Returns the responses of all classes.
    #[must_use]
    pub fn requests_in_all(&self) -> f64 {
        self.requests.values().sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rate_is_the_change_per_second() {
        let mut before = Snapshot {
            uptime: 10.0,
            ..Snapshot::default()
        };
        before.messages.received = 100;
        before.requests.insert("2xx".to_owned(), 5);
        let mut after = before.clone();
        after.uptime = 12.0;
        after.messages.received = 150;
        after.requests.insert("2xx".to_owned(), 6);
        after.requests.insert("5xx".to_owned(), 4);
        let rates = Rates::between(&before, &after);
        assert!((rates.messages_received - 25.0).abs() < 1e-9);
        assert!((rates.requests["2xx"] - 0.5).abs() < 1e-9);
        assert!((rates.requests_in_all() - 2.5).abs() < 1e-9);
        assert_eq!(rates.p50, None);
    }

    #[test]
    fn process_that_started_again_has_no_rates() {
        let before = Snapshot {
            uptime: 100.0,
            ..Snapshot::default()
        };
        let after = Snapshot {
            uptime: 1.0,
            ..Snapshot::default()
        };
        assert_eq!(Rates::between(&before, &after), Rates::default());
    }
}

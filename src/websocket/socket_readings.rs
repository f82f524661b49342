//! Socket readings: what the open sockets have sent, and what is queued for them, by route.
//!
//! Each socket counts what it sends for itself, under the lock that a sender holds anyway; a
//! counter that all sockets of a route share would be contended in every fan-out. The counters of a
//! route have what its ended sockets sent. A reading adds the open ones.
//!
//! A socket that ends leaves the table first and is counted then. A reading in between lacks it,
//! but a counter must never fall, so a value stays at the last one that was reported.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use parking_lot::Mutex;

use super::sockets::Sockets;
use crate::telemetry::Snapshot;

const MESSAGES: &str = "oneport_messages_sent_total";
const BYTES: &str = "oneport_websocket_sent_bytes_total";
const QUEUED: &str = "oneport_websocket_queued_bytes";

/// Reads what the open sockets have sent.
#[derive(Debug)]
pub(crate) struct SocketReadings {
    sockets: Sockets,
    /// The last values of each counter, by route.
    reported: Mutex<BTreeMap<&'static str, HashMap<String, f64>>>,
}

/// The figures of the open sockets of one route.
#[derive(Default)]
struct Totals {
    messages: u64,
    bytes: u64,
    queued: usize,
}

impl SocketReadings {
    pub(crate) fn new(sockets: Sockets) -> Self {
        Self {
            sockets,
            reported: Mutex::default(),
        }
    }

    /// Adds the figures to those of the routes' counters.
    pub(crate) fn add_to(&self, snapshot: &mut Snapshot) {
        let mut by_route: BTreeMap<Arc<str>, Totals> = BTreeMap::new();
        self.sockets.for_each(|handle| {
            let label = &handle.route().label;
            let totals = match by_route.get_mut(label) {
                Some(totals) => totals,
                None => by_route.entry(label.clone()).or_default(),
            };
            totals.messages += u64::from(handle.sent_messages());
            totals.bytes += handle.send_stats().bytes;
            totals.queued += handle.queued_bytes();
        });
        for (route, totals) in &by_route {
            let labels = [("route", &**route)];
            snapshot.add(MESSAGES, &labels, totals.messages as f64);
            snapshot.add(BYTES, &labels, totals.bytes as f64);
            snapshot.add(QUEUED, &labels, totals.queued as f64);
        }
        let mut reported = self.reported.lock();
        for name in [MESSAGES, BYTES] {
            let earlier = reported.entry(name).or_default();
            let mut later = HashMap::new();
            snapshot.each_number(name, |key, value| {
                let mut labels = key.labels();
                let route = labels.next().map_or("", |label| label.value());
                *value = value.max(earlier.get(route).copied().unwrap_or_default());
                later.insert(route.to_owned(), *value);
            });
            *earlier = later;
        }
    }
}

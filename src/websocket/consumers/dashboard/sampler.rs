//! Sampler: takes a snapshot once a second, for all pages of the dashboard together, and only while
//! there is one.
//!
//! ```text
//!          add: the first page                 every second: a snapshot for new pages,
//!   Idle ──────────────────────► Sampling ◄──┐ an update for the others
//!    ▲                              │  └─────┘
//!    └──────────────────────────────┘ no page is left, or the server stops
//! ```
//!
//! The last minutes stay for the next page. A page that comes back after a pause shows the pause as
//! a gap.

use std::collections::VecDeque;
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::time::MissedTickBehavior;

use super::merge_patch::merge_patch;
use crate::cluster;
use crate::services::Services;
use crate::stats::{Rates, Snapshot};
use crate::websocket::{Message, SocketHandle};

/// The time between two snapshots.
const EVERY: Duration = Duration::from_secs(1);

/// How many points of the plots are kept: five minutes.
const POINTS_KEPT: usize = 300;

/// The columns of a point.
const COLUMNS: [&str; 20] = [
    "at",
    "connections",
    "sockets",
    "1xx",
    "2xx",
    "3xx",
    "4xx",
    "5xx",
    "opened",
    "closed",
    "messages_received",
    "messages_sent",
    "bytes_received",
    "bytes_sent",
    "p50",
    "p90",
    "p99",
    "cpu",
    "resident_bytes",
    "queue_bytes",
];

/// The pages that look, and what they have seen.
#[derive(Debug, Default)]
pub(super) struct Sampler(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    pages: Vec<Page>,
    is_sampling: bool,
    /// The number of the last update.
    seq: u64,
    last: Value,
    points: VecDeque<Value>,
}

#[derive(Debug)]
struct Page {
    handle: Weak<SocketHandle>,
    id: u64,
    /// Whether it has the last snapshot; otherwise it gets a whole one next.
    is_current: bool,
}

impl Sampler {
    /// Adds a page, and starts sampling if it is the only one.
    pub(super) fn add(self: &Arc<Self>, services: &Services, handle: &Arc<SocketHandle>) {
        let mut state = self.0.lock();
        let mut page = Page {
            handle: Arc::downgrade(handle),
            id: handle.id(),
            is_current: false,
        };
        if state.is_sampling && !state.last.is_null() {
            handle.send_message(&state.snapshot());
            page.is_current = true;
        }
        state.pages.push(page);
        if !std::mem::replace(&mut state.is_sampling, true) {
            let sampling = Sampling {
                sampler: self.clone(),
                is_over: false,
            };
            let tasks = services.tasks.clone();
            tasks.spawn("dashboard", sampling.run(services.clone()));
        }
    }

    /// Removes a page.
    pub(super) fn remove(&self, id: u64) {
        self.0.lock().pages.retain(|page| page.id != id);
    }

    /// Sends a page all figures again.
    pub(super) fn start_over(&self, id: u64) {
        let mut state = self.0.lock();
        let pages = state.pages.iter_mut();
        pages
            .filter(|page| page.id == id)
            .for_each(|page| page.is_current = false);
    }
}

impl State {
    /// Returns the message for a page that has seen nothing.
    fn snapshot(&self) -> Message {
        let message = json!({
            "type": "snapshot", "seq": self.seq, "stats": self.last,
            "columns": COLUMNS, "points": self.points,
        });
        Message::from(message.to_string())
    }

    /// Takes the next snapshot and its point, and sends every page what it has not seen. Returns
    /// whether a page is left.
    fn next(&mut self, stats: Value, point: Option<&Value>) -> bool {
        self.pages.retain(|page| page.handle.strong_count() > 0);
        if let Some(point) = point {
            if self.points.len() == POINTS_KEPT {
                self.points.pop_front();
            }
            self.points.push_back(point.clone());
        }
        self.seq += 1;
        let patch = merge_patch(&self.last, &stats).unwrap_or_else(|| json!({}));
        self.last = stats;
        let update =
            json!({"type": "update", "seq": self.seq, "patch": patch, "point": point}).to_string();
        let update = Message::from(update);
        let whole = match self.pages.iter().all(|page| page.is_current) {
            true => None,
            false => Some(self.snapshot()),
        };
        for page in &mut self.pages {
            if let Some(handle) = page.handle.upgrade() {
                match &whole {
                    Some(whole) if !page.is_current => handle.send_message(whole),
                    _ => handle.send_message(&update),
                }
                page.is_current = true;
            }
        }
        !self.pages.is_empty()
    }

    /// Forgets points that are older than the plots show.
    fn forget_old(&mut self, now: f64) {
        let oldest = now - (EVERY * u32::try_from(POINTS_KEPT).unwrap_or(u32::MAX)).as_secs_f64();
        let is_old = |point: &Value| point[0].as_f64().is_none_or(|at| at < oldest);
        self.points.retain(|point| !is_old(point));
    }
}

/// The task that samples. When it ends, even by a panic, the next page starts another one.
struct Sampling {
    sampler: Arc<Sampler>,
    /// Whether it has found that no page is left.
    is_over: bool,
}

impl Sampling {
    async fn run(mut self, services: Services) {
        let mut ticks = tokio::time::interval(EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut before: Option<Snapshot> = None;
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                () = services.tasks.stopping() => return,
            }
            let stats = cluster::own_stats(&services).await;
            let Ok(snapshot) = serde_json::from_value::<Snapshot>(stats.clone()) else {
                return;
            };
            let rates = before
                .as_ref()
                .map(|before| Rates::between(before, &snapshot));
            let point = rates.map(|rates| point(&snapshot, &rates));
            let mut state = self.sampler.0.lock();
            if before.is_none() {
                state.forget_old(snapshot.at);
            }
            if !state.next(stats, point.as_ref()) {
                state.is_sampling = false; // under the lock: a page that comes now starts a task
                self.is_over = true;
                return;
            }
            before = Some(snapshot);
        }
    }
}

impl Drop for Sampling {
    fn drop(&mut self) {
        if !self.is_over {
            self.sampler.0.lock().is_sampling = false;
        }
    }
}

/// Returns the values of [`COLUMNS`].
fn point(snapshot: &Snapshot, rates: &Rates) -> Value {
    let rounded = |value: f64| (value * 1000.0).round() / 1000.0;
    let of = |class: &str| rounded(rates.requests.get(class).copied().unwrap_or_default());
    json!([
        rounded(snapshot.at),
        snapshot.connections.open,
        snapshot.sockets.open,
        of("1xx"),
        of("2xx"),
        of("3xx"),
        of("4xx"),
        of("5xx"),
        rounded(rates.opened),
        rounded(rates.closed),
        rounded(rates.messages_received),
        rounded(rates.messages_sent),
        rounded(rates.bytes_received),
        rounded(rates.bytes_sent),
        rates.p50,
        rates.p90,
        rates.p99,
        rounded(rates.cpu),
        snapshot.process.resident_bytes,
        snapshot.sockets.queue_bytes,
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn point_has_a_value_for_each_column() {
        let point = point(&Snapshot::default(), &Rates::default());
        assert_eq!(point.as_array().map(Vec::len), Some(COLUMNS.len()));
    }

    #[test]
    fn points_are_bounded_and_old_ones_are_forgotten() {
        let mut state = State::default();
        for second in 0..2 * POINTS_KEPT {
            assert!(!state.next(json!({"n": second}), Some(&json!([second]))));
        }
        assert_eq!(state.points.len(), POINTS_KEPT);
        state.forget_old(2.0 * POINTS_KEPT as f64 + 99.0);
        assert_eq!(state.points.len(), POINTS_KEPT - 99);
        state.forget_old(1e9);
        assert!(state.points.is_empty());
    }
}

//! QueryTimer: measures one query to a store.

use std::time::Instant;

use metrics::{Gauge, gauge, histogram};

/// A query that is under way. It is counted as active until it ends or is dropped.
pub(crate) struct QueryTimer {
    store: &'static str,
    started: Instant,
    active: Gauge,
}

impl QueryTimer {
    pub(crate) fn start(store: &'static str) -> Self {
        let active = gauge!("oneport_store_queries_active", "store" => store);
        active.increment(1.0);
        Self {
            store,
            started: Instant::now(),
            active,
        }
    }

    /// Records how long the query took.
    pub(crate) fn end(self, is_answered: bool) {
        let outcome = if is_answered { "ok" } else { "failed" };
        let seconds = self.started.elapsed().as_secs_f64();
        histogram!("oneport_store_query_duration_seconds", "store" => self.store, "outcome" => outcome)
            .record(seconds);
    }
}

impl Drop for QueryTimer {
    fn drop(&mut self) {
        self.active.decrement(1.0);
    }
}

//! Outage: says once in a while that a store does not answer, and once that it does again.

use std::error::Error;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use metrics::counter;

/// How often the log is told of one outage.
pub(super) const EVERY: Duration = Duration::from_secs(10);

/// Says something once in an interval, however often there is reason to.
#[derive(Debug, Default)]
pub(crate) struct Seldom(Mutex<Option<Instant>>);

impl Seldom {
    /// Tells whether it is time to say it again.
    pub(crate) fn is_due(&self) -> bool {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_due = last.is_none_or(|last| last.elapsed() >= EVERY);
        if is_due {
            *last = Some(Instant::now());
        }
        is_due
    }
}

/// Whether a store answers, and what the log was told of it.
#[derive(Debug)]
pub(crate) struct Outage {
    store: &'static str,
    told: Mutex<Told>,
}

#[derive(Debug, Default)]
struct Told {
    since: Option<Instant>,
    last: Option<Instant>,
    /// Failures that the log was not told of.
    unsaid: u64,
}

impl Outage {
    pub(crate) fn new(store: &'static str) -> Self {
        Self {
            store,
            told: Mutex::default(),
        }
    }

    pub(crate) fn store(&self) -> &'static str {
        self.store
    }

    /// Counts a failure; the first, and then one in an interval, goes to the log.
    pub(crate) fn report(&self, cause: &(dyn Error + Send + Sync)) {
        counter!("oneport_store_errors_total", "store" => self.store).increment(1);
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        told.since.get_or_insert(now);
        if told.last.is_some_and(|last| now - last < EVERY) {
            told.unsaid += 1;
            return;
        }
        told.last = Some(now);
        let unsaid = std::mem::take(&mut told.unsaid);
        tracing::error!(
            store = self.store,
            unsaid,
            "{} store unavailable: {cause}; requests that need it get 503",
            self.store
        );
    }

    /// Ends the outage, if there is one.
    pub(crate) fn is_over(&self) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(since) = told.since.take() {
            tracing::info!(
                store = self.store,
                seconds = since.elapsed().as_secs_f64(),
                unsaid = told.unsaid,
                "it answers again"
            );
            *told = Told::default();
        }
    }
}

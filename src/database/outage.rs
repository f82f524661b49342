//! Outage: logs once per interval that a store is unavailable or cannot be written, and once that
//! it recovered.

use std::error::Error;
use std::time::Instant;

use metrics::counter;
use parking_lot::{Mutex, MutexGuard};

use crate::telemetry::LOG_INTERVAL;

/// The kind of access to a store.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Access {
    /// Reading. Also counts what fails before a write, such as connecting.
    Read,
    /// Writing.
    Write,
}

/// Whether a store works, and when that was last logged.
///
/// Reads and writes fail independently: reading from a full disk works. So a successful write ends
/// both outages, and a successful read ends only that of reading. An outage that begins within the
/// interval of the last log line is not logged until the interval is over, so a store that fails
/// every other time is logged once per interval too.
#[derive(Debug)]
pub(crate) struct Outage {
    store: &'static str,
    reading: Mutex<OutageLog>,
    writing: Mutex<OutageLog>,
}

#[derive(Debug, Default)]
struct OutageLog {
    since: Option<Instant>,
    /// When a failure was last logged.
    last: Option<Instant>,
    /// Whether this outage was logged.
    is_logged: bool,
    /// The number of failures since the last log line.
    unlogged: u64,
}

impl Outage {
    pub(crate) fn new(store: &'static str) -> Self {
        Self {
            store,
            reading: Mutex::default(),
            writing: Mutex::default(),
        }
    }

    pub(crate) fn store(&self) -> &'static str {
        self.store
    }

    /// Counts a failure. The first one, and then one per interval, is logged.
    pub(crate) fn report(&self, access: Access, cause: &(dyn Error + Send + Sync)) {
        let store = self.store;
        counter!("oneport_store_errors_total", "store" => store).increment(1);
        let Some(unlogged) = self.log(access).fails(Instant::now()) else {
            return;
        };
        match access {
            Access::Read => tracing::error!(
                store,
                unlogged,
                "{store} store unavailable: {cause}; requests that need it get 503"
            ),
            Access::Write => tracing::error!(
                store,
                unlogged,
                "{store} store cannot be written: {cause}; requests that change it get 503"
            ),
        }
    }

    /// Counts a failure that the caller logs.
    pub(crate) fn report_elsewhere(&self) {
        counter!("oneport_store_errors_total", "store" => self.store).increment(1);
        self.log(Access::Read).fails(Instant::now());
    }

    /// Ends the outage, if any, and logs the recovery.
    pub(crate) fn is_over(&self, access: Access) {
        if let Some((seconds, unlogged)) = self.log(Access::Read).works() {
            let store = self.store;
            tracing::info!(store, seconds, unlogged, "{store} store is available again");
        }
        if access == Access::Write
            && let Some((seconds, unlogged)) = self.log(Access::Write).works()
        {
            let store = self.store;
            tracing::info!(
                store,
                seconds,
                unlogged,
                "{store} store can be written again"
            );
        }
    }

    fn log(&self, access: Access) -> MutexGuard<'_, OutageLog> {
        let log = match access {
            Access::Read => &self.reading,
            Access::Write => &self.writing,
        };
        log.lock()
    }
}

impl OutageLog {
    /// Records a failure. If it is to be logged, returns the number of unlogged failures before it.
    fn fails(&mut self, now: Instant) -> Option<u64> {
        self.since.get_or_insert(now);
        if self.last.is_some_and(|last| now - last < LOG_INTERVAL) {
            self.unlogged += 1;
            return None;
        }
        self.last = Some(now);
        self.is_logged = true;
        Some(std::mem::take(&mut self.unlogged))
    }

    /// Records a success. If a logged outage ends, returns its length in seconds and the number of
    /// unlogged failures.
    fn works(&mut self) -> Option<(f64, u64)> {
        let since = self.since.take()?;
        if !std::mem::take(&mut self.is_logged) {
            return None;
        }
        let unlogged = std::mem::take(&mut self.unlogged);
        Some((since.elapsed().as_secs_f64(), unlogged))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_logged_once_per_interval_whatever_succeeds_in_between() {
        let start = Instant::now();
        let mut log = OutageLog::default();
        assert_eq!(log.fails(start), Some(0));
        assert_eq!(log.fails(start), None);
        assert_eq!(log.works().map(|(_, unlogged)| unlogged), Some(1));
        for _ in 0..10 {
            assert_eq!(log.fails(start + LOG_INTERVAL / 2), None);
            assert_eq!(log.works(), None);
        }
        assert_eq!(log.fails(start + LOG_INTERVAL), Some(10));
        assert!(log.works().is_some());
        assert_eq!(log.works(), None);
    }

    #[test]
    fn only_a_write_ends_an_outage_of_writing() {
        let outage = Outage::new("session");
        let is_out = |access| outage.log(access).since.is_some();
        let cause = std::io::Error::other("full");
        for access in [Access::Read, Access::Write] {
            outage.report(access, &cause);
        }
        outage.is_over(Access::Read);
        assert!(!is_out(Access::Read) && is_out(Access::Write));
        outage.report(Access::Read, &cause);
        outage.is_over(Access::Write);
        assert!(!is_out(Access::Read) && !is_out(Access::Write));
    }
}

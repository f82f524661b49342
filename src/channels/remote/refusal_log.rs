//! RefusalLog: decides which refusals of Redis are logged, whatever task meets them.

use std::time::Instant;

use parking_lot::Mutex;

use crate::telemetry::LOG_INTERVAL;

/// What follows from a refusal.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Consequence {
    /// The connection goes on without the command.
    None,
    /// The connection is lost, or could not be made.
    Loss,
}

/// Decides which refusals are logged: one per interval.
///
/// A user without the rights is refused many commands with each connection. While one of them costs
/// the connection, the others are not logged: they would always come first.
#[derive(Debug, Default)]
pub(super) struct RefusalLog(Mutex<RefusalState>);

#[derive(Debug, Default)]
struct RefusalState {
    logged_at: Option<Instant>,
    /// The refusals since the last line.
    times: u64,
    cost_connection: bool,
}

impl RefusalLog {
    /// Counts a refusal. If a line is due, returns the number of refusals since the last one,
    /// including this one.
    pub(super) fn count(&self, now: Instant, consequence: Consequence) -> Option<u64> {
        let mut state = self.0.lock();
        state.times += 1;
        match consequence {
            Consequence::Loss => state.cost_connection = true,
            Consequence::None if state.cost_connection => return None,
            Consequence::None => {}
        }
        let is_recent = |at| now.saturating_duration_since(at) < LOG_INTERVAL;
        if state.logged_at.is_some_and(is_recent) {
            return None;
        }
        state.logged_at = Some(now);
        Some(std::mem::take(&mut state.times))
    }

    /// Called when a connection has lasted.
    pub(super) fn settled(&self) {
        self.0.lock().cost_connection = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_refusal_per_interval_is_logged() {
        let refusals = RefusalLog::default();
        let start = Instant::now();
        assert_eq!(refusals.count(start, Consequence::None), Some(1));
        assert_eq!(refusals.count(start, Consequence::Loss), None);
        let now = start + LOG_INTERVAL;
        // Those that come before the one that costs the connection do not hide it.
        assert_eq!(refusals.count(now, Consequence::None), None);
        assert_eq!(refusals.count(now, Consequence::Loss), Some(3));
        refusals.settled();
        assert_eq!(refusals.count(now, Consequence::None), None);
        let now = now + LOG_INTERVAL;
        assert_eq!(refusals.count(now, Consequence::None), Some(2));
    }
}

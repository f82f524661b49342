//! RateLimiters: the limiters of a server by the limit that they count for.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use super::RateLimiter;

/// The limiters in use, by the name of their limit.
///
/// A reload finds the limiter of a limit that it has not changed, so its counters outlive the
/// reload. A limiter is dropped with the last table and the last socket that use it.
#[derive(Debug, Default)]
pub(crate) struct RateLimiters(Mutex<HashMap<String, Weak<RateLimiter>>>);

impl RateLimiters {
    /// Returns the limiter of a limit. Limits of the same name share their counters.
    pub(crate) fn of(&self, limit: String) -> Arc<RateLimiter> {
        let mut known = self.0.lock();
        known.retain(|_, limiter| limiter.strong_count() > 0);
        if let Some(limiter) = known.get(&limit).and_then(Weak::upgrade) {
            return limiter;
        }
        let limiter = Arc::default();
        known.insert(limit, Arc::downgrade(&limiter));
        limiter
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limiter_is_kept_as_long_as_it_is_used() {
        let limiters = RateLimiters::default();
        let one = limiters.of("10/s".to_owned());
        assert!(Arc::ptr_eq(&one, &limiters.of("10/s".to_owned())));
        assert!(!Arc::ptr_eq(&one, &limiters.of("20/s".to_owned())));
        drop(one);
        let _other = limiters.of("30/s".to_owned());
        assert_eq!(limiters.0.lock().len(), 1);
    }
}

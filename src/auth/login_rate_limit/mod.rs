//! LoginRateLimit: limits how often a login may be attempted.
//!
//! | counter of | over its limit |
//! |---|---|
//! | an address | refuses |
//! | a name from one address | refuses |
//! | a name from all addresses | delays: if it refused, anyone could lock out a name |

mod normalize;

use std::hash::Hash;
use std::net::IpAddr;
use std::num::{NonZeroU32, NonZeroU64};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::Semaphore;

use normalize::normalized;

use crate::net::client_network;
use crate::rate_limiter::{Charge, Key, Quota, RateLimiter};

/// The longest delay of an attempt, for a name that is tried from several addresses.
const DELAY_MAX: Duration = Duration::from_secs(2);

/// The most attempts delayed at the same time. One more is neither delayed nor refused; its address
/// has its own limit.
const DELAYED_MAX: usize = 1_024;

/// The minimum interval between two log lines about one limit.
const LOG_EVERY: Duration = Duration::from_secs(10);

/// The attempts allowed in a window, for one name from one address and for one address. Used
/// attempts become available again evenly over the window.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct LoginLimits {
    /// The attempts for a name from one address; also those for a name over all addresses, before
    /// an attempt is delayed.
    pub per_name: NonZeroU32,
    /// The attempts for an address, with any names.
    pub per_address: NonZeroU32,
    /// The window.
    pub window: Duration,
}

/// The counters of a process, for all routes. They outlive a reload.
///
/// Routes with equal limits share counters; changed limits start with empty ones. Memory is bounded
/// at 2 MiB for each of the three kinds. When a table is full, the least used counter is evicted,
/// so a new one is always counted, and never refused because of others.
#[derive(Debug)]
pub struct LoginRateLimit {
    counters: [RateLimiter; 3],
    delayed: Semaphore,
    logged: Mutex<[LogState; 4]>,
}

/// An attempt that is admitted.
#[derive(Debug)]
#[must_use]
pub struct Attempt {
    counted: [Option<(Key, Charge)>; 3],
    /// How long it has to wait before the password is checked.
    pub delay: Duration,
}

/// An attempt over a limit.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct RateLimited {
    /// How long until the next attempt is admitted.
    pub wait: Duration,
}

/// The state of the log lines about one limit.
#[derive(Clone, Copy, Debug, Default)]
struct LogState {
    last: Option<Instant>,
    /// Hits since the last line.
    count: u64,
}

/// The three kinds of counters, by index.
const ADDRESS: usize = 0;
const NAME_FROM_ADDRESS: usize = 1;
const NAME: usize = 2;

/// The index of the log line about full tables, after those of the three kinds.
const FULL: usize = 3;
const SENTENCES: [&str; 4] = [
    "login attempts refused: attempts_per_address is used up",
    "login attempts refused: attempts_per_name is used up for a name from one address",
    "login attempts delayed: a name is tried from several addresses",
    "counters of login attempts dropped: too many names and addresses at once",
];

impl Default for LoginRateLimit {
    fn default() -> Self {
        Self {
            counters: Default::default(),
            delayed: Semaphore::new(DELAYED_MAX),
            logged: Mutex::default(),
        }
    }
}

impl LoginRateLimit {
    /// Counts an attempt.
    ///
    /// `address` is `None` only on a Unix socket without a trusted proxy, whose clients then count
    /// as one.
    pub fn count(
        &self,
        limits: LoginLimits,
        name: &str,
        address: Option<IpAddr>,
    ) -> Result<Attempt, RateLimited> {
        self.count_at(Instant::now(), limits, name, address)
    }

    fn count_at(
        &self,
        now: Instant,
        limits: LoginLimits,
        name: &str,
        address: Option<IpAddr>,
    ) -> Result<Attempt, RateLimited> {
        let (name, address) = (normalized(name), address.map(client_network));
        let per_name = Quota::per_window(NonZeroU64::from(limits.per_name), limits.window);
        let per_address = Quota::per_window(NonZeroU64::from(limits.per_address), limits.window);
        let of_address = address.map(|address| self.key(ADDRESS, limits, address));
        let refusing = [
            (ADDRESS, of_address, per_address),
            (
                NAME_FROM_ADDRESS,
                Some(self.key(NAME_FROM_ADDRESS, limits, (&name, address))),
                per_name,
            ),
        ];
        let mut attempt = Attempt {
            counted: [None; 3],
            delay: Duration::ZERO,
        };
        for (kind, key, quota) in refusing {
            let Some(key) = key else { continue };
            let counted = self.counters[kind].count(key, quota, now);
            if counted.evicted {
                self.log(FULL, now);
            }
            if let Some(wait) = counted.wait {
                self.log(kind, now);
                return Err(RateLimited { wait });
            }
            attempt.counted[kind] = Some((key, counted.charge));
        }
        let key = self.key(NAME, limits, &name);
        let counted = self.counters[NAME].count_over(key, per_name, now);
        if counted.evicted {
            self.log(FULL, now);
        }
        attempt.counted[NAME] = Some((key, counted.charge));
        attempt.delay = counted.wait.unwrap_or_default().min(DELAY_MAX);
        Ok(attempt)
    }

    /// Waits for the delay of an attempt, but at most for half of the time until a deadline.
    pub async fn delay(&self, attempt: &Attempt, deadline: Instant) {
        let now = Instant::now();
        let delay = attempt.delay_before(deadline, now);
        if delay.is_zero() {
            return;
        }
        self.log(NAME, now);
        if let Ok(_place) = self.delayed.try_acquire() {
            tokio::time::sleep(delay).await;
        }
    }

    /// Takes back an attempt that was not decided, because a store is unavailable or the hashing
    /// queue is full.
    pub fn give_back(&self, attempt: &Attempt) {
        self.give_back_at(Instant::now(), attempt);
    }

    fn give_back_at(&self, now: Instant, attempt: &Attempt) {
        for (counters, counted) in self.counters.iter().zip(attempt.counted) {
            if let Some((key, charge)) = counted {
                counters.give_back(key, charge, now);
            }
        }
    }

    /// Logs that a limit was hit, at most once per interval with the count; without the name,
    /// because people type passwords into that field.
    fn log(&self, limit: usize, now: Instant) {
        let mut logged = self.logged.lock();
        let logged = &mut logged[limit];
        logged.count += 1;
        if logged
            .last
            .is_some_and(|last| now.saturating_duration_since(last) < LOG_EVERY)
        {
            return;
        }
        let count = std::mem::take(&mut logged.count);
        logged.last = Some(now);
        tracing::warn!(count, "{}", SENTENCES[limit]);
    }

    fn key(&self, kind: usize, limits: LoginLimits, what: impl Hash) -> Key {
        self.counters[kind].key((limits, what))
    }
}

impl Attempt {
    fn delay_before(&self, deadline: Instant, now: Instant) -> Duration {
        self.delay.min(deadline.saturating_duration_since(now) / 2)
    }
}

#[cfg(test)]
mod tests;

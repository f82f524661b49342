//! Attempts: how often somebody may try to log in.

use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::time::Duration;

use governor::clock::{Clock, DefaultClock};
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};

/// The names and addresses that are remembered, at most; when so many are busy at once all others have to wait.
const KEYS_MAX: usize = 100_000;

/// How often one name, and one address, may try in a time.
#[derive(Debug)]
pub struct Attempts {
    of_name: DefaultKeyedRateLimiter<u64>,
    of_address: DefaultKeyedRateLimiter<u64>,
    hasher: RandomState,
    clock: DefaultClock,
    window: Duration,
}

impl Attempts {
    /// So many for each name and each address in a window; one that is used up fills again evenly over it.
    #[must_use]
    pub fn new(per_name: NonZeroU32, per_address: NonZeroU32, window: Duration) -> Self {
        let quota = |attempts: NonZeroU32| {
            let period = window.max(Duration::from_millis(1)) / attempts.get();
            Quota::with_period(period.max(Duration::from_nanos(1)))
                .unwrap_or_else(|| Quota::per_minute(attempts))
                .allow_burst(attempts)
        };
        Self {
            of_name: RateLimiter::keyed(quota(per_name)),
            of_address: RateLimiter::keyed(quota(per_address)),
            hasher: RandomState::new(),
            clock: DefaultClock::default(),
            window,
        }
    }

    /// Counts an attempt. The error is how long to wait for the next.
    pub fn count(&self, name: &str, address: Option<IpAddr>) -> Result<(), Duration> {
        if let Some(address) = address {
            self.count_in(&self.of_address, self.hasher.hash_one(network(address)))?;
        }
        self.count_in(&self.of_name, self.hasher.hash_one(name))
    }

    fn count_in(&self, limiter: &DefaultKeyedRateLimiter<u64>, key: u64) -> Result<(), Duration> {
        if limiter.len() >= KEYS_MAX {
            limiter.retain_recent();
            if limiter.len() >= KEYS_MAX {
                return Err(self.window);
            }
        }
        limiter
            .check_key(&key)
            .map_err(|wait| wait.wait_time_from(self.clock.now()))
    }
}

/// What belongs to one customer: an IPv4 address, or the half of an IPv6 address.
fn network(address: IpAddr) -> u128 {
    match address.to_canonical() {
        IpAddr::V4(address) => u128::from(address.to_bits()),
        IpAddr::V6(address) => address.to_bits() >> 64 << 64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_addresses_are_counted_apart() {
        let three = NonZeroU32::new(3).unwrap();
        let four = NonZeroU32::new(4).unwrap();
        let attempts = Attempts::new(three, four, Duration::from_secs(600));
        let here: IpAddr = "192.0.2.1".parse().unwrap();
        let there: IpAddr = "192.0.2.2".parse().unwrap();
        for _ in 0..3 {
            attempts.count("anna", Some(here)).unwrap();
        }
        let wait = attempts.count("anna", Some(there)).unwrap_err();
        assert!(wait > Duration::from_secs(1), "{wait:?}");
        attempts.count("berta", Some(here)).unwrap();
        attempts.count("carla", Some(here)).unwrap_err(); // its fourth was berta's
        attempts.count("carla", Some(there)).unwrap();
    }

    #[test]
    fn the_half_of_an_ipv6_address_is_one_customer() {
        let network = |text: &str| network(text.parse().unwrap());
        assert_eq!(network("2001:db8::1"), network("2001:db8::ffff:1"));
        assert_ne!(network("2001:db8::1"), network("2001:db8:0:1::1"));
        assert_eq!(network("::ffff:192.0.2.1"), network("192.0.2.1"));
    }
}

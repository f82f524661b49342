//! Tests of the limiter: rates, bursts, units, eviction.

use std::num::NonZeroU64;

use super::*;

fn quota(units: u64, seconds: u64, burst: u64) -> Quota {
    Quota::new(
        NonZeroU64::new(units).unwrap(),
        Duration::from_secs(seconds),
        NonZeroU64::new(burst).unwrap(),
    )
}

fn later(begun: Instant, millis: u64) -> Instant {
    begun + Duration::from_millis(millis)
}

#[test]
fn a_burst_passes_and_then_the_rate() {
    let limiter = RateLimiter::default();
    let (key, quota) = (limiter.key("a"), quota(10, 1, 20));
    let begun = Instant::now();
    for left in (0..20).rev() {
        let counted = limiter.count(key, quota, begun);
        assert_eq!(counted.wait, None);
        assert_eq!(quota.remaining(counted.empty_in), left);
    }
    let refused = limiter.count(key, quota, begun);
    assert_eq!(refused.wait, Some(Duration::from_millis(100)));
    assert_eq!(refused.empty_in, Duration::from_secs(2));
    // A refused unit is not counted: 5 s at twice the rate let half of them pass.
    let passed = (1..=100).filter(|at| {
        let counted = limiter.count(key, quota, later(begun, at * 50));
        counted.wait.is_none()
    });
    assert_eq!(passed.count(), 50);
    assert_eq!(quota.window(), Duration::from_secs(2));
}

#[test]
fn keys_have_counters_of_their_own() {
    let limiter = RateLimiter::default();
    let (quota, now) = (quota(1, 60, 1), Instant::now());
    for name in ["a", "b", "c"] {
        assert_eq!(limiter.count(limiter.key(name), quota, now).wait, None);
        assert!(limiter.count(limiter.key(name), quota, now).wait.is_some());
    }
}

#[test]
fn units_that_are_owed_are_paid_off_at_the_rate() {
    let mut bucket = Bucket::default();
    let (quota, begun) = (quota(1_000, 1, 500), Instant::now());
    assert_eq!(bucket.owe(500, quota, begun).wait, None);
    let counted = bucket.owe(2_000, quota, begun);
    assert_eq!(counted.wait, Some(Duration::from_secs(2)));
    // More units, while the debt is paid off, are counted too.
    let counted = bucket.owe(1_000, quota, later(begun, 1_000));
    assert_eq!(counted.wait, Some(Duration::from_secs(2)));
    assert_eq!(bucket.owe(1, quota, later(begun, 3_001)).wait, None);
}

#[test]
fn units_over_a_burst_never_pass() {
    let mut bucket = Bucket::default();
    let (quota, begun) = (quota(1_000, 1, 500), Instant::now());
    assert!(bucket.count(501, quota, begun).wait.is_some());
    assert_eq!(bucket.count(500, quota, begun).wait, None);
    assert!(
        bucket
            .count(501, quota, later(begun, 60_000))
            .wait
            .is_some()
    );
}

#[test]
fn the_wait_for_one_unit_is_known_before_it_is_counted() {
    let mut bucket = Bucket::default();
    let (quota, begun) = (quota(100, 1, 1), Instant::now());
    assert_eq!(bucket.wait(quota, begun), Duration::ZERO);
    assert_eq!(bucket.count(1, quota, begun).wait, None);
    assert_eq!(bucket.wait(quota, begun), Duration::from_millis(10));
    assert_eq!(bucket.wait(quota, later(begun, 10)), Duration::ZERO);
}

#[test]
fn the_memory_is_bounded_and_the_least_used_counter_is_evicted() {
    let limiter = RateLimiter::default();
    let (quota, begun) = (quota(10, 60, 10), Instant::now());
    assert_eq!(limiter.bytes(), 0);
    let busy = limiter.key("busy");
    for _ in 0..10 {
        assert_eq!(limiter.count(busy, quota, begun).wait, None);
    }
    let mut evicted = 0;
    for number in 0..COUNTERS_MAX * 3 {
        let counted = limiter.count(limiter.key(number), quota, begun);
        assert_eq!(counted.wait, None);
        evicted += usize::from(counted.evicted);
    }
    assert_eq!(limiter.bytes(), 2 << 20);
    assert!(limiter.used() > COUNTERS_MAX * 99 / 100);
    assert!(evicted >= COUNTERS_MAX * 2, "{evicted}");
    assert!(limiter.count(busy, quota, begun).wait.is_some());
    // Counters that are empty again make room without an eviction.
    let later = begun + Duration::from_secs(61);
    let counted = limiter.count(limiter.key("later"), quota, later);
    assert!(!counted.evicted);
}

#[test]
fn keys_differ_between_limiters() {
    let (one, other) = (RateLimiter::default(), RateLimiter::default());
    assert_ne!(one.key("a"), other.key("a"));
    assert_eq!(one.key("a"), one.key("a"));
}

#[test]
fn units_that_are_given_back_do_not_count() {
    let limiter = RateLimiter::default();
    let (key, quota, now) = (limiter.key("a"), quota(2, 60, 2), Instant::now());
    for _ in 0..10 {
        let counted = limiter.count(key, quota, now);
        assert_eq!(counted.wait, None);
        limiter.give_back(key, counted.charge, now);
    }
    assert_eq!(limiter.empty_in(key, now), Duration::ZERO);
}

#[test]
fn fast_rates_and_long_windows_keep_their_numbers() {
    let fast = quota(10 << 30, 1, 10 << 30);
    assert_eq!(fast.window(), Duration::from_secs(1));
    let mut bucket = Bucket::default();
    let begun = Instant::now();
    assert_eq!(bucket.count(10 << 30, fast, begun).wait, None);
    assert!(bucket.count(1 << 30, fast, later(begun, 99)).wait.is_some());
    assert_eq!(bucket.count(1 << 30, fast, later(begun, 101)).wait, None);
    let slow = quota(1, 86_400, u64::MAX);
    assert!(slow.window() > Duration::from_secs(86_400 * 36_500));
}

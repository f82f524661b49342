//! Tests of counting attempts: which are refused, delayed, or taken back.

use std::net::Ipv4Addr;

use futures_util::future::poll_immediate;

use super::*;
use crate::rate_limiter::COUNTERS_MAX;

fn limits(per_name: u32, per_address: u32) -> LoginLimits {
    LoginLimits {
        per_name: NonZeroU32::new(per_name).unwrap(),
        per_address: NonZeroU32::new(per_address).unwrap(),
        window: Duration::from_secs(600),
    }
}

fn address(number: u32) -> Option<IpAddr> {
    Some(Ipv4Addr::from_bits(number).into())
}

#[test]
fn a_name_is_counted_from_each_address_and_an_address_over_all_names() {
    let attempts = LoginRateLimit::default();
    let limits = limits(3, 4);
    let (here, there) = (address(1), address(2));
    let count = |name: &str, address| attempts.count(limits, name, address).map(|_| ());
    for _ in 0..3 {
        count("anna", here).unwrap();
    }
    count("anna", there).unwrap();
    let wait = count("anna", here).unwrap_err().wait;
    assert!(wait > Duration::from_secs(1), "{wait:?}");
    // The refused one counts for the address.
    count("berta", here).unwrap_err();
    count("berta", there).unwrap();
}

#[test]
fn a_name_over_all_addresses_is_delayed_and_never_refused() {
    let attempts = LoginRateLimit::default();
    for number in 0..3 {
        let attempt = attempts.count(limits(3, 30), "anna", address(number));
        assert_eq!(attempt.unwrap().delay, Duration::ZERO);
    }
    for number in 3..10_000 {
        let attempt = attempts.count(limits(3, 30), "anna", address(number));
        assert_eq!(attempt.unwrap().delay, DELAY_MAX);
    }
    let other = attempts.count(limits(3, 30), "berta", address(0));
    assert_eq!(other.unwrap().delay, Duration::ZERO);
}

#[test]
fn the_delay_is_over_a_window_after_the_last_attempt() {
    let attempts = LoginRateLimit::default();
    let limits = limits(3, 30);
    let begun = Instant::now();
    for number in 0..1_000 {
        let _ = attempts.count_at(begun, limits, "anna", address(number));
    }
    let later = begun + limits.window + Duration::from_secs(1);
    let attempt = attempts.count_at(later, limits, "anna", address(0));
    assert_eq!(attempt.unwrap().delay, Duration::ZERO);
}

#[test]
fn invented_names_lock_out_nobody() {
    let attempts = LoginRateLimit::default();
    let limits = limits(10, 30);
    let count = |name: &str, address| attempts.count(limits, name, address).map(|_| ());
    // A name that is used up stays used up: busy counters are evicted last.
    for _ in 0..10 {
        count("anna", address(u32::MAX)).unwrap();
    }
    let begun = Instant::now();
    for number in 0..200_000 {
        count(&format!("invented{number}"), address(number)).unwrap();
    }
    println!("200,000 attempts counted in {:?}", begun.elapsed());
    count("berta", address(u32::MAX - 1)).unwrap();
    count("berta", address(u32::MAX)).unwrap();
    count("anna", address(u32::MAX)).unwrap_err();
    count("anna", address(u32::MAX - 1)).unwrap();
}

#[test]
fn the_memory_is_bounded() {
    let attempts = LoginRateLimit::default();
    let count = |number: u32| {
        let _ = attempts.count(limits(10, 30), &number.to_string(), address(number));
    };
    let bytes = || -> usize { attempts.counters.iter().map(RateLimiter::bytes).sum() };
    assert_eq!(bytes(), 0);
    for number in 0..COUNTERS_MAX as u32 * 2 {
        count(number);
    }
    assert_eq!(bytes(), 6 << 20);
    // All slots are in use, so newcomers are counted and keys spread over all sets.
    for counters in &attempts.counters {
        let used = counters.used();
        assert!(used > COUNTERS_MAX * 9 / 10, "{used}");
    }
}

#[test]
fn attempts_that_were_given_back_do_not_count() {
    let attempts = LoginRateLimit::default();
    let limits = limits(2, 3);
    for _ in 0..100 {
        let attempt = attempts.count(limits, "anna", address(1)).unwrap();
        assert_eq!(attempt.delay, Duration::ZERO);
        attempts.give_back(&attempt);
    }
    let outcomes: Vec<_> = (0..3)
        .map(|_| attempts.count(limits, "anna", address(1)).is_ok())
        .collect();
    assert_eq!(outcomes, [true, true, false]);
}

#[test]
fn giving_back_takes_no_more_than_the_attempt_has_added() {
    let limits = limits(3, 30);
    let period = limits.window / 3;
    let millis = Duration::from_millis;
    // The number of attempts before the one that is taken back, how long that one takes, when later
    // ones come, and how much of the window is used up at the end.
    let table = [
        ("alone", 0, period, vec![], Duration::ZERO),
        ("after one", 1, millis(1), vec![], period - millis(1)),
        ("before the bound", 2, millis(0), vec![], period * 2),
        (
            "at the bound it adds nothing",
            3,
            millis(0),
            vec![],
            period * 3,
        ),
        ("over the bound", 9, millis(0), vec![], period * 3),
        ("just before another", 0, millis(1), vec![millis(1)], period),
        (
            "before another at the bound",
            2,
            millis(1),
            vec![millis(1)],
            period * 3,
        ),
        (
            "drained before another",
            0,
            period + millis(2),
            vec![period + millis(2)],
            period,
        ),
        (
            "half drained before another",
            0,
            period / 2,
            vec![period / 2],
            period,
        ),
    ];
    for (about, before, takes, later, expected) in table {
        let attempts = LoginRateLimit::default();
        let begun = Instant::now();
        // Each from another address, so that only the name's counter fills.
        let count = |number, after| {
            let attempt = attempts.count_at(begun + after, limits, "anna", address(number));
            attempt.unwrap()
        };
        for number in 0..before {
            let _kept = count(number, Duration::ZERO);
        }
        let given = count(1_000, Duration::ZERO);
        for (number, after) in (2_000..).zip(later) {
            let _kept = count(number, after);
        }
        let now = begun + takes;
        attempts.give_back_at(now, &given);
        let key = attempts.key(NAME, limits, normalized("anna"));
        let used = attempts.counters[NAME].empty_in(key, now);
        assert_eq!(used, expected, "{about}");
    }
}

#[test]
fn every_503_past_the_limit_leaves_the_delay() {
    let attempts = LoginRateLimit::default();
    let limits = limits(3, 30);
    for number in 0..10 {
        let _kept = attempts.count(limits, "anna", address(number)).unwrap();
    }
    for number in 10..30 {
        let attempt = attempts.count(limits, "anna", address(number)).unwrap();
        assert_eq!(attempt.delay, DELAY_MAX, "{number}");
        attempts.give_back(&attempt);
    }
}

#[test]
fn attempts_come_back_evenly_over_the_window() {
    let attempts = LoginRateLimit::default();
    let limits = limits(3, 30);
    let begun = Instant::now();
    let count = |seconds| {
        let now = begun + Duration::from_secs(seconds);
        attempts
            .count_at(now, limits, "anna", address(1))
            .map(|_| ())
    };
    for _ in 0..3 {
        count(0).unwrap();
    }
    let wait = count(50).unwrap_err().wait;
    assert_eq!(wait, Duration::from_secs(150));
    count(199).unwrap_err();
    count(200).unwrap();
    count(201).unwrap_err();
    count(401).unwrap();
}

#[test]
fn other_limits_have_counters_of_their_own() {
    let attempts = LoginRateLimit::default();
    for per_name in 1..4 {
        for _ in 0..per_name {
            let _ = attempts
                .count(limits(per_name, 30), "anna", address(1))
                .unwrap();
        }
        attempts
            .count(limits(per_name, 30), "anna", address(1))
            .unwrap_err();
    }
}

#[test]
fn a_delay_leaves_half_of_the_time_for_the_answer() {
    let attempt = Attempt {
        counted: [None; 3],
        delay: DELAY_MAX,
    };
    let now = Instant::now();
    let before = |millis| attempt.delay_before(now + Duration::from_millis(millis), now);
    assert_eq!(before(30_000), DELAY_MAX);
    assert_eq!(before(1_000), Duration::from_millis(500));
    assert_eq!(before(0), Duration::ZERO);
}

#[tokio::test]
async fn a_wait_ends_at_half_of_the_time() {
    let attempts = LoginRateLimit::default();
    let attempt = Attempt {
        counted: [None; 3],
        delay: Duration::from_secs(3_600),
    };
    let begun = Instant::now();
    let deadline = begun + Duration::from_millis(400);
    let delayed = attempts.delay(&attempt, deadline);
    let limit = Duration::from_secs(60);
    tokio::time::timeout(limit, delayed).await.unwrap();
    // Half of the time left when it begins, which may be slightly less than 200 ms.
    let waited = begun.elapsed();
    assert!(waited >= Duration::from_millis(100), "{waited:?}");
}

#[tokio::test]
async fn one_more_than_may_wait_is_not_delayed() {
    let attempts = LoginRateLimit::default();
    let attempt = Attempt {
        counted: [None; 3],
        delay: Duration::from_secs(3_600),
    };
    let deadline = Instant::now() + Duration::from_secs(36_000);
    let places = u32::try_from(DELAYED_MAX).unwrap();
    let all = attempts.delayed.acquire_many(places).await.unwrap();
    let at_once = poll_immediate(attempts.delay(&attempt, deadline)).await;
    assert!(at_once.is_some(), "it waits");
    drop(all);
    let with_a_place = poll_immediate(attempts.delay(&attempt, deadline)).await;
    assert!(with_a_place.is_none(), "it does not wait");
}

#[test]
fn the_first_half_of_an_ipv6_address_is_one_client() {
    let attempts = LoginRateLimit::default();
    let count = |address: &str| {
        let address = address.parse().unwrap();
        attempts.count(limits(1, 30), "anna", Some(address)).is_ok()
    };
    assert!(count("2001:db8::1"));
    assert!(!count("2001:db8::ffff:1"));
    assert!(count("2001:db8:0:1::1"));
    assert!(count("::ffff:192.0.2.1"));
    assert!(!count("192.0.2.1"));
}

#[test]
fn a_name_is_counted_however_it_is_spelled() {
    let attempts = LoginRateLimit::default();
    let limits = limits(3, 30);
    let delay = |name: &str, number| {
        let attempt = attempts.count(limits, name, address(number));
        attempt.unwrap().delay
    };
    for (number, name) in (0..).zip(["renée", "RENEE", "Rene\u{301}e"]) {
        assert_eq!(delay(name, number), Duration::ZERO, "{name}");
    }
    for (number, name) in (10..).zip(["rENee ", "ｒｅｎｅｅ", "ŘÉŇÈE", "re\u{200b}nee"]) {
        assert!(delay(name, number) > Duration::ZERO, "{name}");
    }
    assert_eq!(delay("renate", 20), Duration::ZERO);
    let here = address(30);
    for name in ["anna", "ANNA", "Änna"] {
        let _kept = attempts.count(limits, name, here).unwrap();
    }
    attempts.count(limits, "ännA", here).unwrap_err();
}

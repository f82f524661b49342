//! Tests of the limits of messages.

use http::Method;

use super::*;
use crate::config::{Config, SocketRateLimit};
use crate::scope::ScopeType;

const MAX_MESSAGE: u64 = 1_000;

fn limits(text: &str) -> MessageLimits {
    let text = format!("[[websocket.route]]\npath = '/'\nconsumer = 'echo'\nrate_limit = {text}\n");
    let read = Config::parse("oneport.toml", &text, ".".as_ref(), &|_| None);
    let (config, _) = read.unwrap_or_else(|problems| panic!("{problems}"));
    let written = config.websocket_routes[0].settings.rate_limit.clone();
    let messages = written.into_iter().filter_map(|limit| match limit {
        SocketRateLimit::Messages(limit) => Some(limit),
        SocketRateLimit::Handshakes(_) => None,
    });
    let limits = MessageLimits::new(messages.collect(), MAX_MESSAGE, false);
    limits.start(&RateLimiters::default(), &"route".into(), "route");
    limits
}

fn scope(client: &str) -> Scope {
    let mut scope = Scope::new(ScopeType::Websocket, Method::GET, "/".parse().unwrap());
    let client: std::net::SocketAddr = client.parse().unwrap();
    scope.client = Some(client.into());
    scope
}

fn limiter(limits: &MessageLimits, client: &str) -> MessageLimiter {
    MessageLimiter::new(limits, &scope(client))
}

fn message(bytes: u64) -> Sent {
    Sent { messages: 1, bytes }
}

#[test]
fn each_policy_has_its_verdict() {
    let now = Instant::now();
    let half = Duration::from_millis(500);
    for (over, expected) in [
        ("delay", Verdict::Pause(half)),
        ("drop", Verdict::Drop),
        ("close", Verdict::Close),
    ] {
        let limits = limits(&format!(
            "{{ rate = '2/s', by = 'connection', over = '{over}' }}"
        ));
        let mut limiter = limiter(&limits, "192.0.2.1:1");
        for _ in 0..2 {
            assert_eq!(limiter.count(message(5), now), Verdict::Pass);
        }
        // A pong is no message.
        let pong = Sent {
            messages: 0,
            bytes: 5,
        };
        assert_eq!(limiter.count(pong, now), Verdict::Pass);
        assert_eq!(limiter.count(message(5), now), expected, "{over}");
    }
}

#[test]
fn what_is_dropped_does_not_count() {
    let limits = limits("{ rate = '10/s', bytes = '1 kB/s', over = 'drop' }");
    let mut limiter = limiter(&limits, "192.0.2.1:1");
    let begun = Instant::now();
    assert_eq!(limiter.count(message(600), begun), Verdict::Pass);
    for _ in 0..100 {
        assert_eq!(limiter.count(message(600), begun), Verdict::Drop);
    }
    // Neither its bytes nor the messages are used up.
    for _ in 0..9 {
        assert_eq!(limiter.count(message(44), begun), Verdict::Pass);
    }
    assert_eq!(limiter.count(message(4), begun), Verdict::Drop);
}

#[test]
fn the_longest_message_is_always_within_a_limit_of_bytes() {
    let limits = limits("{ bytes = '100 B/s', over = 'close' }");
    let mut limiter = limiter(&limits, "192.0.2.1:1");
    let now = Instant::now();
    let longest = message(MAX_MESSAGE + HEADER_BYTES_MAX);
    assert_eq!(limiter.count(longest, now), Verdict::Pass);
    assert_eq!(limiter.count(message(1), now), Verdict::Close);
}

#[test]
fn sockets_of_an_address_share_its_counters() {
    let limits = limits("{ rate = '2/s', bytes = '1 kB/s', by = 'address', over = 'drop' }");
    let now = Instant::now();
    let (mut one, mut other) = (
        limiter(&limits, "192.0.2.1:1"),
        limiter(&limits, "192.0.2.1:2"),
    );
    let mut elsewhere = limiter(&limits, "192.0.2.2:1");
    assert_eq!(one.count(message(900), now), Verdict::Pass);
    assert_eq!(other.count(message(900), now), Verdict::Drop);
    assert_eq!(other.count(message(50), now), Verdict::Pass);
    assert_eq!(one.count(message(1), now), Verdict::Drop);
    assert_eq!(elsewhere.count(message(1), now), Verdict::Pass);
}

#[test]
fn debts_of_several_limits_are_paid_together() {
    let limits = limits(
        "[{ rate = '10/s', burst = 1, by = 'connection', over = 'delay' }, { bytes = '100 B/s', by = 'user', over = 'delay' }]",
    );
    let mut limiter = limiter(&limits, "192.0.2.1:1");
    let now = Instant::now();
    let longest = message(MAX_MESSAGE + HEADER_BYTES_MAX);
    assert_eq!(limiter.count(longest, now), Verdict::Pass);
    let pause = Verdict::Pause(Duration::from_secs(5) + OTHERS_FIRST);
    assert_eq!(limiter.count(message(500), now), pause);
}

#[test]
fn what_one_limit_refuses_is_counted_by_none() {
    let limits = limits(
        "[{ rate = '1/s', by = 'connection', over = 'delay' }, { rate = '2/h', by = 'address', over = 'drop' }, { bytes = '1 B/h', by = 'connection', over = 'drop' }]",
    );
    let mut limiter = limiter(&limits, "192.0.2.1:1");
    let now = Instant::now();
    for _ in 0..100 {
        let verdict = limiter.count(message(MAX_MESSAGE * 2), now);
        assert_eq!(verdict, Verdict::Drop);
    }
    assert_eq!(limiter.count(message(10), now), Verdict::Pass);
    let pause = Verdict::Pause(Duration::from_secs(1));
    assert_eq!(limiter.count(message(10), now), pause);
    assert_eq!(limiter.count(message(10), now), Verdict::Drop);
}

/// Each socket checks the debt before an item, so the sockets of an address do not add to it.
#[test]
fn a_debt_is_known_before_more_is_counted() {
    let limits = limits("{ bytes = '100 B/s', by = 'address', over = 'delay' }");
    let now = Instant::now();
    let longest = message(MAX_MESSAGE + HEADER_BYTES_MAX);
    let mut one = limiter(&limits, "192.0.2.1:1");
    assert_eq!(one.debt(now), Duration::ZERO);
    assert_eq!(one.count(longest, now), Verdict::Pass);
    assert_eq!(one.debt(now), Duration::ZERO);
    let pause = Duration::from_secs(2);
    let longer = Verdict::Pause(pause + OTHERS_FIRST);
    assert_eq!(one.count(message(200), now), longer);
    let other = limiter(&limits, "192.0.2.1:2");
    assert_eq!(other.debt(now), pause);
    assert_eq!(other.debt(now + pause), Duration::ZERO);
    assert_eq!(limiter(&limits, "192.0.2.2:1").debt(now), Duration::ZERO);
}

/// A socket that floods does not keep the others of its address from their turn: it waits longer.
#[test]
fn sockets_of_an_address_take_turns() {
    let limits = limits("{ rate = '1000/s', by = 'address', over = 'delay' }");
    let mut flood = limiter(&limits, "192.0.2.1:1");
    let now = Instant::now();
    let wait = loop {
        if let Verdict::Pause(wait) = flood.count(message(1), now) {
            break wait;
        }
    };
    let other = limiter(&limits, "192.0.2.1:2").debt(now);
    assert_eq!((other, wait), (SHARED_WAIT, SHARED_WAIT + OTHERS_FIRST));
    // The rate stays the same: as much has been paid off as came up in the meantime.
    let passed = (0..1_000).take_while(|_| flood.count(message(1), now + wait) == Verdict::Pass);
    assert_eq!(passed.count(), 101);
}

#[test]
fn equal_limits_and_routes_of_several_hosts_have_counters_of_their_own() {
    let text = "[{ rate = '4/h', by = 'address', over = 'drop' }, { rate = '4/h', by = 'address', over = 'drop' }]";
    let written = limits(text);
    let limiters = RateLimiters::default();
    let unstarted = || {
        let written = written.limits.iter().map(|limit| limit.written.clone());
        MessageLimits::new(written.collect(), MAX_MESSAGE, false)
    };
    let (of_a, of_b) = (unstarted(), unstarted());
    of_a.start(&limiters, &"/".into(), "/ a.example");
    of_b.start(&limiters, &"/".into(), "/ b.example");
    let now = Instant::now();
    for limits in [of_a, of_b] {
        let mut limiter = limiter(&limits, "192.0.2.1:1");
        for _ in 0..4 {
            assert_eq!(limiter.count(message(1), now), Verdict::Pass);
        }
        assert_eq!(limiter.count(message(1), now), Verdict::Drop);
    }
}

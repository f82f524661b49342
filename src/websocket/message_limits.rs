//! MessageLimits: how many messages and bytes the clients of a route may send in a time.
//!
//! A message and a ping count as one, a pong counts with its bytes alone: it makes the server send
//! nothing. Bytes are those of payloads, decompressed, and of a header for each; in a tunnel, those
//! of the stream.
//!
//! A limit that delays is checked before an item is decoded, and charged after it, or by what has
//! arrived of it when its socket ends: what is owed is at most one item of each socket that shares
//! the counter.

use std::net::IpAddr;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use metrics::{Counter, counter};

use crate::config::{MessageLimit, OverLimit, SocketKey};
use crate::net::client_network;
use crate::rate_limiter::{Bucket, Charge, Counted, Key, Quota, RateLimiter, RateLimiters};
use crate::scope::Scope;
use crate::telemetry::LogThrottle;

/// The longest header of a frame that counts with a message.
const HEADER_BYTES_MAX: u64 = 14;

/// How long the sockets that share a counter wait at least, if its window is twice as long: not all
/// of them wake up for each message.
const SHARED_WAIT: Duration = Duration::from_millis(100);

/// How much longer the socket waits that has used up a shared counter: the others come first.
const OTHERS_FIRST: Duration = Duration::from_millis(2);

/// The limits of a route's messages (cheap to clone). A route without limits has an empty list, and
/// its sockets no counters.
#[derive(Clone, Debug, Default)]
pub struct MessageLimits {
    limits: Arc<[Limit]>,
    /// Whether the limits are those of the section, which all its routes share.
    is_shared: bool,
}

#[derive(Debug)]
struct Limit {
    written: MessageLimit,
    /// Of messages and of bytes.
    quotas: [Option<Quota>; 2],
    running: OnceLock<Running>,
}

/// The parts of a limit that exist once its route is served.
#[derive(Debug)]
struct Running {
    limiter: Arc<RateLimiter>,
    route: Arc<str>,
    limited: Counter,
    /// Counters that made room for others; `None` if each socket has its own.
    evicted: Option<Counter>,
    logged: LogThrottle,
}

/// Something that a client has sent.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sent {
    pub(super) messages: u64,
    pub(super) bytes: u64,
}

/// What happens to it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Verdict {
    /// It is within all limits.
    Pass,
    /// It passes, and nothing more is read for this time.
    Pause(Duration),
    /// It is dropped.
    Drop,
    /// It is dropped, and the socket is closed.
    Close,
}

/// Counts what the client of one socket sends.
pub(super) struct MessageLimiter {
    limits: MessageLimits,
    /// By limit.
    counters: Box<[Counters]>,
}

/// The counters of one limit.
enum Counters {
    /// Of one socket, and their state before the last item.
    Own([Bucket; 2], [Bucket; 2]),
    /// Of several, in the limit's [`RateLimiter`], and the charges of the last item.
    Shared([Key; 2], [Charge; 2]),
}

/// Those whose messages are counted together.
#[derive(Clone, Copy, Hash)]
enum Who<'a> {
    Address(Option<IpAddr>),
    User(&'a str),
}

impl MessageLimits {
    /// Creates the limits of a route whose messages have at most `max_message` bytes: a message of
    /// that size is always within a limit of bytes that is not used up.
    pub(crate) fn new(written: Vec<MessageLimit>, max_message: u64, is_shared: bool) -> Self {
        let limit = |written: MessageLimit| Limit {
            quotas: [
                written.rate.map(|rate| rate.quota(written.burst)),
                written
                    .bytes
                    .map(|rate| rate.quota(max_message.saturating_add(HEADER_BYTES_MAX))),
            ],
            written,
            running: OnceLock::new(),
        };
        Self {
            limits: written.into_iter().map(limit).collect(),
            is_shared,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.limits.is_empty()
    }

    /// Returns the limits in words.
    pub(crate) fn words(&self) -> impl Iterator<Item = String> {
        self.limits.iter().map(|limit| limit.written.to_string())
    }

    /// Finds the counters, before the route is served. `identity` tells the route from all others,
    /// which its label may not.
    pub(crate) fn start(&self, limiters: &RateLimiters, route: &Arc<str>, identity: &str) {
        let of = match self.is_shared {
            true => "",
            false => identity,
        };
        for (at, limit) in self.limits.iter().enumerate() {
            let by = limit.written.by.as_str();
            let before = self.limits[..at].iter();
            let equal = before.filter(|it| it.written == limit.written).count();
            let evicted = || counter!("oneport_rate_limit_evictions_total", "route" => route.to_string(), "by" => by);
            let _ = limit.running.set(Running {
                limiter: limiters.of(format!("messages {of:?} {equal} {}", limit.written)),
                evicted: (limit.written.by != SocketKey::Connection).then(evicted),
                limited: counter!("oneport_rate_limited_total", "route" => route.to_string(), "by" => by),
                route: route.clone(),
                logged: LogThrottle::new(),
            });
        }
    }
}

impl MessageLimiter {
    pub(super) fn new(limits: &MessageLimits, scope: &Scope) -> Self {
        let address = Who::Address(scope.client.map(|client| client_network(client.ip())));
        let counters = |limit: &Limit| {
            let who = match (limit.written.by, &scope.user) {
                (SocketKey::User, Some(user)) => Some(Who::User(&user.id)),
                (SocketKey::User | SocketKey::Address, _) => Some(address),
                (SocketKey::Connection, _) => None,
            };
            match (who, limit.running.get()) {
                (Some(who), Some(running)) => {
                    let keys = ["messages", "bytes"].map(|kind| running.limiter.key((kind, who)));
                    Counters::Shared(keys, Default::default())
                }
                _ => Counters::Own(Default::default(), Default::default()),
            }
        };
        Self {
            counters: limits.limits.iter().map(counters).collect(),
            limits: limits.clone(),
        }
    }

    /// Counts what the client has sent against all limits. The first one that drops or closes
    /// decides, and then no limit counts it; otherwise the longest pause.
    pub(super) fn count(&mut self, sent: Sent, now: Instant) -> Verdict {
        let limits = &*self.limits.limits;
        for (at, limit) in limits.iter().enumerate() {
            let verdict = match limit.written.over {
                OverLimit::Delay => continue,
                OverLimit::Drop => Verdict::Drop,
                OverLimit::Close => Verdict::Close,
            };
            if self.counters[at].count(limit, sent, now).is_zero() {
                continue;
            }
            for (limit, counters) in limits[..at].iter().zip(&mut self.counters) {
                if limit.written.over != OverLimit::Delay {
                    counters.give_back(limit, now);
                }
            }
            limit.count_limited();
            return verdict;
        }
        match self.owe(sent, now) {
            Duration::ZERO => Verdict::Pass,
            pause => Verdict::Pause(pause),
        }
    }

    /// Counts what the client has sent against the limits that delay. Returns how long until they
    /// are kept.
    pub(super) fn owe(&mut self, sent: Sent, now: Instant) -> Duration {
        let mut pause = Duration::ZERO;
        for (limit, counters) in self.limits.limits.iter().zip(&mut self.counters) {
            if limit.written.over == OverLimit::Delay {
                let wait = counters.owe(limit, sent, now);
                if !wait.is_zero() {
                    limit.count_limited();
                }
                pause = pause.max(wait);
            }
        }
        pause
    }

    /// Returns how long the limits that delay are used up already, before the client's next item
    /// is counted.
    pub(super) fn debt(&self, now: Instant) -> Duration {
        let limits = self.limits.limits.iter().zip(&self.counters);
        limits
            .filter(|(limit, _)| limit.written.over == OverLimit::Delay)
            .map(|(limit, counters)| counters.debt(limit, now))
            .max()
            .unwrap_or_default()
    }
}

impl Counters {
    /// Counts something in any case. Returns how long until the limit is kept.
    fn owe(&mut self, limit: &Limit, sent: Sent, now: Instant) -> Duration {
        let mut wait = Duration::ZERO;
        for (at, quota, units) in limit.units(sent) {
            let counted = match (&mut *self, limit.running.get()) {
                (Self::Own(buckets, _), _) => buckets[at].owe(units, quota, now),
                (Self::Shared(keys, _), Some(running)) => {
                    let limiter = &running.limiter;
                    let mut counted = limiter.owe_units(keys[at], units, quota, now);
                    counted.wait = counted.wait.map(|wait| shared(wait, quota) + OTHERS_FIRST);
                    running.counted(counted)
                }
                (Self::Shared(..), None) => continue,
            };
            wait = wait.max(counted.wait.unwrap_or_default());
        }
        wait
    }

    /// Counts something, unless it exceeds the limit. Returns how long until it does not.
    fn count(&mut self, limit: &Limit, sent: Sent, now: Instant) -> Duration {
        match self {
            Self::Own(buckets, before) => *before = *buckets,
            Self::Shared(_, charges) => *charges = Default::default(),
        }
        for (at, quota, units) in limit.units(sent) {
            let counted = match (&mut *self, limit.running.get()) {
                (Self::Own(buckets, _), _) => buckets[at].count(units, quota, now),
                (Self::Shared(keys, charges), Some(running)) => {
                    let limiter = &running.limiter;
                    let counted = limiter.count_units(keys[at], units, quota, now);
                    charges[at] = counted.charge;
                    running.counted(counted)
                }
                (Self::Shared(..), None) => continue,
            };
            if let Some(wait) = counted.wait {
                self.give_back(limit, now);
                return wait;
            }
        }
        Duration::ZERO
    }

    /// Takes back what the last call of `count` has counted.
    fn give_back(&mut self, limit: &Limit, now: Instant) {
        match (self, limit.running.get()) {
            (Self::Own(buckets, before), _) => *buckets = *before,
            (Self::Shared(keys, charges), Some(running)) => {
                for (key, charge) in keys.iter().zip(charges) {
                    running.limiter.give_back(*key, *charge, now);
                }
            }
            (Self::Shared(..), None) => {}
        }
    }

    fn debt(&self, limit: &Limit, now: Instant) -> Duration {
        let debt = |(at, quota): (usize, &Option<Quota>)| match (self, limit.running.get()) {
            (Self::Own(buckets, _), _) => Some(buckets[at].debt((*quota)?, now)),
            (Self::Shared(keys, _), Some(running)) => {
                let quota = (*quota)?;
                let debt = running.limiter.debt(keys[at], quota, now);
                (!debt.is_zero()).then(|| shared(debt, quota))
            }
            (Self::Shared(..), None) => None,
        };
        let quotas = limit.quotas.iter().enumerate();
        quotas.filter_map(debt).max().unwrap_or_default()
    }
}

impl Limit {
    /// Returns the quotas that something counts against, and with how many units.
    fn units(&self, sent: Sent) -> impl Iterator<Item = (usize, Quota, u64)> + use<> {
        let [messages, bytes] = self.quotas;
        let messages = messages.map(|quota| (0, quota, sent.messages));
        let bytes = bytes.map(|quota| (1, quota, sent.bytes));
        let counted = [messages, bytes].into_iter().flatten();
        counted.filter(|(_, _, units)| *units > 0)
    }

    fn count_limited(&self) {
        if let Some(running) = self.running.get() {
            running.count_limited(&self.written);
        }
    }
}

impl Running {
    fn counted(&self, counted: Counted) -> Counted {
        if let (true, Some(evicted)) = (counted.evicted, &self.evicted) {
            evicted.increment(1);
        }
        counted
    }

    fn count_limited(&self, written: &MessageLimit) {
        self.limited.increment(1);
        if let Some(times) = self.logged.count() {
            tracing::warn!(
                route = &*self.route,
                limit = %written,
                times,
                "rate_limit reached: a client sends too much"
            );
        }
    }
}

/// Returns how long a socket waits for a counter that others share.
fn shared(wait: Duration, quota: Quota) -> Duration {
    wait.max(SHARED_WAIT.min(quota.window() / 2))
}

#[cfg(test)]
mod tests;

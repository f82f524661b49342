//! MessageLimits: how many messages and bytes the clients of a route may send in a time.
//!
//! A message and a ping count as one, a pong counts with its bytes alone: it makes the server send
//! nothing. Bytes are those of payloads, decompressed; in a tunnel, those of the stream.

use std::net::IpAddr;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use metrics::{Counter, counter};

use crate::config::{MessageLimit, OverLimit, SocketKey};
use crate::net::client_network;
use crate::rate_limiter::{Bucket, Key, Quota, RateLimiter, RateLimiters};
use crate::scope::Scope;
use crate::telemetry::LogThrottle;

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
    quotas: Quotas,
    running: OnceLock<Running>,
}

#[derive(Clone, Copy, Debug)]
struct Quotas {
    messages: Option<Quota>,
    bytes: Option<Quota>,
}

/// The parts of a limit that exist once its route is served.
#[derive(Debug)]
struct Running {
    limiter: Arc<RateLimiter>,
    route: Arc<str>,
    limited: Counter,
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
    /// Of one socket.
    Own { messages: Bucket, bytes: Bucket },
    /// Of several, in the limit's [`RateLimiter`].
    Shared { messages: Key, bytes: Key },
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
            quotas: Quotas {
                messages: written.rate.map(|rate| rate.quota(written.burst)),
                bytes: written.bytes.map(|rate| rate.quota(max_message)),
            },
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
            let _ = limit.running.set(Running {
                limiter: limiters.of(format!("messages {of:?} {equal} {}", limit.written)),
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
                (Some(who), Some(running)) => Counters::Shared {
                    messages: running.limiter.key(("messages", who)),
                    bytes: running.limiter.key(("bytes", who)),
                },
                _ => Counters::Own {
                    messages: Bucket::default(),
                    bytes: Bucket::default(),
                },
            }
        };
        Self {
            counters: limits.limits.iter().map(counters).collect(),
            limits: limits.clone(),
        }
    }

    /// Counts what the client has sent against all limits. The first one that drops or closes
    /// decides; otherwise the longest pause.
    pub(super) fn count(&mut self, sent: Sent, now: Instant) -> Verdict {
        let mut pause = Duration::ZERO;
        for (limit, counters) in self.limits.limits.iter().zip(&mut self.counters) {
            let wait = match limit.written.over {
                OverLimit::Delay => counters.owe(limit, sent, now),
                OverLimit::Drop | OverLimit::Close => counters.count(limit, sent, now),
            };
            if wait.is_zero() {
                continue;
            }
            if let Some(running) = limit.running.get() {
                running.count_limited(&limit.written);
            }
            match limit.written.over {
                OverLimit::Delay => pause = pause.max(wait),
                OverLimit::Drop => return Verdict::Drop,
                OverLimit::Close => return Verdict::Close,
            }
        }
        match pause {
            Duration::ZERO => Verdict::Pass,
            pause => Verdict::Pause(pause),
        }
    }
}

impl Counters {
    /// Counts something in any case. Returns how long until the limit is kept.
    fn owe(&mut self, limit: &Limit, sent: Sent, now: Instant) -> Duration {
        let mut wait = Duration::ZERO;
        for (quota, units, kind) in limit.quotas.of(sent) {
            let counted = match self {
                Self::Own { messages, bytes } => {
                    kind.of(&mut *messages, &mut *bytes).owe(units, quota, now)
                }
                Self::Shared { messages, bytes } => match limit.running.get() {
                    Some(running) => {
                        let key = *kind.of(&*messages, &*bytes);
                        running.limiter.owe_units(key, units, quota, now)
                    }
                    None => continue,
                },
            };
            wait = wait.max(counted.wait.unwrap_or_default());
        }
        wait
    }

    /// Counts something, unless it exceeds the limit. Returns how long until it does not.
    fn count(&mut self, limit: &Limit, sent: Sent, now: Instant) -> Duration {
        match self {
            Self::Own { messages, bytes } => {
                let mut after = (*messages, *bytes);
                for (quota, units, kind) in limit.quotas.of(sent) {
                    let bucket = kind.of(&mut after.0, &mut after.1);
                    if let Some(wait) = bucket.count(units, quota, now).wait {
                        return wait;
                    }
                }
                (*messages, *bytes) = after;
            }
            Self::Shared { messages, bytes } => {
                let Some(running) = limit.running.get() else {
                    return Duration::ZERO;
                };
                let limiter = &running.limiter;
                let mut before = None;
                for (quota, units, kind) in limit.quotas.of(sent) {
                    let key = *kind.of(&*messages, &*bytes);
                    let counted = limiter.count_units(key, units, quota, now);
                    if let Some(wait) = counted.wait {
                        if let Some((key, charge)) = before {
                            limiter.give_back(key, charge, now);
                        }
                        return wait;
                    }
                    before = Some((key, counted.charge));
                }
            }
        }
        Duration::ZERO
    }
}

/// What a counter counts.
#[derive(Clone, Copy)]
enum Kind {
    Messages,
    Bytes,
}

impl Kind {
    fn of<T>(self, messages: T, bytes: T) -> T {
        match self {
            Self::Messages => messages,
            Self::Bytes => bytes,
        }
    }
}

impl Quotas {
    /// Returns the quotas that something counts against.
    fn of(self, sent: Sent) -> impl Iterator<Item = (Quota, u64, Kind)> {
        let messages = self
            .messages
            .map(|quota| (quota, sent.messages, Kind::Messages));
        let bytes = self.bytes.map(|quota| (quota, sent.bytes, Kind::Bytes));
        [messages, bytes]
            .into_iter()
            .flatten()
            .filter(|(_, units, _)| *units > 0)
    }
}

impl Running {
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

#[cfg(test)]
mod tests;

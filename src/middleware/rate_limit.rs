//! RateLimit: refuses requests and handshakes over their rates.

use std::fmt::Write;
use std::net::IpAddr;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use metrics::{Counter, counter};

use crate::config::{RequestKey, RequestLimit};
use crate::http::Failure;
use crate::net::client_network;
use crate::rate_limiter::{Counted, Key, Quota, RateLimiter, RateLimiters};
use crate::scope::{Scope, ScopeType};
use crate::services::Services;
use crate::telemetry::LogThrottle;

/// The fields of draft-ietf-httpapi-ratelimit-headers-10.
const RATELIMIT: HeaderName = HeaderName::from_static("ratelimit");
const RATELIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");

/// `rate_limit`: refuses a request or a handshake over one of the route's limits with 429, and tells
/// every client how much of them is left.
///
/// Each limit counts by a key: the client's address, the user, a header field or a parameter of the
/// route. Without a user, a field or a parameter the address is counted instead. A request that one
/// limit refuses is counted by none. The counters belong to [`Services`], so a reload keeps those of
/// a limit that it has not changed.
#[derive(Debug)]
pub struct RateLimit {
    limits: Box<[Limit]>,
    /// The value of `RateLimit-Policy`.
    policy: HeaderValue,
    /// Whether the limits are those of the section, which all its routes share.
    is_shared: bool,
}

#[derive(Debug)]
struct Limit {
    written: RequestLimit,
    quota: Quota,
    /// The name of its policy in the fields.
    name: String,
    running: OnceLock<Running>,
}

/// The parts of a limit that exist once its route is served.
#[derive(Debug)]
struct Running {
    limiter: Arc<RateLimiter>,
    route: Arc<str>,
    limited: Counter,
    evicted: Counter,
    logged: LogThrottle,
}

/// The value of `RateLimit` for one request, in its scope until the response is ready.
#[derive(Clone, Debug)]
struct Remaining(HeaderValue);

/// What is counted together, without the limit.
#[derive(Hash)]
enum CountedBy<'a> {
    Address(Option<IpAddr>),
    User(&'a str),
    Value(&'a [u8]),
}

impl RateLimit {
    /// Creates the step of a route's limits. `is_shared`: they are those of the section, and count
    /// the requests of all its routes together.
    #[must_use]
    pub fn new(limits: &[RequestLimit], is_shared: bool) -> Self {
        let limits: Box<[Limit]> = limits
            .iter()
            .enumerate()
            .map(|(at, limit)| Limit {
                name: policy_name(limits, at),
                quota: limit.rate.quota(limit.burst),
                written: limit.clone(),
                running: OnceLock::new(),
            })
            .collect();
        let mut policy = String::new();
        for limit in &limits {
            let (quota, window) = (limit.quota.burst(), seconds(limit.quota.window()));
            separate(&mut policy);
            let _ = write!(policy, "\"{}\";q={quota};w={window}", limit.name);
        }
        Self {
            limits,
            policy: value(&policy),
            is_shared,
        }
    }

    /// Returns the limits in words.
    pub(crate) fn words(&self) -> impl Iterator<Item = String> {
        self.limits.iter().map(|limit| limit.written.to_string())
    }

    /// Finds the counters, before the route is served.
    ///
    /// `identity` tells the route from all others, which its label may not: routes of several hosts
    /// or methods have the same path.
    pub(crate) fn start(
        &self,
        services: &Services,
        table: ScopeType,
        route: &Arc<str>,
        identity: &str,
    ) {
        let limiters = services.shared::<RateLimiters>();
        let of = match self.is_shared {
            true => "",
            false => identity,
        };
        for (at, limit) in self.limits.iter().enumerate() {
            let before = self.limits[..at].iter();
            let equal = before.filter(|it| it.written == limit.written).count();
            let name = format!("{table:?} {of:?} {equal} {}", limit.written);
            let started = Running::new(limiters.of(name), route, limit.written.by.kind());
            let _ = limit.running.set(started);
        }
    }

    pub(super) fn before(&self, scope: &mut Scope) -> Result<(), Failure> {
        let now = Instant::now();
        let counted: Vec<(&Limit, &Running, Key, Counted)> = self
            .limits
            .iter()
            .filter_map(|limit| {
                let running = limit.running.get()?;
                let key = running.limiter.key(counted_by(&limit.written.by, scope));
                let counted = running.limiter.count(key, limit.quota, now);
                Some((limit, running, key, counted))
            })
            .collect();
        let wait = counted.iter().filter_map(|(.., counted)| counted.wait);
        let wait = wait.max();
        let mut remaining = String::new();
        for (limit, running, key, counted) in &counted {
            let mut left = limit.quota.remaining(counted.empty_in);
            if counted.evicted {
                running.count_evicted();
            }
            if counted.wait.is_some() {
                running.count_limited(limit, scope);
            } else if wait.is_some() {
                // Another limit refuses the request.
                running.limiter.give_back(*key, counted.charge, now);
                left = (left + 1).min(limit.quota.burst());
            }
            separate(&mut remaining);
            let reset = seconds(counted.empty_in);
            let _ = write!(remaining, "\"{}\";r={left};t={reset}", limit.name);
        }
        scope.extensions.insert(Remaining(value(&remaining)));
        match wait {
            None => Ok(()),
            Some(wait) => {
                let sentence = "too many requests; try again later";
                Err(Failure::new(StatusCode::TOO_MANY_REQUESTS, sentence)
                    .with_header(header::RETRY_AFTER, seconds(wait).max(1).into()))
            }
        }
    }

    pub(super) fn after(&self, scope: &Scope, fields: &mut HeaderMap) {
        // Without it, an earlier step has refused the request.
        if let Some(Remaining(remaining)) = scope.extensions.get() {
            fields.insert(RATELIMIT_POLICY, self.policy.clone());
            fields.insert(RATELIMIT, remaining.clone());
        }
    }
}

impl Running {
    fn new(limiter: Arc<RateLimiter>, route: &Arc<str>, by: &'static str) -> Self {
        Self {
            limiter,
            limited: counter!("oneport_rate_limited_total", "route" => route.to_string(), "by" => by),
            evicted: counter!("oneport_rate_limit_evictions_total", "route" => route.to_string(), "by" => by),
            route: route.clone(),
            logged: LogThrottle::new(),
        }
    }

    /// Counts and logs a refused request; its key may be a secret, so the log has only the address.
    fn count_limited(&self, limit: &Limit, scope: &Scope) {
        self.limited.increment(1);
        if let Some(times) = self.logged.count() {
            tracing::warn!(
                route = &*self.route,
                limit = %limit.written,
                client = scope.client.map(tracing::field::display),
                times,
                "rate_limit reached: requests get 429"
            );
        }
    }

    fn count_evicted(&self) {
        self.evicted.increment(1);
    }
}

/// Returns what a request is counted by. Without the value of a key it is the client's address;
/// without an address, on a unix socket, all clients are one.
fn counted_by<'a>(key: &RequestKey, scope: &'a Scope) -> CountedBy<'a> {
    let value = match key {
        RequestKey::Address => None,
        RequestKey::User => match &scope.user {
            Some(user) => return CountedBy::User(&user.id),
            None => None,
        },
        RequestKey::Header(name) => scope.headers.get(name),
        RequestKey::Param(name) => Some(scope.param(name).as_bytes()),
    };
    match value.filter(|value| !value.is_empty()) {
        Some(value) => CountedBy::Value(value),
        None => CountedBy::Address(scope.client.map(|client| client_network(client.ip()))),
    }
}

/// Returns the name of a limit's policy: its key, with a number if another limit has it too.
fn policy_name(limits: &[RequestLimit], at: usize) -> String {
    let by = limits[at].by.to_string();
    let is_text = by
        .bytes()
        .all(|byte| (0x20..0x7f).contains(&byte) && !matches!(byte, b'"' | b'\\'));
    let name = if is_text {
        by
    } else {
        limits[at].by.kind().to_owned()
    };
    let kind = |limit: &&RequestLimit| limit.by == limits[at].by;
    match limits[..at].iter().filter(kind).count() {
        0 => name,
        before => format!("{name}-{}", before + 1),
    }
}

fn separate(list: &mut String) {
    if !list.is_empty() {
        list.push_str(", ");
    }
}

/// Returns whole seconds, rounded up.
fn seconds(duration: Duration) -> u64 {
    duration.as_secs() + u64::from(duration.subsec_nanos() > 0)
}

/// Returns a field's value; it consists of visible ASCII.
fn value(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).unwrap_or_else(|_| HeaderValue::from_static(""))
}

#[cfg(test)]
mod tests {
    use http::Method;

    use super::*;

    fn limits(text: &str) -> Vec<RequestLimit> {
        let text = format!("[[http.route]]\npath = '/'\nview = 'health'\nrate_limit = {text}\n");
        let read = crate::config::Config::parse("oneport.toml", &text, ".".as_ref(), &|_| None);
        let (config, _) = read.unwrap_or_else(|problems| panic!("{problems}"));
        config.http_routes[0].settings.rate_limit.clone()
    }

    #[test]
    fn policies_say_how_much_is_allowed_in_which_time() {
        let policy = |text: &str| RateLimit::new(&limits(text), false).policy;
        for (text, expected) in [
            ("{ rate = '10/s', burst = 20 }", "\"address\";q=20;w=2"),
            ("{ rate = '1000/h', by = 'user' }", "\"user\";q=1000;w=3600"),
            ("{ rate = '3/s', burst = 1 }", "\"address\";q=1;w=1"),
            (
                "[{ rate = '10/s' }, { rate = '100/m' }, { rate = '1/d', by = 'header:X-Key' }]",
                "\"address\";q=10;w=1, \"address-2\";q=100;w=60, \"header:x-key\";q=1;w=86400",
            ),
        ] {
            assert_eq!(policy(text), expected, "{text}");
        }
    }

    #[test]
    fn without_the_value_of_its_key_a_request_counts_for_its_address() {
        let mut scope = Scope::new(ScopeType::Http, Method::GET, "/".parse().unwrap());
        let header = RequestKey::try_from("header:x-key".to_owned()).unwrap();
        let param = RequestKey::Param("room".to_owned());
        for key in [&RequestKey::Address, &RequestKey::User, &header, &param] {
            assert!(matches!(counted_by(key, &scope), CountedBy::Address(None)));
        }
        let client: std::net::SocketAddr = "[2001:db8::1]:50000".parse().unwrap();
        scope.client = Some(client.into());
        scope
            .headers
            .map_mut()
            .insert("x-key", HeaderValue::from_static(""));
        let CountedBy::Address(Some(address)) = counted_by(&header, &scope) else {
            panic!("an empty field counts as none");
        };
        assert_eq!(address.to_string(), "2001:db8::");
        scope
            .headers
            .map_mut()
            .insert("x-key", HeaderValue::from_static("a"));
        assert!(matches!(
            counted_by(&header, &scope),
            CountedBy::Value(b"a")
        ));
    }
}

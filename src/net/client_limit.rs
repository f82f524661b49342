//! Client limit: how many connections one client may have open, and how many it may open in a time.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use arc_swap::ArcSwapOption;
use metrics::counter;
use parking_lot::{Mutex, MutexGuard};

use crate::rate_limiter::{Quota, RateLimiter};
use crate::telemetry::LogThrottle;

/// Counts the connections of each client against `server.limits.connections_per_ip` (cheap to
/// clone).
///
/// A client that connects directly is counted by its connections. Clients behind a trusted proxy
/// share the proxy's connections, so each is counted by its open requests and WebSockets.
#[derive(Clone, Debug)]
pub(crate) struct ClientLimit(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    max_per_ip: AtomicUsize,
    by_ip: Mutex<HashMap<IpAddr, usize>>,
    refused: LogThrottle,
    /// `server.limits.connection_rate_per_ip`.
    rate: ArcSwapOption<Rate>,
}

#[derive(Debug)]
struct Rate {
    quota: Quota,
    limiter: RateLimiter,
    refused: LogThrottle,
}

/// One connection or request of a client. Dropping it makes room for another.
#[derive(Debug)]
pub(crate) struct ClientPermit {
    limit: ClientLimit,
    ip: IpAddr,
}

impl ClientLimit {
    /// Allows each client `max_per_ip` connections.
    #[must_use]
    pub(crate) fn new(max_per_ip: usize) -> Self {
        Self(Arc::new(Inner {
            max_per_ip: AtomicUsize::new(max_per_ip),
            by_ip: Mutex::default(),
            refused: LogThrottle::new(),
            rate: ArcSwapOption::empty(),
        }))
    }

    /// Allows each client `max_per_ip` connections from now on. Those that are open stay.
    pub(crate) fn set_limit(&self, max_per_ip: usize) {
        self.0.max_per_ip.store(max_per_ip, Ordering::Relaxed);
    }

    fn max_per_ip(&self) -> usize {
        self.0.max_per_ip.load(Ordering::Relaxed)
    }

    /// Allows each client new connections at this rate from now on; `None` is no limit.
    pub(crate) fn set_rate(&self, quota: Option<Quota>) {
        let running = self.0.rate.load();
        if running.as_ref().map(|rate| rate.quota) != quota {
            let rate = quota.map(|quota| Rate {
                quota,
                limiter: RateLimiter::default(),
                refused: LogThrottle::new(),
            });
            self.0.rate.store(rate.map(Arc::new));
        }
    }

    /// Counts a new connection of a client; `None` over its rate or at its limit.
    pub(super) fn try_connect(&self, ip: IpAddr) -> Option<ClientPermit> {
        match &*self.0.rate.load() {
            Some(rate) if !rate.allows(client_network(ip), Instant::now()) => None,
            _ => self.try_acquire(ip),
        }
    }

    /// Counts one more connection or request of a client; `None` at the limit.
    pub(crate) fn try_acquire(&self, ip: IpAddr) -> Option<ClientPermit> {
        let ip = client_network(ip);
        let mut by_ip = self.by_ip();
        let count = by_ip.entry(ip).or_default();
        if *count >= self.max_per_ip() {
            drop(by_ip);
            self.log_refused(ip);
            return None;
        }
        *count += 1;
        Some(ClientPermit {
            limit: self.clone(),
            ip,
        })
    }

    fn log_refused(&self, ip: IpAddr) {
        counter!("oneport_connections_refused_total", "reason" => "connections_per_ip")
            .increment(1);
        if let Some(times) = self.0.refused.count() {
            tracing::warn!(
                limit = self.max_per_ip(),
                client = %ip,
                times,
                "server.limits.connections_per_ip reached: the client gets 503"
            );
        }
    }

    fn by_ip(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        self.0.by_ip.lock()
    }
}

impl Rate {
    fn allows(&self, client: IpAddr, now: Instant) -> bool {
        let counted = self
            .limiter
            .count(self.limiter.key(client), self.quota, now);
        if counted.wait.is_none() {
            return true;
        }
        counter!("oneport_connections_refused_total", "reason" => "connection_rate_per_ip")
            .increment(1);
        if let Some(times) = self.refused.count() {
            tracing::warn!(
                %client,
                times,
                "server.limits.connection_rate_per_ip reached: the client gets 503"
            );
        }
        false
    }
}

impl Drop for ClientPermit {
    fn drop(&mut self) {
        let mut by_ip = self.limit.by_ip();
        if let Some(count) = by_ip.get_mut(&self.ip) {
            *count -= 1;
            if *count == 0 {
                by_ip.remove(&self.ip);
            }
        }
    }
}

/// Returns the network that counts as one client: an IPv4 address, or the first half of an IPv6
/// address, because the hosts of a network choose the second half (RFC 4291 §2.5.1).
pub(crate) fn client_network(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() & !u128::from(u64::MAX)).into(),
        ip => ip,
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU64;
    use std::time::Duration;

    use super::*;

    #[test]
    fn an_address_is_counted_until_what_it_opened_is_dropped() {
        let limit = ClientLimit::new(2);
        let (one, other) = ([127, 0, 0, 1].into(), [127, 0, 0, 2].into());
        let first = limit.try_acquire(one).unwrap();
        let _second = limit.try_acquire(one).unwrap();
        assert!(limit.try_acquire(one).is_none());
        assert!(limit.try_acquire(other).is_some());
        drop(first);
        assert!(limit.try_acquire(one).is_some());
        assert_eq!(limit.by_ip().len(), 1, "addresses without any are not kept");
    }

    #[test]
    fn new_connections_of_an_address_have_a_rate() {
        let (units, per) = (NonZeroU64::new(2).unwrap(), Duration::from_secs(60));
        let limit = ClientLimit::new(100);
        limit.set_rate(Some(Quota::per_window(units, per)));
        let connect = |ip: &str| limit.try_connect(ip.parse().unwrap()).is_some();
        assert!(connect("2001:db8::1"));
        assert!(connect("2001:db8::2"));
        assert!(!connect("2001:db8::3"));
        assert!(connect("2001:db8:0:1::1"));
        // The same rate again keeps the counts.
        limit.set_rate(Some(Quota::per_window(units, per)));
        assert!(!connect("2001:db8::4"));
        // Requests of clients behind a proxy are no connections.
        let ip = "2001:db8::1".parse().unwrap();
        assert!(limit.try_acquire(ip).is_some());
        limit.set_rate(None);
        assert!(connect("2001:db8::5"));
    }

    #[test]
    fn the_first_half_of_an_ipv6_address_is_one_client() {
        for (ip, expected) in [
            ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::"),
            ("::ffff:203.0.113.9", "203.0.113.9"),
            ("203.0.113.9", "203.0.113.9"),
            ("::1", "::"),
        ] {
            assert_eq!(
                client_network(ip.parse().unwrap()),
                expected.parse::<IpAddr>().unwrap()
            );
        }
    }
}

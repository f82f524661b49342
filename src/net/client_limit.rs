//! Client limit: how many connections one client may have open, and how many it may open in a time.
//! Its table also counts the groups of each client, for those who limit them.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use arc_swap::ArcSwapOption;
use metrics::counter;
use parking_lot::{Mutex, MutexGuard};

use super::connection_end::ConnectionCause;
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
    by_ip: Mutex<HashMap<IpAddr, Counts>>,
    refused: LogThrottle,
    /// `server.limits.connection_rate_per_ip`.
    rate: ArcSwapOption<Rate>,
}

/// The counts of one client.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
struct Counts {
    connections: u32,
    /// The groups that its sockets and event streams are in.
    groups: u32,
}

/// As many clients as there are connections have an entry.
const _: () = assert!(size_of::<(IpAddr, Counts)>() <= 28);

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

    /// Counts a new connection of a client, or returns the limit that it is over.
    pub(super) fn try_connect(&self, ip: IpAddr) -> Result<ClientPermit, ConnectionCause> {
        match &*self.0.rate.load() {
            Some(rate) if !rate.allows(client_network(ip), Instant::now()) => {
                Err(ConnectionCause::ConnectionRatePerIp)
            }
            _ => self
                .try_acquire(ip)
                .ok_or(ConnectionCause::ConnectionsPerIp),
        }
    }

    /// Counts one more connection or request of a client; `None` at the limit.
    pub(crate) fn try_acquire(&self, ip: IpAddr) -> Option<ClientPermit> {
        let ip = client_network(ip);
        let mut by_ip = self.by_ip();
        let counts = by_ip.entry(ip).or_default();
        if counts.connections as usize >= self.max_per_ip() {
            drop(by_ip);
            self.log_refused(ip);
            return None;
        }
        counts.connections += 1;
        Some(ClientPermit {
            limit: self.clone(),
            ip,
        })
    }

    /// Counts one more group of a client's socket or event stream, until [`ClientLimit::leave`]. If
    /// `max` or more are counted, returns their number.
    pub(crate) fn try_join(&self, ip: IpAddr, max: usize) -> Result<(), usize> {
        let mut by_ip = self.by_ip();
        let counts = by_ip.entry(client_network(ip)).or_default();
        match counts.groups as usize {
            found if found >= max => Err(found),
            _ => {
                counts.groups += 1;
                Ok(())
            }
        }
    }

    /// Stops counting some of a client's groups.
    pub(crate) fn leave(&self, ip: IpAddr, groups: usize) {
        let groups = u32::try_from(groups).unwrap_or(u32::MAX);
        self.change(client_network(ip), |counts| {
            counts.groups = counts.groups.saturating_sub(groups);
        });
    }

    /// Returns how many groups of a client are counted.
    pub(crate) fn groups(&self, ip: IpAddr) -> usize {
        let by_ip = self.by_ip();
        let counts = by_ip.get(&client_network(ip));
        counts.map_or(0, |counts| counts.groups as usize)
    }

    /// Changes the counts of a client, and forgets it once it has nothing.
    fn change(&self, client: IpAddr, change: impl FnOnce(&mut Counts)) {
        let mut by_ip = self.by_ip();
        if let Some(counts) = by_ip.get_mut(&client) {
            change(counts);
            if *counts == Counts::default() {
                by_ip.remove(&client);
            }
        }
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

    fn by_ip(&self) -> MutexGuard<'_, HashMap<IpAddr, Counts>> {
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
        let change = |counts: &mut Counts| counts.connections -= 1;
        self.limit.change(self.ip, change);
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
    fn groups_of_an_address_are_counted_beside_its_connections() {
        let limit = ClientLimit::new(1);
        let (one, same, other) = (
            "2001:db8::1".parse().unwrap(),
            "2001:db8::2".parse().unwrap(),
            "2001:db8:0:1::1".parse().unwrap(),
        );
        let connection = limit.try_acquire(one).unwrap();
        assert_eq!(limit.try_join(one, 2), Ok(()));
        assert_eq!(limit.try_join(same, 2), Ok(()));
        assert_eq!(limit.try_join(one, 2), Err(2));
        assert_eq!(limit.try_join(other, 2), Ok(()));
        assert!(
            limit.try_acquire(one).is_none(),
            "groups are no connections"
        );
        drop(connection);
        assert_eq!((limit.groups(same), limit.groups(other)), (2, 1));
        limit.leave(same, 1);
        assert_eq!(limit.try_join(one, 2), Ok(()));
        limit.leave(one, 2);
        limit.leave(other, 1);
        assert_eq!(limit.by_ip().len(), 0, "addresses without any are not kept");
    }

    #[test]
    fn new_connections_of_an_address_have_a_rate() {
        let (units, per) = (NonZeroU64::new(2).unwrap(), Duration::from_secs(60));
        let limit = ClientLimit::new(100);
        limit.set_rate(Some(Quota::per_window(units, per)));
        let connect = |ip: &str| limit.try_connect(ip.parse().unwrap()).is_ok();
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

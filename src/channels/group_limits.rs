//! GroupLimits: limits how many groups one socket, and the clients of one address, may be in.

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};

use metrics::counter;
use thiserror::Error;

use super::{GroupName, GroupOptions};
use crate::config::LimitsConfig;
use crate::net::ClientLimit;
use crate::telemetry::LogThrottle;

/// The limits of groups. Only this process's sockets and event streams count, and those of clients
/// without an address, on unix sockets, for no address.
#[derive(Debug)]
pub(crate) struct GroupLimits {
    per_socket: AtomicUsize,
    per_ip: AtomicUsize,
    /// Has the counts by address.
    clients: ClientLimit,
    refused_per_socket: LogThrottle,
    refused_per_ip: LogThrottle,
}

/// A limit of groups.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum GroupLimit {
    /// `server.limits.groups_per_socket`.
    PerSocket,
    /// `server.limits.groups_per_ip`.
    PerIp,
}

impl GroupLimit {
    /// Returns its key in `[server.limits]`.
    #[must_use]
    pub const fn key(self) -> &'static str {
        match self {
            Self::PerSocket => "groups_per_socket",
            Self::PerIp => "groups_per_ip",
        }
    }
}

/// A socket or an event stream may not join a group.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
#[error("expected at most {max} groups (server.limits.{}), found {found} before {group:?}", limit.key(), group = group.as_str())]
pub struct GroupLimitReached {
    /// The limit that was reached.
    pub limit: GroupLimit,
    /// Its value.
    pub max: usize,
    /// How many groups the socket is in, or all sockets and event streams of the address.
    pub found: usize,
    /// The group that was not joined.
    pub group: GroupName,
}

/// How many groups a limit has counted, and how many more it allows.
struct Room {
    limit: GroupLimit,
    found: usize,
    left: usize,
}

impl GroupLimits {
    /// Creates the limits of a configuration, which count by address in the table of `clients`.
    pub(crate) fn new(limits: &LimitsConfig, clients: ClientLimit) -> Self {
        Self {
            per_socket: limits.groups_per_socket.into(),
            per_ip: limits.groups_per_ip.into(),
            clients,
            refused_per_socket: LogThrottle::new(),
            refused_per_ip: LogThrottle::new(),
        }
    }

    /// Applies other limits from now on. Sockets keep the groups that they are in.
    pub(crate) fn set(&self, limits: &LimitsConfig) {
        let order = Ordering::Relaxed;
        self.per_socket.store(limits.groups_per_socket, order);
        self.per_ip.store(limits.groups_per_ip, order);
    }

    /// Returns the value of a limit.
    pub(crate) fn max(&self, limit: GroupLimit) -> usize {
        match limit {
            GroupLimit::PerSocket => self.per_socket.load(Ordering::Relaxed),
            GroupLimit::PerIp => self.per_ip.load(Ordering::Relaxed),
        }
    }

    /// Checks whether a socket that is in `joined` groups may join another one, before it waits for
    /// Redis. Only [`GroupLimits::claim`] counts the group.
    pub(crate) fn check(
        &self,
        client: Option<IpAddr>,
        joined: usize,
        group: &GroupName,
    ) -> Result<(), GroupLimitReached> {
        match self.least_room(client, joined) {
            Room {
                left: 0,
                limit,
                found,
            } => Err(self.refuse(client, limit, found, group)),
            Room { .. } => Ok(()),
        }
    }

    /// Checks whether a socket that opens may join groups. One that is named twice counts once.
    pub(crate) fn check_all(
        &self,
        client: Option<IpAddr>,
        groups: &[(GroupName, GroupOptions)],
    ) -> Result<(), GroupLimitReached> {
        let allowed = self.allowed(client, groups);
        let Some((group, _)) = groups.get(allowed) else {
            return Ok(());
        };
        let Room { limit, found, .. } = self.least_room(client, 0);
        Err(self.refuse(client, limit, found, group))
    }

    /// Returns how many groups a socket that opens may join of those that it names, from the first
    /// one on. One that is named twice counts once.
    pub(crate) fn allowed(
        &self,
        client: Option<IpAddr>,
        groups: &[(GroupName, GroupOptions)],
    ) -> usize {
        if groups.is_empty() {
            return 0;
        }
        let left = self.least_room(client, 0).left;
        if groups.len() <= left {
            return groups.len();
        }
        let mut distinct = HashSet::new();
        let is_over = |(name, _): &(GroupName, GroupOptions)| {
            distinct.insert(name.clone()) && distinct.len() > left
        };
        groups.iter().position(is_over).unwrap_or(groups.len())
    }

    /// Counts a group that a socket with `joined` groups joins. Each needs a
    /// [`GroupLimits::release`].
    pub(crate) fn claim(
        &self,
        client: Option<IpAddr>,
        joined: usize,
        group: &GroupName,
    ) -> Result<(), GroupLimitReached> {
        if joined >= self.max(GroupLimit::PerSocket) {
            return Err(self.refuse(client, GroupLimit::PerSocket, joined, group));
        }
        let Some(ip) = client else { return Ok(()) };
        self.clients
            .try_join(ip, self.max(GroupLimit::PerIp))
            .map_err(|found| self.refuse(client, GroupLimit::PerIp, found, group))
    }

    /// Stops counting groups that were left.
    pub(crate) fn release(&self, client: Option<IpAddr>, groups: usize) {
        if let Some(ip) = client
            && groups > 0
        {
            self.clients.leave(ip, groups);
        }
    }

    /// Returns the room of the limit that leaves the least, for a socket in `joined` groups.
    fn least_room(&self, client: Option<IpAddr>, joined: usize) -> Room {
        let room = |limit, found| Room {
            limit,
            found,
            left: self.max(limit).saturating_sub(found),
        };
        let of_socket = room(GroupLimit::PerSocket, joined);
        let of_ip = client.map(|ip| room(GroupLimit::PerIp, self.clients.groups(ip)));
        match of_ip {
            Some(of_ip) if of_ip.left < of_socket.left => of_ip,
            _ => of_socket,
        }
    }

    /// Counts a refusal, and logs it once per interval.
    #[cold]
    fn refuse(
        &self,
        client: Option<IpAddr>,
        limit: GroupLimit,
        found: usize,
        group: &GroupName,
    ) -> GroupLimitReached {
        counter!("oneport_groups_refused_total", "limit" => limit.key()).increment(1);
        let refused = match limit {
            GroupLimit::PerSocket => &self.refused_per_socket,
            GroupLimit::PerIp => &self.refused_per_ip,
        };
        let max = self.max(limit);
        if let Some(times) = refused.count() {
            tracing::warn!(
                limit = max,
                client = client.map(tracing::field::display),
                to = group.as_str(),
                times,
                "server.limits.{} reached: the group is not joined",
                limit.key()
            );
        }
        GroupLimitReached {
            limit,
            max,
            found,
            group: group.clone(),
        }
    }
}

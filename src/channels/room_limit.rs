//! RoomLimit: limits how many groups with a history the clients of one address may begin.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use parking_lot::{Mutex, MutexGuard};

use super::GroupName;
use crate::net::client_network;
use crate::telemetry::LogThrottle;

/// The most removed groups that are remembered because their history is still in Redis; beyond it,
/// those that expire first are forgotten.
const LINGERING_MAX: usize = 50_000;

/// The network of a client: an IPv4 address, or the first 64 bits of an IPv6 address, since one
/// machine may have all the addresses below it.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(super) struct ClientNetwork(IpAddr);

impl From<IpAddr> for ClientNetwork {
    fn from(ip: IpAddr) -> Self {
        Self(client_network(ip))
    }
}

/// Counts the groups that clients of each network have begun and that still exist.
pub(super) struct RoomLimit {
    max: AtomicUsize,
    state: Mutex<RoomCounts>,
    refused: LogThrottle,
}

#[derive(Default)]
struct RoomCounts {
    counts: HashMap<ClientNetwork, usize>,
    /// Groups that this process has removed, but whose history is still in Redis, with the time it
    /// expires.
    lingering: HashMap<GroupName, (ClientNetwork, Instant)>,
    by_end: BTreeSet<(Instant, GroupName)>,
}

/// Counts a group for the network that began it. Dropping it discounts the group.
pub(super) struct RoomPermit {
    room_limit: Arc<RoomLimit>,
    network: ClientNetwork,
    /// True if this process had removed the group, and has created it again.
    has_lingered: bool,
}

/// The clients of a network have already begun as many groups as they may.
#[derive(Debug)]
pub(super) struct RoomLimitReached;

impl RoomLimit {
    pub(super) fn new(max: usize) -> Arc<Self> {
        Arc::new(Self {
            max: max.into(),
            state: Mutex::default(),
            refused: LogThrottle::new(),
        })
    }

    /// Allows each network `max` groups from now on. Those that exist stay.
    pub(super) fn set_max(&self, max: usize) {
        self.max.store(max, Ordering::Relaxed);
    }

    /// Counts a group for the client that begins it. One that lingers stays with the network that
    /// began it.
    pub(super) fn begin(
        self: &Arc<Self>,
        group: &GroupName,
        client: IpAddr,
        now: Instant,
    ) -> Result<RoomPermit, RoomLimitReached> {
        let max = self.max.load(Ordering::Relaxed);
        let mut state = self.state();
        state.forget_ended(now);
        let (network, has_lingered) = match state.take_back(group) {
            Some(network) => (network, true), // counted already
            None => {
                let network = ClientNetwork::from(client);
                let count = state.counts.entry(network).or_default();
                if *count >= max {
                    drop(state);
                    if let Some(times) = self.refused.count() {
                        tracing::warn!(%client, max_rooms = max, times, "the clients of an address have begun as many groups with a history as they may; further ones are refused");
                    }
                    return Err(RoomLimitReached);
                }
                *count += 1;
                (network, false)
            }
        };
        drop(state);
        Ok(RoomPermit {
            room_limit: self.clone(),
            network,
            has_lingered,
        })
    }

    /// Forgets the groups whose history has expired in Redis. Without it, those of a wave of
    /// clients would stay until the next client begins a group.
    pub(super) fn forget_ended(&self, now: Instant) {
        self.state().forget_ended(now);
    }

    fn state(&self) -> MutexGuard<'_, RoomCounts> {
        self.state.lock()
    }
}

impl RoomPermit {
    pub(super) fn network(&self) -> ClientNetwork {
        self.network
    }

    /// Returns whether this process had removed the group and created it again. Then a history in
    /// Redis does not show that another client began it.
    pub(super) fn has_lingered(&self) -> bool {
        self.has_lingered
    }

    /// Called when this process removes the group. The group counts until its history has expired
    /// in Redis.
    pub(super) fn linger(self, group: &GroupName, until: Instant) {
        let mut state = self.room_limit.state();
        if let Some(network) = state.take_back(group) {
            state.release(network); // a group lingers once
        }
        *state.counts.entry(self.network).or_default() += 1; // dropping `self` discounts one
        let entry = (self.network, until);
        state.lingering.insert(group.clone(), entry);
        state.by_end.insert((until, group.clone()));
        if state.lingering.len() > LINGERING_MAX {
            state.forget_first();
        }
    }
}

impl Drop for RoomPermit {
    fn drop(&mut self) {
        self.room_limit.state().release(self.network);
    }
}

impl RoomCounts {
    fn release(&mut self, network: ClientNetwork) {
        if let Some(count) = self.counts.get_mut(&network) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.counts.remove(&network);
            }
        }
    }

    fn take_back(&mut self, group: &GroupName) -> Option<ClientNetwork> {
        let (network, until) = self.lingering.remove(group)?;
        self.by_end.remove(&(until, group.clone()));
        Some(network)
    }

    fn forget_ended(&mut self, now: Instant) {
        while self.by_end.first().is_some_and(|(until, _)| *until <= now) {
            self.forget_first();
        }
        if self.lingering.is_empty() {
            self.lingering = HashMap::new(); // without the capacity of a wave
        }
    }

    fn forget_first(&mut self) {
        if let Some((_, group)) = self.by_end.pop_first()
            && let Some((network, _)) = self.lingering.remove(&group)
        {
            self.release(network);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn name(number: usize) -> GroupName {
        GroupName::new(&format!("room_{number}")).unwrap()
    }

    #[test]
    fn a_group_that_lingers_counts_once_until_it_expires_also_when_another_client_comes_back() {
        let room_limit = RoomLimit::new(1);
        let (now, one, other) = (Instant::now(), [192, 0, 2, 1].into(), [192, 0, 2, 2].into());
        let room = room_limit.begin(&name(1), one, now).unwrap();
        assert!(room_limit.begin(&name(2), one, now).is_err());
        room.linger(&name(1), now + HOUR);
        assert!(room_limit.begin(&name(2), one, now).is_err());
        let room = room_limit.begin(&name(1), other, now).unwrap();
        assert!(room.has_lingered());
        assert!(room_limit.begin(&name(2), one, now).is_err());
        room.linger(&name(1), now + 2 * HOUR);
        assert!(room_limit.begin(&name(2), one, now + HOUR).is_err());
        let room = room_limit.begin(&name(2), one, now + 2 * HOUR).unwrap();
        drop(room);
        let state = room_limit.state();
        assert!(state.counts.is_empty() && state.lingering.is_empty() && state.by_end.is_empty());
    }

    #[test]
    fn the_addresses_of_one_network_begin_groups_together() {
        let now = Instant::now();
        for (first, second, is_one) in [
            ("2001:db8::1", "2001:db8::ffff:1", true),
            ("2001:db8::1", "2001:db8:0:1::1", false),
            ("192.0.2.1", "::ffff:192.0.2.1", true),
            ("192.0.2.1", "192.0.2.2", false),
        ] {
            let room_limit = RoomLimit::new(1);
            let _room = room_limit
                .begin(&name(1), first.parse().unwrap(), now)
                .unwrap();
            let second_room = room_limit.begin(&name(2), second.parse().unwrap(), now);
            assert_eq!(second_room.is_err(), is_one, "{first} {second}");
        }
    }

    #[test]
    fn a_sweep_forgets_what_has_expired() {
        let room_limit = RoomLimit::new(10);
        let now = Instant::now();
        for number in 0..10 {
            let client = [192, 0, 2, 1].into();
            let room = room_limit.begin(&name(number), client, now).unwrap();
            let until = if number < 9 {
                now + HOUR
            } else {
                now + 2 * HOUR
            };
            room.linger(&name(number), until);
        }
        room_limit.forget_ended(now + HOUR);
        assert_eq!(room_limit.state().lingering.len(), 1);
        room_limit.forget_ended(now + 2 * HOUR);
        let state = room_limit.state();
        assert!(state.counts.is_empty() && state.by_end.is_empty());
        assert_eq!(state.lingering.capacity(), 0);
    }

    #[test]
    fn groups_that_linger_are_bounded() {
        let room_limit = RoomLimit::new(usize::MAX);
        let now = Instant::now();
        for number in 0..LINGERING_MAX + 10 {
            let room = room_limit.begin(&name(number), [192, 0, 2, 1].into(), now);
            room.unwrap().linger(&name(number), now + HOUR);
        }
        let state = room_limit.state();
        let counted = state.counts.values().sum::<usize>();
        assert_eq!(
            (state.lingering.len(), state.by_end.len(), counted),
            (LINGERING_MAX, LINGERING_MAX, LINGERING_MAX)
        );
    }
}

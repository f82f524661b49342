//! Sweep: removes unused groups, and evicts histories when memory is over the limit.

use std::sync::atomic::Ordering;
use std::time::Instant;

use super::{LocalGroups, Shard};
use crate::channels::GroupName;
use crate::channels::group::IdleState;
use crate::channels::history_budget::Victim;

/// How many histories one sender evicts from. The next sender continues, so no single sender has to
/// restore the whole budget.
const EVICTIONS_AT_ONCE: usize = 64;

impl LocalGroups {
    /// Removes a group without members, unless a client may return for its history.
    pub(in crate::channels) fn remove_if_unused(&self, name: &GroupName) {
        let now = Instant::now();
        let state = {
            let mut shard = self.shard(name.as_str());
            let Some(group) = shard.get(name).filter(|group| !group.is_needed()) else {
                return;
            };
            let state = group.idle_state(now);
            match state {
                IdleState::HasHistory => {}
                IdleState::Empty => drop(group.take_room_permit()), // a group without events does not count for its address
                IdleState::Expired => self.remove(&mut shard, name),
            }
            state
        };
        if state == IdleState::Empty
            && let Some(oldest) = self.history_budget.left_empty(name, now)
        {
            self.remove_empty(&oldest);
        }
    }

    /// Removes a group that was left before it had an event, unless a member has returned to it.
    pub(super) fn remove_empty(&self, name: &GroupName) {
        let mut shard = self.shard(name.as_str());
        let is_empty = shard.get(name).is_some_and(|group| {
            !group.is_needed() && group.with_history(|history| history.is_empty())
        });
        if is_empty {
            self.remove(&mut shard, name);
        }
    }

    fn remove(&self, shard: &mut Shard, name: &GroupName) {
        let Some(removed) = shard.remove(name) else {
            return;
        };
        let last = removed.position();
        if last.epoch == self.node {
            self.first_offset
                .fetch_max(last.offset + 1, Ordering::Relaxed);
        }
        if let Some(observer) = self.observer.get() {
            observer.group_removed(name);
        }
        // Redis keeps a shared history longer than this process keeps the group, so the group
        // counts for its address until the history expires.
        let (is_kept, expiry) =
            removed.with_history(|history| (history.has_shared_events(), history.bounds().1));
        if is_kept && let Some(permit) = removed.take_room_permit() {
            permit.linger(name, Instant::now() + expiry);
        }
    }

    /// Drops expired events, and groups that are no longer needed.
    pub(in crate::channels) fn sweep_expired(&self, now: Instant) {
        for shard in &self.shards {
            let mut shard = shard.lock();
            let mut expired = Vec::new();
            for (name, group) in &*shard {
                if group.is_needed() {
                    group.with_history(|history| history.forget_old(now));
                } else if group.idle_state(now) == IdleState::Expired {
                    expired.push(name.clone());
                }
            }
            for name in expired {
                self.remove(&mut shard, &name);
            }
        }
        self.history_budget.forget_empty(now);
        self.room_limit.forget_ended(now);
    }

    /// Evicts events while all histories together exceed the limit.
    #[inline]
    pub(super) fn evict_if_over(&self) {
        if self.history_budget.is_over() {
            self.evict();
        }
    }

    #[cold]
    fn evict(&self) {
        let budget = &self.history_budget;
        let Some(_evicting) = budget.try_evict() else {
            return; // another sender is evicting
        };
        for _ in 0..EVICTIONS_AT_ONCE {
            let Some(victim) = budget.victim() else {
                return;
            };
            let evicted = self.evict_from(&victim);
            budget.count_evicted(evicted);
            if evicted == 0 {
                budget.postpone(&victim);
            }
        }
    }

    /// Evicts events of one group; returns their number.
    fn evict_from(&self, victim: &Victim) -> usize {
        let mut shard = self.shard(victim.group.as_str());
        let Some(group) = shard.get(&victim.group) else {
            return 0; // it is being removed
        };
        let evicted = group.evict(victim.excess);
        if !group.is_needed() {
            self.remove(&mut shard, &victim.group);
        }
        evicted
    }
}

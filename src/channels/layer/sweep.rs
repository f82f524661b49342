//! Sweep: which groups go, and which histories give way.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::ChannelLayer;
use crate::channels::GroupName;
use crate::channels::group::{Group, IdleState};
use crate::channels::history_budget::Victim;

/// How often groups that nobody needs are let go.
const SWEEP_EVERY: Duration = Duration::from_secs(10);

/// How many histories give way before others may send: the rest follows with the next event.
const EVICTIONS_AT_ONCE: usize = 64;

impl ChannelLayer {
    /// Lets go of histories nobody needs any more, until the server stops.
    pub async fn sweep(self) {
        loop {
            tokio::select! {
                () = tokio::time::sleep(SWEEP_EVERY) => self.sweep_expired(Instant::now()),
                () = self.0.tasks.stopping() => return,
            }
        }
    }

    /// Lets a group go that nobody is in and that keeps nothing.
    pub(super) fn remove_if_unused(&self, group: &GroupName) {
        let now = Instant::now();
        let is_empty = {
            let mut shard = self.shard(group);
            let Some(found) = shard.get(group).filter(|found| !found.is_needed()) else {
                return;
            };
            let state = found.idle_state(now);
            match state {
                IdleState::HasHistory => {}
                IdleState::Empty => drop(found.take_room_permit()), // nobody has begun anything
                IdleState::Expired => self.remove(&mut shard, group),
            }
            state == IdleState::Empty
        };
        if is_empty && let Some(oldest) = self.0.history_budget.left_empty(group, now) {
            self.remove_empty(&oldest);
        }
    }

    /// Removes a group that was left before it had an event, if nobody has come back to it.
    pub(super) fn remove_empty(&self, group: &GroupName) {
        let mut shard = self.shard(group);
        if shard.get(group).is_some_and(|found| {
            !found.is_needed() && found.with_history(|history| history.is_empty())
        }) {
            self.remove(&mut shard, group);
        }
    }

    fn remove(&self, shard: &mut HashMap<GroupName, Arc<Group>>, group: &GroupName) {
        let Some(removed) = shard.remove(group) else {
            return;
        };
        let last = removed.position();
        if last.epoch == self.0.node {
            self.0
                .first_offset
                .fetch_max(last.offset + 1, Ordering::Relaxed);
        }
        if let Some(remote) = self.remote() {
            remote.unsubscribe_group(group);
            let (is_kept, expiry) =
                removed.with_history(|history| (history.has_shared_events(), history.bounds().1));
            if is_kept && let Some(permit) = removed.take_room_permit() {
                permit.linger(group, Instant::now() + expiry);
            }
        }
    }

    pub(in crate::channels) fn sweep_expired(&self, now: Instant) {
        for shard in &self.0.groups {
            let mut shard = shard.lock();
            let mut gone = Vec::new();
            for (name, group) in &*shard {
                if group.is_needed() {
                    group.with_history(|history| history.forget_old(now));
                } else if group.idle_state(now) == IdleState::Expired {
                    gone.push(name.clone());
                }
            }
            for name in gone {
                self.remove(&mut shard, &name);
            }
        }
        self.0.history_budget.forget_empty(now);
        self.forget_channels();
    }

    /// Lets histories give way while all together take more memory than they may.
    #[inline]
    pub(in crate::channels) fn keep_in_bounds(&self) {
        if self.0.history_budget.is_over() {
            self.evict();
        }
    }

    #[cold]
    fn evict(&self) {
        let history_budget = &self.0.history_budget;
        let Some(_turn) = history_budget.evicting() else {
            return; // another one is at it
        };
        for _ in 0..EVICTIONS_AT_ONCE {
            let Some(victim) = history_budget.victim() else {
                return;
            };
            let evicted = self.evict_from(&victim);
            history_budget.count_evicted(evicted);
            if evicted == 0 {
                history_budget.postpone(&victim);
            }
        }
    }

    /// Takes memory from one group's history; returns how many events it lost.
    fn evict_from(&self, victim: &Victim) -> usize {
        let mut shard = self.shard(&victim.group);
        let Some(found) = shard.get(&victim.group) else {
            return 0; // it is about to be gone
        };
        let evicted = found.evict(victim.excess);
        if !found.is_needed() {
            self.remove(&mut shard, &victim.group);
        }
        evicted
    }
}

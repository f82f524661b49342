//! Sweep: which groups go, and which histories give way.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::ChannelLayer;
use crate::channels::GroupName;
use crate::channels::group::{Group, Rest};
use crate::channels::histories::Victim;

/// How often groups that nobody needs are let go.
const SWEEP_EVERY: Duration = Duration::from_secs(10);

/// How many histories give way before others may send: the rest follows with the next event.
const EVICTIONS_AT_ONCE: usize = 64;

impl ChannelLayer {
    /// Lets go of histories nobody needs any more, until the server stops.
    pub async fn sweep(self) {
        loop {
            tokio::select! {
                () = tokio::time::sleep(SWEEP_EVERY) => self.forget(Instant::now()),
                () = self.0.tasks.stopping() => return,
            }
        }
    }

    /// Lets a group go that nobody is in and that keeps nothing.
    pub(super) fn let_go(&self, group: &GroupName) {
        let now = Instant::now();
        let is_empty = {
            let mut shard = self.shard(group);
            let Some(found) = shard.get(group).filter(|found| !found.is_needed()) else {
                return;
            };
            let rest = found.rest(now);
            match rest {
                Rest::Kept => {}
                Rest::Empty => drop(found.take_room()), // nobody has begun anything
                Rest::Gone => self.remove(&mut shard, group),
            }
            rest == Rest::Empty
        };
        if is_empty && let Some(oldest) = self.0.histories.left_empty(group, now) {
            self.remove_empty(&oldest);
        }
    }

    /// Removes a group that was left before it had an event, if nobody has come back to it.
    pub(super) fn remove_empty(&self, group: &GroupName) {
        let mut shard = self.shard(group);
        if shard
            .get(group)
            .is_some_and(|found| !found.is_needed() && found.with_past(|past| past.is_empty()))
        {
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
            remote.unwant(group);
            let (is_kept, expiry) =
                removed.with_past(|past| (past.has_shared_events(), past.bounds().1));
            if is_kept && let Some(room) = removed.take_room() {
                room.linger(group, Instant::now() + expiry);
            }
        }
    }

    pub(in crate::channels) fn forget(&self, now: Instant) {
        for shard in &self.0.groups {
            let mut shard = shard.lock();
            let mut gone = Vec::new();
            for (name, group) in &*shard {
                if group.is_needed() {
                    group.with_past(|past| past.forget_old(now));
                } else if group.rest(now) == Rest::Gone {
                    gone.push(name.clone());
                }
            }
            for name in gone {
                self.remove(&mut shard, &name);
            }
        }
        self.0.histories.forget_empty(now);
        self.forget_channels();
    }

    /// Lets histories give way while all together take more memory than they may.
    #[inline]
    pub(in crate::channels) fn keep_in_bounds(&self) {
        if self.0.histories.is_over() {
            self.evict();
        }
    }

    #[cold]
    fn evict(&self) {
        let histories = &self.0.histories;
        let Some(_turn) = histories.evicting() else {
            return; // another one is at it
        };
        for _ in 0..EVICTIONS_AT_ONCE {
            let Some(victim) = histories.victim() else {
                return;
            };
            let evicted = self.evict_from(&victim);
            histories.count_evicted(evicted);
            if evicted == 0 {
                histories.postpone(&victim);
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

//! PresenceIndex: the members of this process that other processes know about.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::{Mutex, MutexGuard};

use crate::channels::GroupName;

/// Counts the members of this process that other processes know about, by group.
#[derive(Default)]
pub(super) struct PresenceIndex {
    /// Locked while commands are queued, so that those about a group's first and last member are
    /// queued in order.
    counts: Mutex<PresenceCounts>,
    /// True if a command could not be queued: all members must be registered in Redis again.
    is_stale: AtomicBool,
    /// True if another process has missed a change, and has to compare.
    is_missed: AtomicBool,
}

#[derive(Default)]
pub(super) struct PresenceCounts(HashMap<GroupName, usize>);

impl PresenceIndex {
    pub(super) fn lock(&self) -> MutexGuard<'_, PresenceCounts> {
        self.counts.lock()
    }

    pub(super) fn mark_stale(&self) {
        self.is_stale.store(true, Ordering::Relaxed);
    }

    pub(super) fn mark_missed(&self) {
        self.is_missed.store(true, Ordering::Relaxed);
    }

    /// Returns whether another process has missed a change since the last call.
    pub(super) fn take_missed(&self) -> bool {
        self.is_missed.swap(false, Ordering::Relaxed)
    }

    /// Returns whether it was marked stale since the last call.
    pub(super) fn take_stale(&self) -> bool {
        self.is_stale.swap(false, Ordering::Relaxed)
    }
}

impl PresenceCounts {
    /// Counts a member.
    pub(super) fn add(&mut self, group: &GroupName) {
        *self.0.entry(group.clone()).or_default() += 1;
    }

    /// Discounts a member; returns whether it was the group's last.
    pub(super) fn remove(&mut self, group: &GroupName) -> bool {
        match self.0.get_mut(group) {
            Some(count) if *count > 1 => {
                *count -= 1;
                false
            }
            _ => {
                self.0.remove(group);
                true
            }
        }
    }
}

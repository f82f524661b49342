//! ReadQueue: groups that must be read from Redis: their shared history, or their members.

use std::collections::{HashMap, VecDeque};

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::channels::GroupName;

/// Groups that must be read from Redis, each listed once.
///
/// ```text
///            add              take              finish
///   (none) ───────▶ Queued ─────────▶ InFlight ─────────▶ (none)
///                     ▲                 │  │
///                     │ retry           │  │ add: something arrived after the request, and may not be in the reply
///                     │                 │  ▼
///                RetryLater ◀───────────┘  Stale ── finish ──▶ Queued
///                            fail
/// ```
#[derive(Default)]
pub(super) struct ReadQueue {
    state: Mutex<ReadStates>,
    work: Notify,
}

#[derive(Default)]
struct ReadStates {
    queue: VecDeque<GroupName>,
    states: HashMap<GroupName, ReadState>,
}

#[derive(Clone, Copy, Eq, PartialEq)]
enum ReadState {
    Queued,
    InFlight,
    /// In flight, to be read once more after that.
    Stale,
    /// Could not be read. It is read again after a pause, even if members wait for it.
    RetryLater,
}

impl ReadQueue {
    /// Adds a group, unless it is already waiting. A group that is being read is read once more.
    pub(super) fn add(&self, group: &GroupName) {
        let mut state = self.state.lock();
        match state.states.get_mut(group) {
            Some(reading @ (ReadState::InFlight | ReadState::Stale)) => *reading = ReadState::Stale,
            Some(ReadState::Queued | ReadState::RetryLater) => {}
            None => {
                state.queue(group.clone());
                drop(state);
                self.work.notify_one();
            }
        }
    }

    /// Returns whether a group is waiting, being read, or to be retried.
    pub(super) fn contains(&self, group: &GroupName) -> bool {
        self.state.lock().states.contains_key(group)
    }

    /// Called when the connection is lost: all groups will be added again.
    pub(super) fn clear(&self) {
        *self.state.lock() = ReadStates::default();
    }

    /// Completes when there may be groups to take.
    pub(super) async fn work(&self) {
        self.work.notified().await;
    }

    /// Takes up to `count` groups to read.
    pub(super) fn take(&self, count: usize) -> Vec<GroupName> {
        let mut state = self.state.lock();
        let count = state.queue.len().min(count);
        let groups: Vec<_> = state.queue.drain(..count).collect();
        for group in &groups {
            state.states.insert(group.clone(), ReadState::InFlight);
        }
        groups
    }

    /// Called when a group was read, or there is no longer anything to read.
    pub(super) fn finish(&self, group: &GroupName) {
        let mut state = self.state.lock();
        if state.states.remove(group) == Some(ReadState::Stale) {
            state.queue(group.clone());
            drop(state);
            self.work.notify_one();
        }
    }

    /// Called when a group could not be read.
    pub(super) fn fail(&self, group: &GroupName) {
        let mut state = self.state.lock();
        state.states.insert(group.clone(), ReadState::RetryLater);
    }

    /// Ends the pause of groups that failed. The caller takes them next.
    pub(super) fn retry(&self, groups: impl Iterator<Item = GroupName>) {
        let mut state = self.state.lock();
        for group in groups {
            if state.states.get(&group) == Some(&ReadState::RetryLater) {
                state.queue(group);
            }
        }
    }
}

impl ReadStates {
    fn queue(&mut self, group: GroupName) {
        self.states.insert(group.clone(), ReadState::Queued);
        self.queue.push_back(group);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name() -> GroupName {
        GroupName::new("room").unwrap()
    }

    #[test]
    fn a_history_that_changes_while_it_is_read_is_read_once_more() {
        let queue = ReadQueue::default();
        queue.add(&name());
        queue.add(&name());
        assert_eq!(queue.take(9), [name()]);
        queue.add(&name());
        queue.add(&name());
        assert_eq!(queue.take(9), []);
        queue.finish(&name());
        assert_eq!(queue.take(9), [name()]);
        queue.finish(&name());
        assert!(!queue.contains(&name()));
    }

    #[test]
    fn a_history_that_could_not_be_read_waits_for_its_retry() {
        let queue = ReadQueue::default();
        queue.add(&name());
        queue.take(9);
        queue.fail(&name());
        queue.add(&name());
        assert_eq!(queue.take(9), []);
        assert!(queue.contains(&name()));
        queue.retry([name()].into_iter());
        assert_eq!(queue.take(9), [name()]);
        queue.clear();
        queue.retry([name()].into_iter());
        assert_eq!(queue.take(9), []);
    }
}

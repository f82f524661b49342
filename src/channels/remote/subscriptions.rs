//! Subscriptions: which channels of Redis this process wants, and which it has.

use std::collections::HashMap;

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::Notify;

/// Which channels of Redis this process wants, and which it has.
#[derive(Default)]
pub(super) struct Subscriptions {
    state: Mutex<ChannelTable>,
    work: Notify,
}

#[derive(Default)]
struct ChannelTable {
    channels: HashMap<String, Subscription>,
    /// Those where want and have may differ.
    changed: Vec<String>,
}

#[derive(Clone, Copy, Default)]
struct Subscription {
    is_wanted: bool,
    is_subscribed: bool,
    /// Redis was asked and has not answered yet.
    is_asked: bool,
}

/// What is to be said to Redis.
#[derive(Debug, Default)]
pub(super) struct SubscriptionChanges {
    pub(super) subscribe: Vec<String>,
    pub(super) unsubscribe: Vec<String>,
}

/// How many channels one command names.
const CHANNELS_AT_ONCE: usize = 1000;

impl Subscriptions {
    pub(super) fn want(&self, channel: String, is_wanted: bool) {
        let mut state = self.state();
        let found = state.channels.entry(channel.clone()).or_default();
        if found.is_wanted == is_wanted {
            return;
        }
        found.is_wanted = is_wanted;
        state.changed.push(channel);
        drop(state);
        self.work.notify_one();
    }

    /// Tells whether a channel's messages come, and go on to come: not while Redis is asked to end it.
    pub(super) fn is_subscribed(&self, channel: &str) -> bool {
        let state = self.state();
        state
            .channels
            .get(channel)
            .is_some_and(|found| found.is_subscribed && !found.is_asked)
    }

    /// The connection is a new one: nothing is subscribed. Returns how many channels are wanted.
    pub(super) fn forget(&self) -> usize {
        let mut state = self.state();
        state.channels.retain(|_, found| {
            found.is_subscribed = false;
            found.is_asked = false;
            found.is_wanted
        });
        state.changed = state.channels.keys().cloned().collect();
        let wanted = state.channels.len();
        drop(state);
        self.work.notify_one();
        wanted
    }

    /// Returns what is to be said next, at most so much as one command holds; nothing when all is said.
    pub(super) fn changes(&self) -> SubscriptionChanges {
        let mut changes = SubscriptionChanges::default();
        let mut state = self.state();
        while let Some(channel) = state.changed.pop() {
            match state.channels.get_mut(&channel) {
                Some(found) if found.is_asked => {} // it comes again with the answer
                Some(found) if found.is_wanted && !found.is_subscribed => {
                    found.is_asked = true;
                    changes.subscribe.push(channel);
                }
                Some(found) if !found.is_wanted && found.is_subscribed => {
                    found.is_asked = true;
                    changes.unsubscribe.push(channel);
                }
                Some(found) if !found.is_wanted => {
                    state.channels.remove(&channel);
                }
                _ => {}
            }
            if changes.subscribe.len() + changes.unsubscribe.len() >= CHANNELS_AT_ONCE {
                break;
            }
        }
        changes
    }

    /// Redis said that it did it. What was wanted otherwise meanwhile comes again.
    pub(super) fn confirmed(&self, changes: &SubscriptionChanges) {
        let mut state = self.state();
        for (channels, is_subscribed) in [(&changes.subscribe, true), (&changes.unsubscribe, false)]
        {
            for channel in channels {
                let Some(found) = state.channels.get_mut(channel) else {
                    continue;
                };
                found.is_subscribed = is_subscribed;
                found.is_asked = false;
                if found.is_wanted != is_subscribed {
                    state.changed.push(channel.clone());
                } else if !is_subscribed {
                    state.channels.remove(channel);
                }
            }
        }
        let is_more = !state.changed.is_empty();
        drop(state);
        if is_more {
            self.work.notify_one();
        }
    }

    /// Completes when there is something to be said.
    pub(super) async fn changed(&self) {
        self.work.notified().await;
    }

    fn state(&self) -> MutexGuard<'_, ChannelTable> {
        self.state.lock()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_wanted_and_then_not_is_never_said() {
        let subscriptions = Subscriptions::default();
        subscriptions.want("a".to_owned(), true);
        subscriptions.want("b".to_owned(), true);
        subscriptions.want("b".to_owned(), false);
        let changes = subscriptions.changes();
        assert_eq!(changes.subscribe, ["a"]);
        assert!(changes.unsubscribe.is_empty());
        // It is wanted no more before Redis confirms.
        subscriptions.want("a".to_owned(), false);
        subscriptions.changes();
        subscriptions.confirmed(&changes);
        let changes = subscriptions.changes();
        assert_eq!(changes.unsubscribe, ["a"]);
        subscriptions.confirmed(&changes);
        assert!(!subscriptions.is_subscribed("a"));
        assert_eq!(subscriptions.forget(), 0);
    }

    #[test]
    fn a_channel_that_is_about_to_end_is_not_there() {
        let subscriptions = Subscriptions::default();
        subscriptions.want("a".to_owned(), true);
        subscriptions.confirmed(&subscriptions.changes());
        subscriptions.want("a".to_owned(), false);
        let ending = subscriptions.changes();
        subscriptions.want("a".to_owned(), true);
        assert!(!subscriptions.is_subscribed("a"));
        subscriptions.confirmed(&ending);
        assert!(!subscriptions.is_subscribed("a"));
        subscriptions.confirmed(&subscriptions.changes());
        assert!(subscriptions.is_subscribed("a"));
    }

    #[test]
    fn new_connection_subscribes_all_that_is_wanted() {
        let subscriptions = Subscriptions::default();
        subscriptions.want("a".to_owned(), true);
        subscriptions.confirmed(&subscriptions.changes());
        assert!(subscriptions.is_subscribed("a"));
        assert_eq!(subscriptions.forget(), 1);
        assert!(!subscriptions.is_subscribed("a"));
        assert_eq!(subscriptions.changes().subscribe, ["a"]);
    }
}

//! Subscriptions: the channels that this process wants, and those it is subscribed to.
//!
//! A difference is sent to Redis, and the wanted state may change again before Redis replies:
//!
//! ```text
//!           changes, if wanted                confirmed
//!   None ───────────────────────▶ Pending ───────────────▶ Subscribed
//!    ▲                                                         │
//!    └────────── confirmed ────── Pending ◀────────────────────┘
//!                                        changes, if not wanted
//! ```
//!
//! A channel with a pending change is left alone until the reply, and then compared again. One that
//! is neither wanted nor subscribed to is forgotten at once.

use std::collections::HashMap;

use parking_lot::Mutex;
use tokio::sync::Notify;

/// The number of channels in one command.
const CHANNELS_AT_ONCE: usize = 1000;

/// The channels that this process wants, and those it is subscribed to.
#[derive(Default)]
pub(super) struct Subscriptions {
    table: Mutex<ChannelTable>,
    work: Notify,
}

#[derive(Default)]
struct ChannelTable {
    channels: HashMap<String, Channel>,
    /// The channels whose state may differ from the wanted one.
    changed: Vec<String>,
}

#[derive(Clone, Copy, Default)]
struct Channel {
    is_wanted: bool,
    subscription: Subscription,
}

/// The state of a channel's subscription.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) enum Subscription {
    #[default]
    None,
    /// The change was sent to Redis, which has not replied yet.
    Pending,
    Subscribed,
}

/// Channels to subscribe to and to unsubscribe from.
#[derive(Debug, Default)]
pub(super) struct SubscriptionChanges {
    pub(super) subscribe: Vec<String>,
    pub(super) unsubscribe: Vec<String>,
}

impl Subscriptions {
    pub(super) fn set_wanted(&self, channel: String, is_wanted: bool) {
        let mut table = self.table.lock();
        let found = table.channels.entry(channel.clone()).or_default();
        if found.is_wanted == is_wanted {
            return;
        }
        found.is_wanted = is_wanted;
        if !is_wanted && found.subscription == Subscription::None {
            table.channels.remove(&channel);
            return;
        }
        table.list_changed(channel);
        drop(table);
        self.work.notify_one();
    }

    /// Returns whether a channel's messages arrive and will continue to: not while an unsubscribe
    /// is pending.
    pub(super) fn is_subscribed(&self, channel: &str) -> bool {
        let table = self.table.lock();
        let found = table.channels.get(channel);
        found.is_some_and(|found| found.subscription == Subscription::Subscribed)
    }

    /// Returns the state of a channel that is wanted.
    pub(super) fn wanted(&self, channel: &str) -> Option<Subscription> {
        let table = self.table.lock();
        let found = table.channels.get(channel);
        found
            .filter(|found| found.is_wanted)
            .map(|found| found.subscription)
    }

    /// Clears all subscriptions for a new connection. Returns how many channels are wanted.
    pub(super) fn reset(&self) -> usize {
        let mut table = self.table.lock();
        table.channels.retain(|_, found| {
            found.subscription = Subscription::None;
            found.is_wanted
        });
        table.changed = table.channels.keys().cloned().collect();
        let wanted = table.channels.len();
        drop(table);
        self.work.notify_one();
        wanted
    }

    /// Takes the next changes, as many as one command may hold; empty if there is no difference.
    pub(super) fn changes(&self) -> SubscriptionChanges {
        let mut changes = SubscriptionChanges::default();
        let mut table = self.table.lock();
        while let Some(channel) = table.changed.pop() {
            let Some(found) = table.channels.get_mut(&channel) else {
                continue;
            };
            match (found.subscription, found.is_wanted) {
                (Subscription::Pending, _) => {} // compared again in `confirmed`
                (Subscription::None, true) => {
                    found.subscription = Subscription::Pending;
                    changes.subscribe.push(channel);
                }
                (Subscription::Subscribed, false) => {
                    found.subscription = Subscription::Pending;
                    changes.unsubscribe.push(channel);
                }
                (Subscription::None, false) => {
                    table.channels.remove(&channel);
                }
                (Subscription::Subscribed, true) => {}
            }
            if changes.subscribe.len() + changes.unsubscribe.len() >= CHANNELS_AT_ONCE {
                break;
            }
        }
        changes
    }

    /// Called when Redis has confirmed changes. A channel whose wanted state has changed since is
    /// changed again.
    pub(super) fn confirmed(&self, changes: &SubscriptionChanges) {
        let mut table = self.table.lock();
        let subscribed = changes.subscribe.iter().map(|channel| (channel, true));
        let unsubscribed = changes.unsubscribe.iter().map(|channel| (channel, false));
        for (channel, is_subscribed) in subscribed.chain(unsubscribed) {
            let Some(found) = table.channels.get_mut(channel) else {
                continue;
            };
            found.subscription = match is_subscribed {
                true => Subscription::Subscribed,
                false => Subscription::None,
            };
            if found.is_wanted != is_subscribed {
                table.changed.push(channel.clone());
            } else if !is_subscribed {
                table.channels.remove(channel);
            }
        }
        let has_changes = !table.changed.is_empty();
        drop(table);
        if has_changes {
            self.work.notify_one();
        }
    }

    /// Completes when there may be changes.
    pub(super) async fn changed(&self) {
        self.work.notified().await;
    }
}

impl ChannelTable {
    /// Lists a channel whose state may differ from the wanted one. Without a connection nothing
    /// takes the list, so it is made anew from the channels when most of it must be outdated.
    fn list_changed(&mut self, channel: String) {
        self.changed.push(channel);
        if self.changed.len() > 2 * self.channels.len() + CHANNELS_AT_ONCE {
            self.changed = self.channels.keys().cloned().collect();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_that_is_taken_back_is_never_sent() {
        let subscriptions = Subscriptions::default();
        subscriptions.set_wanted("a".to_owned(), true);
        subscriptions.set_wanted("b".to_owned(), true);
        subscriptions.set_wanted("b".to_owned(), false);
        let changes = subscriptions.changes();
        assert_eq!(changes.subscribe, ["a"]);
        assert!(changes.unsubscribe.is_empty());
        // It is no longer wanted before Redis confirms it.
        subscriptions.set_wanted("a".to_owned(), false);
        subscriptions.changes();
        subscriptions.confirmed(&changes);
        let changes = subscriptions.changes();
        assert_eq!(changes.unsubscribe, ["a"]);
        subscriptions.confirmed(&changes);
        assert!(!subscriptions.is_subscribed("a"));
        assert_eq!(subscriptions.reset(), 0);
    }

    #[test]
    fn channels_that_come_and_go_without_a_connection_leave_nothing() {
        let subscriptions = Subscriptions::default();
        subscriptions.set_wanted("kept".to_owned(), true);
        for number in 0..10 * CHANNELS_AT_ONCE {
            subscriptions.set_wanted(format!("c{number}"), true);
            subscriptions.set_wanted(format!("c{number}"), false);
        }
        {
            let table = subscriptions.table.lock();
            assert_eq!(table.channels.len(), 1);
            assert!(table.changed.len() <= 2 * CHANNELS_AT_ONCE);
        }
        assert_eq!(subscriptions.changes().subscribe, ["kept"]);
    }

    #[test]
    fn a_channel_that_is_being_unsubscribed_from_is_not_subscribed() {
        let subscriptions = Subscriptions::default();
        subscriptions.set_wanted("a".to_owned(), true);
        subscriptions.confirmed(&subscriptions.changes());
        subscriptions.set_wanted("a".to_owned(), false);
        let ending = subscriptions.changes();
        assert_eq!(subscriptions.wanted("a"), None);
        subscriptions.set_wanted("a".to_owned(), true);
        assert!(!subscriptions.is_subscribed("a"));
        assert_eq!(subscriptions.wanted("a"), Some(Subscription::Pending));
        subscriptions.confirmed(&ending);
        assert!(!subscriptions.is_subscribed("a"));
        subscriptions.confirmed(&subscriptions.changes());
        assert!(subscriptions.is_subscribed("a"));
    }

    #[test]
    fn a_new_connection_subscribes_to_all_wanted_channels() {
        let subscriptions = Subscriptions::default();
        subscriptions.set_wanted("a".to_owned(), true);
        subscriptions.confirmed(&subscriptions.changes());
        assert!(subscriptions.is_subscribed("a"));
        assert_eq!(subscriptions.reset(), 1);
        assert!(!subscriptions.is_subscribed("a"));
        assert_eq!(subscriptions.changes().subscribe, ["a"]);
    }
}

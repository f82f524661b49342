//! Receive: what comes from Redis, and the members here who get it.

use std::sync::Arc;
use std::time::Duration;

use metrics::counter;

use super::channels_redis_core::RANDOM_PREFIX;
use super::wire::{self, Head, Message};
use super::{Remote, hash};
use crate::channels::append::{AppendOutcome, NewEvent, Retention, SharedAppend};
use crate::channels::batch::Tally;
use crate::channels::group::Group;
use crate::channels::history::GroupHistory;
use crate::channels::options::ROOM_DEADLINE;
use crate::channels::send::{counted, new_event};
use crate::channels::{ChannelLayer, Event, GroupName, Position};
use crate::config::LayerFormat;
use crate::telemetry;

/// The longest message that is taken.
pub(super) const MESSAGE_BYTES_MAX: usize = 1 << 20;

impl Remote {
    /// Takes one message of a subscription.
    pub(super) async fn on_message(&self, layer: &ChannelLayer, channel: &str, payload: &[u8]) {
        let group = self.group_of(channel);
        if self.0.format == LayerFormat::Pubsub
            && group.is_some()
            && self.is_echo(channel, hash(payload))
        {
            return;
        }
        if payload.len() > MESSAGE_BYTES_MAX {
            return telemetry::event_dropped("oversized");
        }
        if let Some(group) = group {
            match self.0.format {
                LayerFormat::Oneport => self.on_group_event(layer, group, payload).await,
                LayerFormat::Pubsub => self.on_channels_redis_event(layer, group, payload).await,
                LayerFormat::Core => {}
            }
        } else if channel.starts_with(&self.0.own_prefix) {
            self.on_node_message(layer, payload);
        } else {
            match self.0.codec.read(payload) {
                Ok((event, _)) => {
                    counter!("oneport_layer_received_total").increment(1);
                    let _ = layer.receive(channel, event); // what finds no room is counted there
                }
                Err(error) => telemetry::event_dropped(error.reason()),
            }
        }
    }

    /// Takes one message out of our inbox (`channels_redis.core`).
    pub(super) async fn on_inbox_message(&self, layer: &ChannelLayer, message: &[u8]) {
        if message.len() > MESSAGE_BYTES_MAX {
            return telemetry::event_dropped("oversized");
        }
        let Some(content) = message.get(RANDOM_PREFIX..) else {
            return telemetry::event_dropped("malformed");
        };
        let (event, channels) = match self.0.codec.read(content) {
            Ok(read) => read,
            Err(error) => return telemetry::event_dropped(error.reason()),
        };
        if channels.is_empty() {
            return telemetry::event_dropped("malformed");
        }
        counter!("oneport_layer_received_total").increment(1);
        for channel in channels {
            match self.0.core.group_of(&channel) {
                Some(group) => self.deliver_to_members(layer, &group, &event).await,
                None => {
                    let _ = layer.receive(&channel, event.clone());
                }
            }
        }
    }

    async fn on_channels_redis_event(&self, layer: &ChannelLayer, group: &str, payload: &[u8]) {
        let Some(found) = layer.find(group) else {
            return; // its last member left meanwhile
        };
        match self.0.codec.read(payload) {
            Ok((event, _)) => {
                counter!("oneport_layer_received_total").increment(1);
                self.deliver_to_members(layer, found.name(), &event).await;
            }
            Err(error) => telemetry::event_dropped(error.reason()),
        }
    }

    /// Brings an event of others to the members here. What finds no room in time is dropped, and counted there.
    async fn deliver_to_members(&self, layer: &ChannelLayer, group: &GroupName, event: &Event) {
        let _ = layer
            .deliver_local(group, new_event(event, None), Retention::History)
            .await;
    }

    async fn on_group_event(&self, layer: &ChannelLayer, group: &str, payload: &[u8]) {
        let Some(Message::Event {
            head,
            position,
            event,
        }) = wire::read(payload)
        else {
            return telemetry::event_dropped("malformed");
        };
        let is_ours = head.node == self.0.node;
        counter!("oneport_layer_received_total").increment(u64::from(!is_ours));
        let except = head.except.filter(|_| is_ours);
        let tally = head.count.map(|_| Arc::<Tally>::default());
        let new = NewEvent {
            event: &event,
            except,
            tally: tally.clone(),
        };
        let found = layer.find(group);
        let is_placed = position.offset > 0;
        let is_shared = |found: &Group| found.with_history(|history| history.is_shared());
        let is_taken = match &found {
            None => false,
            Some(found) if is_ours && head.is_delivered_by_sender => {
                // Our members have it.
                if is_placed {
                    found.with_history(|history| history.mark_seen(head.node, head.seq));
                    if is_shared(found) {
                        self.append_shared(layer, found, &new, &head, position, Duration::ZERO)
                            .await;
                    }
                }
                return;
            }
            Some(found) if is_placed && is_shared(found) => {
                self.append_shared(layer, found, &new, &head, position, Duration::ZERO)
                    .await
            }
            Some(found)
                if is_placed
                    && !found.with_history(|history| history.mark_seen(head.node, head.seq)) =>
            {
                false
            }
            Some(found) => {
                let taken = layer
                    .deliver_local(found.name(), new, Retention::History)
                    .await;
                matches!(taken, Ok(Some(_)))
            }
        };
        let Some(count) = head.count else { return };
        match tally {
            Some(tally) if is_taken => {
                let remote = self.clone();
                layer
                    .tasks()
                    .spawn("counts for another process", async move {
                        let sent = counted(&tally).await;
                        remote.reply_counts(head.node, count, sent.queued, sent.dropped);
                    });
            }
            _ => self.reply_counts(head.node, count, 0, 0),
        }
    }

    /// Appends an event at its place in a shared history; tells whether it was news.
    pub(super) async fn append_shared(
        &self,
        layer: &ChannelLayer,
        found: &Arc<Group>,
        new: &NewEvent<'_>,
        head: &Head,
        position: Position,
        age: Duration,
    ) -> bool {
        let deadline = tokio::time::Instant::now() + ROOM_DEADLINE;
        loop {
            match found.append_shared(new, head.node, head.seq, position, age) {
                SharedAppend::Appended(AppendOutcome::Full) => {
                    let space = tokio::time::timeout_at(deadline, found.space());
                    if space.await.is_err() {
                        found.with_history(GroupHistory::mark_behind);
                        self.read_history(found.name());
                        return false;
                    }
                }
                SharedAppend::Appended(outcome) => {
                    layer.deliver_appended(found, outcome);
                    return true;
                }
                SharedAppend::Duplicate => return false,
                SharedAppend::AppendedEarly(outcome) => {
                    layer.deliver_appended(found, outcome);
                    self.read_history(found.name());
                    return true;
                }
                SharedAppend::Gap => {
                    self.read_history(found.name());
                    return false;
                }
            }
        }
    }

    /// Takes a message between Oneports.
    fn on_node_message(&self, layer: &ChannelLayer, payload: &[u8]) {
        match wire::read(payload) {
            Some(Message::Channel { name, event }) => {
                counter!("oneport_layer_received_total").increment(1);
                let _ = layer.receive(name, event);
            }
            Some(Message::Request { caller, id, json }) => {
                self.on_request(caller, id, json, layer.tasks());
            }
            Some(Message::Reply { id, json }) => self.on_reply(id, json),
            Some(Message::Counted {
                id,
                queued,
                dropped,
            }) => self.on_counts(id, queued, dropped),
            Some(Message::Event { .. }) | None => telemetry::event_dropped("malformed"),
        }
    }

    /// All of it has to come again: the connection is a new one.
    pub(super) fn forget_echoes(&self) {
        self.0.echoes.lock().clear();
    }
}

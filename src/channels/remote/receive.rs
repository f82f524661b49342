//! Receive: what comes from Redis, and the members here who get it.

use std::sync::Arc;
use std::time::Duration;

use metrics::counter;

use super::core::RANDOM_PREFIX;
use super::wire::{self, Head, Message};
use super::{Remote, hash};
use crate::channels::append::{Keep, News, Shared, Turn};
use crate::channels::batch::Tally;
use crate::channels::group::Group;
use crate::channels::options::ROOM_DEADLINE;
use crate::channels::past::Past;
use crate::channels::send::{counted, news};
use crate::channels::{ChannelLayer, Event, GroupName, Position};
use crate::config::LayerFormat;
use crate::telemetry;

/// The longest message that is taken.
pub(super) const MESSAGE_BYTES_MAX: usize = 1 << 20;

impl Remote {
    /// Takes one message of a subscription.
    pub(super) async fn hear(&self, layer: &ChannelLayer, channel: &str, payload: &[u8]) {
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
                LayerFormat::Oneport => self.hear_event(layer, group, payload).await,
                LayerFormat::Pubsub => self.hear_dictionary(layer, group, payload).await,
                LayerFormat::Core => {}
            }
        } else if channel.starts_with(&self.0.own_prefix) {
            self.hear_node(layer, payload);
        } else {
            match self.0.dictionaries.read(payload) {
                Ok((event, _)) => {
                    counter!("oneport_layer_received_total").increment(1);
                    let _ = layer.receive(channel, event); // what finds no room is counted there
                }
                Err(unreadable) => telemetry::event_dropped(unreadable.reason()),
            }
        }
    }

    /// Takes one message out of our inbox (`channels_redis.core`).
    pub(super) async fn hear_inbox(&self, layer: &ChannelLayer, message: &[u8]) {
        if message.len() > MESSAGE_BYTES_MAX {
            return telemetry::event_dropped("oversized");
        }
        let Some(content) = message.get(RANDOM_PREFIX..) else {
            return telemetry::event_dropped("malformed");
        };
        let (event, channels) = match self.0.dictionaries.read(content) {
            Ok(read) => read,
            Err(unreadable) => return telemetry::event_dropped(unreadable.reason()),
        };
        if channels.is_empty() {
            return telemetry::event_dropped("malformed");
        }
        counter!("oneport_layer_received_total").increment(1);
        for channel in channels {
            match self.0.core.group_of(&channel) {
                Some(group) => self.bring(layer, &group, &event).await,
                None => {
                    let _ = layer.receive(&channel, event.clone());
                }
            }
        }
    }

    async fn hear_dictionary(&self, layer: &ChannelLayer, group: &str, payload: &[u8]) {
        let Some(found) = layer.find(group) else {
            return; // its last member left meanwhile
        };
        match self.0.dictionaries.read(payload) {
            Ok((event, _)) => {
                counter!("oneport_layer_received_total").increment(1);
                self.bring(layer, found.name(), &event).await;
            }
            Err(unreadable) => telemetry::event_dropped(unreadable.reason()),
        }
    }

    /// Brings an event of others to the members here. What finds no room in time is dropped, and counted there.
    async fn bring(&self, layer: &ChannelLayer, group: &GroupName, event: &Event) {
        let _ = layer
            .deliver_here(group, news(event, None), Keep::History)
            .await;
    }

    async fn hear_event(&self, layer: &ChannelLayer, group: &str, payload: &[u8]) {
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
        let news = News {
            event: &event,
            except,
            tally: tally.clone(),
        };
        let found = layer.find(group);
        let is_placed = position.offset > 0;
        let is_shared = |found: &Group| found.with_past(|past| past.is_shared());
        let is_taken = match &found {
            None => false,
            Some(found) if is_ours && head.is_served => {
                // Our members have it.
                if is_placed {
                    found.with_past(|past| past.see(head.node, head.seq));
                    if is_shared(found) {
                        self.append(layer, found, &news, &head, position, Duration::ZERO)
                            .await;
                    }
                }
                return;
            }
            Some(found) if is_placed && is_shared(found) => {
                self.append(layer, found, &news, &head, position, Duration::ZERO)
                    .await
            }
            Some(found) if is_placed && !found.with_past(|past| past.see(head.node, head.seq)) => {
                false
            }
            Some(found) => {
                let taken = layer.deliver_here(found.name(), news, Keep::History).await;
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
                        remote.say_counted(head.node, count, sent.queued, sent.dropped);
                    });
            }
            _ => self.say_counted(head.node, count, 0, 0),
        }
    }

    /// Appends an event at its place in a shared history; tells whether it was news.
    pub(super) async fn append(
        &self,
        layer: &ChannelLayer,
        found: &Arc<Group>,
        news: &News<'_>,
        head: &Head,
        position: Position,
        age: Duration,
    ) -> bool {
        let deadline = tokio::time::Instant::now() + ROOM_DEADLINE;
        loop {
            match found.append_shared(news, head.node, head.seq, position, age) {
                Shared::Appended(Turn::Full) => {
                    let room = tokio::time::timeout_at(deadline, found.room());
                    if room.await.is_err() {
                        found.with_past(Past::fall_behind);
                        self.read_history(found.name());
                        return false;
                    }
                }
                Shared::Appended(turn) => {
                    layer.serve(found, turn);
                    return true;
                }
                Shared::Known => return false,
                Shared::Early(turn) => {
                    layer.serve(found, turn);
                    self.read_history(found.name());
                    return true;
                }
                Shared::Behind => {
                    self.read_history(found.name());
                    return false;
                }
            }
        }
    }

    /// Takes a message between Oneports.
    fn hear_node(&self, layer: &ChannelLayer, payload: &[u8]) {
        match wire::read(payload) {
            Some(Message::Channel { name, event }) => {
                counter!("oneport_layer_received_total").increment(1);
                let _ = layer.receive(name, event);
            }
            Some(Message::Question { asker, id, json }) => {
                self.hear_question(asker, id, json, layer.tasks());
            }
            Some(Message::Answer { id, json }) => self.hear_answer(id, json),
            Some(Message::Counted {
                id,
                queued,
                dropped,
            }) => self.hear_counted(id, queued, dropped),
            Some(Message::Event { .. }) | None => telemetry::event_dropped("malformed"),
        }
    }

    /// All of it has to come again: the connection is a new one.
    pub(super) fn forget_echoes(&self) {
        self.0.echoes.lock().clear();
    }
}

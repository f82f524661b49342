//! Send: an event on its way to the members of a group, here and in other processes.

use std::time::Duration;

use metrics::counter;
use tokio::sync::oneshot;

use super::outbox::{Act, COMMAND_BYTES, Order, Placing, Refused};
use super::receive::MESSAGE_BYTES_MAX;
use super::wire::Head;
use super::{Remote, hash, reached};
use crate::channels::append::Keep;
use crate::channels::group::Group;
use crate::channels::options::ROOM_DEADLINE;
use crate::channels::send::news;
use crate::channels::{ChannelLayer, Event, GroupName, LayerError, Sent};
use crate::config::LayerFormat;
use crate::telemetry;

/// How many events of ours are remembered until they come back, in one channel.
const ECHOES_MAX: usize = 10_000;

impl Remote {
    /// Sends an event to a group's members, here and elsewhere. Returns how many there are here.
    pub(in crate::channels) async fn send(
        &self,
        layer: &ChannelLayer,
        group: &GroupName,
        event: Event,
        except: Option<u64>,
        keep: Keep,
    ) -> Result<Sent, LayerError> {
        let (order, matched) = match self.0.format {
            LayerFormat::Oneport => {
                let found = layer.find(group.as_str());
                let matched = found.as_ref().map_or(0, |found| found.len());
                let bounds = shared_bounds(found.as_deref(), keep);
                if is_too_long(&event) {
                    layer
                        .deliver_here(group, news(&event, except), Keep::Nothing)
                        .await?;
                    return Ok(here_only(matched));
                }
                // What goes into a shared history, or between its events, members here have from Redis, in the order of all.
                let is_served = bounds.is_none() && found.is_some();
                if is_served {
                    layer
                        .deliver_here(group, news(&event, except), keep)
                        .await?;
                }
                let head = self.head(except.filter(|_| !is_served), is_served);
                (place(group, head, event, keep, bounds), matched)
            }
            LayerFormat::Pubsub | LayerFormat::Core => {
                let here = layer.deliver_here(group, news(&event, except), keep);
                let matched = here.await?.unwrap_or(0);
                (self.shared_order(group, event), matched)
            }
        };
        match self.push(order, layer).await {
            Ok(()) | Err(LayerError::Away) => Ok(Sent {
                matched,
                ..Sent::default()
            }),
            Err(error) => Err(error),
        }
    }

    /// Sends an event and waits until all members of all processes were served, but for Redis no longer than for an answer. In
    /// Django's formats only those here are counted. What the queue for Redis has no room for reaches nobody.
    pub(in crate::channels) async fn send_counted(
        &self,
        layer: &ChannelLayer,
        group: &GroupName,
        event: Event,
        wait: Duration,
    ) -> Result<Sent, LayerError> {
        self.room_for(event.size() + 2 * COMMAND_BYTES, wait)
            .await?;
        if self.0.format != LayerFormat::Oneport {
            let mut here = layer.deliver_counted(group, &event, Keep::History).await?;
            return match self.push(self.shared_order(group, event), layer).await {
                Ok(()) => Ok(here),
                Err(LayerError::Away) => {
                    here.unanswered = 1;
                    Ok(here)
                }
                Err(error) => Err(error),
            };
        }
        let found = layer.find(group.as_str());
        let bounds = shared_bounds(found.as_deref(), Keep::History);
        if is_too_long(&event) {
            here_only(0);
            let mut here = layer.deliver_counted(group, &event, Keep::Nothing).await?;
            here.unanswered = 1;
            return Ok(here);
        }
        if bounds.is_some() && !self.is_connected() {
            let matched = found.map_or(0, |found| found.len());
            self.send(layer, group, event, None, Keep::History).await?;
            return Ok(Sent {
                matched,
                queued: matched,
                unanswered: 1,
                ..Sent::default()
            });
        }
        let mut sent = Sent::default();
        if bounds.is_none() {
            sent = layer.deliver_counted(group, &event, Keep::History).await?;
        }
        let (id, mut counts) = self.wait_for_counts();
        let mut head = self.head(None, bounds.is_none() && found.is_some());
        head.count = Some(id);
        let mut order = place(group, head, event, Keep::History, bounds);
        let (reply, replied) = oneshot::channel();
        order.reply = Some(reply);
        match self.push(order, layer).await {
            Ok(()) => {}
            Err(LayerError::Away) => {
                sent.unanswered = 1;
                return Ok(sent);
            }
            Err(error) => return Err(error),
        }
        // Our own subscription hears it too, and keeps still when its members have it already.
        let is_heard_here = self.0.subscriptions.is_there(&self.channel_of(group));
        let Ok(Ok(answer)) = tokio::time::timeout(wait, replied).await else {
            sent.unanswered = 1;
            return Ok(sent);
        };
        let reached = reached(&answer);
        let expected = reached.saturating_sub(usize::from(bounds.is_none() && is_heard_here));
        let (matched, unanswered) = counts.collect(expected, wait).await;
        sent.queued += matched.queued;
        sent.dropped += matched.dropped;
        sent.matched = sent.queued + sent.dropped;
        sent.unanswered = unanswered;
        Ok(sent)
    }

    /// Waits until an event of that size would be taken, if it is one that waits for Redis at all.
    async fn room_for(&self, size: usize, wait: Duration) -> Result<(), LayerError> {
        let deadline = tokio::time::Instant::now() + wait;
        loop {
            let room = self.0.outbox.room();
            if self.0.outbox.has_room(size) {
                return Ok(());
            }
            if !self.is_connected() || tokio::time::timeout_at(deadline, room).await.is_err() {
                return Err(LayerError::QueueFull);
            }
        }
    }

    fn head(&self, except: Option<u64>, is_served: bool) -> Head {
        Head {
            node: self.0.node,
            seq: 0,
            is_served,
            except,
            count: None,
        }
    }

    /// An event in one of Django's formats.
    fn shared_order(&self, group: &GroupName, event: Event) -> Order {
        if self.0.format == LayerFormat::Core {
            return Order {
                size: event.size() + COMMAND_BYTES,
                act: Act::Core {
                    group: group.clone(),
                    event,
                },
                reply: None,
            };
        }
        let channel = self.channel_of(group);
        let payload = self.0.dictionaries.write(&event, None);
        Order {
            size: payload.len() + COMMAND_BYTES,
            act: Act::Publish { channel, payload },
            reply: None,
        }
    }

    /// Says something to Redis, in its turn; waits for room.
    async fn push(&self, order: Order, layer: &ChannelLayer) -> Result<(), LayerError> {
        let deadline = tokio::time::Instant::now() + ROOM_DEADLINE;
        let mut order = order;
        loop {
            let room = self.0.outbox.room();
            let echo = self.expect_echo(&order);
            let refused = match self.0.outbox.push(order, layer) {
                Ok(()) => {
                    counter!("oneport_layer_published_total").increment(1);
                    return Ok(());
                }
                Err(refused) => refused,
            };
            if let Some((channel, hash)) = echo {
                self.is_echo(&channel, hash);
            }
            order = match refused {
                Refused::Away => return Err(LayerError::Away),
                Refused::Full(back) => back,
            };
            let is_away = !self.is_connected();
            if is_away || tokio::time::timeout_at(deadline, room).await.is_err() {
                self.0.outbox.give_up(order, layer, "redis_queue_full");
                return Ok(());
            }
        }
    }

    /// In `channels_redis.pubsub` nothing in a message says whose it is: what we send comes back, and our members have it
    /// already. Two equal messages are as good as each other, so it does not matter which of them is taken for ours.
    fn expect_echo(&self, order: &Order) -> Option<(String, u64)> {
        let Act::Publish { channel, payload } = &order.act else {
            return None;
        };
        if self.0.format != LayerFormat::Pubsub || !self.0.subscriptions.is_there(channel) {
            return None;
        }
        let hash = hash(payload);
        let mut echoes = self.0.echoes.lock();
        let expected = echoes.entry(channel.clone()).or_default();
        if expected.len() >= ECHOES_MAX {
            expected.pop_front();
        }
        expected.push_back(hash);
        Some((channel.clone(), hash))
    }

    /// Tells whether a message is one of ours that came back, and expects it no more.
    pub(super) fn is_echo(&self, channel: &str, hash: u64) -> bool {
        let mut echoes = self.0.echoes.lock();
        let Some(expected) = echoes.get_mut(channel) else {
            return false;
        };
        let Some(at) = expected.iter().position(|echo| *echo == hash) else {
            return false;
        };
        expected.remove(at);
        if expected.is_empty() {
            echoes.remove(channel);
        }
        true
    }
}

/// Returns how much a group keeps in Redis, where that is known here.
fn shared_bounds(found: Option<&Group>, keep: Keep) -> Option<(usize, Duration)> {
    found?.with_past(|past| {
        if keep == Keep::History {
            past.will_keep();
        }
        past.is_shared().then(|| past.bounds())
    })
}

/// Tells whether an event is longer than what other processes take.
fn is_too_long(event: &Event) -> bool {
    event.size() > MESSAGE_BYTES_MAX - 2 * COMMAND_BYTES
}

/// An event reaches nobody but the members here.
fn here_only(matched: usize) -> Sent {
    telemetry::event_dropped("oversized");
    Sent {
        matched,
        ..Sent::default()
    }
}

/// An event that Redis is to give its place in a group's history, if it is kept and there is one.
fn place(
    group: &GroupName,
    head: Head,
    event: Event,
    keep: Keep,
    bounds: Option<(usize, Duration)>,
) -> Order {
    Order {
        size: event.size() + 2 * COMMAND_BYTES,
        act: Act::Place(Box::new(Placing {
            group: group.clone(),
            head,
            event,
            keep,
            bounds,
            is_early: false,
            was_said: false,
            is_again: false,
        })),
        reply: None,
    }
}

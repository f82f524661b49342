//! Send: an event on its way to the members of a group, here and in other processes.

use std::time::Duration;

use metrics::counter;
use tokio::sync::oneshot;

use super::outbox::{COMMAND_BYTES, CommandKind, HistoryAppend, PushError, QueuedCommand};
use super::receive::MESSAGE_BYTES_MAX;
use super::wire::Head;
use super::{Remote, hash, reached};
use crate::channels::append::Retention;
use crate::channels::group::Group;
use crate::channels::options::ROOM_DEADLINE;
use crate::channels::send::new_event;
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
        keep: Retention,
    ) -> Result<Sent, LayerError> {
        let (command, matched) = match self.0.format {
            LayerFormat::Oneport => {
                let found = layer.find(group.as_str());
                let matched = found.as_ref().map_or(0, |found| found.len());
                let bounds = shared_bounds(found.as_deref(), keep);
                if is_too_long(&event) {
                    layer
                        .deliver_local(group, new_event(&event, except), Retention::Transient)
                        .await?;
                    return Ok(local_only(matched));
                }
                // What goes into a shared history, or between its events, members here have from Redis, in the order of all.
                let is_delivered_by_sender = bounds.is_none() && found.is_some();
                if is_delivered_by_sender {
                    layer
                        .deliver_local(group, new_event(&event, except), keep)
                        .await?;
                }
                let head = self.head(
                    except.filter(|_| !is_delivered_by_sender),
                    is_delivered_by_sender,
                );
                (history_append(group, head, event, keep, bounds), matched)
            }
            LayerFormat::Pubsub | LayerFormat::Core => {
                let here = layer.deliver_local(group, new_event(&event, except), keep);
                let matched = here.await?.unwrap_or(0);
                (self.channels_redis_command(group, event), matched)
            }
        };
        match self.push(command, layer).await {
            Ok(()) | Err(LayerError::Disconnected) => Ok(Sent {
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
        self.wait_for_space(event.size() + 2 * COMMAND_BYTES, wait)
            .await?;
        if self.0.format != LayerFormat::Oneport {
            let mut here = layer
                .deliver_counted(group, &event, Retention::History)
                .await?;
            return match self
                .push(self.channels_redis_command(group, event), layer)
                .await
            {
                Ok(()) => Ok(here),
                Err(LayerError::Disconnected) => {
                    here.unanswered = 1;
                    Ok(here)
                }
                Err(error) => Err(error),
            };
        }
        let found = layer.find(group.as_str());
        let bounds = shared_bounds(found.as_deref(), Retention::History);
        if is_too_long(&event) {
            local_only(0);
            let mut here = layer
                .deliver_counted(group, &event, Retention::Transient)
                .await?;
            here.unanswered = 1;
            return Ok(here);
        }
        if bounds.is_some() && !self.is_connected() {
            let matched = found.map_or(0, |found| found.len());
            self.send(layer, group, event, None, Retention::History)
                .await?;
            return Ok(Sent {
                matched,
                queued: matched,
                unanswered: 1,
                ..Sent::default()
            });
        }
        let mut sent = Sent::default();
        if bounds.is_none() {
            sent = layer
                .deliver_counted(group, &event, Retention::History)
                .await?;
        }
        let (id, mut counts) = self.wait_for_counts();
        let mut head = self.head(None, bounds.is_none() && found.is_some());
        head.count = Some(id);
        let mut command = history_append(group, head, event, Retention::History, bounds);
        let (reply, replied) = oneshot::channel();
        command.reply = Some(reply);
        match self.push(command, layer).await {
            Ok(()) => {}
            Err(LayerError::Disconnected) => {
                sent.unanswered = 1;
                return Ok(sent);
            }
            Err(error) => return Err(error),
        }
        // Our own subscription hears it too, and keeps still when its members have it already.
        let is_heard_here = self.0.subscriptions.is_subscribed(&self.channel_of(group));
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
    async fn wait_for_space(&self, size: usize, wait: Duration) -> Result<(), LayerError> {
        let deadline = tokio::time::Instant::now() + wait;
        loop {
            let space = self.0.outbox.space();
            if self.0.outbox.has_space(size) {
                return Ok(());
            }
            if !self.is_connected() || tokio::time::timeout_at(deadline, space).await.is_err() {
                return Err(LayerError::QueueFull);
            }
        }
    }

    fn head(&self, except: Option<u64>, is_delivered_by_sender: bool) -> Head {
        Head {
            node: self.0.node,
            seq: 0,
            is_delivered_by_sender,
            except,
            count: None,
        }
    }

    /// An event in one of Django's formats.
    fn channels_redis_command(&self, group: &GroupName, event: Event) -> QueuedCommand {
        if self.0.format == LayerFormat::Core {
            return QueuedCommand {
                size: event.size() + COMMAND_BYTES,
                kind: CommandKind::CoreGroupSend {
                    group: group.clone(),
                    event,
                },
                reply: None,
            };
        }
        let channel = self.channel_of(group);
        let payload = self.0.codec.write(&event, None);
        QueuedCommand {
            size: payload.len() + COMMAND_BYTES,
            kind: CommandKind::Publish { channel, payload },
            reply: None,
        }
    }

    /// Says something to Redis, in its turn; waits for room.
    async fn push(&self, command: QueuedCommand, layer: &ChannelLayer) -> Result<(), LayerError> {
        let deadline = tokio::time::Instant::now() + ROOM_DEADLINE;
        let mut command = command;
        loop {
            let space = self.0.outbox.space();
            let echo = self.expect_echo(&command);
            let refused = match self.0.outbox.push(command, layer) {
                Ok(()) => {
                    counter!("oneport_layer_published_total").increment(1);
                    return Ok(());
                }
                Err(refused) => refused,
            };
            if let Some((channel, hash)) = echo {
                self.is_echo(&channel, hash);
            }
            command = match refused {
                PushError::Disconnected => return Err(LayerError::Disconnected),
                PushError::Full(back) => back,
            };
            let is_away = !self.is_connected();
            if is_away || tokio::time::timeout_at(deadline, space).await.is_err() {
                self.0.outbox.give_up(command, layer, "redis_queue_full");
                return Ok(());
            }
        }
    }

    /// In `channels_redis.pubsub` nothing in a message says whose it is: what we send comes back, and our members have it
    /// already. Two equal messages are as good as each other, so it does not matter which of them is taken for ours.
    fn expect_echo(&self, command: &QueuedCommand) -> Option<(String, u64)> {
        let CommandKind::Publish { channel, payload } = &command.kind else {
            return None;
        };
        if self.0.format != LayerFormat::Pubsub || !self.0.subscriptions.is_subscribed(channel) {
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
fn shared_bounds(found: Option<&Group>, keep: Retention) -> Option<(usize, Duration)> {
    found?.with_history(|history| {
        if keep == Retention::History {
            history.will_keep();
        }
        history.is_shared().then(|| history.bounds())
    })
}

/// Tells whether an event is longer than what other processes take.
fn is_too_long(event: &Event) -> bool {
    event.size() > MESSAGE_BYTES_MAX - 2 * COMMAND_BYTES
}

/// An event reaches nobody but the members here.
fn local_only(matched: usize) -> Sent {
    telemetry::event_dropped("oversized");
    Sent {
        matched,
        ..Sent::default()
    }
}

/// An event that Redis is to give its place in a group's history, if it is kept and there is one.
fn history_append(
    group: &GroupName,
    head: Head,
    event: Event,
    keep: Retention,
    bounds: Option<(usize, Duration)>,
) -> QueuedCommand {
    QueuedCommand {
        size: event.size() + 2 * COMMAND_BYTES,
        kind: CommandKind::Append(Box::new(HistoryAppend {
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

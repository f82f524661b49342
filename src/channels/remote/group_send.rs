//! Group send: an event's way to the members of a group, in this process and in others.

use std::time::Duration;

use metrics::counter;
use tokio::sync::oneshot;

use super::echoes::Echoes;
use super::outbox::PushError;
use super::queued_command::{COMMAND_BYTES, CommandKind, HistoryAppend, QueuedCommand};
use super::receive::MESSAGE_BYTES_MAX;
use super::subscriptions::Subscription;
use super::wire::{self, Head};
use super::{Remote, reached};
use crate::channels::append::{NewEvent, Retention};
use crate::channels::event_id::EventId;
use crate::channels::group::Group;
use crate::channels::options::SPACE_TIMEOUT;
use crate::channels::{Event, GroupName, LayerError, Sent};
use crate::config::LayerFormat;
use crate::telemetry;

impl Remote {
    /// Sends an event to a group's members. Returns the number of members in this process.
    pub(in crate::channels) async fn send(
        &self,
        name: &GroupName,
        event: Event,
        except: Option<u64>,
        retention: Retention,
    ) -> Result<Sent, LayerError> {
        let local = &self.0.local;
        let (command, matched) = match self.0.format {
            LayerFormat::Oneport => {
                let group = local.find(name.as_str());
                let matched = group.as_ref().map_or(0, |group| group.len());
                let bounds = shared_bounds(group.as_deref(), retention);
                if is_oversized(&event) {
                    let new = NewEvent::new(&event, except);
                    local.send(name, new, Retention::Transient).await?;
                    telemetry::event_dropped("oversized");
                    return Ok(Sent {
                        matched,
                        ..Sent::default()
                    });
                }
                // An event of a shared history, or one that comes between its events, reaches the
                // members of this process through Redis, so all members of all processes see the
                // same order.
                let is_delivered = bounds.is_none() && group.is_some();
                if is_delivered {
                    let new = NewEvent::new(&event, except);
                    local.send(name, new, retention).await?;
                }
                let head = self.head(except.filter(|_| !is_delivered), is_delivered);
                (
                    append_command(name, head, event, retention, bounds),
                    matched,
                )
            }
            LayerFormat::Pubsub | LayerFormat::Core => {
                let command = self.channels_redis_command(name, &event)?;
                let new = NewEvent::new(&event, except);
                let matched = local.send(name, new, retention).await?.unwrap_or(0);
                (command, matched)
            }
        };
        match self.push(command).await {
            Ok(()) | Err(LayerError::Disconnected) => Ok(Sent {
                matched,
                ..Sent::default()
            }),
            Err(error) => Err(error),
        }
    }

    /// Sends an event and waits until all members of all processes have been served, but at most
    /// `wait` for Redis and the other processes. In the formats of `channels_redis`, only members
    /// of this process are counted. If the outbox has no space, the event is not sent.
    pub(in crate::channels) async fn send_counted(
        &self,
        name: &GroupName,
        event: Event,
        wait: Duration,
    ) -> Result<Sent, LayerError> {
        self.wait_for_space(event.size() + 2 * COMMAND_BYTES, wait)
            .await?;
        let local = &self.0.local;
        if self.0.format != LayerFormat::Oneport {
            let command = self.channels_redis_command(name, &event)?;
            let mut sent = local.send_counted(name, &event, Retention::History).await?;
            return match self.push(command).await {
                Ok(()) => Ok(sent),
                Err(LayerError::Disconnected) => {
                    sent.unanswered = 1;
                    Ok(sent)
                }
                Err(error) => Err(error),
            };
        }
        let group = local.find(name.as_str());
        let bounds = shared_bounds(group.as_deref(), Retention::History);
        if is_oversized(&event) {
            telemetry::event_dropped("oversized");
            let sent = local.send_counted(name, &event, Retention::Transient);
            let mut sent = sent.await?;
            sent.unanswered = 1;
            return Ok(sent);
        }
        if bounds.is_some() && !self.is_connected() {
            let matched = group.map_or(0, |group| group.len());
            self.send(name, event, None, Retention::History).await?;
            return Ok(Sent {
                matched,
                queued: matched,
                unanswered: 1,
                ..Sent::default()
            });
        }
        let mut sent = Sent::default();
        if bounds.is_none() {
            sent = local.send_counted(name, &event, Retention::History).await?;
        }
        let mut counts = self.0.pending_calls.await_counts();
        let mut head = self.head(None, bounds.is_none() && group.is_some());
        head.count = Some(counts.call.id);
        let mut command = append_command(name, head, event, Retention::History, bounds);
        let (reply, replied) = oneshot::channel();
        command.reply = Some(reply);
        match self.push(command).await {
            Ok(()) => {}
            Err(LayerError::Disconnected) => {
                sent.unanswered = 1;
                return Ok(sent);
            }
            Err(error) => return Err(error),
        }
        // This process subscribes too; it sends no counts if its members had the event before Redis
        // did.
        let channel = self.0.names.channel_of(name);
        let is_subscribed = self.0.subscriptions.is_subscribed(&channel);
        let Ok(Ok(reply)) = tokio::time::timeout(wait, replied).await else {
            sent.unanswered = 1;
            return Ok(sent);
        };
        let own = usize::from(bounds.is_none() && is_subscribed);
        let expected = reached(&reply).saturating_sub(own);
        let (others, unanswered) = counts.collect(expected, wait).await;
        sent.queued += others.queued;
        sent.dropped += others.dropped;
        sent.matched = sent.queued + sent.dropped;
        sent.unanswered = unanswered;
        Ok(sent)
    }

    /// Waits until the outbox has space for an event of that size; fails at once without a
    /// connection.
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

    /// Tells the other processes the newest number of each group that was used while events might
    /// not reach them, so that they count what they missed.
    pub(super) fn announce_sequences(&self) {
        for (group, number) in self.0.outbox.settled() {
            let payload = wire::newest(self.0.node, &number);
            self.0.outbox.push_if_connected(QueuedCommand {
                size: payload.len() + COMMAND_BYTES,
                kind: CommandKind::NodeMessage {
                    channel: self.0.names.channel_of(&group),
                    payload,
                },
                reply: None,
            });
        }
    }

    pub(super) fn head(&self, except: Option<u64>, is_delivered_by_sender: bool) -> Head {
        Head {
            id: EventId {
                node: self.0.node,
                seq: 0, // the outbox numbers it
            },
            is_delivered_by_sender,
            except,
            count: None,
            number: None, // so does it here
        }
    }

    /// Returns the command that sends an event in one of the formats of `channels_redis`. Fails if
    /// the format cannot carry the event.
    pub(super) fn channels_redis_command(
        &self,
        group: &GroupName,
        event: &Event,
    ) -> Result<QueuedCommand, LayerError> {
        let event = self.0.codec.encode(event)?;
        let size = event.size() + COMMAND_BYTES;
        let kind = match self.0.format {
            LayerFormat::Core => CommandKind::CoreGroupSend {
                group: group.clone(),
                event,
            },
            _ => CommandKind::Publish {
                channel: self.0.names.channel_of(group),
                payload: self.0.codec.seal(&event, None),
            },
        };
        Ok(QueuedCommand {
            size,
            kind,
            reply: None,
        })
    }

    /// Queues an event; waits for space.
    async fn push(&self, command: QueuedCommand) -> Result<(), LayerError> {
        let deadline = tokio::time::Instant::now() + SPACE_TIMEOUT;
        let mut command = command;
        loop {
            let space = self.0.outbox.space();
            // Expected before it is queued: it may arrive before `push` returns.
            let echo = self.expect_echo(&command);
            let error = match self.0.outbox.push(command) {
                Ok(()) => {
                    counter!("oneport_layer_published_total").increment(1);
                    return Ok(());
                }
                Err(error) => error,
            };
            if let Some((channel, hash)) = echo {
                self.0.echoes.cancel(&channel, hash);
            }
            command = match error {
                PushError::Disconnected => return Err(LayerError::Disconnected),
                PushError::Full(back) => back,
            };
            let is_disconnected = !self.is_connected();
            if is_disconnected || tokio::time::timeout_at(deadline, space).await.is_err() {
                self.0.outbox.give_up(command, "redis_queue_full");
                return Ok(());
            }
        }
    }

    /// In `channels_redis.pubsub`, records that an event is expected back from Redis; returns its
    /// channel and hash.
    pub(super) fn expect_echo(&self, command: &QueuedCommand) -> Option<(String, u64)> {
        let CommandKind::Publish { channel, payload } = &command.kind else {
            return None;
        };
        if self.0.format != LayerFormat::Pubsub {
            return None;
        }
        let until = match self.0.subscriptions.wanted(channel)? {
            Subscription::Subscribed => None,
            // Redis may execute the subscription before or after the event. The event waits for the
            // pipelines before it, each of which has the timeout.
            Subscription::None | Subscription::Pending => {
                Some(tokio::time::Instant::now() + 4 * self.0.timeout)
            }
        };
        let hash = Echoes::hash(payload);
        self.0.echoes.expect(channel, hash, until);
        Some((channel.clone(), hash))
    }
}

/// Returns how much history a group keeps in Redis, if this process knows.
fn shared_bounds(group: Option<&Group>, retention: Retention) -> Option<(usize, Duration)> {
    group?.with_history(|history| {
        if retention == Retention::History {
            history.mark_used();
        }
        history.is_shared().then(|| history.bounds())
    })
}

/// Returns whether an event is longer than other processes accept.
fn is_oversized(event: &Event) -> bool {
    event.size() > MESSAGE_BYTES_MAX - 2 * COMMAND_BYTES
}

/// Returns the command that gives an event its offset in a group's history, if the event is kept
/// and the group has one.
fn append_command(
    group: &GroupName,
    head: Head,
    event: Event,
    retention: Retention,
    bounds: Option<(usize, Duration)>,
) -> QueuedCommand {
    QueuedCommand {
        size: event.size() + 2 * COMMAND_BYTES,
        kind: CommandKind::Append(Box::new(HistoryAppend::new(
            group, head, event, retention, bounds,
        ))),
        reply: None,
    }
}

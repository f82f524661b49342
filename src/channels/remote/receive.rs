//! Receive: handles the messages from Redis, and delivers them to the members of this process.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use metrics::{Counter, counter};

use super::Remote;
use super::channels_redis_codec::{DecodeError, Unreadable};
use super::channels_redis_core::RANDOM_PREFIX;
use super::echoes::Echoes;
use super::wire::{self, Head, Message};
use crate::channels::append::{AppendOutcome, NewEvent, Retention, SharedAppend};
use crate::channels::delivery::DeliveryTally;
use crate::channels::group::Group;
use crate::channels::history::GroupHistory;
use crate::channels::options::SPACE_TIMEOUT;
use crate::channels::sender_sequences::Arrival;
use crate::channels::{Event, GroupName, Position};
use crate::config::LayerFormat;
use crate::telemetry;
use crate::telemetry::trace::{self, Span, SpanKind, TraceContext};

/// The longest message that is accepted.
pub(super) const MESSAGE_BYTES_MAX: usize = 1 << 20;

/// Looked up once: each lookup takes a lock that all share.
static RECEIVED: LazyLock<Counter> = LazyLock::new(|| counter!("oneport_layer_received_total"));

impl Remote {
    /// Handles one message of a subscription.
    pub(super) async fn on_message(&self, channel: &str, payload: &[u8]) {
        let group = self.0.names.group_of(channel);
        if self.0.format == LayerFormat::Pubsub
            && group.is_some()
            && self.0.echoes.take(channel, Echoes::hash(payload))
        {
            return;
        }
        if payload.len() > MESSAGE_BYTES_MAX {
            return telemetry::event_dropped("oversized");
        }
        if let Some(group) = group {
            match self.0.format {
                LayerFormat::Oneport => self.on_group_event(group, payload).await,
                LayerFormat::Pubsub => self.on_channels_redis_event(group, payload).await,
                LayerFormat::Core => {}
            }
        } else if channel.starts_with(self.0.names.own_prefix()) {
            self.on_node_message(payload);
        } else {
            match self.0.codec.read(payload) {
                Ok((event, _)) => {
                    RECEIVED.increment(1);
                    self.0.local.channels().receive(channel, event);
                }
                Err(error) => self.drop_unreadable(channel, &error),
            }
        }
    }

    fn drop_from_inbox(&self, message: &[u8], error: &DecodeError) {
        let group = self.0.core.group_in(message);
        self.drop_unreadable(group.as_ref().map_or("", GroupName::as_str), error);
    }

    /// Counts a message that is no event, and logs why, once per interval. `to`: a group or a
    /// channel.
    fn drop_unreadable(&self, to: &str, error: &DecodeError) {
        telemetry::event_dropped(error.reason());
        let throttle = match error {
            DecodeError::Malformed(_) => &self.0.malformed,
            DecodeError::Undecryptable => &self.0.undecryptable,
        };
        if let Some(times) = throttle.count() {
            let reason = error.reason();
            tracing::warn!(to, reason, times, "event from Redis dropped: {error}");
        }
    }

    /// Handles one message of the inbox (`channels_redis.core`).
    pub(super) async fn on_inbox_message(&self, message: &[u8]) {
        if message.len() > MESSAGE_BYTES_MAX {
            return telemetry::event_dropped("oversized");
        }
        let Some(content) = message.get(RANDOM_PREFIX..) else {
            return self.drop_from_inbox(message, &Unreadable::NoPrefix.into());
        };
        let (event, channels) = match self.0.codec.read(content) {
            Ok(read) => read,
            Err(error) => return self.drop_from_inbox(message, &error),
        };
        if channels.is_empty() {
            return self.drop_from_inbox(message, &Unreadable::NoRecipients.into());
        }
        RECEIVED.increment(1);
        for channel in channels {
            match self.0.core.group_of(&channel) {
                Some(group) => self.receive_event(&group, &event).await,
                None => self.0.local.channels().receive(&channel, event.clone()),
            }
        }
    }

    async fn on_channels_redis_event(&self, name: &str, payload: &[u8]) {
        let Some(group) = self.0.local.find(name) else {
            return; // its last member has left
        };
        match self.0.codec.read(payload) {
            Ok((event, _)) => {
                RECEIVED.increment(1);
                self.receive_event(group.name(), &event).await;
            }
            Err(error) => self.drop_unreadable(name, &error),
        }
    }

    /// Delivers an event of another process to the members of this one.
    async fn receive_event(&self, group: &GroupName, event: &Event) {
        if !self.on_presence_event(group, event) {
            self.0.local.receive(group, event).await;
        }
    }

    async fn on_group_event(&self, name: &str, payload: &[u8]) {
        let (head, position, event) = match wire::read(payload) {
            Some(Message::Event {
                head,
                position,
                event,
            }) => (head, position, event),
            Some(Message::Newest { node, number }) => {
                if let Some(group) = self.0.local.find(name).filter(|_| node != self.0.node) {
                    count_missed(&group, group.senders().announced(node, number));
                }
                return;
            }
            _ => return telemetry::event_dropped("malformed"),
        };
        let is_ours = head.id.node == self.0.node;
        if is_ours {
            self.0.outbox.probe.returned(name, &head);
        }
        let _span = match !is_ours && trace::is_on() {
            true => self.delivery_span(name, &head),
            false => None,
        };
        RECEIVED.increment(u64::from(!is_ours));
        let except = head.except.filter(|_| is_ours);
        let tally = head.count.map(|_| Arc::<DeliveryTally>::default());
        let new = NewEvent {
            event: &event,
            except,
            is_delivered: is_ours && head.is_delivered_by_sender,
            tally: tally.clone(),
        };
        let group = self.0.local.find(name);
        let has_offset = position.offset > 0;
        // A change has no offset, no number and no count.
        let may_be_change = !has_offset && head.number.is_none() && head.count.is_none();
        if let Some(group) = group.as_ref().filter(|_| may_be_change)
            && self.on_presence_event(group.name(), &event)
        {
            return;
        }
        let is_shared = |group: &Group| group.with_history(|history| history.is_shared());
        if let (Some(group), Some(number)) = (&group, head.number)
            && !is_ours
        {
            let node = head.id.node;
            match has_offset {
                true => group.senders().recovered(node, number), // its offset shows what was missed
                false => match group.senders().arrived(node, number) {
                    Arrival::After { missed } => count_missed(group, missed),
                    Arrival::Late => {
                        if let Some(count) = head.count {
                            self.reply_counts(node, count, 0, 0);
                        }
                        return;
                    }
                },
            }
        }
        let is_delivered = match &group {
            None => false,
            Some(group) if is_ours && head.is_delivered_by_sender => {
                // Our members have it; the history does not, if a member has asked for one since
                // the event was sent.
                if has_offset {
                    group.with_history(|history| history.mark_sent(head.id));
                    if is_shared(group) {
                        self.append_shared(group, &new, &head, position, Duration::ZERO)
                            .await;
                    } else {
                        self.mark_delivered(group, &head, position);
                    }
                }
                return;
            }
            Some(group) if has_offset && is_shared(group) => {
                self.append_shared(group, &new, &head, position, Duration::ZERO)
                    .await
            }
            // Other processes keep a history of the group, this one does not yet. It must still
            // not deliver an event twice.
            Some(group) if has_offset && !self.mark_delivered(group, &head, position) => false,
            Some(group) => {
                // Redis has lost that the group keeps a history, and learns it by a read.
                if head.id.seq > 0 && !has_offset && is_shared(group) {
                    self.0.read_queue.add(group.name());
                }
                let local = &self.0.local;
                let sent = local.send(group.name(), new, Retention::History).await;
                matches!(sent, Ok(Some(_)))
            }
        };
        let Some(count) = head.count else { return };
        match tally {
            Some(tally) if is_delivered => {
                let remote = self.clone();
                let tasks = self.0.local.tasks();
                tasks.spawn("counts for another process", async move {
                    let (queued, dropped) = tally.finished().await;
                    remote.reply_counts(head.id.node, count, queued, dropped);
                });
            }
            _ => self.reply_counts(head.id.node, count, 0, 0),
        }
    }

    /// Starts the span of an event from another process, if it has members here.
    #[cold]
    fn delivery_span(&self, group: &str, head: &Head) -> Option<Box<Span>> {
        let sender = self.0.event_spans.take(&head.into(), group)?;
        self.0.local.find(group)?;
        let sender = TraceContext::from_bytes(&sender)?;
        let mut span = Span::remote_child(&sender, SpanKind::Consumer, "group_deliver");
        span.set("messaging.system", "oneport");
        span.set("messaging.operation.name", "group_deliver");
        span.set("messaging.operation.type", "process");
        span.set("messaging.destination.name", group);
        Some(Box::new(span))
    }

    /// Records an event of a history that no member of this process has asked for; returns whether
    /// it is new. From now on the process keeps a copy, to find out what it misses. What it has
    /// missed before is lost.
    fn mark_delivered(&self, group: &Group, head: &Head, position: Position) -> bool {
        let (is_new, missed) =
            group.with_history(|history| history.mark_delivered(head.id, position));
        if missed > 0 {
            telemetry::events_dropped("redis_away", missed);
            self.0.outbox.count_lost(missed);
        }
        if !self.0.read_queue.contains(group.name()) {
            self.0.read_queue.add(group.name());
        }
        is_new
    }

    /// Appends an event at its position in a shared history; returns whether it was new. If the
    /// group has no space in time, the history is read again later.
    pub(super) async fn append_shared(
        &self,
        group: &Arc<Group>,
        new: &NewEvent<'_>,
        head: &Head,
        position: Position,
        age: Duration,
    ) -> bool {
        let deadline = tokio::time::Instant::now() + SPACE_TIMEOUT;
        if let Some(number) = head.number {
            group.senders().recovered(head.id.node, number);
        }
        loop {
            match group.append_shared(new, head.id, position, age) {
                SharedAppend::Appended(AppendOutcome::Full) => {
                    let space = tokio::time::timeout_at(deadline, group.space());
                    if space.await.is_err() {
                        group.with_history(GroupHistory::mark_behind);
                        self.0.read_queue.add(group.name());
                        return false;
                    }
                }
                SharedAppend::Appended(outcome) => {
                    self.0.local.deliver(group, outcome);
                    return true;
                }
                SharedAppend::Duplicate | SharedAppend::Kept => return false,
                SharedAppend::Gap => {
                    self.0.read_queue.add(group.name());
                    return false;
                }
            }
        }
    }

    /// Handles a message between Oneports.
    fn on_node_message(&self, payload: &[u8]) {
        match wire::read(payload) {
            Some(Message::Channel { name, event }) => {
                RECEIVED.increment(1);
                self.0.local.channels().receive(name, event);
            }
            Some(Message::Request { caller, id, json }) => self.on_request(caller, id, json),
            Some(Message::Reply { id, json }) => self.on_reply(id, json),
            Some(Message::Counted {
                id,
                queued,
                dropped,
            }) => self.0.pending_calls.on_counts(id, queued, dropped),
            Some(Message::Registered { node }) if node != self.0.node => self.compare_presence(),
            Some(Message::Registered { .. }) => {}
            Some(Message::Span {
                numbers,
                group,
                span,
            }) => {
                if numbers.id.node != self.0.node {
                    self.0.event_spans.add(numbers, group, span);
                }
            }
            Some(Message::Event { .. } | Message::Newest { .. }) | None => {
                telemetry::event_dropped("malformed");
            }
        }
    }
}

/// Counts events that did not arrive, if the group has members.
fn count_missed(group: &Group, missed: u64) {
    if missed > 0 && group.len() > 0 {
        telemetry::events_dropped("redis_away", missed);
    }
}

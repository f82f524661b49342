//! Outbox: what waits to be said to Redis, in order and bounded.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Mutex, MutexGuard};
use redis::{Cmd, RedisError, Value};
use tokio::sync::{Notify, oneshot};

use super::command_connections::is_redirect;
use super::wire::Head;
use crate::channels::append::{AppendOutcome, Retention};
use crate::channels::group::Group;
use crate::channels::send::new_event;
use crate::channels::{ChannelLayer, Event, GroupName};
use crate::telemetry;

/// What one pipeline takes: less after each loss, for it may have been more than Redis can do in the time that it has, and more
/// again with each answer.
const BATCH_SIZE_MIN: usize = 16;
const BATCH_SIZE_MAX: usize = 512;
const BATCH_BYTES_MAX: usize = 1 << 20;

/// What a command beside events is counted as.
pub(super) const COMMAND_BYTES: usize = 256;

/// Events that Redis confirmed are said again after a loss: a Redis that died may have published them to nobody, or have kept
/// them nowhere. So long, and so many, and a share of the queue's bytes.
const CONFIRMED_AGE_MAX: Duration = Duration::from_secs(30);
const CONFIRMED_MAX: usize = 4096;
const CONFIRMED_SHARE: usize = 4;

/// Something to be said to Redis.
#[derive(Debug)]
pub(super) struct QueuedCommand {
    pub(super) kind: CommandKind,
    pub(super) size: usize,
    /// Who waits for the answer; it learns of a loss by the end of the channel.
    pub(super) reply: Option<oneshot::Sender<Vec<Value>>>,
}

#[derive(Debug)]
pub(super) enum CommandKind {
    /// An event for whoever subscribed.
    Publish { channel: String, payload: Vec<u8> },
    /// A message between Oneports that is no event.
    NodeMessage { channel: String, payload: Vec<u8> },
    /// An event for a group that may keep a history.
    Append(Box<HistoryAppend>),
    /// An event for a group of `channels_redis.core`.
    CoreGroupSend { group: GroupName, event: Event },
    /// Anything else; it is of no use once the connection is another.
    Raw(Vec<Cmd>),
}

#[derive(Debug)]
pub(super) struct HistoryAppend {
    pub(super) group: GroupName,
    pub(super) head: Head,
    pub(super) event: Event,
    pub(super) keep: Retention,
    /// How much the group keeps, where that is known here.
    pub(super) bounds: Option<(usize, Duration)>,
    /// The members of this process have it.
    pub(super) is_early: bool,
    /// It may have been said in an earlier try: then it is said again only into a history.
    pub(super) was_said: bool,
    /// The same, the try that is under way included.
    pub(super) is_again: bool,
}

/// What waits to be said to Redis.
pub(super) struct Outbox {
    bytes_max: usize,
    state: Mutex<OutboxState>,
    work: Notify,
    space: Notify,
}

#[derive(Default)]
struct OutboxState {
    queue: VecDeque<QueuedCommand>,
    bytes: usize,
    /// What Redis confirmed lately, and when.
    confirmed: VecDeque<(Instant, QueuedCommand)>,
    confirmed_bytes: usize,
    link: LinkState,
    batch_size: usize,
    seq: u64,
    lost: u64,
}

/// Is Redis there?
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
enum LinkState {
    #[default]
    Disconnected,
    /// It is being told what there is: what changes meanwhile is said after that.
    Resyncing,
    Connected,
}

/// Why an order was not taken.
#[derive(Debug)]
pub(super) enum PushError {
    Disconnected,
    Full(QueuedCommand),
}

impl Outbox {
    pub(super) fn new(bytes_max: usize) -> Self {
        Self {
            bytes_max,
            state: Mutex::default(),
            work: Notify::new(),
            space: Notify::new(),
        }
    }

    pub(super) fn is_connected(&self) -> bool {
        self.state().link == LinkState::Connected
    }

    /// Takes an order. Events that are held wait while Redis is away, others are lost then.
    pub(super) fn push(
        &self,
        mut command: QueuedCommand,
        layer: &ChannelLayer,
    ) -> Result<(), PushError> {
        let mut state = self.state();
        let is_event = command.kind.is_event();
        let survives_outage = command.kind.survives_outage();
        if state.link != LinkState::Connected && !survives_outage {
            drop(state);
            self.give_up(command, layer, "redis_away");
            return Err(PushError::Disconnected);
        }
        let is_full = !state.queue.is_empty() && state.bytes + command.size > self.bytes_max;
        if is_event && is_full {
            return Err(PushError::Full(command));
        }
        let mut outcome = None;
        if let CommandKind::Append(append) = &mut command.kind {
            if append.keep == Retention::History {
                state.seq += 1;
                append.head.seq = state.seq;
            }
            if state.link != LinkState::Connected {
                outcome = append.append_early(layer);
            }
        }
        state.bytes += command.size;
        state.queue.push_back(command);
        drop(state);
        self.work.notify_one();
        if let Some((found, outcome)) = outcome {
            layer.deliver_appended(&found, outcome);
        }
        Ok(())
    }

    /// Gives up an event that Redis will not have: the members of this process get it all the same, before those that are
    /// still on their way.
    pub(super) fn give_up(
        &self,
        command: QueuedCommand,
        layer: &ChannelLayer,
        reason: &'static str,
    ) {
        if command.kind.is_event() {
            self.state().lost += 1;
            telemetry::event_dropped(reason);
        }
        if let CommandKind::Append(append) = command.kind
            && let Some((found, outcome)) = append.append_without_offset(layer)
        {
            layer.deliver_appended(&found, outcome);
        }
    }

    /// Redis has an event, and a place for it; it is remembered for a while.
    pub(super) fn confirm(&self, command: QueuedCommand) {
        let CommandKind::Append(mut append) = command.kind else {
            return;
        };
        append.head.count = None; // who counted has the counts, or waits no more
        let now = Instant::now();
        let mut state = self.state();
        state.confirmed_bytes += command.size;
        let command = QueuedCommand {
            kind: CommandKind::Append(append),
            size: command.size,
            reply: None,
        };
        state.confirmed.push_back((now, command));
        while let Some((at, first)) = state.confirmed.front()
            && (now.duration_since(*at) > CONFIRMED_AGE_MAX
                || state.confirmed.len() > CONFIRMED_MAX
                || state.confirmed_bytes > self.bytes_max / CONFIRMED_SHARE)
        {
            state.confirmed_bytes -= first.size;
            state.confirmed.pop_front();
        }
    }

    /// Takes an order that is no group's event, if Redis is there; tells whether it is.
    pub(super) fn push_if_connected(&self, command: QueuedCommand) -> bool {
        let state = self.state();
        state.link == LinkState::Connected && self.enqueue_plain(state, command)
    }

    /// Takes commands that change what Redis was told when the connection began. Returns whether they are said, or need not be:
    /// while Redis is away it is told all later.
    pub(super) fn push_presence(&self, command: QueuedCommand) -> bool {
        let state = self.state();
        state.link == LinkState::Disconnected || self.enqueue_plain(state, command)
    }

    /// Takes an order that is no group's event, as far as there is room; for these there is twice as much.
    fn enqueue_plain(
        &self,
        mut state: MutexGuard<'_, OutboxState>,
        command: QueuedCommand,
    ) -> bool {
        if state.bytes + command.size > 2 * self.bytes_max {
            return false;
        }
        state.bytes += command.size;
        state.queue.push_back(command);
        drop(state);
        self.work.notify_one();
        true
    }

    /// Tells whether an event would be taken.
    pub(super) fn has_space(&self, size: usize) -> bool {
        let state = self.state();
        state.queue.is_empty() || state.bytes + size <= self.bytes_max
    }

    /// Completes when there may be room again.
    pub(super) fn space(&self) -> impl Future<Output = ()> + '_ {
        self.space.notified()
    }

    /// Takes what the next pipeline says; waits until there is something.
    pub(super) async fn next(&self) -> Vec<QueuedCommand> {
        loop {
            {
                let mut state = self.state();
                let mut taken = Vec::new();
                let mut bytes = 0;
                let at_once = state.batch_size.max(BATCH_SIZE_MIN);
                while taken.len() < at_once
                    && bytes < BATCH_BYTES_MAX
                    && let Some(command) = state.queue.pop_front()
                {
                    bytes += command.size;
                    taken.push(command);
                }
                if !taken.is_empty() {
                    return taken;
                }
            }
            self.work.notified().await;
        }
    }

    /// Some of what was taken has to be said once more, before what waits.
    pub(super) fn put_back(&self, commands: Vec<QueuedCommand>) {
        let mut state = self.state();
        for command in commands.into_iter().rev() {
            state.queue.push_front(command);
        }
        drop(state);
        self.work.notify_one();
    }

    /// What was taken is done: it counts no more.
    pub(super) fn done(&self, bytes: usize) {
        let mut state = self.state();
        state.bytes = state.bytes.saturating_sub(bytes);
        state.batch_size = (2 * state.batch_size).clamp(BATCH_SIZE_MIN, BATCH_SIZE_MAX);
        drop(state);
        self.space.notify_waiters();
    }

    /// Drops the events that Redis has a place for already: those of each group up to a number.
    pub(super) fn drop_confirmed(&self, confirmed: &HashMap<GroupName, u64>) {
        let mut state = self.state();
        let state = &mut *state;
        state.queue.retain(|command| {
            let is_confirmed = match &command.kind {
                CommandKind::Append(append) => confirmed
                    .get(&append.group)
                    .is_some_and(|last| append.head.seq <= *last),
                _ => false,
            };
            if is_confirmed {
                state.bytes = state.bytes.saturating_sub(command.size);
            }
            !is_confirmed
        });
        self.space.notify_waiters();
    }

    /// Redis is about to be told what there is.
    pub(super) fn resyncing(&self) {
        self.state().link = LinkState::Resyncing;
    }

    /// Redis is there.
    pub(super) fn connected(&self) {
        self.state().link = LinkState::Connected;
        self.work.notify_one();
    }

    /// Redis was coming, and did not come: what changed meanwhile it is told another time.
    pub(super) fn connect_failed(&self) {
        let mut state = self.state();
        let state = &mut *state;
        state.link = LinkState::Disconnected;
        state.queue.retain(|command| {
            let is_change = matches!(command.kind, CommandKind::Raw(_));
            if is_change {
                state.bytes = state.bytes.saturating_sub(command.size);
            }
            !is_change
        });
    }

    /// Redis is gone, and nobody knows what of the taken orders arrived: held events are said again, and so are those that it gave
    /// a place lately; the members of this process get now what they have not heard. The others are lost.
    pub(super) fn disconnected(&self, taken: Vec<QueuedCommand>, layer: &ChannelLayer) {
        let mut outcomes = Vec::new();
        {
            let mut state = self.state();
            state.link = LinkState::Disconnected;
            state.batch_size /= 4;
            state.confirmed_bytes = 0;
            let confirmed = std::mem::take(&mut state.confirmed);
            let confirmed = confirmed
                .into_iter()
                .filter(|(at, _)| at.elapsed() <= CONFIRMED_AGE_MAX)
                .map(|(_, command)| command);
            let confirmed = confirmed.map(|mut command| {
                if let CommandKind::Append(append) = &mut command.kind {
                    append.is_again = true;
                }
                (command, true)
            });
            let others = taken.into_iter().chain(std::mem::take(&mut state.queue));
            let all = confirmed.chain(others.map(|command| (command, false)));
            let mut queue = VecDeque::new();
            let mut bytes = 0;
            for (mut command, was_confirmed) in all {
                let (is_event, survives_outage) =
                    (command.kind.is_event(), command.kind.survives_outage());
                match &mut command.kind {
                    CommandKind::Append(append) if survives_outage || was_confirmed => {
                        outcomes.extend(append.append_early(layer));
                        bytes += command.size;
                        queue.push_back(command);
                        continue;
                    }
                    CommandKind::Append(append) if !append.is_again => {
                        outcomes.extend(append.append_without_offset(layer));
                    }
                    _ => {}
                }
                if is_event {
                    state.lost += 1;
                    telemetry::event_dropped("redis_away");
                }
            }
            state.queue = queue;
            state.bytes = bytes;
        }
        self.space.notify_waiters();
        for (found, outcome) in outcomes {
            layer.deliver_appended(&found, outcome);
        }
    }

    /// Returns how many events were lost since this was asked last.
    pub(super) fn take_lost(&self) -> u64 {
        std::mem::take(&mut self.state().lost)
    }

    /// Counts events that were lost elsewhere.
    pub(super) fn count_lost(&self, events: u64) {
        self.state().lost += events;
    }

    pub(super) fn is_empty(&self) -> bool {
        let state = self.state();
        state.queue.is_empty() && state.bytes == 0
    }

    fn state(&self) -> MutexGuard<'_, OutboxState> {
        self.state.lock()
    }
}

impl CommandKind {
    /// It is about to be said.
    pub(super) fn begin_attempt(&mut self) {
        if let Self::Append(append) = self {
            append.was_said = append.is_again;
            append.is_again = true;
        }
    }

    /// Redis answered that it did not do it.
    pub(super) fn not_executed(&mut self) {
        if let Self::Append(append) = self {
            append.is_again = append.was_said;
        }
    }

    /// Tells whether it is to be said again when its keys have come to where they are going: a question is not, who asked asks again.
    pub(super) fn is_retried_after(&self, error: &RedisError) -> bool {
        is_redirect(error) && matches!(self, Self::Append(_))
    }

    fn is_event(&self) -> bool {
        !matches!(self, Self::NodeMessage { .. } | Self::Raw(_))
    }

    /// Tells whether it waits while Redis is away: an event of a history, or of a group that is not here and may keep one.
    fn survives_outage(&self) -> bool {
        matches!(self, Self::Append(append) if append.keep == Retention::History && !append.head.is_delivered_by_sender)
    }
}

impl HistoryAppend {
    /// Gives the event to the members of this process, who will not hear it from Redis.
    fn append_without_offset(&self, layer: &ChannelLayer) -> Option<(Arc<Group>, AppendOutcome)> {
        if self.is_early || self.head.is_delivered_by_sender {
            return None;
        }
        let found = layer.find(self.group.as_str())?;
        if !found.with_history(|history| history.is_shared()) {
            return None;
        }
        let outcome = found.append_without_offset(&new_event(&self.event, self.head.except));
        Some((found, outcome))
    }

    /// Gives the event to the members of this process, which will not wait for Redis.
    fn append_early(&mut self, layer: &ChannelLayer) -> Option<(Arc<Group>, AppendOutcome)> {
        if std::mem::replace(&mut self.is_early, true) || self.head.is_delivered_by_sender {
            return None;
        }
        let found = layer.find(self.group.as_str())?;
        if !found.with_history(|history| history.is_shared()) {
            return None;
        }
        let Head {
            node, seq, except, ..
        } = self.head;
        let outcome = found.append_early(&new_event(&self.event, except), node, seq);
        Some((found, outcome))
    }
}

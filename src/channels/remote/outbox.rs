//! Outbox: a bounded, ordered queue of commands for Redis.
//!
//! ```text
//!                   resyncing             connected
//!   Disconnected ─────────────▶ Resyncing ─────────▶ Connected
//!        ▲  ▲                       │                    │
//!        │  └─── connect_failed ────┘                    │
//!        └─────────────────── disconnected ──────────────┘
//! ```
//!
//! While Redis is away, events of histories wait in the queue, and members of this process receive
//! them at once. Other events do not reach other processes, and commands are refused. While the
//! process resyncs, it registers its members in Redis; changes to them are queued behind that,
//! since they may not be part of it.
//!
//! An event of a history goes through these states, so that it is neither lost nor sent twice:
//!
//! ```text
//!           push            next               confirm, 30 s
//!   (new) ────────▶ queue ────────▶ in flight ──────────────▶ confirmed ────────▶ (gone)
//!                     ▲                 │                         │
//!                     │    disconnected: some may be executed
//!                     └─────────────────┴─────────────────────────┘
//! ```
//!
//! Confirmed events are sent again after a loss. A Redis that crashed may restart without the last
//! events it had confirmed, or may have published them before any process had subscribed. The
//! script recognizes the events it has by their number ([`Attempt`]). They go back to the front of
//! the queue: in a history a number covers all lower ones of the same sender, so an event sent
//! after a higher number would be dropped as a duplicate.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use metrics::counter;
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::Notify;

use super::delivery_probe::DeliveryProbe;
use super::group_sequences::GroupSequences;
use super::queued_command::{Attempt, CommandKind, QueuedCommand};
use crate::channels::GroupName;
use crate::channels::append::Retention;
use crate::channels::local_groups::LocalGroups;
use crate::channels::sender_sequences::SequenceNumber;
use crate::telemetry;

/// The number of commands in one pipeline, and the number of bytes. The first falls after each
/// loss, because the pipeline may have been more than Redis can execute within the timeout, and
/// rises again with each reply.
const BATCH_SIZE_MIN: usize = 16;
const BATCH_SIZE_MAX: usize = 512;
const BATCH_BYTES_MAX: usize = 1 << 20;

/// How long confirmed events are remembered, how many of them, and the share of the queue's bytes
/// they may take.
const CONFIRMED_AGE_MAX: Duration = Duration::from_secs(30);
const CONFIRMED_MAX: usize = 4096;
const CONFIRMED_SHARE: usize = 4;

/// Commands that wait to be sent to Redis.
pub(super) struct Outbox {
    bytes_max: usize,
    local: Arc<LocalGroups>,
    state: Mutex<OutboxState>,
    work: Notify,
    space: Notify,
    pub(super) probe: DeliveryProbe,
}

#[derive(Default)]
struct OutboxState {
    queue: VecDeque<QueuedCommand>,
    /// The size of the queue and of the commands in flight.
    bytes: usize,
    /// The commands that Redis has confirmed recently, with the time.
    confirmed: VecDeque<(Instant, QueuedCommand)>,
    confirmed_bytes: usize,
    link: LinkState,
    batch_size: usize,
    /// The number of this process's newest event in a history.
    seq: u64,
    /// The numbers of the events that are in no history, by group.
    sequences: GroupSequences,
    lost: u64,
}

impl OutboxState {
    /// Remembers, for a limited time, an event that Redis has.
    fn remember(&mut self, mut command: QueuedCommand, bytes_max: usize) {
        let now = Instant::now();
        // Its sender has the reply and the counts, or has stopped waiting.
        command.reply = None;
        if let CommandKind::Append(append) = &mut command.kind {
            append.head.count = None;
            append.head.number = None; // sent again, it comes after later numbers
        }
        self.confirmed_bytes += command.size;
        self.confirmed.push_back((now, command));
        while let Some((at, first)) = self.confirmed.front()
            && (now.duration_since(*at) > CONFIRMED_AGE_MAX
                || self.confirmed.len() > CONFIRMED_MAX
                || self.confirmed_bytes > bytes_max / CONFIRMED_SHARE)
        {
            self.confirmed_bytes -= first.size;
            self.confirmed.pop_front();
        }
    }
}

/// The state of the connection to Redis.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
enum LinkState {
    #[default]
    Disconnected,
    /// Connected; the process is registering its members and subscriptions in Redis.
    Resyncing,
    Connected,
}

impl OutboxState {
    /// Counts an event that was not given to Redis. The processes whose members miss it count it as
    /// dropped, by its number; if it has none, only this process can.
    fn lose(&mut self, kind: &CommandKind, reason: &'static str) {
        self.lost += 1;
        counter!("oneport_layer_unpublished_total").increment(1);
        match kind {
            CommandKind::Append(append) if append.is_sent_at_most_once() => {
                if append.head.number.is_none() {
                    self.sequences.number(&append.group);
                }
            }
            _ => telemetry::event_dropped(reason),
        }
    }
}

/// The reason why a command was not queued.
#[derive(Debug)]
pub(super) enum PushError {
    Disconnected,
    Full(QueuedCommand),
}

/// What became of commands that change the registered members of this process.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum PresencePush {
    Queued,
    /// They are not needed: a process that connects registers all its members.
    Disconnected,
    /// There is no space.
    Full,
}

impl Outbox {
    pub(super) fn new(bytes_max: usize, local: Arc<LocalGroups>) -> Self {
        Self {
            bytes_max,
            local,
            state: Mutex::default(),
            work: Notify::new(),
            space: Notify::new(),
            probe: DeliveryProbe::default(),
        }
    }

    /// Returns the size of the commands that wait and of those in flight.
    pub(super) fn bytes(&self) -> usize {
        self.state.lock().bytes
    }

    pub(super) fn is_connected(&self) -> bool {
        self.state.lock().link == LinkState::Connected
    }

    // --- Queueing -------------------------------------------------------------------------------------------------------

    /// Queues an event. Without a connection, only events of histories are queued.
    pub(super) fn push(&self, mut command: QueuedCommand) -> Result<(), PushError> {
        let mut state = self.state.lock();
        if state.link != LinkState::Connected && !command.kind.survives_outage() {
            drop(state);
            self.give_up(command, "redis_away");
            return Err(PushError::Disconnected);
        }
        let is_full = !state.queue.is_empty() && state.bytes + command.size > self.bytes_max;
        if command.kind.is_event() && is_full {
            return Err(PushError::Full(command));
        }
        let mut delivery = None;
        if let CommandKind::Append(append) = &mut command.kind {
            // Numbered under the lock that orders the queue, so numbers reach Redis in order.
            if append.retention == Retention::History {
                state.seq += 1;
                append.head.id.seq = state.seq;
            }
            if append.is_sent_at_most_once() {
                append.head.number = Some(state.sequences.number(&append.group));
            }
            match state.link {
                LinkState::Connected => self.probe.queued(&append.group, &append.head),
                _ => delivery = append.deliver_early(&self.local),
            }
        }
        state.bytes += command.size;
        state.queue.push_back(command);
        drop(state);
        self.work.notify_one();
        if let Some((group, outcome)) = delivery {
            self.local.deliver(&group, outcome);
        }
        Ok(())
    }

    /// Queues a command that is not an event, if the process is connected; returns whether it was
    /// queued.
    pub(super) fn push_if_connected(&self, command: QueuedCommand) -> bool {
        let state = self.state.lock();
        state.link == LinkState::Connected && self.enqueue_plain(state, command)
    }

    /// Queues commands that change the registered members of this process.
    pub(super) fn push_presence(&self, command: QueuedCommand) -> PresencePush {
        let state = self.state.lock();
        if state.link == LinkState::Disconnected {
            return PresencePush::Disconnected;
        }
        match self.enqueue_plain(state, command) {
            true => PresencePush::Queued,
            false => PresencePush::Full,
        }
    }

    /// Queues a command that is not an event. Such commands have twice the space, so that events
    /// cannot crowd them out.
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

    /// Returns whether an event of that size would be queued.
    pub(super) fn has_space(&self, size: usize) -> bool {
        let state = self.state.lock();
        state.queue.is_empty() || state.bytes + size <= self.bytes_max
    }

    /// Completes when there may be space again.
    pub(super) fn space(&self) -> impl Future<Output = ()> + '_ {
        self.space.notified()
    }

    /// Completes when no command waits and none is in flight.
    pub(super) async fn drained(&self) {
        loop {
            // Registered before the state is read: a reply in between wakes this task.
            let space = self.space.notified();
            let is_drained = {
                let state = self.state.lock();
                state.queue.is_empty() && state.bytes == 0
            };
            if is_drained {
                return;
            }
            space.await;
        }
    }

    /// Gives up an event that Redis will never have. The members of this process still receive it,
    /// before the events that are still on their way.
    pub(super) fn give_up(&self, command: QueuedCommand, reason: &'static str) {
        if command.kind.is_event() {
            self.state.lock().lose(&command.kind, reason);
        }
        if let CommandKind::Append(append) = command.kind
            && let Some((group, outcome)) = append.deliver_without_offset(&self.local)
        {
            self.local.deliver(&group, outcome);
        }
    }

    // --- Sending --------------------------------------------------------------------------------------------------------

    /// Takes the commands of the next pipeline; waits until there are some.
    pub(super) async fn next(&self) -> Vec<QueuedCommand> {
        loop {
            {
                let mut state = self.state.lock();
                let mut taken = Vec::new();
                let mut bytes = 0;
                let batch_size = state.batch_size.max(BATCH_SIZE_MIN);
                while taken.len() < batch_size
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

    /// Puts taken commands that must be sent again back in front of the queue.
    pub(super) fn put_back(&self, commands: Vec<QueuedCommand>) {
        let mut state = self.state.lock();
        for command in commands.into_iter().rev() {
            state.queue.push_front(command);
        }
        drop(state);
        self.work.notify_one();
    }

    /// Returns the space of executed commands.
    pub(super) fn done(&self, bytes: usize) {
        let mut state = self.state.lock();
        state.bytes = state.bytes.saturating_sub(bytes);
        state.batch_size = (2 * state.batch_size).clamp(BATCH_SIZE_MIN, BATCH_SIZE_MAX);
        drop(state);
        self.space.notify_waiters();
    }

    /// Remembers, for a limited time, an event that has received its offset from Redis.
    pub(super) fn confirm(&self, command: QueuedCommand) {
        if matches!(command.kind, CommandKind::Append(_)) {
            self.state.lock().remember(command, self.bytes_max);
        }
    }

    /// Called with the events that Redis has: in each group, those up to a number. They are not
    /// sent again, unless Redis loses them once more.
    pub(super) fn found_confirmed(&self, confirmed: &HashMap<GroupName, u64>) {
        let mut state = self.state.lock();
        let is_confirmed = |command: &QueuedCommand| match &command.kind {
            CommandKind::Append(append) => confirmed
                .get(&append.group)
                .is_some_and(|last| append.head.id.seq <= *last),
            _ => false,
        };
        for command in std::mem::take(&mut state.queue) {
            if is_confirmed(&command) {
                state.bytes = state.bytes.saturating_sub(command.size);
                state.remember(command, self.bytes_max);
            } else {
                state.queue.push_back(command);
            }
        }
        drop(state);
        self.space.notify_waiters();
    }

    // --- The connection -------------------------------------------------------------------------------------------------

    /// Called when the process starts to register its members and subscriptions in Redis.
    pub(super) fn resyncing(&self) {
        self.state.lock().link = LinkState::Resyncing;
    }

    pub(super) fn connected(&self) {
        self.state.lock().link = LinkState::Connected;
        self.work.notify_one();
    }

    /// Called when the link has lasted. Returns the numbers of the newest events in the groups that
    /// were sent to without a link that had lasted.
    pub(super) fn settled(&self) -> Vec<(GroupName, SequenceNumber)> {
        self.state.lock().sequences.settled()
    }

    /// Called when the process could not connect. Presence commands queued in the meantime are
    /// dropped: the next attempt registers all members.
    pub(super) fn connect_failed(&self) {
        let mut state = self.state.lock();
        let state = &mut *state;
        state.link = LinkState::Disconnected;
        state.queue.retain(|command| {
            let is_presence = matches!(command.kind, CommandKind::Presence(_));
            if is_presence {
                state.bytes = state.bytes.saturating_sub(command.size);
            }
            !is_presence
        });
    }

    /// Called when the connection is lost. `in_flight` are the commands without a reply, which
    /// Redis may or may not have executed.
    ///
    /// Events of histories go back to the queue: first those that Redis confirmed recently, then
    /// those in flight, then those that waited, which is the order of their numbers. The members of
    /// this process now receive the events that they have not received from Redis. All other
    /// commands are dropped; their callers see the reply channel close.
    pub(super) fn disconnected(&self, in_flight: Vec<QueuedCommand>) {
        let mut deliveries = Vec::new();
        {
            let mut state = self.state.lock();
            state.link = LinkState::Disconnected;
            state.sequences.lost();
            state.batch_size /= 4;
            state.confirmed_bytes = 0;
            let mut queue = VecDeque::new();
            let mut bytes = 0;
            for (at, mut command) in std::mem::take(&mut state.confirmed) {
                if at.elapsed() > CONFIRMED_AGE_MAX {
                    continue;
                }
                if let CommandKind::Append(append) = &mut command.kind {
                    // Most members already have it from Redis; `append_early` recognizes it then.
                    deliveries.extend(append.deliver_early(&self.local));
                }
                bytes += command.size;
                queue.push_back(command);
            }
            let waiting = std::mem::take(&mut state.queue);
            for mut command in in_flight.into_iter().chain(waiting) {
                let survives_outage = command.kind.survives_outage();
                match &mut command.kind {
                    CommandKind::Append(append) if survives_outage => {
                        deliveries.extend(append.deliver_early(&self.local));
                        bytes += command.size;
                        queue.push_back(command);
                        continue;
                    }
                    // An event in flight may have reached the members through Redis; delivery is at
                    // most once.
                    CommandKind::Append(append) if append.attempt == Attempt::Unsent => {
                        deliveries.extend(append.deliver_without_offset(&self.local));
                    }
                    _ => {}
                }
                if command.kind.is_event() {
                    state.lose(&command.kind, "redis_away");
                }
            }
            state.queue = queue;
            state.bytes = bytes;
        }
        self.space.notify_waiters();
        for (group, outcome) in deliveries {
            self.local.deliver(&group, outcome);
        }
    }

    /// Returns the number of events lost since the last call.
    pub(super) fn take_lost(&self) -> u64 {
        std::mem::take(&mut self.state.lock().lost)
    }

    /// Counts lost events.
    pub(super) fn count_lost(&self, events: u64) {
        self.state.lock().lost += events;
    }
}

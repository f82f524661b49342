//! History: the copies here of the histories in Redis, read and kept true.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use redis::{FromRedisValue, RedisResult, Value};
use tokio::time::Instant;

use super::Remote;
use super::command_connections::is_transient;
use super::connection::{Connection, ConnectionEnd};
use super::scripts::{READ, VERIFY};
use super::wire::{self, Head};
use crate::channels::append::{AppendOutcome, NewEvent, SharedAppend};
use crate::channels::group::Group;
use crate::channels::history::GroupHistory;
use crate::channels::options::ROOM_DEADLINE;
use crate::channels::position::new_epoch;
use crate::channels::send::new_event;
use crate::channels::{ChannelLayer, Event, GroupName, Position};
use crate::telemetry;

/// How many histories are read at once.
const READS_AT_ONCE: usize = 64;

/// How many events are read of a history at once: an answer is to come in the time that every answer has.
const EVENTS_AT_ONCE: usize = 1000;

/// How long an answer may take, behind all that is to be said before; it ends with the connection at the latest.
const READ_MAX: Duration = Duration::from_secs(30);

/// When a history is read again that could not be read.
const READ_RETRY: Duration = Duration::from_secs(2);

/// How many histories are checked in one pipeline.
const VERIFIED_AT_ONCE: usize = 500;

/// Groups whose shared history is to be read.
#[derive(Default)]
pub(super) struct ReadQueue {
    queue: VecDeque<GroupName>,
    state: HashMap<GroupName, ReadState>,
}

#[derive(Clone, Copy, Eq, PartialEq)]
enum ReadState {
    Queued,
    CommandLabel,
    /// Something came after the question, and may not be in the answer.
    Stale,
    /// It could not be read: it is asked for again after a pause, whoever waits for it.
    RetryLater,
}

impl ReadQueue {
    /// A history is to be read from now on; tells whether that is news.
    pub(super) fn add(&mut self, group: &GroupName) -> bool {
        match self.state.get_mut(group) {
            Some(state @ (ReadState::CommandLabel | ReadState::Stale)) => {
                *state = ReadState::Stale;
                false
            }
            Some(ReadState::Queued | ReadState::RetryLater) => false,
            None => {
                self.queue(group.clone());
                true
            }
        }
    }

    /// Tells whether a history waits, is read just now, or could not be read a moment ago.
    pub(super) fn has(&self, group: &GroupName) -> bool {
        self.state.contains_key(group)
    }

    /// The connection is another one.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    fn queue(&mut self, group: GroupName) {
        self.state.insert(group.clone(), ReadState::Queued);
        self.queue.push_back(group);
    }

    fn take(&mut self, count: usize) -> Vec<GroupName> {
        let count = self.queue.len().min(count);
        let groups: Vec<_> = self.queue.drain(..count).collect();
        for group in &groups {
            self.state.insert(group.clone(), ReadState::CommandLabel);
        }
        groups
    }

    /// It could not be read.
    fn failed(&mut self, group: &GroupName) {
        self.state.insert(group.clone(), ReadState::RetryLater);
    }

    /// The pause is over: it is to be read again.
    fn retry(&mut self, group: GroupName) {
        if self.state.get(&group) == Some(&ReadState::RetryLater) {
            self.queue(group);
        }
    }

    /// It was answered, or will not be; tells whether it is to be read again.
    fn done(&mut self, group: &GroupName) -> bool {
        let is_again = self.state.remove(group) == Some(ReadState::Stale);
        if is_again {
            self.queue(group.clone());
        }
        is_again
    }
}

/// What a group's shared history said when it was read.
struct HistoryPage {
    epoch: u64,
    offset: u64,
    now: u64,
    entries: Vec<StoredEvent>,
    /// Is there nothing behind them?
    is_end: bool,
}

/// One event of a shared history.
struct StoredEvent {
    offset: u64,
    at: u64,
    head: Head,
    event: Event,
}

impl Connection {
    /// Reads what is behind, as long as the connection lives.
    pub(super) async fn read_histories(self) -> ConnectionEnd {
        let inner = &self.remote.0;
        let mut again: Vec<GroupName> = Vec::new();
        let mut again_at = Instant::now();
        loop {
            let groups = inner.read_queue.lock().take(READS_AT_ONCE);
            if groups.is_empty() {
                tokio::select! {
                    () = inner.read_work.notified() => {}
                    () = tokio::time::sleep_until(again_at), if !again.is_empty() => {
                        let mut queue = inner.read_queue.lock();
                        again.drain(..).for_each(|group| queue.retry(group));
                    }
                }
                continue;
            }
            let (remote, layer) = (&self.remote, &self.layer);
            let asked = groups.into_iter().filter_map(|group| {
                let question = layer.find(group.as_str()).and_then(|found| {
                    let command = remote.history_command(&group, &found)?;
                    Some((found, command))
                });
                let Some((found, command)) = question else {
                    inner.read_queue.lock().done(&group);
                    return None;
                };
                Some(async move {
                    let answer = remote.query_redis_within(READ_MAX, vec![command]).await;
                    let is_read = remote.on_history_page(layer, &found, answer).await;
                    if !is_read {
                        found.with_history(GroupHistory::mark_behind);
                        inner.read_queue.lock().failed(&group);
                    } else if inner.read_queue.lock().done(&group) {
                        inner.read_work.notify_one();
                    }
                    found.notify_changed();
                    (!is_read).then_some(group)
                })
            });
            let unread = join_all(asked).await;
            if again.is_empty() {
                again_at = Instant::now() + READ_RETRY;
            }
            again.extend(unread.into_iter().flatten());
        }
    }

    /// Sees that no history goes on at an offset that members here have seen another event at: a Redis that died may come back
    /// with what it knew some time before. And asks what of our events it knows: they are not said again.
    pub(super) async fn verify_histories(&self) -> RedisResult<()> {
        let (mut groups, mut calls) = (Vec::new(), Vec::new());
        for (group, found) in self.layer.all_groups() {
            let Some((position, newest)) = found.with_history(|history| history.known()) else {
                continue;
            };
            let [meta, stream] = self.remote.history_keys(&group);
            let newest = newest.map(|(node, seq)| [node.to_be_bytes(), seq.to_be_bytes()].concat());
            let mut call = VERIFY.call(&[&meta, &stream]);
            call.arg(&position.epoch.to_be_bytes()[..])
                .arg(position.offset)
                .arg(newest.unwrap_or_default())
                .arg(&epoch_bytes()[..])
                .arg(self.remote.0.node);
            calls.push(call);
            groups.push(group);
        }
        let mut others = 0;
        let mut groups = groups.into_iter();
        let mut placed = HashMap::new();
        for calls in calls.chunks(VERIFIED_AT_ONCE) {
            let answers = self.within(self.commands.run(calls.to_vec())).await?;
            for (answer, group) in answers.into_iter().zip(groups.by_ref()) {
                // What is no history is told when it is read.
                let answer = answer.and_then(|answer| Ok(<(u64, u64)>::from_redis_value(answer)?));
                let (began, last) = match answer {
                    Ok(answer) => answer,
                    Err(error) if is_transient(&error) => return Err(error),
                    Err(_) => continue,
                };
                others += began;
                placed.insert(group, last);
            }
        }
        self.remote.0.outbox.drop_confirmed(&placed);
        if others > 0 {
            tracing::warn!(
                groups = others,
                "Redis came back with an older state: these histories begin another life"
            );
        }
        Ok(())
    }
}

/// An epoch for a history that begins.
pub(super) fn epoch_bytes() -> [u8; 8] {
    new_epoch().to_be_bytes()
}

impl Remote {
    /// Takes what was read of a group's shared history: the members get what they have not seen. What is read for the first time
    /// only those get who had to join before it could be read. Tells whether it was read.
    async fn on_history_page(
        &self,
        layer: &ChannelLayer,
        found: &Arc<Group>,
        answer: Option<Vec<Value>>,
    ) -> bool {
        match layer.find(found.name().as_str()) {
            None => return true, // its last member left meanwhile
            Some(now) if !Arc::ptr_eq(&now, found) => {
                self.read_history(found.name()); // and another came
                return true;
            }
            Some(_) => {}
        }
        let page = answer
            .and_then(|answer| answer.into_iter().next())
            .and_then(parse_page);
        let Some(page) = page else {
            return false;
        };
        let before = page
            .entries
            .first()
            .map_or(page.offset, |first| first.offset.saturating_sub(1));
        let lost = found.with_history(|history| history.read_from(page.epoch, before));
        if page.offset == 0 {
            self.0.registry.read_empty(found.name());
        } else if !found.with_history(|history| history.is_loaded()) {
            found.drop_room_permit();
        }
        if lost > 0 {
            telemetry::events_dropped("redis_away", lost);
            self.0.outbox.count_lost(lost);
        }
        let (_, expiry) = found.with_history(|history| history.bounds());
        for kept in page.entries {
            let age = Duration::from_millis(page.now.saturating_sub(kept.at));
            if age > expiry {
                let epoch = page.epoch;
                found.with_history(|history| history.read_from(epoch, kept.offset));
                continue;
            }
            let except = kept.head.except.filter(|_| kept.head.node == self.0.node);
            let position = Position {
                epoch: page.epoch,
                offset: kept.offset,
            };
            let new = new_event(&kept.event, except);
            if found.with_history(|history| history.is_loaded()) {
                self.append_shared(layer, found, &new, &kept.head, position, age)
                    .await;
            } else if !self
                .append_loaded(layer, found, &new, &kept.head, position, age)
                .await
            {
                return false;
            }
        }
        if page.is_end {
            found.with_history(GroupHistory::loaded);
        }
        if !page.is_end || found.with_history(|history| history.is_behind()) {
            self.read_history(found.name());
        }
        true
    }

    /// Takes over an event of a history that is read for the first time; tells whether there was room in time.
    async fn append_loaded(
        &self,
        layer: &ChannelLayer,
        found: &Arc<Group>,
        new: &NewEvent<'_>,
        head: &Head,
        position: Position,
        age: Duration,
    ) -> bool {
        let deadline = Instant::now() + ROOM_DEADLINE;
        loop {
            match found.append_loaded(new, head.node, head.seq, position, age) {
                SharedAppend::Appended(AppendOutcome::Full) => {
                    let space = tokio::time::timeout_at(deadline, found.space());
                    if space.await.is_err() {
                        return false;
                    }
                }
                SharedAppend::Appended(outcome) | SharedAppend::AppendedEarly(outcome) => {
                    layer.deliver_appended(found, outcome);
                    return true;
                }
                SharedAppend::Duplicate | SharedAppend::Gap => return true,
            }
        }
    }

    /// Returns the command that reads a group's shared history from where it is known.
    fn history_command(&self, group: &GroupName, found: &Group) -> Option<redis::Cmd> {
        let (position, (max, expiry)) = found.with_history(|history| {
            history.catch_up();
            history
                .is_shared()
                .then(|| (history.position(), history.bounds()))
        })?;
        let [meta, stream] = self.history_keys(group);
        let mut call = READ.call(&[&meta, &stream]);
        call.arg(max)
            .arg(u64::try_from(expiry.as_millis()).unwrap_or(u64::MAX))
            .arg(&position.epoch.to_be_bytes()[..])
            .arg(position.offset)
            .arg(&epoch_bytes()[..])
            .arg(EVENTS_AT_ONCE)
            .arg(self.lease_millis());
        Some(call)
    }
}

fn parse_page(answer: Value) -> Option<HistoryPage> {
    let Value::Array(parts) = answer else {
        return None;
    };
    let [epoch, offset, now, entries] = <[Value; 4]>::try_from(parts).ok()?;
    let epoch: Vec<u8> = Vec::from_redis_value(epoch).ok()?;
    let Value::Array(entries) = entries else {
        return None;
    };
    let count = entries.len();
    let entries: Vec<StoredEvent> = entries.into_iter().filter_map(parse_stored).collect();
    Some(HistoryPage {
        epoch: u64::from_be_bytes(epoch.try_into().ok()?),
        offset: u64::from_redis_value(offset).ok()?,
        now: u64::from_redis_value(now).ok()?,
        is_end: count < EVENTS_AT_ONCE || entries.is_empty(),
        entries,
    })
}

fn parse_stored(entry: Value) -> Option<StoredEvent> {
    let (id, fields): (String, Vec<(String, Vec<u8>)>) =
        FromRedisValue::from_redis_value(entry).ok()?;
    let field = |name: &str| {
        let found = fields.iter().find(|(field, _)| field == name);
        found.map(|(_, value)| &**value)
    };
    let Some((head, event)) = wire::read_stored(field("h")?, field("t")?) else {
        telemetry::event_dropped("malformed");
        return None;
    };
    Some(StoredEvent {
        offset: id.split('-').next()?.parse().ok()?,
        at: std::str::from_utf8(field("at")?).ok()?.parse().ok()?,
        head,
        event,
    })
}

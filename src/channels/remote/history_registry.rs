//! Registry: what the histories in Redis take together, and which of them gives way when it is too much.
//!
//! Redis counts each history's bytes where its events are placed, and says so in its answer. Once a second each process notes what it
//! was told in a registry that all of them share. When the total exceeds the limit, the script returns the least recently used histories, and the
//! caller deletes those without subscribers. In a cluster the registry is at one master, each history at its own.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use metrics::counter;
use parking_lot::Mutex;
use redis::{FromRedisValue, RedisResult, Value};
use tokio::sync::Notify;

use super::Remote;
use super::connection::{Connection, ConnectionEnd};
use super::scripts::{EVICT, REGISTER, RENEW_EMPTY};
use crate::channels::GroupName;

/// How long a process gathers what it was told.
const BUFFER_TIME: Duration = Duration::from_secs(1);

/// How often the registry is looked at when there is nothing to note: what has expired is forgotten.
const REGISTRY_INTERVAL: Duration = Duration::from_secs(30);

/// How many histories make a process note them at once, and how many bytes of events.
const SIZES_MANY: usize = 5000;
const BYTES_MANY: usize = 4 << 20;

/// How many histories one command notes, and how many it names.
const REGISTERED_AT_ONCE: usize = 500;
const VICTIMS_AT_ONCE: usize = 200;

/// How many histories that are heard are passed over, before they lose their older half.
const SUBSCRIBED_MAX: usize = 2000;

/// How many histories are noted again after an error, some 256 bytes each. Those beyond are noted with their next event.
const SIZES_MAX: usize = 50_000;

/// How many groups without events are renewed, some 256 bytes each. Redis forgets those beyond after a lease, until their first event.
const EMPTY_MAX: usize = 50_000;

/// What a group takes in Redis beside its events: a stream sets 4 KiB aside.
const GROUP_OVERHEAD_BYTES: usize = 5 * 1024;

/// What is left of a group whose events have expired.
const EXPIRED_GROUP_BYTES: usize = 512;

/// What this process was told of histories, and has not noted yet.
#[derive(Default)]
pub(super) struct RegistryBuffer {
    sizes: Mutex<BufferedSizes>,
    work: Notify,
    /// Groups here that keep a history and have no event yet, at most [`EMPTY_MAX`].
    empty: Mutex<HashSet<GroupName>>,
}

#[derive(Default)]
struct BufferedSizes {
    sizes: HashMap<GroupName, HistorySize>,
    bytes: usize,
}

#[derive(Clone, Copy)]
struct HistorySize {
    bytes: u64,
    expiry: Option<Duration>,
}

impl RegistryBuffer {
    /// Redis has placed an event of that size.
    pub(super) fn appended(
        &self,
        group: &GroupName,
        event_bytes: usize,
        answer: &[Value],
        expiry: Option<Duration>,
    ) {
        let [Value::Array(parts)] = answer else {
            return;
        };
        let Some(Value::Int(bytes)) = parts.get(2) else {
            return; // it keeps none, or had it already
        };
        let size = HistorySize {
            bytes: u64::try_from(*bytes).unwrap_or(0),
            expiry,
        };
        let mut sizes = self.sizes.lock();
        match sizes.sizes.get_mut(group) {
            Some(known) => *known = size,
            None => {
                sizes.sizes.insert(group.clone(), size);
            }
        }
        sizes.bytes += event_bytes;
        let is_much = sizes.bytes >= BYTES_MANY || sizes.sizes.len() >= SIZES_MANY;
        drop(sizes);
        if is_much {
            self.work.notify_one();
        }
    }

    /// A history was read and has no event.
    pub(super) fn read_empty(&self, group: &GroupName) {
        let mut empty = self.empty.lock();
        if empty.len() < EMPTY_MAX {
            empty.insert(group.clone());
        }
    }

    /// Takes everything sizes.
    fn take(&self) -> UnregisteredHistories<'_> {
        let sizes = std::mem::take(&mut *self.sizes.lock());
        UnregisteredHistories {
            buffer: self,
            histories: sizes.sizes.into_iter().collect(),
        }
    }

    /// Notes histories again with the next ones; what Redis said of them since is newer.
    fn put_back(&self, histories: impl Iterator<Item = (GroupName, HistorySize)>) {
        let mut sizes = self.sizes.lock();
        for (group, size) in histories {
            if sizes.sizes.len() >= SIZES_MAX {
                break;
            }
            sizes.sizes.entry(group).or_insert(size);
        }
    }
}

/// Histories that the registry in Redis does not list: not yet, or not any more because it has named them.
///
/// Dropping it puts the histories back among the notes. Otherwise an error, or the end of the connection while an answer is awaited, would
/// leave them out of the total until their next event.
struct UnregisteredHistories<'n> {
    buffer: &'n RegistryBuffer,
    histories: Vec<(GroupName, HistorySize)>,
}

impl Drop for UnregisteredHistories<'_> {
    fn drop(&mut self) {
        self.buffer.put_back(self.histories.drain(..));
    }
}

impl<'n> UnregisteredHistories<'n> {
    fn none(buffer: &'n RegistryBuffer) -> Self {
        let histories = Vec::new();
        Self { buffer, histories }
    }
}

impl Connection {
    /// Notes what histories take, and lets some give way, as long as the connection lives.
    pub(super) async fn sync_registry(self) -> ConnectionEnd {
        let buffer = &self.remote.0.registry;
        let mut last_call = tokio::time::Instant::now();
        let mut is_over = false;
        loop {
            let _ = tokio::time::timeout(BUFFER_TIME, buffer.work.notified()).await;
            let some = buffer.take();
            if some.histories.is_empty() && !is_over && last_call.elapsed() < REGISTRY_INTERVAL {
                continue;
            }
            last_call = tokio::time::Instant::now();
            is_over = match self.register_sizes(some).await {
                Ok(is_over) => is_over,
                Err(error) => return (error, Vec::new()),
            };
        }
    }

    /// Notes what some histories take, and lets others give way; tells whether there is still too much.
    async fn register_sizes(&self, mut new: UnregisteredHistories<'_>) -> RedisResult<bool> {
        let limit = self.remote.0.history_size;
        let mut subscribed = UnregisteredHistories::none(new.buffer);
        let mut sum = loop {
            let (now, mut victims) = self.register_some(&mut new, limit).await?;
            if victims.histories.is_empty() && new.histories.is_empty() {
                break now;
            }
            let found = self.evict(&victims.histories, false).await?;
            victims.histories.clear();
            subscribed.histories.extend(found);
            if subscribed.histories.len() >= SUBSCRIBED_MAX {
                break now;
            }
        };
        while !new.histories.is_empty() {
            sum = self.register_some(&mut new, 0).await?.0;
        }
        if subscribed.histories.is_empty() {
            return Ok(sum > limit as u64);
        }
        // All that are left are heard: the largest lose their older half, as far as has to be.
        let histories = &mut subscribed.histories;
        histories.sort_unstable_by_key(|(_, size)| std::cmp::Reverse(size.bytes));
        let all: u64 = histories.iter().map(|(_, size)| size.bytes).sum();
        let mut excess = (sum + all).saturating_sub(limit as u64);
        let mut halved = Vec::new();
        for (group, size) in histories {
            if excess == 0 {
                break;
            }
            excess = excess.saturating_sub(size.bytes / 2);
            halved.push((group.clone(), *size));
            size.bytes /= 2;
        }
        self.evict(&halved, true).await?;
        while !subscribed.histories.is_empty() {
            sum = self.register_some(&mut subscribed, 0).await?.0;
        }
        Ok(sum > limit as u64)
    }

    /// Notes some of the histories, which are registered then. Returns the bytes of all, and those that have to give way so that all
    /// take no more than the limit; 0 is none.
    async fn register_some<'n>(
        &self,
        unregistered: &mut UnregisteredHistories<'n>,
        limit: usize,
    ) -> RedisResult<(u64, UnregisteredHistories<'n>)> {
        let mut victims = UnregisteredHistories::none(unregistered.buffer);
        let histories = &mut unregistered.histories;
        let rest = histories.len().saturating_sub(REGISTERED_AT_ONCE);
        let [uses, bytes, ends] = self.remote.registry_keys();
        let mut call = REGISTER.call(&[&uses, &bytes, &ends]);
        call.arg(limit)
            .arg(GROUP_OVERHEAD_BYTES)
            .arg(EXPIRED_GROUP_BYTES)
            .arg(VICTIMS_AT_ONCE);
        for (group, size) in &histories[rest..] {
            call.arg(group.as_str()).arg(size.bytes);
            match size.expiry {
                Some(expiry) => call.arg(u64::try_from(expiry.as_millis()).unwrap_or(u64::MAX)),
                None => call.arg(""),
            };
        }
        let answer = self.query(vec![call]).await?.into_iter().next();
        histories.truncate(rest);
        let Some(Value::Array(answer)) = answer else {
            return Ok((0, victims)); // it was refused, and logged
        };
        let mut answer = answer.into_iter();
        let sum = answer.next().map(u64::from_redis_value);
        let sum = sum.and_then(Result::ok).unwrap_or(0);
        while let (Some(group), Some(bytes)) = (answer.next(), answer.next()) {
            let group = String::from_redis_value(group).ok();
            let Some(group) = group.and_then(|group| GroupName::new(&group).ok()) else {
                continue;
            };
            let bytes = u64::from_redis_value(bytes).unwrap_or(0);
            let bytes = bytes.saturating_sub(GROUP_OVERHEAD_BYTES as u64);
            let expiry = None;
            victims
                .histories
                .push((group, HistorySize { bytes, expiry }));
        }
        Ok((sum, victims))
    }

    /// Removes histories that no process hears; those that one does lose their older half, or nothing. Returns those.
    async fn evict(
        &self,
        victims: &[(GroupName, HistorySize)],
        halves: bool,
    ) -> RedisResult<Vec<(GroupName, HistorySize)>> {
        let calls = victims.iter().map(|(group, _)| {
            let [meta, stream] = self.remote.history_keys(group);
            let mut call = EVICT.call(&[&meta, &stream]);
            call.arg(self.remote.channel_of(group))
                .arg(u8::from(halves));
            call
        });
        let answers = self.query(calls.collect()).await?;
        let mut subscribed = Vec::new();
        let mut evicted = 0;
        for (answer, one) in answers.into_iter().zip(victims) {
            match i64::from_redis_value(answer) {
                Ok(lost @ 0..) => evicted += lost.unsigned_abs(),
                Ok(_) => subscribed.push(one.clone()),
                Err(_) => {} // it is no history, and nothing that is ours
            }
        }
        if evicted > 0 {
            counter!("oneport_history_evicted_total").increment(evicted);
        }
        Ok(subscribed)
    }

    /// Says again that the groups here which have no event yet keep a history: their keys live as long as a lease.
    pub(super) async fn renew_empty(&self) -> RedisResult<()> {
        let buffer = &self.remote.0.registry;
        let mut groups = std::mem::take(&mut *buffer.empty.lock());
        let mut calls = Vec::new();
        groups.retain(|group| {
            let found = self.layer.find(group.as_str());
            let call = found.and_then(|found| {
                found.with_history(|history| {
                    let (position, _) = history.known().filter(|(at, _)| at.offset == 0)?;
                    Some(
                        self.remote
                            .renew_command(group, position.epoch, history.bounds()),
                    )
                })
            });
            calls.extend(call.clone());
            call.is_some()
        });
        for group in groups {
            buffer.read_empty(&group);
        }
        self.query(calls).await.map(drop)
    }
}

impl Remote {
    fn registry_keys(&self) -> [String; 3] {
        ["uses", "bytes", "ends"].map(|name| format!("{}:{{histories}}:{name}", self.0.own_prefix))
    }

    fn renew_command(
        &self,
        group: &GroupName,
        epoch: u64,
        (max, expiry): (usize, Duration),
    ) -> redis::Cmd {
        let [meta, _] = self.history_keys(group);
        let mut call = RENEW_EMPTY.call(&[&meta]);
        call.arg(max)
            .arg(u64::try_from(expiry.as_millis()).unwrap_or(u64::MAX))
            .arg(&epoch.to_be_bytes()[..])
            .arg(self.lease_millis());
        call
    }

    /// Returns for how long Redis keeps what it knows of a group without events.
    pub(super) fn lease_millis(&self) -> u64 {
        u64::try_from(self.0.lease.as_millis()).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(number: usize) -> GroupName {
        GroupName::new(&format!("room_{number}")).unwrap()
    }

    fn place(buffer: &RegistryBuffer, number: usize, bytes: i64) {
        let parts = vec![Value::Int(1), Value::Int(1), Value::Int(bytes)];
        buffer.appended(&name(number), 10, &[Value::Array(parts)], None);
    }

    fn sizes(buffer: &RegistryBuffer) -> Vec<(GroupName, u64)> {
        let sizes = buffer.sizes.lock();
        let histories = sizes.sizes.iter();
        let mut found: Vec<_> = histories
            .map(|(group, size)| (group.clone(), size.bytes))
            .collect();
        found.sort_unstable();
        found
    }

    #[test]
    fn histories_that_could_not_be_noted_are_noted_with_the_next() {
        let buffer = RegistryBuffer::default();
        for number in 0..4 {
            place(&buffer, number, 100);
        }
        let mut taken = buffer.take();
        assert_eq!(sizes(&buffer), []);
        // One is registered, one is placed again meanwhile, and the registry has named another one.
        taken.histories.retain(|(group, _)| *group != name(0));
        place(&buffer, 1, 200);
        let mut victims = UnregisteredHistories::none(&buffer);
        let expiry = None;
        victims
            .histories
            .push((name(4), HistorySize { bytes: 50, expiry }));
        drop((taken, victims));
        let expected = [(1, 200), (2, 100), (3, 100), (4, 50)];
        let expected: Vec<_> = expected.map(|(number, bytes)| (name(number), bytes)).into();
        assert_eq!(sizes(&buffer), expected);
    }

    #[test]
    fn groups_without_events_are_known_once_and_bounded() {
        let buffer = RegistryBuffer::default();
        for _ in 0..3 {
            buffer.read_empty(&name(0));
        }
        assert_eq!(buffer.empty.lock().len(), 1);
        for number in 0..EMPTY_MAX + 10 {
            buffer.read_empty(&name(number));
        }
        assert_eq!(buffer.empty.lock().len(), EMPTY_MAX);
    }
}

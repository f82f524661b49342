//! Registry: what the histories in Redis take together, and which of them gives way when it is too much.
//!
//! Redis counts each history's bytes where its events are placed, and says so in its answer. Once a second each process notes what it
//! was told in a registry that all of them share. Who finds there that all histories take too much is told the least recently
//! used, and removes those that no process hears. In a cluster the registry is at one master, each history at its own.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::Duration;

use metrics::counter;
use redis::{FromRedisValue, RedisResult, Value};
use tokio::sync::Notify;

use super::connection::{Ended, Live};
use super::scripts::{EVICT, REGISTER, RENEW};
use super::{Remote, lock};
use crate::channels::GroupName;

/// How long a process gathers what it was told.
const GATHER: Duration = Duration::from_secs(1);

/// How often the registry is looked at when there is nothing to note: what has expired is forgotten.
const LOOK: Duration = Duration::from_secs(30);

/// How many histories make a process note them at once, and how many bytes of events.
const NOTES_MANY: usize = 5000;
const BYTES_MANY: usize = 4 << 20;

/// How many histories one command notes, and how many it names.
const NOTES_AT_ONCE: usize = 500;
const NAMED_AT_ONCE: usize = 200;

/// How many histories that are heard are passed over, before they lose their older half.
const HEARD_MAX: usize = 2000;

/// What a group takes in Redis beside its events: a stream sets 4 KiB aside.
const BESIDE_BYTES: usize = 5 * 1024;

/// What is left of a group whose events have expired.
const REST_BYTES: usize = 512;

/// What this process was told of histories, and has not noted yet.
#[derive(Default)]
pub(super) struct Notes {
    gathered: Mutex<Gathered>,
    work: Notify,
    /// Groups here that keep a history and have no event yet.
    empty: Mutex<Vec<GroupName>>,
}

#[derive(Default)]
struct Gathered {
    notes: HashMap<GroupName, Note>,
    bytes: usize,
}

#[derive(Clone, Copy)]
struct Note {
    bytes: u64,
    expiry: Option<Duration>,
}

impl Notes {
    /// Redis has placed an event of that size.
    pub(super) fn placed(
        &self,
        group: &GroupName,
        size: usize,
        answer: &[Value],
        expiry: Option<Duration>,
    ) {
        let [Value::Array(parts)] = answer else {
            return;
        };
        let Some(Value::Int(bytes)) = parts.get(2) else {
            return; // it keeps none, or had it already
        };
        let note = Note {
            bytes: u64::try_from(*bytes).unwrap_or(0),
            expiry,
        };
        let mut gathered = lock(&self.gathered);
        match gathered.notes.get_mut(group) {
            Some(known) => *known = note,
            None => {
                gathered.notes.insert(group.clone(), note);
            }
        }
        gathered.bytes += size;
        let is_much = gathered.bytes >= BYTES_MANY || gathered.notes.len() >= NOTES_MANY;
        drop(gathered);
        if is_much {
            self.work.notify_one();
        }
    }

    /// A history was read and has no event.
    pub(super) fn read_empty(&self, group: &GroupName) {
        lock(&self.empty).push(group.clone());
    }
}

impl Live {
    /// Notes what histories take, and lets some give way, as long as the connection lives.
    pub(super) async fn keep_registry(self) -> Ended {
        let notes = &self.remote.0.notes;
        let mut looked = tokio::time::Instant::now();
        let mut is_over = false;
        loop {
            let _ = tokio::time::timeout(GATHER, notes.work.notified()).await;
            let some = std::mem::take(&mut *lock(&notes.gathered)).notes;
            if some.is_empty() && !is_over && looked.elapsed() < LOOK {
                continue;
            }
            looked = tokio::time::Instant::now();
            is_over = match self.note(some.into_iter().collect()).await {
                Ok(is_over) => is_over,
                Err(error) => return (error, Vec::new()),
            };
        }
    }

    /// Notes what some histories take, and lets others give way; tells whether there is still too much.
    async fn note(&self, notes: Vec<(GroupName, Note)>) -> RedisResult<bool> {
        let limit = self.remote.0.history_size;
        let mut heard = Vec::new();
        let mut chunks = notes.chunks(NOTES_AT_ONCE);
        let mut sum = loop {
            let some = chunks.next();
            let (now, named) = self.note_some(some.unwrap_or_default(), limit).await?;
            if named.is_empty() && chunks.len() == 0 {
                break now;
            }
            heard.extend(self.evict(&named, false).await?);
            if heard.len() >= HEARD_MAX {
                break now;
            }
        };
        for some in chunks {
            sum = self.note_some(some, 0).await?.0;
        }
        if heard.is_empty() {
            return Ok(sum > limit as u64);
        }
        // All that are left are heard: the largest lose their older half, as far as has to be.
        heard.sort_unstable_by_key(|(_, note)| std::cmp::Reverse(note.bytes));
        let all: u64 = heard.iter().map(|(_, note)| note.bytes).sum();
        let mut excess = (sum + all).saturating_sub(limit as u64);
        let mut halved = Vec::new();
        for (group, note) in &mut heard {
            if excess == 0 {
                break;
            }
            excess = excess.saturating_sub(note.bytes / 2);
            halved.push((group.clone(), *note));
            note.bytes /= 2;
        }
        self.evict(&halved, true).await?;
        for some in heard.chunks(NOTES_AT_ONCE) {
            sum = self.note_some(some, 0).await?.0;
        }
        Ok(sum > limit as u64)
    }

    /// Notes some histories. Returns what all take, and those that have to give way so that all take no more than the limit; 0 is
    /// none.
    async fn note_some(
        &self,
        notes: &[(GroupName, Note)],
        limit: usize,
    ) -> RedisResult<(u64, Vec<(GroupName, Note)>)> {
        let [uses, bytes, ends] = self.remote.registry_keys();
        let mut call = REGISTER.call(&[&uses, &bytes, &ends]);
        call.arg(limit)
            .arg(BESIDE_BYTES)
            .arg(REST_BYTES)
            .arg(NAMED_AT_ONCE);
        for (group, note) in notes {
            call.arg(group.as_str()).arg(note.bytes);
            match note.expiry {
                Some(expiry) => call.arg(u64::try_from(expiry.as_millis()).unwrap_or(u64::MAX)),
                None => call.arg(""),
            };
        }
        let answer = self.query(vec![call]).await?.into_iter().next();
        let Some(Value::Array(answer)) = answer else {
            return Ok((0, Vec::new())); // it was refused, and logged
        };
        let mut answer = answer.into_iter();
        let sum = answer.next().map(u64::from_redis_value);
        let sum = sum.and_then(Result::ok).unwrap_or(0);
        let mut named = Vec::new();
        while let (Some(group), Some(bytes)) = (answer.next(), answer.next()) {
            let group = String::from_redis_value(group).ok();
            let Some(group) = group.and_then(|group| GroupName::new(&group).ok()) else {
                continue;
            };
            let bytes = u64::from_redis_value(bytes).unwrap_or(0);
            let bytes = bytes.saturating_sub(BESIDE_BYTES as u64);
            let expiry = None;
            named.push((group, Note { bytes, expiry }));
        }
        Ok((sum, named))
    }

    /// Removes histories that no process hears; those that one does lose their older half, or nothing. Returns those.
    async fn evict(
        &self,
        named: &[(GroupName, Note)],
        halves: bool,
    ) -> RedisResult<Vec<(GroupName, Note)>> {
        let calls = named.iter().map(|(group, _)| {
            let [meta, stream] = self.remote.history_keys(group);
            let mut call = EVICT.call(&[&meta, &stream]);
            call.arg(self.remote.channel_of(group))
                .arg(u8::from(halves));
            call
        });
        let answers = self.query(calls.collect()).await?;
        let mut heard = Vec::new();
        let mut evicted = 0;
        for (answer, one) in answers.into_iter().zip(named) {
            match i64::from_redis_value(answer) {
                Ok(lost @ 0..) => evicted += lost.unsigned_abs(),
                Ok(_) => heard.push(one.clone()),
                Err(_) => {} // it is no history, and nothing that is ours
            }
        }
        if evicted > 0 {
            counter!("oneport_history_evicted_total").increment(evicted);
        }
        Ok(heard)
    }

    /// Says again that the groups here which have no event yet keep a history: their keys live as long as a lease.
    pub(super) async fn renew_empty(&self) -> RedisResult<()> {
        let notes = &self.remote.0.notes;
        let mut groups = std::mem::take(&mut *lock(&notes.empty));
        groups.sort_unstable();
        groups.dedup();
        let mut calls = Vec::new();
        groups.retain(|group| {
            let found = self.layer.find(group.as_str());
            let call = found.and_then(|found| {
                found.with_past(|past| {
                    let (position, _) = past.known().filter(|(at, _)| at.offset == 0)?;
                    Some(
                        self.remote
                            .renew_command(group, position.epoch, past.bounds()),
                    )
                })
            });
            calls.extend(call.clone());
            call.is_some()
        });
        lock(&notes.empty).extend(groups);
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
        let mut call = RENEW.call(&[&meta]);
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

//! History: the copies here of the histories in Redis, read and kept true.

use std::collections::HashMap;
use std::time::Duration;

use futures_util::future::join_all;
use redis::{FromRedisValue, RedisResult, Value};
use tokio::time::Instant;

use super::connection::{Ended, Live};
use super::scripts::{CHECK, READ};
use super::wire::{self, Head};
use super::{Remote, lock};
use crate::channels::past::Past;
use crate::channels::send::news;
use crate::channels::{ChannelLayer, Event, GroupName, Position};
use crate::telemetry;

/// How many histories are read at once.
const READ_AT_ONCE: usize = 64;

/// How many events are read of a history at once: an answer is to come in the time that every answer has.
const EVENTS_AT_ONCE: usize = 1000;

/// How long an answer may take, behind all that is to be said before; it ends with the connection at the latest.
const READ_MAX: Duration = Duration::from_secs(30);

/// When a history is read again that could not be read.
const READ_AGAIN: Duration = Duration::from_secs(2);

/// How many histories are checked in one pipeline.
const CHECKED_AT_ONCE: usize = 500;

/// What a group's shared history said when it was read.
struct History {
    epoch: u64,
    offset: u64,
    now: u64,
    entries: Vec<Kept>,
    /// Is there nothing behind them?
    is_end: bool,
}

/// One event of a shared history.
struct Kept {
    offset: u64,
    at: u64,
    head: Head,
    event: Event,
}

impl Live {
    /// Reads what is behind, as long as the connection lives.
    pub(super) async fn read_histories(self) -> Ended {
        let inner = &self.remote.0;
        let mut again: Vec<GroupName> = Vec::new();
        let mut again_at = Instant::now();
        loop {
            let groups: Vec<GroupName> = {
                let mut behind = lock(&inner.behind);
                let count = behind.len().min(READ_AT_ONCE);
                behind.drain(..count).collect()
            };
            if groups.is_empty() {
                tokio::select! {
                    () = inner.behind_work.notified() => {}
                    () = tokio::time::sleep_until(again_at), if !again.is_empty() => {
                        again.drain(..).for_each(|group| self.remote.read_history(&group));
                    }
                }
                continue;
            }
            let (remote, layer) = (&self.remote, &self.layer);
            let asked = groups.into_iter().filter_map(|group| {
                let command = remote.history_command(layer, &group)?;
                Some(async move {
                    let answer = remote.ask_redis_within(READ_MAX, vec![command]).await;
                    let is_read = remote.hear_history(layer, &group, answer).await;
                    (!is_read).then_some(group)
                })
            });
            let unread = join_all(asked).await;
            if again.is_empty() {
                again_at = Instant::now() + READ_AGAIN;
            }
            again.extend(unread.into_iter().flatten());
        }
    }

    /// Sees that no history goes on at an offset that members here have seen another event at: a Redis that died may come back
    /// with what it knew some time before. And asks what of our events it knows: they are not said again.
    pub(super) async fn check_histories(&self) -> RedisResult<()> {
        let (mut groups, mut calls) = (Vec::new(), Vec::new());
        for (group, found) in self.layer.all_groups() {
            let Some((position, newest)) = found.with_past(|past| past.known()) else {
                continue;
            };
            let [meta, stream] = self.remote.history_keys(&group);
            let newest = newest.map(|(node, seq)| [node.to_be_bytes(), seq.to_be_bytes()].concat());
            let mut call = CHECK.call(&[&meta, &stream]);
            call.arg(&position.epoch.to_be_bytes()[..])
                .arg(position.offset)
                .arg(newest.unwrap_or_default())
                .arg(&new_epoch()[..])
                .arg(self.remote.0.node);
            calls.push(call);
            groups.push(group);
        }
        let mut others = 0;
        let mut groups = groups.into_iter();
        let mut placed = HashMap::new();
        for calls in calls.chunks(CHECKED_AT_ONCE) {
            let mut pipeline = redis::pipe();
            pipeline.ignore_errors(); // what is no history is told when it is read
            for call in calls {
                pipeline.add_command(call.clone());
            }
            let mut connection = self.commands.clone();
            let answers: Vec<RedisResult<Value>> =
                self.within(pipeline.query_async(&mut connection)).await?;
            for (answer, group) in answers.into_iter().zip(groups.by_ref()) {
                let answer = answer.and_then(|answer| Ok(<(u64, u64)>::from_redis_value(answer)?));
                let Ok((began, last)) = answer else {
                    continue;
                };
                others += began;
                placed.insert(group, last);
            }
        }
        self.remote.0.outbox.forget_placed(&placed);
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
pub(super) fn new_epoch() -> [u8; 8] {
    (fastrand::u64(1..) >> 12).to_be_bytes()
}

impl Remote {
    /// Takes what was read of a group's shared history: the members get what they have not seen. Tells whether it was read.
    async fn hear_history(
        &self,
        layer: &ChannelLayer,
        group: &GroupName,
        answer: Option<Vec<Value>>,
    ) -> bool {
        let Some(found) = layer.find(group.as_str()) else {
            return true;
        };
        let history = answer
            .and_then(|answer| answer.into_iter().next())
            .and_then(history);
        let Some(history) = history else {
            return false;
        };
        let before = history
            .entries
            .first()
            .map_or(history.offset, |first| first.offset.saturating_sub(1));
        found.with_past(Past::catch_up);
        let lost = found.with_past(|past| past.read_from(history.epoch, before));
        if lost > 0 {
            for _ in 0..lost.min(1_000_000) {
                telemetry::event_dropped("redis_away");
            }
            self.0.outbox.count_lost(lost);
        }
        let (_, expiry) = found.with_past(|past| past.bounds());
        for kept in history.entries {
            let age = Duration::from_millis(history.now.saturating_sub(kept.at));
            if age > expiry {
                let epoch = history.epoch;
                found.with_past(|past| past.read_from(epoch, kept.offset));
                continue;
            }
            let except = kept.head.except.filter(|_| kept.head.node == self.0.node);
            let position = Position {
                epoch: history.epoch,
                offset: kept.offset,
            };
            let news = news(&kept.event, except);
            self.append(
                layer,
                &found,
                group.as_str(),
                &news,
                &kept.head,
                position,
                age,
            )
            .await;
        }
        if history.is_end {
            found.with_past(Past::loaded);
        }
        if !history.is_end || found.with_past(|past| past.is_behind()) {
            self.read_history(group);
        }
        self.0.changed.notify_waiters();
        true
    }

    /// Returns the command that reads a group's shared history from where it is known.
    fn history_command(&self, layer: &ChannelLayer, group: &GroupName) -> Option<redis::Cmd> {
        let found = layer.find(group.as_str())?;
        let (position, (max, expiry)) =
            found.with_past(|past| past.is_shared().then(|| (past.position(), past.bounds())))?;
        let [meta, stream] = self.history_keys(group);
        let mut call = READ.call(&[&meta, &stream]);
        call.arg(max)
            .arg(u64::try_from(expiry.as_millis()).unwrap_or(u64::MAX))
            .arg(&position.epoch.to_be_bytes()[..])
            .arg(position.offset)
            .arg(&new_epoch()[..])
            .arg(EVENTS_AT_ONCE);
        Some(call)
    }
}

fn history(answer: Value) -> Option<History> {
    let Value::Array(parts) = answer else {
        return None;
    };
    let [epoch, offset, now, entries] = <[Value; 4]>::try_from(parts).ok()?;
    let epoch: Vec<u8> = Vec::from_redis_value(epoch).ok()?;
    let Value::Array(entries) = entries else {
        return None;
    };
    let count = entries.len();
    let entries: Vec<Kept> = entries.into_iter().filter_map(kept).collect();
    Some(History {
        epoch: u64::from_be_bytes(epoch.try_into().ok()?),
        offset: u64::from_redis_value(offset).ok()?,
        now: u64::from_redis_value(now).ok()?,
        is_end: count < EVENTS_AT_ONCE || entries.is_empty(),
        entries,
    })
}

fn kept(entry: Value) -> Option<Kept> {
    let (id, fields): (String, Vec<(String, Vec<u8>)>) =
        FromRedisValue::from_redis_value(entry).ok()?;
    let field = |name: &str| {
        let found = fields.iter().find(|(field, _)| field == name);
        found.map(|(_, value)| &**value)
    };
    let Some((head, event)) = wire::read_kept(field("h")?, field("t")?) else {
        telemetry::event_dropped("malformed");
        return None;
    };
    Some(Kept {
        offset: id.split('-').next()?.parse().ok()?,
        at: std::str::from_utf8(field("at")?).ok()?.parse().ok()?,
        head,
        event,
    })
}

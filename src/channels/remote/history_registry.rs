//! History registry: tracks the memory of all histories in Redis, and evicts the least recently
//! used.
//!
//! Redis counts the bytes of each history where its events are appended, and returns the size with
//! the offset. Once a second, each process reports the sizes it received to a registry of three
//! keys that all processes share. When the total exceeds the limit, the script removes the least
//! recently used histories from the registry and returns them (the *victims*). The caller deletes
//! those that no process subscribes to, and registers the others again. In a cluster the registry
//! is on one master and each history on its own, so no single script could do both.

use std::sync::atomic::Ordering;
use std::time::Duration;

use metrics::counter;
use redis::{FromRedisValue, RedisResult, Value};

use super::connection::{Connection, ConnectionEnd};
use super::history_sync::millis;
use super::registry_buffer::{HistorySize, UnregisteredHistories};
use super::scripts::{EVICT, REGISTER, RENEW_EMPTY};
use crate::channels::GroupName;

/// How long sizes are buffered.
const BUFFER_TIME: Duration = Duration::from_secs(1);

/// How often the registry is called without sizes to report, so that it forgets expired histories.
const IDLE_INTERVAL: Duration = Duration::from_secs(30);

/// How many histories one call registers, and the most victims it returns.
const REGISTERED_AT_ONCE: usize = 500;
const VICTIMS_AT_ONCE: usize = 200;

/// How many victims with subscribers are skipped, before the largest of them lose their older half.
const SUBSCRIBED_MAX: usize = 2000;

/// The memory of a group in Redis besides its events: a stream allocates 4 KiB.
const GROUP_OVERHEAD_BYTES: usize = 5 * 1024;

/// The memory of a group in Redis after its events have expired.
const EXPIRED_GROUP_BYTES: usize = 512;

impl Connection {
    /// Reports sizes and evicts histories for as long as the connection lives.
    pub(super) async fn sync_registry(self) -> ConnectionEnd {
        let buffer = &self.remote.0.registry;
        let mut last_call = tokio::time::Instant::now();
        let mut is_over = false;
        loop {
            let _ = tokio::time::timeout(BUFFER_TIME, buffer.urgent()).await;
            let new = buffer.take();
            if new.histories.is_empty() && !is_over && last_call.elapsed() < IDLE_INTERVAL {
                continue;
            }
            last_call = tokio::time::Instant::now();
            is_over = match self.register_sizes(new).await {
                Ok(is_over) => is_over,
                Err(error) => return (error, Vec::new()),
            };
        }
    }

    /// Registers histories and evicts others; returns whether the total still exceeds the limit.
    async fn register_sizes(&self, mut new: UnregisteredHistories<'_>) -> RedisResult<bool> {
        let limit = self.remote.0.history_size.load(Ordering::Relaxed);
        let mut subscribed = UnregisteredHistories::none(new.buffer);
        let mut sum = loop {
            let (now, mut victims) = self.register_some(&mut new, limit).await?;
            if victims.histories.is_empty() && new.histories.is_empty() {
                break now;
            }
            let kept = self.evict(&victims.histories, false).await?;
            victims.histories.clear();
            subscribed.histories.extend(kept);
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
        // Only histories with subscribers are left: the largest lose their older half, as many as
        // needed.
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

    /// Registers some of the histories. Returns the total bytes, and the victims to evict to bring
    /// the total within the limit; a limit of 0 means no limit.
    async fn register_some<'b>(
        &self,
        unregistered: &mut UnregisteredHistories<'b>,
        limit: usize,
    ) -> RedisResult<(u64, UnregisteredHistories<'b>)> {
        let mut victims = UnregisteredHistories::none(unregistered.buffer);
        let histories = &mut unregistered.histories;
        let rest = histories.len().saturating_sub(REGISTERED_AT_ONCE);
        let [uses, bytes, ends] = self.remote.0.names.registry_keys();
        let mut call = REGISTER.call(&[&uses, &bytes, &ends]);
        call.arg(limit)
            .arg(GROUP_OVERHEAD_BYTES)
            .arg(EXPIRED_GROUP_BYTES)
            .arg(VICTIMS_AT_ONCE);
        for (group, size) in &histories[rest..] {
            call.arg(group.as_str()).arg(size.bytes);
            match size.expiry {
                Some(expiry) => call.arg(millis(expiry)),
                None => call.arg(""),
            };
        }
        let reply = self.query(vec![call]).await?.into_iter().next();
        histories.truncate(rest);
        let Some(Value::Array(reply)) = reply else {
            return Ok((0, victims)); // it was refused, and logged
        };
        let mut reply = reply.into_iter();
        let sum = reply.next().map(u64::from_redis_value);
        let sum = sum.and_then(Result::ok).unwrap_or(0);
        while let (Some(group), Some(bytes)) = (reply.next(), reply.next()) {
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

    /// Deletes the histories that no process subscribes to. If `halves`, the others lose their
    /// older half; otherwise they stay unchanged. Returns those that are unchanged.
    async fn evict(
        &self,
        victims: &[(GroupName, HistorySize)],
        halves: bool,
    ) -> RedisResult<Vec<(GroupName, HistorySize)>> {
        let names = &self.remote.0.names;
        let calls = victims.iter().map(|(group, _)| {
            let [meta, stream] = names.history_keys(group);
            let mut call = EVICT.call(&[&meta, &stream]);
            call.arg(names.channel_of(group)).arg(u8::from(halves));
            call
        });
        let replies = self.query(calls.collect()).await?;
        let mut subscribed = Vec::new();
        let mut evicted = 0;
        for (reply, one) in replies.into_iter().zip(victims) {
            match i64::from_redis_value(reply) {
                Ok(lost @ 0..) => evicted += lost.unsigned_abs(),
                Ok(_) => subscribed.push(one.clone()),
                Err(_) => {} // the key is no history: leave it alone
            }
        }
        if evicted > 0 {
            counter!("oneport_history_evicted_total").increment(evicted);
        }
        Ok(subscribed)
    }

    /// Renews the keys of groups that keep a history but have no event yet. Redis keeps those for a
    /// lease at most.
    pub(super) async fn renew_empty(&self) -> RedisResult<()> {
        let inner = &self.remote.0;
        let mut groups = inner.registry.take_empty();
        let mut calls = Vec::new();
        groups.retain(|name| {
            let call = inner.local.find(name.as_str()).and_then(|group| {
                group.with_history(|history| {
                    let (position, _) = history.shared_position()?;
                    let is_empty = position.offset == 0;
                    is_empty.then(|| self.renew_command(name, position.epoch, history.bounds()))
                })
            });
            calls.extend(call.clone());
            call.is_some()
        });
        for group in groups {
            inner.registry.add_empty(&group);
        }
        self.query(calls).await.map(drop)
    }

    fn renew_command(
        &self,
        name: &GroupName,
        epoch: u64,
        (max, expiry): (usize, Duration),
    ) -> redis::Cmd {
        let inner = &self.remote.0;
        let [meta, _] = inner.names.history_keys(name);
        let mut call = RENEW_EMPTY.call(&[&meta]);
        call.arg(max)
            .arg(millis(expiry))
            .arg(&epoch.to_be_bytes()[..])
            .arg(millis(self.remote.lease_in_redis()));
        call
    }
}

//! History sync: keeps this process's copies of the histories in Redis up to date.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use redis::{FromRedisValue, RedisResult, Value};
use tokio::time::{Instant, timeout_at};

use super::command_connections::is_transient;
use super::connection::{Connection, ConnectionEnd};
use super::scripts::{READ, VERIFY};
use super::wire::{self, Head};
use super::{READY_TIMEOUT, Remote};
use crate::channels::append::NewEvent;
use crate::channels::group::Group;
use crate::channels::history::GroupHistory;
use crate::channels::position::new_epoch;
use crate::channels::{Event, GroupName, Position};
use crate::telemetry;

/// The number of histories read at once.
const READS_AT_ONCE: usize = 64;

/// The most events in one page: a reply must arrive within the layer's timeout.
const PAGE_EVENTS: usize = 1000;

/// How long a page may take, behind all commands in the outbox. The wait ends with the connection
/// at the latest.
const READ_TIMEOUT: Duration = Duration::from_secs(30);

/// The pause before a history that could not be read is read again.
const READ_RETRY: Duration = Duration::from_secs(2);

/// The number of histories that one pipeline verifies.
const VERIFIED_AT_ONCE: usize = 500;

/// A part of a group's history in Redis.
struct HistoryPage {
    epoch: u64,
    /// The offset of the history's newest event.
    offset: u64,
    /// The time at Redis, in milliseconds.
    now: u64,
    entries: Vec<StoredEvent>,
    /// How many events are kept, and for how long.
    bounds: (usize, Duration),
    /// True if no events follow those of the page.
    is_last: bool,
}

/// One event of a history in Redis.
struct StoredEvent {
    offset: u64,
    /// The time it was sent, in milliseconds.
    at: u64,
    head: Head,
    event: Event,
}

impl Connection {
    /// Reads queued histories for as long as the connection lives.
    pub(super) async fn read_histories(self) -> ConnectionEnd {
        let queue = &self.remote.0.read_queue;
        let mut failed: Vec<GroupName> = Vec::new();
        let mut retry_at = Instant::now();
        loop {
            let names = queue.take(READS_AT_ONCE);
            if names.is_empty() {
                tokio::select! {
                    () = queue.work() => {}
                    () = tokio::time::sleep_until(retry_at), if !failed.is_empty() => {
                        queue.retry(failed.drain(..));
                    }
                }
                continue;
            }
            let reads = names.into_iter().map(|name| self.read_history(name));
            let unread = join_all(reads).await;
            if failed.is_empty() {
                retry_at = Instant::now() + READ_RETRY;
            }
            failed.extend(unread.into_iter().flatten());
        }
    }

    /// Reads the next page of a group's history. Returns the group on failure.
    async fn read_history(&self, name: GroupName) -> Option<GroupName> {
        let (remote, queue) = (&self.remote, &self.remote.0.read_queue);
        let found = remote.0.local.find(name.as_str()).and_then(|group| {
            let command = remote.read_command(&name, &group)?;
            Some((group, command))
        });
        let Some((group, command)) = found else {
            queue.finish(&name); // its last member left, or it keeps no history
            return None;
        };
        let reply = remote.query_redis_within(READ_TIMEOUT, vec![command]).await;
        let is_read = remote.on_history_page(&group, reply).await;
        if is_read {
            queue.finish(&name);
        } else {
            group.with_history(GroupHistory::mark_behind);
            queue.fail(&name);
        }
        group.notify_ready();
        (!is_read).then_some(name)
    }

    /// Compares every history with the one in Redis, before anything else is sent to Redis.
    ///
    /// A Redis that crashed may restart with an older state, and would reuse offsets that members
    /// have seen on other events. Such a history starts another epoch. The replies also contain the
    /// number of this process's newest event; events up to it are not sent again.
    pub(super) async fn verify_histories(&self) -> RedisResult<()> {
        let inner = &self.remote.0;
        let (mut names, mut calls) = (Vec::new(), Vec::new());
        for (name, group) in inner.local.all() {
            let Some((position, newest)) = group.with_history(|history| history.shared_position())
            else {
                continue;
            };
            let [meta, stream] = inner.names.history_keys(&name);
            let newest = newest.map(|id| [id.node.to_be_bytes(), id.seq.to_be_bytes()].concat());
            let mut call = VERIFY.call(&[&meta, &stream]);
            call.arg(&position.epoch.to_be_bytes()[..])
                .arg(position.offset)
                .arg(newest.unwrap_or_default())
                .arg(&epoch_bytes()[..])
                .arg(inner.node);
            calls.push(call);
            names.push(name);
        }
        let mut restarted = 0;
        let mut names = names.into_iter();
        let mut confirmed = HashMap::new();
        for calls in calls.chunks(VERIFIED_AT_ONCE) {
            let replies = self.within(self.commands.run(calls.to_vec())).await?;
            for (reply, name) in replies.into_iter().zip(names.by_ref()) {
                let reply = reply.and_then(|reply| Ok(<(u64, u64)>::from_redis_value(reply)?));
                let (is_restarted, last) = match reply {
                    Ok(reply) => reply,
                    Err(error) if is_transient(&error) => return Err(error),
                    Err(_) => continue, // not a history; logged when it is read
                };
                restarted += is_restarted;
                if let Some(group) = inner.local.find(name.as_str()) {
                    group.with_history(|history| history.found_in_redis(last));
                }
                confirmed.insert(name, last);
            }
        }
        inner.outbox.found_confirmed(&confirmed);
        if restarted > 0 {
            tracing::warn!(
                groups = restarted,
                "Redis came back with an older state: these histories start another epoch"
            );
        }
        Ok(())
    }
}

/// Returns an epoch for a new history, as Redis stores it.
pub(super) fn epoch_bytes() -> [u8; 8] {
    new_epoch().to_be_bytes()
}

impl Remote {
    /// Reads a shared history, before a client returns that has seen more of it than this process;
    /// waits until it is read.
    pub(in crate::channels) async fn catch_up(
        &self,
        name: &GroupName,
        group: &Group,
        seen: Position,
    ) {
        let is_behind = || group.with_history(|history| history.is_behind_client(seen));
        if !is_behind() || !self.is_connected() {
            return;
        }
        let deadline = Instant::now() + self.0.timeout.min(READY_TIMEOUT);
        self.0.read_queue.add(name);
        loop {
            // Registered before the state is read: the end of a read in between wakes this task.
            let ready = group.ready();
            let is_read = !self.0.read_queue.contains(name);
            if is_read || !is_behind() || timeout_at(deadline, ready).await.is_err() {
                return;
            }
        }
    }

    /// Appends a page that was read: members get the events that they have not received. A history
    /// that is read for the first time reaches them when it was read to its end. Returns whether
    /// the page could be read.
    async fn on_history_page(&self, group: &Arc<Group>, reply: Option<Vec<Value>>) -> bool {
        let queue = &self.0.read_queue;
        match self.0.local.find(group.name().as_str()) {
            None => return true, // its last member has left
            Some(now) if !Arc::ptr_eq(&now, group) => {
                queue.add(group.name()); // another member has created the group again
                return true;
            }
            Some(_) => {}
        }
        let reply = reply.and_then(|reply| reply.into_iter().next());
        if reply == Some(Value::Nil) {
            return true; // there is no history, and no member has asked for one
        }
        let Some(page) = reply.and_then(parse_page) else {
            return false;
        };
        let lacks_delivered = group.adopt_history(page.bounds, page.offset);
        let before = page
            .entries
            .first()
            .map_or(page.offset, |first| first.offset.saturating_sub(1));
        let lost = group.with_history(|history| history.read_from(page.epoch, before));
        if page.offset == 0 {
            self.0.registry.add_empty(group.name());
        } else if !group.with_history(|history| history.is_loaded()) {
            group.drop_room_permit();
        }
        if lost > 0 {
            telemetry::events_dropped("redis_away", lost);
            self.0.outbox.count_lost(lost);
        }
        for stored in page.entries {
            let age = Duration::from_millis(page.now.saturating_sub(stored.at));
            let is_skipped = group.with_history(|history| {
                if history.is_loaded() {
                    return false;
                }
                // Offsets of events that could not be read are missing.
                history.read_from(page.epoch, stored.offset.saturating_sub(1));
                let is_expired = age > history.bounds().1;
                if is_expired {
                    history.read_from(page.epoch, stored.offset);
                }
                is_expired
            });
            if is_skipped {
                continue;
            }
            let is_ours = stored.head.id.node == self.0.node;
            let position = Position {
                epoch: page.epoch,
                offset: stored.offset,
            };
            let new = NewEvent {
                is_delivered: is_ours && stored.head.is_delivered_by_sender,
                ..NewEvent::new(&stored.event, stored.head.except.filter(|_| is_ours))
            };
            if new.is_delivered {
                group.with_history(|history| history.mark_sent(stored.head.id));
            }
            self.append_shared(group, &new, &stored.head, position, age)
                .await;
        }
        if page.is_last && !lacks_delivered {
            group.history_read();
        } else {
            queue.add(group.name());
        }
        true
    }

    /// Returns the command that reads a group's history after the newest event that this process
    /// has.
    fn read_command(&self, name: &GroupName, group: &Group) -> Option<redis::Cmd> {
        let (position, bounds) = group.with_history(|history| {
            history.mark_requested();
            match history.is_shared() {
                true => Some((history.position(), Some(history.bounds()))),
                false => history.is_kept_elsewhere().then_some(Default::default()),
            }
        })?;
        let [meta, stream] = self.0.names.history_keys(name);
        let mut call = READ.call(&[&meta, &stream]);
        match bounds {
            Some((max, expiry)) => call.arg(max).arg(millis(expiry)),
            None => call.arg("").arg(""),
        };
        call.arg(&position.epoch.to_be_bytes()[..])
            .arg(position.offset)
            .arg(&epoch_bytes()[..])
            .arg(PAGE_EVENTS)
            .arg(millis(self.lease_in_redis()));
        Some(call)
    }
}

/// Returns a duration in milliseconds, as the scripts expect it.
pub(super) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn parse_page(reply: Value) -> Option<HistoryPage> {
    let Value::Array(parts) = reply else {
        return None;
    };
    let [epoch, offset, now, entries, max, expiry] = <[Value; 6]>::try_from(parts).ok()?;
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
        bounds: (
            usize::from_redis_value(max).ok()?,
            Duration::from_millis(u64::from_redis_value(expiry).ok()?),
        ),
        is_last: count < PAGE_EVENTS || entries.is_empty(),
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

//! Lease: shows that this process is alive, and removes the entries of dead ones.
//!
//! Each process renews its lease every sixth of its duration, in a task that does nothing else: a
//! busy process must not be taken for dead. The script that renews it also returns the processes
//! whose lease has expired, and gives the caller a lease's time to remove them (*reap*). If the
//! caller dies too, another process finds them after that.
//!
//! ```text
//!  last renewal                            lease        expires  found
//!       ├─────┬─────┬─────┬─────┬─────┬─────┬─────┬─────┬─────┤
//!       0    1/6   2/6   3/6   4/6   5/6    1    7/6   8/6   9/6
//!          └───── the longest pause ─────┘
//! ```
//!
//! A process that stands still for less than its lease returns before it expires, even if it stood
//! still right before a renewal and the reply takes another sixth. A dead one is found by the next
//! renewal of another process after it has expired.

use std::io;
use std::sync::atomic::Ordering;
use std::time::Duration;

use redis::{RedisError, RedisResult};
use tokio::time::Instant;

use super::Remote;
use super::connection::{Connection, ConnectionEnd};
use super::history_sync::millis;
use super::names::RedisNames;
use super::presence::PresenceEntry;
use super::presence_sync::{GROUPS_AT_ONCE, WriteOrder};
use super::scripts::{REMOVE_NODE_MEMBERS, RENEW_LEASE};
use crate::channels::{ConnectionId, GroupName};
use crate::config::LayerFormat;
use crate::telemetry::LOG_INTERVAL;

/// How often a lease is renewed in its duration.
const RENEWALS: u32 = 6;

/// How long a stopping process waits until its queue is sent and it is removed from Redis.
const DEREGISTER_TIMEOUT: Duration = Duration::from_secs(1);

impl Connection {
    /// Renews the lease for as long as the connection lives, and watches the slots of a cluster.
    pub(super) async fn renew_lease(self) -> ConnectionEnd {
        let inner = &self.remote.0;
        let mut log = LeaseLog::default();
        let mut moved_to = None;
        let mut renewed = Instant::now();
        loop {
            tokio::time::sleep_until(renewed + inner.lease / RENEWALS).await;
            let silent = std::mem::replace(&mut renewed, Instant::now()).elapsed();
            let reply = match self.query(vec![self.renew_lease_command()]).await {
                Ok(reply) => reply.into_iter().next(),
                Err(error) => return (error, Vec::new()),
            };
            let (known, dead): (i64, Vec<String>) = reply.map_or((1, Vec::new()), |reply| {
                redis::from_redis_value(reply).unwrap_or((1, Vec::new()))
            });
            if known == 0 {
                inner.presence.mark_stale();
                inner.core.reapply_all();
                log.lost(silent, inner.lease);
            }
            self.queue_for_reaping(&dead);
            inner.reaper_wakeup.notify_one();
            let slots = match self.within(self.commands.moved_slots()).await {
                Ok(slots) => slots,
                Err(error) => return (error, Vec::new()),
            };
            let is_resharding = self.commands.is_resharding();
            inner.is_resharding.store(is_resharding, Ordering::Relaxed);
            // Twice the same: the slots have settled. Reconnecting now subscribes to each channel
            // on its new server.
            if slots.is_some() && slots == moved_to {
                return (slots_moved(), Vec::new());
            }
            moved_to = slots;
        }
    }

    /// After each renewal, does the slow work: renews empty histories, registers the members again
    /// if needed, and reaps dead processes.
    pub(super) async fn run_reaper(self) -> ConnectionEnd {
        let inner = &self.remote.0;
        let mut renewed_empty = Instant::now();
        let mut compared = Instant::now();
        loop {
            inner.reaper_wakeup.notified().await;
            if renewed_empty.elapsed() >= inner.lease / 3 {
                renewed_empty = Instant::now();
                if let Err(error) = self.renew_empty().await {
                    return (error, Vec::new());
                }
            }
            let is_stale = inner.presence.take_stale();
            if is_stale && let Err(error) = self.register(WriteOrder::InOutbox).await {
                return (error, Vec::new());
            }
            // An inbox may stay full for long, so this is not done with each renewal.
            let is_missed = compared.elapsed() >= inner.lease && inner.presence.take_missed();
            if is_stale || is_missed {
                compared = Instant::now();
                self.remote.publish_registered();
            }
            loop {
                let Some(node) = inner.dead_nodes.lock().pop() else {
                    break;
                };
                if let Err(error) = self.reap_node(node).await {
                    return (error, Vec::new());
                }
            }
        }
    }

    /// Sends the remaining queue, and removes this process from Redis.
    pub(super) async fn deregister(self) {
        let inner = &self.remote.0;
        let deregister = async {
            inner.outbox.drained().await;
            if inner.format == LayerFormat::Core {
                let joined = inner.names.joined_key(inner.node);
                self.query(inner.core.leave_all(&joined)).await?;
            }
            for groups in self.groups_of(inner.node).await?.chunks(GROUPS_AT_ONCE) {
                self.remove_members_of(inner.node, groups).await?;
            }
            self.remove_node(inner.node).await
        };
        if !matches!(
            tokio::time::timeout(DEREGISTER_TIMEOUT, deregister).await,
            Ok(Ok(_))
        ) {
            tracing::warn!(
                "the channel layer could not deregister from Redis; another process does so when the lease runs out"
            );
        }
    }

    // --- Reaping --------------------------------------------------------------------------------------------------------

    fn queue_for_reaping(&self, nodes: &[String]) {
        let inner = &self.remote.0;
        let mut dead = inner.dead_nodes.lock();
        let nodes = nodes
            .iter()
            .filter_map(|node| u64::from_str_radix(node, 16).ok());
        for node in nodes.filter(|node| *node != inner.node) {
            if !dead.contains(&node) {
                dead.push(node);
            }
        }
    }

    /// Removes the members of a dead process, and notifies their groups.
    ///
    /// A process that returns before the end of this finds its lease gone after it, and registers
    /// its members once more.
    async fn reap_node(&self, node: u64) -> RedisResult<()> {
        if !self.is_dead(node).await? {
            return Ok(()); // it returned before its turn came
        }
        self.leave_core_groups_of(node).await?;
        let mut members = 0;
        // Its set of groups is removed last: if this process dies now, the next one notifies the
        // remaining groups.
        for groups in self.groups_of(node).await?.chunks(GROUPS_AT_ONCE) {
            let removed = self.remove_members_of(node, groups).await?;
            for (group, (entries, remaining)) in groups.iter().zip(removed) {
                members += entries.len();
                self.announce_left(group, &entries, remaining);
            }
        }
        self.remove_node(node).await?;
        tracing::warn!(
            node = format!("{node:016x}"),
            members,
            "another process died: its members are gone"
        );
        Ok(())
    }

    /// Notifies a group of the members that have left, except those whose joining was never
    /// announced. Processes that were told already drop the event.
    fn announce_left(&self, group: &str, entries: &[(String, String)], remaining: usize) {
        let Ok(group) = GroupName::new(group) else {
            return;
        };
        for (field, entry) in entries {
            let entry = PresenceEntry::read(entry);
            if entry.announced
                && let Some(member) = ConnectionId::read(field)
            {
                let remote = &self.remote;
                remote.send_leave(&group, member, entry.user, remaining);
            }
        }
    }

    /// Removes a dead process from the groups of `channels_redis.core`, so that no other process
    /// writes into its inbox.
    async fn leave_core_groups_of(&self, node: u64) -> RedisResult<()> {
        let inner = &self.remote.0;
        if inner.format == LayerFormat::Oneport {
            return Ok(());
        }
        let joined = inner.names.joined_key(node);
        let mut ask = redis::cmd("HGETALL");
        ask.arg(&joined);
        let reply = self.query(vec![ask]).await?.into_iter().next();
        let groups = reply.map(redis::from_redis_value::<Vec<(String, String)>>);
        let groups = groups.and_then(Result::ok).unwrap_or_default();
        let commands = inner.core.leave_for_node(&joined, &groups);
        self.query(commands).await.map(drop)
    }

    // --- Entries of a process in Redis -------------------------------------------------------------------------------

    pub(super) fn renew_lease_command(&self) -> redis::Cmd {
        let inner = &self.remote.0;
        let mut call = RENEW_LEASE.call(&[&inner.names.lease_key()]);
        call.arg(format!("{:016x}", inner.node))
            .arg(millis(self.remote.lease_in_redis()));
        call
    }

    /// Returns whether a process is being reaped: whether its lease is one that `RENEW_LEASE` gives
    /// to dead processes.
    async fn is_dead(&self, node: u64) -> RedisResult<bool> {
        let mut ask = redis::cmd("ZSCORE");
        ask.arg(self.remote.0.names.lease_key())
            .arg(format!("{node:016x}"));
        let reply = self.query(vec![ask]).await?.into_iter().next();
        let lease = reply.map(redis::from_redis_value::<Option<f64>>);
        let lease = lease.and_then(Result::ok).flatten();
        Ok(lease.is_some_and(|lease| lease.fract() != 0.0))
    }

    /// Returns the groups in which a process has members.
    pub(super) async fn groups_of(&self, node: u64) -> RedisResult<Vec<String>> {
        let mut ask = redis::cmd("SMEMBERS");
        ask.arg(self.remote.0.names.present_groups_key(node));
        let reply = self.query(vec![ask]).await?.into_iter().next();
        let groups = reply.map(redis::from_redis_value::<Vec<String>>);
        Ok(groups.and_then(Result::ok).unwrap_or_default())
    }

    /// Removes the members of a process from some groups; returns the fields and entries of each
    /// group, and the number of members that remain.
    async fn remove_members_of(
        &self,
        node: u64,
        groups: &[String],
    ) -> RedisResult<Vec<(Vec<(String, String)>, usize)>> {
        let calls = groups.iter().map(|group| {
            let key = self.remote.0.names.presence_key(group);
            let mut call = REMOVE_NODE_MEMBERS.call(&[&key]);
            call.arg(RedisNames::presence_fields(node));
            call
        });
        let replies = self.query(calls.collect()).await?.into_iter();
        let entries = |reply| redis::from_redis_value(reply).unwrap_or_default();
        Ok(replies.map(entries).collect())
    }

    /// Removes a process's set of groups and its lease.
    async fn remove_node(&self, node: u64) -> RedisResult<()> {
        let names = &self.remote.0.names;
        let mut delete = redis::cmd("DEL");
        delete.arg(names.present_groups_key(node));
        let mut end = redis::cmd("ZREM");
        end.arg(names.lease_key()).arg(format!("{node:016x}"));
        self.query(vec![delete, end]).await.map(drop)
    }
}

impl Remote {
    /// Returns for how long Redis keeps what this process renews with its lease: a process that
    /// stands still for less than the lease finds it there.
    pub(super) fn lease_in_redis(&self) -> Duration {
        self.0.lease + 2 * self.0.lease / RENEWALS
    }
}

/// The log lines about lost leases.
#[derive(Default)]
struct LeaseLog {
    /// When this process last returned after its lease.
    returned: Option<Instant>,
    /// When another loss was last logged.
    logged: Option<Instant>,
}

impl LeaseLog {
    /// Logs that this process had no lease. `silent` is the time since its last renewal.
    fn lost(&mut self, silent: Duration, lease: Duration) {
        let is_within = |at: Option<Instant>, time| at.is_some_and(|at| at.elapsed() < time);
        if silent > lease {
            self.returned = Some(Instant::now());
            let seconds = silent.as_secs_f64();
            tracing::warn!(
                seconds,
                "this process stood still for longer than its lease, and another one removed its members from Redis: they are registered again"
            );
        } else if !is_within(self.returned, 2 * lease) && !is_within(self.logged, LOG_INTERVAL) {
            // Otherwise it returned while it was being reaped, and finds its lease gone once more.
            self.logged = Some(Instant::now());
            tracing::warn!(
                "Redis lost the lease of this process: its members are registered again"
            );
        }
    }
}

fn slots_moved() -> RedisError {
    RedisError::from(io::Error::other("the cluster's slots have moved"))
}

//! Sockets: all that are open in this process, by number.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::close::Ending;
use super::socket_handle::SocketHandle;
use crate::auth::Login;

const SHARDS: usize = 16;

/// All open sockets of a server (cheap to clone).
#[derive(Clone, Debug, Default)]
pub struct Sockets(Arc<SocketTable>);

#[derive(Debug, Default)]
struct SocketTable {
    shards: [Mutex<HashMap<u64, Arc<SocketHandle>>>; SHARDS],
    left: Notify,
    /// The fingerprints of the routes that the newest table has; none before the first reload, when all are new.
    kept: Mutex<Option<HashSet<u64>>>,
}

impl Sockets {
    /// Returns how many are open.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.shards.iter().map(|shard| shard.lock().len()).sum()
    }

    /// Tells whether none is open.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns what the users of all sockets rest on.
    pub(crate) fn logins(&self) -> HashSet<Arc<Login>> {
        let shards = self.0.shards.iter();
        shards
            .flat_map(|shard| {
                let shard = shard.lock();
                let logins = shard.values().filter_map(|handle| handle.login().cloned());
                logins.collect::<Vec<_>>()
            })
            .collect()
    }

    /// Returns the one of a number.
    #[must_use]
    pub fn get(&self, id: u64) -> Option<Arc<SocketHandle>> {
        self.shard(id).lock().get(&id).cloned()
    }

    /// Returns those that `which` picks, by number, from behind `after` on, at most so many.
    pub(crate) fn list(
        &self,
        which: impl Fn(&SocketHandle) -> bool,
        after: u64,
        limit: usize,
    ) -> Vec<Arc<SocketHandle>> {
        let shards = self.0.shards.iter();
        let mut found: Vec<Arc<SocketHandle>> = shards
            .flat_map(|shard| {
                let shard = shard.lock();
                let picked = shard.values();
                let picked = picked.filter(|handle| handle.id() > after && which(handle));
                picked.cloned().collect::<Vec<_>>()
            })
            .collect();
        found.sort_unstable_by_key(|handle| handle.id());
        found.truncate(limit);
        found
    }

    /// Ends those that `which` picks, evenly over a time. Returns how many it picked.
    pub async fn end(
        &self,
        which: impl Fn(&SocketHandle) -> bool,
        ending: &Ending,
        over: Duration,
    ) -> usize {
        let picked: Vec<Arc<SocketHandle>> = self
            .0
            .shards
            .iter()
            .flat_map(|shard| {
                shard
                    .lock()
                    .values()
                    .filter(|handle| which(handle))
                    .cloned()
                    .collect::<Vec<_>>()
            })
            .collect();
        // In steps of ten milliseconds: a timer is no finer.
        let steps = usize::try_from(over.as_millis() / 10)
            .unwrap_or(1)
            .clamp(1, picked.len().max(1));
        for (at, some) in picked
            .chunks(picked.len().div_ceil(steps).max(1))
            .enumerate()
        {
            if at > 0 {
                tokio::time::sleep(over / u32::try_from(steps).unwrap_or(u32::MAX)).await;
            }
            some.iter().for_each(|handle| handle.end(ending.clone()));
        }
        picked.len()
    }

    /// Completes when none is open.
    pub async fn all_ended(&self) {
        loop {
            let left = self.0.left.notified();
            if self.is_empty() {
                return;
            }
            left.await;
        }
    }

    /// Says which routes the newest table has, before it is in use: a socket that opens meanwhile finds out by itself.
    pub(crate) fn keep(&self, fingerprints: HashSet<u64>) {
        *self.0.kept.lock() = Some(fingerprints);
    }

    pub(super) fn is_kept(&self, fingerprint: u64) -> bool {
        self.0
            .kept
            .lock()
            .as_ref()
            .is_none_or(|kept| kept.contains(&fingerprint))
    }

    pub(super) fn add(&self, handle: &Arc<SocketHandle>) {
        self.shard(handle.id())
            .lock()
            .insert(handle.id(), handle.clone());
    }

    pub(super) fn remove(&self, id: u64) {
        self.shard(id).lock().remove(&id);
        self.0.left.notify_waiters();
    }

    fn shard(&self, id: u64) -> &Mutex<HashMap<u64, Arc<SocketHandle>>> {
        &self.0.shards[usize::try_from(id).unwrap_or(0) % SHARDS]
    }
}

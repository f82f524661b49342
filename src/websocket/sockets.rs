//! Sockets: the open WebSockets of this process, by number.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::close::{Cause, Ending};
use super::socket_handle::SocketHandle;
use crate::auth::Login;

const SHARDS: usize = 16;

/// The open sockets of a server (cheap to clone).
#[derive(Clone, Debug, Default)]
pub struct Sockets(Arc<SocketTable>);

#[derive(Debug, Default)]
struct SocketTable {
    shards: [Mutex<HashMap<u64, Arc<SocketHandle>>>; SHARDS],
    left: Notify,
    /// The fingerprints of the current table's routes; `None` before the first reload.
    kept: Mutex<Option<HashSet<u64>>>,
}

impl Sockets {
    /// Returns the number of open sockets.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.shards.iter().map(|shard| shard.lock().len()).sum()
    }

    /// Returns whether no socket is open.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the sessions and tokens that authenticated the users of all sockets.
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

    /// Returns the socket with a number.
    #[must_use]
    pub fn get(&self, id: u64) -> Option<Arc<SocketHandle>> {
        self.shard(id).lock().get(&id).cloned()
    }

    /// Returns at most `limit` sockets that `which` selects, by number, starting after `after`.
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

    /// Ends the sockets that `which` selects, evenly spread over a time. Returns their number.
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
        // In steps of 10 ms: the runtime's timer is not much finer.
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

    /// Waits until all sockets have ended.
    pub async fn all_ended(&self) {
        loop {
            let left = self.0.left.notified();
            if self.is_empty() {
                return;
            }
            left.await;
        }
    }

    /// Sets the fingerprints of the table that is about to be used. A socket that opens while a
    /// reload ends others checks them itself, see `Sockets::open`.
    pub(crate) fn keep(&self, fingerprints: HashSet<u64>) {
        *self.0.kept.lock() = Some(fingerprints);
    }

    fn is_kept(&self, fingerprint: u64) -> bool {
        self.0
            .kept
            .lock()
            .as_ref()
            .is_none_or(|kept| kept.contains(&fingerprint))
    }

    /// Adds a socket that has opened.
    ///
    /// A drain or a reload goes over the registered sockets once. A socket accepted in the meantime
    /// may register too late, so it is checked after it has registered: whichever comes second ends
    /// it.
    pub(super) fn open(&self, handle: &Arc<SocketHandle>) {
        self.shard(handle.id())
            .lock()
            .insert(handle.id(), handle.clone());
        if handle.services().tasks.is_draining() {
            handle.end(Ending::of(Cause::ServerDrain));
        }
        if !self.is_kept(handle.route().fingerprint) {
            handle.end(Ending::of(Cause::Reload));
        }
        handle.route().metrics.open.increment(1.0);
    }

    pub(super) fn remove(&self, id: u64) {
        self.shard(id).lock().remove(&id);
        self.0.left.notify_waiters();
    }

    fn shard(&self, id: u64) -> &Mutex<HashMap<u64, Arc<SocketHandle>>> {
        &self.0.shards[usize::try_from(id).unwrap_or(0) % SHARDS]
    }
}

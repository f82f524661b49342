//! Sockets: the open WebSockets of this process, by number.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::close::{Cause, Ending};
use super::socket_handle::SocketHandle;
use crate::auth::Login;
use crate::first_items::{FirstItems, ITEMS_PER_TURN};
use crate::pace::Pace;

/// Enough that a walk over 100,000 sockets holds each lock for a moment only.
const SHARDS: usize = 64;

/// The open sockets of a server (cheap to clone).
#[derive(Clone, Debug, Default)]
pub struct Sockets(Arc<SocketTable>);

/// Some of the open sockets, by their numbers.
type Shard = Mutex<HashMap<u64, Arc<SocketHandle>>>;

#[derive(Debug)]
struct SocketTable {
    shards: Box<[Shard]>,
    left: Notify,
    /// The fingerprints of the current table's routes; `None` before the first reload.
    kept: Mutex<Option<HashSet<u64>>>,
    /// Set when the server drains.
    draining: OnceLock<Draining>,
}

impl Default for SocketTable {
    fn default() -> Self {
        Self {
            shards: std::iter::repeat_with(Mutex::default)
                .take(SHARDS)
                .collect(),
            left: Notify::default(),
            kept: Mutex::default(),
            draining: OnceLock::default(),
        }
    }
}

/// How a drain ends the sockets.
#[derive(Debug)]
struct Draining {
    ending: Ending,
    pace: Pace,
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
        self.0.shards.iter().all(|shard| shard.lock().is_empty())
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

    /// Calls `act` with each open socket, outside the locks of the table.
    pub(super) fn for_each(&self, mut act: impl FnMut(&SocketHandle)) {
        for shard in &self.0.shards {
            let handles: Vec<_> = shard.lock().values().cloned().collect();
            handles.iter().for_each(|handle| act(handle));
        }
    }

    /// Returns the socket with a number.
    #[must_use]
    pub fn get(&self, id: u64) -> Option<Arc<SocketHandle>> {
        self.shard(id).lock().get(&id).cloned()
    }

    /// Returns at most `limit` sockets that `which` selects, by number, starting after `after`.
    /// A walk over many sockets lets the worker serve others.
    pub(crate) async fn list(
        &self,
        which: impl Fn(&SocketHandle) -> bool,
        after: u64,
        limit: usize,
    ) -> Vec<Arc<SocketHandle>> {
        let mut first = FirstItems::new(limit);
        let mut walked = 0;
        for shard in &self.0.shards {
            for (id, handle) in shard.lock().iter() {
                walked += 1;
                let is_early = first.last_of_full().is_none_or(|last| id < last);
                if *id > after && is_early && which(handle) {
                    first.push(*id, handle.clone());
                }
            }
            if walked > ITEMS_PER_TURN {
                walked = 0;
                tokio::task::yield_now().await;
            }
        }
        first.into_sorted().map(|(_, handle)| handle).collect()
    }

    /// Ends the sockets that `which` selects, at a pace. Returns their number.
    pub async fn end(
        &self,
        which: impl Fn(&SocketHandle) -> bool,
        ending: &Ending,
        pace: &Pace,
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
        pace.walk(&picked, |number, handle| {
            handle.end(ending.clone().retry_after(pace.seconds_of(number)));
        })
        .await;
        picked.len()
    }

    /// Begins the drain: from now on a socket that opens is ended. Only the first call counts.
    pub(crate) fn drain(&self, ending: Ending, pace: Pace) {
        let _ = self.0.draining.set(Draining { ending, pace });
    }

    /// Ends all sockets as [`Sockets::drain`] was told. Returns their number.
    pub(crate) async fn end_all(&self) -> usize {
        match self.0.draining.get() {
            Some(Draining { ending, pace }) => self.end(|_| true, ending, pace).await,
            None => 0,
        }
    }

    /// Returns the pace of the drain, once it has begun.
    pub(crate) fn draining(&self) -> Option<&Pace> {
        self.0.draining.get().map(|draining| &draining.pace)
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
        if let Some(Draining { ending, pace }) = self.0.draining.get() {
            handle.end(ending.clone().retry_after(pace.seconds_of(0)));
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

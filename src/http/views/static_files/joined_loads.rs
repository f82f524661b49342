//! Joined loads: one load for all requests that want the same thing at the same time.
//!
//! Each request polls the load, so a client that leaves stops no other one; the load ends early when
//! the last of them has left. Its outcome goes to all of them at once, whatever it is. A load that
//! takes longer than a second is joined no more: its thread may wait for a mount that is gone.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared, WeakShared};
use parking_lot::Mutex;
use tokio::time::Instant;

/// The age up to which a load is joined.
const JOINED_FOR: Duration = Duration::from_secs(1);

/// A load, for one of the requests that wait for it.
pub(super) type Load<T> = Shared<BoxFuture<'static, T>>;

/// The loads that are running.
#[derive(Debug)]
pub(super) struct JoinedLoads<K, T>(Arc<Mutex<Running<K, T>>>);

#[derive(Debug)]
struct Running<K, T> {
    loads: HashMap<K, Begun<T>>,
    begun: u64,
}

#[derive(Debug)]
struct Begun<T> {
    number: u64,
    at: Instant,
    load: WeakShared<BoxFuture<'static, T>>,
}

/// Removes a load at its end, or when its last request has left.
struct Entry<K: Eq + Hash, T> {
    running: Arc<Mutex<Running<K, T>>>,
    key: K,
    number: u64,
}

impl<K: Eq + Hash, T> Drop for Entry<K, T> {
    fn drop(&mut self) {
        let loads = &mut self.running.lock().loads;
        // After a load that was left, another one may have begun already.
        if loads
            .get(&self.key)
            .is_some_and(|begun| begun.number == self.number)
        {
            loads.remove(&self.key);
        }
    }
}

impl<K, T> Default for JoinedLoads<K, T> {
    fn default() -> Self {
        let (loads, begun) = (HashMap::new(), 0);
        Self(Arc::new(Mutex::new(Running { loads, begun })))
    }
}

impl<K, T> JoinedLoads<K, T>
where
    K: Clone + Eq + Hash + Send + 'static,
    T: Clone + Send + Sync + 'static,
{
    /// Joins the load of a key. If none is running, the one that `begin` returns is.
    pub(super) fn join<F>(&self, key: K, begin: impl FnOnce() -> F) -> Load<T>
    where
        F: Future<Output = T> + Send + 'static,
    {
        let mut running = self.0.lock();
        let known = running.loads.get(&key);
        let known = known.filter(|begun| begun.at.elapsed() < JOINED_FOR);
        if let Some(load) = known.and_then(|begun| begun.load.upgrade()) {
            return load;
        }
        let work = begin();
        running.begun += 1;
        let number = running.begun;
        let entry = Entry {
            running: self.0.clone(),
            key: key.clone(),
            number,
        };
        let load = async move {
            let outcome = work.await;
            drop(entry);
            outcome
        };
        let load = load.boxed().shared();
        if let Some(weak) = load.downgrade() {
            let (at, load) = (Instant::now(), weak);
            running.loads.insert(key, Begun { number, at, load });
        }
        load
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use futures_util::future::join_all;
    use tokio::sync::oneshot;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn all_requests_get_the_outcome_of_one_load_even_if_the_first_leaves() {
        let loads = JoinedLoads::<&str, Option<u8>>::default();
        let (begun, end) = (Cell::new(0), Cell::new(None));
        let join = || {
            loads.join("a", || {
                begun.set(begun.get() + 1);
                let (sender, receiver) = oneshot::channel();
                end.set(Some(sender));
                async move { receiver.await.ok() }
            })
        };
        let mut first = join();
        assert!(futures_util::poll!(&mut first).is_pending());
        let others: Vec<_> = (0..100).map(|_| join()).collect();
        drop(first);
        end.take().unwrap().send(7).unwrap();
        assert_eq!(join_all(others).await, vec![Some(7); 100]);
        assert_eq!(begun.get(), 1);

        // One that takes too long is joined no more, and does not remove the one after it.
        let mut stuck = join();
        assert!(futures_util::poll!(&mut stuck).is_pending());
        tokio::time::advance(JOINED_FOR).await;
        let mut later = join();
        assert!(futures_util::poll!(&mut later).is_pending());
        assert_eq!(begun.get(), 3);
        drop(stuck);
        let joined = join();
        end.take().unwrap().send(8).unwrap();
        assert_eq!(join_all([later, joined]).await, [Some(8); 2]);

        // The next one begins anew, and one that all have left is forgotten.
        let mut next = join();
        assert_eq!(begun.get(), 4);
        assert!(futures_util::poll!(&mut next).is_pending());
        drop(next);
        assert!(loads.0.lock().loads.is_empty());
    }
}

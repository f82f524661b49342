//! Joined loads: one load for all requests that want the same thing at the same time.
//!
//! Each request polls the load, so a client that leaves stops no other one; the load ends early when
//! the last of them has left. Its outcome goes to all of them at once, whatever it is.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared, WeakShared};
use parking_lot::Mutex;

/// A load, for one of the requests that wait for it.
pub(super) type Load<T> = Shared<BoxFuture<'static, T>>;

/// The loads that are running.
#[derive(Debug)]
pub(super) struct JoinedLoads<K, T>(Arc<Mutex<Running<K, T>>>);

#[derive(Debug)]
struct Running<K, T> {
    loads: HashMap<K, (u64, WeakShared<BoxFuture<'static, T>>)>,
    begun: u64,
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
            .is_some_and(|(number, _)| *number == self.number)
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
        if let Some(load) = running.loads.get(&key).and_then(|(_, load)| load.upgrade()) {
            return load;
        }
        running.begun += 1;
        let number = running.begun;
        let entry = Entry {
            running: self.0.clone(),
            key: key.clone(),
            number,
        };
        let work = begin();
        let load = async move {
            let outcome = work.await;
            drop(entry);
            outcome
        };
        let load = load.boxed().shared();
        if let Some(weak) = load.downgrade() {
            running.loads.insert(key, (number, weak));
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

    #[tokio::test]
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

        // The next one begins anew, and one that all have left is forgotten.
        let mut next = join();
        assert_eq!(begun.get(), 2);
        assert!(futures_util::poll!(&mut next).is_pending());
        drop(next);
        assert!(loads.0.lock().loads.is_empty());
    }
}

//! HashingQueue: passwords are hashed off the async threads, a few at a time.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;

use crate::database::StoreError;

/// Those that may wait for their turn; more are turned away.
const WAITING_MAX: usize = 256;

/// How long one waits for its turn.
const WAIT_MAX: Duration = Duration::from_secs(10);

/// The turns at hashing.
#[derive(Debug)]
pub(super) struct HashingQueue {
    at_once: Arc<Semaphore>,
    waiting: Semaphore,
}

impl HashingQueue {
    pub(super) fn new(at_once: usize) -> Self {
        Self {
            at_once: Arc::new(Semaphore::new(at_once)),
            waiting: Semaphore::new(WAITING_MAX + at_once),
        }
    }

    /// Runs what takes the processor for long, when it is its turn.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, StoreError> {
        let busy = |cause: &str| StoreError::Unavailable {
            store: "password hashing",
            cause: cause.into(),
        };
        let _place = self
            .waiting
            .try_acquire()
            .map_err(|_| busy("too many passwords wait"))?;
        let turn = tokio::time::timeout(WAIT_MAX, self.at_once.clone().acquire_owned());
        let turn = turn
            .await
            .map_err(|_| busy("its turn did not come in time"))?
            .map_err(|_| busy("it has ended"))?;
        // The thread holds the turn: it works on even when nobody waits for it any more.
        let worked = tokio::task::spawn_blocking(move || {
            let done = work();
            drop(turn);
            done
        });
        worked.await.map_err(|error| busy(&error.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use tokio::task::JoinSet;

    use super::*;

    #[tokio::test]
    async fn so_many_wait_and_one_more_is_turned_away_at_once() {
        let hashing = Arc::new(HashingQueue::new(1));
        let (free, held) = mpsc::channel::<()>();
        let (begun, began) = tokio::sync::oneshot::channel();
        let mut served = JoinSet::new();
        let first = hashing.clone();
        served.spawn(async move {
            let hold = move || {
                begun.send(()).unwrap();
                held.recv().is_err()
            };
            first.run(hold).await
        });
        began.await.unwrap();
        for _ in 0..WAITING_MAX {
            let hashing = hashing.clone();
            served.spawn(async move { hashing.run(|| true).await });
        }
        while hashing.waiting.available_permits() > 0 {
            tokio::task::yield_now().await;
        }

        let refused = hashing.run(|| true).await.unwrap_err();

        assert!(
            refused.to_string().contains("too many passwords wait"),
            "{refused}"
        );
        drop(free);
        let served = served.join_all().await;
        assert_eq!(served.len(), WAITING_MAX + 1);
        assert!(served.into_iter().all(|ran| ran.unwrap()));
        assert!(hashing.run(|| true).await.unwrap());
    }
}

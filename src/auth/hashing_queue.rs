//! HashingQueue: hashes passwords on blocking threads, a few at a time.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;

use crate::database::StoreError;

/// The most queued hashes; one more is refused.
const QUEUE_MAX: usize = 256;

/// The longest wait in the queue.
const WAIT_MAX: Duration = Duration::from_secs(10);

/// A queue for hashing passwords.
#[derive(Debug)]
pub(super) struct HashingQueue {
    running: Arc<Semaphore>,
    /// Counts running and queued hashes.
    admitted: Semaphore,
}

impl HashingQueue {
    pub(super) fn new(at_once: usize) -> Self {
        Self {
            running: Arc::new(Semaphore::new(at_once)),
            admitted: Semaphore::new(QUEUE_MAX + at_once),
        }
    }

    /// Runs work that occupies a processor, when its turn comes.
    ///
    /// Fails with [`StoreError::Unavailable`] if the queue is full or the wait too long.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, StoreError> {
        let busy = |cause: &str| StoreError::Unavailable {
            store: "password hashing",
            cause: cause.into(),
        };
        let _admitted = self
            .admitted
            .try_acquire()
            .map_err(|_| busy("too many passwords in the queue"))?;
        let permit = tokio::time::timeout(WAIT_MAX, self.running.clone().acquire_owned());
        let permit = permit
            .await
            .map_err(|_| busy("the queue did not move in time"))?
            .map_err(|_| busy("the queue is closed"))?;
        // The thread owns the permit, because it continues if the caller is dropped.
        let joined = tokio::task::spawn_blocking(move || {
            let result = work();
            drop(permit);
            result
        });
        joined.await.map_err(|error| busy(&error.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use tokio::task::JoinSet;

    use super::*;

    #[tokio::test]
    async fn a_full_queue_refuses_one_more_at_once() {
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
        for _ in 0..QUEUE_MAX {
            let hashing = hashing.clone();
            served.spawn(async move { hashing.run(|| true).await });
        }
        while hashing.admitted.available_permits() > 0 {
            tokio::task::yield_now().await;
        }

        let refused = hashing.run(|| true).await.unwrap_err();

        assert!(
            refused
                .to_string()
                .contains("too many passwords in the queue"),
            "{refused}"
        );
        drop(free);
        let served = served.join_all().await;
        assert_eq!(served.len(), QUEUE_MAX + 1);
        assert!(served.into_iter().all(|ran| ran.unwrap()));
        assert!(hashing.run(|| true).await.unwrap());
    }
}

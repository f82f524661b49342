//! Hashing: passwords are hashed off the async threads, a few at a time.

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
pub(super) struct Hashing {
    at_once: Arc<Semaphore>,
    waiting: Semaphore,
}

impl Hashing {
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

//! Tasks: every task of the process has an owner that waits for it at the end.

use std::future::Future;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// The owner of all tasks of one server (cheap to clone).
///
/// A task is started with [`Tasks::spawn`]; [`Tasks::finish`] waits for all of them. What accepts connections is owned by the
/// server itself and ends before; so a server that has ended has left nothing behind.
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
/// use std::time::Duration;
/// let tasks = oneport::tasks::Tasks::default();
/// tasks.spawn("greet", async { });
/// assert_eq!(tasks.finish(Duration::from_secs(1)).await, 0);
/// # });
/// ```
#[derive(Clone, Debug, Default)]
pub struct Tasks {
    tracker: TaskTracker,
    draining: CancellationToken,
    stopping: CancellationToken,
    /// What the other tasks need to their end.
    last: TaskTracker,
    ended: CancellationToken,
}

impl Tasks {
    /// Starts a task. `name` says in the log which one it was.
    pub fn spawn<F>(&self, name: &'static str, future: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        tracing::trace!(task = name, "starts");
        self.tracker.spawn(future);
    }

    /// Starts a task that outlives those of [`Tasks::spawn`]: it is stopped, by [`Tasks::ended`], once they are over.
    pub fn spawn_last<F>(&self, name: &'static str, future: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        tracing::trace!(task = name, "starts");
        self.last.spawn(future);
    }

    /// Completes when all other tasks are over, or their time is.
    pub async fn ended(&self) {
        self.ended.cancelled().await;
    }

    /// Says that the server takes no new work: answers without an end of their own come to theirs.
    pub fn drain(&self) {
        self.draining.cancel();
    }

    /// Tells whether [`Tasks::drain`] was called.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.draining.is_cancelled()
    }

    /// Returns what completes when [`Tasks::drain`] is called.
    #[must_use]
    pub fn draining_token(&self) -> CancellationToken {
        self.draining.clone()
    }

    /// Completes when the server stops: tasks without an end of their own wait for it.
    pub async fn stopping(&self) {
        self.stopping.cancelled().await;
    }

    /// Tells whether the server stops.
    #[must_use]
    pub fn is_stopping(&self) -> bool {
        self.stopping.is_cancelled()
    }

    /// Asks the tasks without an end of their own to stop.
    pub fn stop(&self) {
        self.draining.cancel();
        self.stopping.cancel();
    }

    /// Returns how many tasks are alive.
    #[must_use]
    pub fn alive(&self) -> usize {
        self.tracker.len()
    }

    /// Stops, waits at most `deadline` for all tasks, and returns how many were still alive then.
    pub async fn finish(&self, deadline: Duration) -> usize {
        self.stop();
        self.tracker.close();
        let _ = tokio::time::timeout(deadline, self.tracker.wait()).await;
        self.ended.cancel();
        self.last.close();
        self.last.wait().await;
        self.tracker.len()
    }
}

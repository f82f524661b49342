//! Tasks: the owner of every task in the process, which waits for them at the end.

#[cfg(test)]
mod gate;

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::task::{JoinError, JoinSet};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

#[cfg(test)]
pub(crate) use self::gate::Gate;

/// The owner of all tasks of one server (cheap to clone).
///
/// [`Tasks::spawn`] starts a task; [`Tasks::finish`] waits for all of them. The server owns the accept
/// loops itself and ends them first, so no task outlives the server.
///
/// ```text
/// running --leave()--> leaving ----drain()----> draining --stop()--> stopping --finish()--> ended
///    └──hand_over()──> handing over --drain()──────┘
/// ```
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
    /// Read for each response, which a token's lock would slow down.
    leaving: Arc<AtomicBool>,
    replaced: Arc<AtomicBool>,
    handing_over: CancellationToken,
    draining: CancellationToken,
    stopping: CancellationToken,
    /// Tasks that the others need until they end, such as the clock.
    last: TaskTracker,
    ended: CancellationToken,
    #[cfg(test)]
    gate: Gate,
}

/// Tasks whose results their owner awaits. Dropping it aborts them.
pub(crate) struct TaskSet<T> {
    set: JoinSet<T>,
    #[cfg(test)]
    gate: Gate,
}

impl<T: Send + 'static> TaskSet<T> {
    pub(crate) fn spawn<F>(&mut self, future: F)
    where
        F: Future<Output = T> + Send + 'static,
    {
        #[cfg(test)]
        let future = self.gate.hold(future);
        self.set.spawn(future);
    }

    /// Ends all tasks at their next wait.
    pub(crate) fn abort_all(&mut self) {
        self.set.abort_all();
    }

    /// Waits for one of the tasks; `None` if there is none.
    pub(crate) async fn join_next(&mut self) -> Option<Result<T, JoinError>> {
        self.set.join_next().await
    }
}

impl Tasks {
    /// Starts a task. `name` appears in the log.
    pub fn spawn<F>(&self, name: &'static str, future: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        tracing::trace!(task = name, "starts");
        #[cfg(test)]
        let future = self.gate.hold(future);
        self.tracker.spawn(future);
    }

    /// Starts a task that outlives those of [`Tasks::spawn`]: it stops on [`Tasks::ended`], after they
    /// have finished.
    pub fn spawn_last<F>(&self, name: &'static str, future: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        tracing::trace!(task = name, "starts");
        #[cfg(test)]
        let future = self.gate.hold(future);
        self.last.spawn(future);
    }

    /// Returns an empty set of tasks.
    pub(crate) fn set<T>(&self) -> TaskSet<T> {
        TaskSet {
            set: JoinSet::new(),
            #[cfg(test)]
            gate: self.gate.clone(),
        }
    }

    /// Returns the gate that all these tasks pass.
    #[cfg(test)]
    pub(crate) fn gate(&self) -> &Gate {
        &self.gate
    }

    /// Completes when all tasks of [`Tasks::spawn`] have finished, or their deadline has passed.
    pub async fn ended(&self) {
        self.ended.cancelled().await;
    }

    /// Announces the end: the server still takes all work, and asks its clients to go elsewhere.
    pub fn leave(&self) {
        self.leaving.store(true, Ordering::Relaxed);
    }

    /// Returns whether the server has announced its end, or drains already.
    #[must_use]
    pub fn is_leaving(&self) -> bool {
        self.leaving.load(Ordering::Relaxed)
    }

    /// Begins to hand over to another process, which serves already: the clients of this one go there
    /// once they have the responses to their requests, and none is cut off.
    /// Implies [`Tasks::leave`].
    pub fn hand_over(&self) {
        self.replaced.store(true, Ordering::Relaxed);
        self.leave();
        self.handing_over.cancel();
    }

    /// Returns whether [`Tasks::hand_over`] was called: clients that come back find the other process.
    #[must_use]
    pub fn is_replaced(&self) -> bool {
        self.replaced.load(Ordering::Relaxed)
    }

    /// Returns a token that [`Tasks::hand_over`] and [`Tasks::drain`] cancel.
    #[must_use]
    pub fn handing_over_token(&self) -> CancellationToken {
        self.handing_over.clone()
    }

    /// Begins the drain: the server takes no new work, and endless responses (event streams) end.
    /// Implies [`Tasks::leave`].
    pub fn drain(&self) {
        self.leave();
        self.handing_over.cancel();
        self.draining.cancel();
    }

    /// Returns whether [`Tasks::drain`] was called.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.draining.is_cancelled()
    }

    /// Returns a token that [`Tasks::drain`] cancels.
    #[must_use]
    pub fn draining_token(&self) -> CancellationToken {
        self.draining.clone()
    }

    /// Completes when the server stops. Tasks that loop forever wait for it and return.
    pub async fn stopping(&self) {
        self.stopping.cancelled().await;
    }

    /// Returns whether the server is stopping.
    #[must_use]
    pub fn is_stopping(&self) -> bool {
        self.stopping.is_cancelled()
    }

    /// Asks tasks that loop forever to stop. Implies [`Tasks::drain`].
    pub fn stop(&self) {
        self.drain();
        self.stopping.cancel();
    }

    /// Returns how many tasks are running.
    #[must_use]
    pub fn alive(&self) -> usize {
        self.tracker.len()
    }

    /// Stops all tasks, waits for them for at most `deadline`, and returns how many are still running.
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

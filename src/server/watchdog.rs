//! Watchdog: tells the service manager that the server lives, as long as every worker of the
//! runtime does.
//!
//! A worker that computes or blocks without an end takes its tasks with it, although the others
//! carry on. The runtime counts how often each worker has gone to sleep and awoken, and how long it
//! was busy, which it adds up every few dozen polls. A worker that is awake and whose numbers are
//! those of the last look has been in the same few polls since.
//!
//! ```text
//! Waiting ── half of the deadline ──> all workers answer: a message ──> Waiting
//!                                          └── one is stuck: the next looks follow at a 16th of
//!                                              the deadline, until it answers
//! ```

use std::time::Duration;

use tokio::runtime::{Handle, RuntimeMetrics};
use tokio::time::Instant;

use super::systemd::Systemd;
use crate::tasks::Tasks;

/// Sends the messages, until all other tasks have ended.
pub(super) async fn watch(systemd: Systemd, deadline: Duration, tasks: Tasks) {
    let mut workers = Workers::of(Handle::current().metrics());
    let mut stuck_since: Option<Instant> = None;
    systemd.alive(); // the deadline may have begun with a process that this one has replaced
    loop {
        let pause = match stuck_since {
            None => deadline / 2,
            Some(_) => deadline / 16,
        };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = tasks.ended() => return,
        }
        match (workers.stuck(), stuck_since) {
            (None, _) => {
                stuck_since = None;
                systemd.alive();
            }
            (Some(worker), None) => {
                stuck_since = Some(Instant::now());
                tracing::error!(
                    worker,
                    seconds = pause.as_secs_f64(),
                    "a worker of the runtime is stuck: the service manager gets no sign of life"
                );
            }
            (Some(_), Some(_)) => {}
        }
    }
}

/// The workers, as they were at the last look.
struct Workers {
    metrics: RuntimeMetrics,
    seen: Vec<Progress>,
}

#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
struct Progress {
    /// How often the worker has gone to sleep or awoken: even while it is awake.
    parks_and_unparks: u64,
    busy: Duration,
}

impl Workers {
    fn of(metrics: RuntimeMetrics) -> Self {
        let mut workers = Self {
            seen: vec![Progress::default(); metrics.num_workers()],
            metrics,
        };
        workers.stuck();
        workers
    }

    /// Returns the number of a worker that is awake and has got no further since the last call.
    fn stuck(&mut self) -> Option<usize> {
        let mut stuck = None;
        for (worker, seen) in self.seen.iter_mut().enumerate() {
            let now = Progress {
                parks_and_unparks: self.metrics.worker_park_unpark_count(worker),
                busy: self.metrics.worker_total_busy_duration(worker),
            };
            let is_awake = now.parks_and_unparks.is_multiple_of(2);
            if is_awake && now == *seen {
                stuck.get_or_insert(worker);
            }
            *seen = now;
        }
        stuck
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    fn runtime() -> tokio::runtime::Runtime {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        builder.worker_threads(2).enable_all().build().unwrap()
    }

    /// Looks again and again, until there is, or is not, a stuck worker.
    fn wait_until(workers: &mut Workers, is_stuck: bool) {
        let began = std::time::Instant::now();
        while workers.stuck().is_some() != is_stuck {
            assert!(began.elapsed() < Duration::from_secs(30), "{is_stuck}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    #[test]
    fn a_worker_that_blocks_is_stuck_until_it_goes_on() {
        let runtime = runtime();
        let mut workers = Workers::of(runtime.metrics());
        let (release, blocked) = mpsc::channel::<()>();
        runtime.spawn(async move { blocked.recv() });
        wait_until(&mut workers, true);
        release.send(()).unwrap();
        wait_until(&mut workers, false);
    }

    #[test]
    fn workers_that_sleep_or_are_busy_are_not_stuck() {
        let runtime = runtime();
        let mut workers = Workers::of(runtime.metrics());
        wait_until(&mut workers, false); // both sleep
        std::thread::sleep(Duration::from_millis(50));
        assert_eq!(workers.stuck(), None);
        for _ in 0..2 {
            runtime.spawn(async {
                loop {
                    std::thread::sleep(Duration::from_millis(1));
                    tokio::task::yield_now().await;
                }
            });
        }
        for _ in 0..5 {
            std::thread::sleep(Duration::from_millis(200)); // more than 61 polls
            assert_eq!(workers.stuck(), None);
        }
        runtime.shutdown_background();
    }
}

//! Disconnects: what a backend has to be told at least once, however long it is away.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use metrics::{counter, gauge};
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::Notify;

use super::action::Action;
use super::endpoint::{Endpoint, PostError};
use crate::channels::ChannelLayer;
use crate::tasks::Tasks;
use crate::telemetry::Recurring;

/// The most bytes of bodies that wait, beside their number: a body has the handshake's header fields and the state.
const QUEUE_BYTES_MAX: usize = 128 << 20;

/// How many are told at once.
const AT_ONCE: usize = 16;

/// The longest pause between two tries.
pub(super) const BACKOFF_MAX: Duration = Duration::from_secs(30);

/// How long the last ones are tried when the server stops.
const FAREWELL_MAX: Duration = Duration::from_secs(3);

/// How many actions an answer may hold; its state is not looked at.
const ANSWER_MAX: (usize, usize) = (1000, usize::MAX);

/// What one endpoint has to be told at least once.
pub(super) struct Disconnects {
    endpoint: Arc<Endpoint>,
    layer: ChannelLayer,
    queue: Mutex<Queue>,
    refused: Recurring,
    work: Notify,
    /// Nobody tells anything any more.
    is_closed: AtomicBool,
}

#[derive(Debug, Default)]
struct Queue {
    jobs: VecDeque<Job>,
    bytes: usize,
}

impl Queue {
    fn push(&mut self, job: Job) {
        self.bytes += job.body.len();
        self.jobs.push_back(job);
    }

    /// Takes the first job whose time has come.
    fn take_due(&mut self, now: Instant) -> Option<Job> {
        let at = self.jobs.iter().position(|job| job.not_before <= now)?;
        let job = self.jobs.remove(at)?;
        self.bytes -= job.body.len();
        Some(job)
    }
}

/// One thing to be told.
#[derive(Debug)]
struct Job {
    key: String,
    body: Bytes,
    since: Instant,
    not_before: Instant,
    attempt: u32,
}

impl Disconnects {
    /// A queue and the task that empties it.
    pub(super) fn start(endpoint: Arc<Endpoint>, layer: ChannelLayer, tasks: &Tasks) -> Arc<Self> {
        let disconnects = Arc::new(Self {
            endpoint,
            layer,
            queue: Mutex::default(),
            refused: Recurring::new(),
            work: Notify::new(),
            is_closed: AtomicBool::new(false),
        });
        tasks.spawn_last(
            "backend disconnects",
            disconnects.clone().run(tasks.clone()),
        );
        disconnects
    }

    /// Takes something to be told after a while; over the bound it is lost, and counted.
    pub(super) fn tell(&self, key: String, body: Vec<u8>, after: Duration) {
        let now = Instant::now();
        let mut queue = self.queue();
        let is_full = queue.jobs.len() >= self.endpoint.settings.disconnect_queue
            || queue.bytes + body.len() > QUEUE_BYTES_MAX;
        if is_full || self.is_closed.load(Ordering::Relaxed) {
            let waiting = queue.jobs.len();
            drop(queue);
            self.log_refused(waiting, is_full);
            lost(1);
            return;
        }
        queue.push(Job {
            key,
            body: body.into(),
            since: now,
            not_before: now + after,
            attempt: 0,
        });
        drop(queue);
        gauge!("oneport_backend_disconnects_waiting").increment(1.0);
        self.work.notify_one();
    }

    fn log_refused(&self, waiting: usize, is_full: bool) {
        if let Some(times) = self.refused.is_due() {
            let endpoint = &self.endpoint.settings.url.label;
            tracing::error!(%endpoint, waiting, is_full, times, "disconnects are lost: there is no room in disconnect_queue, or the server has stopped");
        }
    }

    async fn run(self: Arc<Self>, tasks: Tasks) {
        let rate = self.endpoint.settings.disconnect_rate.max(1);
        let mut pace = tokio::time::interval(Duration::from_secs(1) / rate);
        pace.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut telling = FuturesUnordered::new();
        let mut ends_at: Option<Instant> = None;
        loop {
            if let Some(ends_at) = ends_at
                && (Instant::now() >= ends_at
                    || (self.queue().jobs.is_empty() && telling.is_empty()))
            {
                break;
            }
            let has_place = telling.len() < AT_ONCE;
            tokio::select! {
                Some((job, told)) = telling.next(), if !telling.is_empty() => {
                    self.told(job, &told, ends_at.is_some());
                }
                job = self.due(), if has_place => {
                    // Who stops has no time for the pace.
                    if !tasks.is_draining() {
                        pace.tick().await;
                    }
                    let disconnects = self.clone();
                    telling.push(async move {
                        let told = disconnects.post(&job).await;
                        (job, told)
                    });
                }
                // By then each connection has said that it is gone.
                () = tasks.ended(), if ends_at.is_none() => {
                    ends_at = Some(Instant::now() + FAREWELL_MAX);
                    for job in &mut self.queue().jobs {
                        job.not_before = Instant::now();
                    }
                }
                () = tokio::time::sleep(Duration::from_millis(20)), if ends_at.is_some() => {}
            }
        }
        let left = {
            let queue = self.queue();
            self.is_closed.store(true, Ordering::Relaxed);
            queue.jobs.len() + telling.len()
        };
        if left > 0 {
            let endpoint = &self.endpoint.settings.url.label;
            tracing::warn!(left, %endpoint, "the backend was not told of all disconnects");
            lost(left);
        }
    }

    /// Tells one thing. Of what the answer wants a connection that is gone can only speak to groups.
    async fn post(&self, job: &Job) -> Result<(), PostError> {
        let answer = self
            .endpoint
            .post_aside(&job.key, &|| Some(job.body.clone()), ANSWER_MAX)
            .await?;
        for action in answer.events {
            if let Action::GroupSend { group, event, .. } = action
                && let Err(error) = self.layer.group_send(&group, event, None).await
            {
                tracing::debug!(%error, "a backend's event was dropped"); // and counted there
            }
        }
        Ok(())
    }

    /// Waits for the next one whose time has come.
    async fn due(&self) -> Job {
        loop {
            let work = self.work.notified();
            let mut pause = BACKOFF_MAX;
            {
                let mut queue = self.queue();
                let now = Instant::now();
                if let Some(job) = queue.take_due(now) {
                    return job;
                }
                for job in &queue.jobs {
                    pause = pause.min(job.not_before.saturating_duration_since(now));
                }
            }
            let _ = tokio::time::timeout(pause.max(Duration::from_millis(5)), work).await;
        }
    }

    fn told(&self, mut job: Job, told: &Result<(), PostError>, is_last: bool) {
        let is_done = match told {
            Ok(()) => true,
            // It does not want to know, unless it does not believe us: a secret or a clock is wrong, or will be right.
            Err(PostError::Refused(refusal)) => {
                refusal.status.is_client_error()
                    && !matches!(refusal.status.as_u16(), 401 | 403 | 429)
            }
            Err(PostError::Invalid(_) | PostError::TooLarge(_)) => true, // it was told, and answered nonsense
            Err(_) => false,
        };
        if is_done {
            gauge!("oneport_backend_disconnects_waiting").decrement(1.0);
            return;
        }
        if job.since.elapsed() > self.endpoint.settings.disconnect_expiry {
            let endpoint = &self.endpoint.settings.url.label;
            let last = told.as_ref().err().map(ToString::to_string);
            tracing::error!(%endpoint, key = job.key, last, "the backend was not told of a disconnect in time");
            return lost_waiting(1);
        }
        job.attempt += 1;
        let longest = if is_last {
            Duration::from_millis(200)
        } else {
            BACKOFF_MAX
        };
        let pause = Duration::from_millis(100) * 2_u32.saturating_pow(job.attempt.min(12));
        let pause = pause.min(longest).mul_f64(0.5 + fastrand::f64());
        let pause = match told {
            Err(PostError::CircuitOpen(left)) => (*left).max(Duration::from_millis(10)),
            _ => pause,
        };
        job.not_before = Instant::now() + pause;
        self.queue().push(job);
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock()
    }
}

pub(super) fn lost(count: usize) {
    counter!("oneport_backend_disconnects_lost_total").increment(count as u64);
}

fn lost_waiting(count: usize) {
    #[expect(clippy::cast_precision_loss, reason = "a gauge")]
    gauge!("oneport_backend_disconnects_waiting").decrement(count as f64);
    lost(count);
}

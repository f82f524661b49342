//! Disconnects: notifications that a backend gets at least once, however long it is unavailable.
//!
//! ```text
//! push ── queue full, or closed ──► lost (counted)
//!  ▼
//! Queued ── due, and a slot is free ──► Sending ── response ──────────────► done
//!    ▲                                     │ ───── refused for good ──────► done
//!    │                                     │ ───── older than `expiry` ───► lost (counted)
//!    └── later, with a longer pause ◄──────┘ ───── any other error
//! ```
//!
//! Each endpoint has one task that sends them at a limited rate. It outlives all connections: their
//! last notifications are queued when the server stops. It then has `STOPPING_MAX` left;
//! notifications still queued after that are lost.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use metrics::{counter, gauge};
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::endpoint::{Endpoint, PostError};
use super::protocol::ResponseLimits;
use super::protocol::action::{Action, GroupSend};
use crate::channels::{ChannelLayer, LayerError};
use crate::client::ClientError;
use crate::tasks::Tasks;
use crate::telemetry::LogThrottle;

/// The most bytes of queued bodies, a limit besides their number: a body contains the handshake's
/// header fields and the state.
const QUEUE_BYTES_MAX: usize = 128 << 20;

/// The most requests at once.
const CONCURRENCY: usize = 16;

/// The longest pause between two attempts.
pub(super) const BACKOFF_MAX: Duration = Duration::from_secs(30);

/// How long a stopping server continues to send.
const STOPPING_MAX: Duration = Duration::from_secs(3);

/// How often the task checks whether it is done, once the server is stopping.
const STOPPING_TICK: Duration = Duration::from_millis(20);

/// The limits of a response. Its state is ignored.
const RESPONSE_LIMITS: ResponseLimits = ResponseLimits {
    actions: 1000,
    state_bytes: usize::MAX,
};

/// The notifications of one endpoint.
pub(super) struct Disconnects {
    endpoint: Arc<Endpoint>,
    layer: ChannelLayer,
    queue: Mutex<Queue>,
    lost_log: LogThrottle,
    invalid_log: LogThrottle,
    /// Notified when a notification is queued.
    work: Notify,
    /// True once the task has ended.
    is_closed: AtomicBool,
}

#[derive(Debug, Default)]
struct Queue {
    notifications: VecDeque<Notification>,
    bytes: usize,
}

impl Queue {
    fn push(&mut self, notification: Notification) {
        self.bytes += notification.body.len();
        self.notifications.push_back(notification);
    }

    /// Removes the first one that is due.
    fn pop_due(&mut self, now: Instant) -> Option<Notification> {
        let mut queued = self.notifications.iter();
        let index = queued.position(|queued| queued.not_before <= now)?;
        let notification = self.notifications.remove(index)?;
        self.bytes -= notification.body.len();
        Some(notification)
    }
}

/// A request that is retried until it is handled.
#[derive(Debug)]
struct Notification {
    key: String,
    body: Bytes,
    queued_at: Instant,
    not_before: Instant,
    attempt: u32,
}

/// Whether the server is stopping.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Phase {
    Running,
    /// All connections have ended; no further notification is queued.
    Stopping {
        ends_at: Instant,
    },
}

impl Disconnects {
    /// Starts the task of an endpoint.
    pub(super) fn start(endpoint: Arc<Endpoint>, layer: ChannelLayer, tasks: &Tasks) -> Arc<Self> {
        let disconnects = Arc::new(Self {
            endpoint,
            layer,
            queue: Mutex::default(),
            lost_log: LogThrottle::new(),
            invalid_log: LogThrottle::new(),
            work: Notify::new(),
            is_closed: AtomicBool::new(false),
        });
        tasks.spawn_last(
            "backend disconnects",
            disconnects.clone().run(tasks.clone()),
        );
        disconnects
    }

    /// Queues a notification that is sent after a delay. If the queue is full, the notification is
    /// lost and counted.
    pub(super) fn push(&self, key: String, body: Vec<u8>, delay: Duration) {
        let now = Instant::now();
        let mut queue = self.queue.lock();
        let is_full = queue.notifications.len() >= self.endpoint.settings.disconnect_queue
            || queue.bytes + body.len() > QUEUE_BYTES_MAX;
        // `run` closes the queue under its lock, so none is queued after it has counted the rest.
        if is_full || self.is_closed.load(Ordering::Relaxed) {
            let queued = queue.notifications.len();
            drop(queue);
            self.log_lost(queued);
            count_lost(1);
            return;
        }
        queue.push(Notification {
            key,
            body: body.into(),
            queued_at: now,
            not_before: now + delay,
            attempt: 0,
        });
        drop(queue);
        gauge!("oneport_backend_disconnects_waiting").increment(1.0);
        self.work.notify_one();
    }

    fn log_lost(&self, queued: usize) {
        if let Some(times) = self.lost_log.count() {
            let endpoint = &self.endpoint.settings.url.label;
            tracing::error!(%endpoint, queued, times, "disconnect lost: disconnect_queue is full, or the server has stopped");
        }
    }

    async fn run(self: Arc<Self>, tasks: Tasks) {
        let rate = self.endpoint.settings.disconnect_rate.max(1);
        let mut pace = tokio::time::interval(Duration::from_secs(1) / rate);
        pace.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut sending = FuturesUnordered::new();
        let mut phase = Phase::Running;
        loop {
            if let Phase::Stopping { ends_at } = phase
                && (Instant::now() >= ends_at || (self.is_empty() && sending.is_empty()))
            {
                break;
            }
            let has_slot = sending.len() < CONCURRENCY;
            // Cancel-safe: `next_due` removes a notification in its last step, without an await
            // after it.
            tokio::select! {
                Some((notification, sent)) = sending.next(), if !sending.is_empty() => {
                    self.finish(notification, &sent, phase);
                }
                notification = self.next_due(), if has_slot => {
                    // A draining server does not limit the rate.
                    if !tasks.is_draining() {
                        pace.tick().await;
                    }
                    let disconnects = self.clone();
                    sending.push(async move {
                        let sent = disconnects.send(&notification).await;
                        (notification, sent)
                    });
                }
                // Every connection has queued its notification by then, because its task is over.
                () = tasks.ended(), if phase == Phase::Running => {
                    phase = Phase::Stopping { ends_at: Instant::now() + STOPPING_MAX };
                    for notification in &mut self.queue.lock().notifications {
                        notification.not_before = Instant::now();
                    }
                }
                () = tokio::time::sleep(STOPPING_TICK), if phase != Phase::Running => {}
            }
        }
        let lost = {
            let queue = self.queue.lock();
            self.is_closed.store(true, Ordering::Relaxed);
            queue.notifications.len() + sending.len()
        };
        if lost > 0 {
            let endpoint = &self.endpoint.settings.url.label;
            tracing::warn!(lost, %endpoint, "disconnects lost: the server stops while the backend is unavailable");
            count_lost(lost);
        }
    }

    fn is_empty(&self) -> bool {
        self.queue.lock().notifications.is_empty()
    }

    /// Sends one notification. A connection that has ended can only send to groups, so other
    /// actions are ignored.
    async fn send(&self, notification: &Notification) -> Result<(), PostError> {
        let body = || Some(notification.body.clone());
        let response = self
            .endpoint
            .post_in_background(&notification.key, &body, RESPONSE_LIMITS)
            .await?;
        for action in response.actions {
            if let Action::GroupSend(GroupSend { group, event, .. }) = action
                && let Err(error) = self.layer.group_send(&group, event, None).await
            {
                match error {
                    LayerError::InvalidEvent { .. } => self.log_invalid(&error),
                    // The layer counts it.
                    error => tracing::debug!(%error, "event of a backend dropped"),
                }
            }
        }
        Ok(())
    }

    fn log_invalid(&self, error: &LayerError) {
        if let Some(times) = self.invalid_log.count() {
            let endpoint = &self.endpoint.settings.url.label;
            tracing::error!(%endpoint, times, "invalid response from the backend: {error}");
        }
    }

    /// Waits for the next one that is due, and removes it from the queue.
    async fn next_due(&self) -> Notification {
        loop {
            let work = self.work.notified();
            let mut pause = BACKOFF_MAX;
            {
                let mut queue = self.queue.lock();
                let now = Instant::now();
                if let Some(notification) = queue.pop_due(now) {
                    return notification;
                }
                for queued in &queue.notifications {
                    pause = pause.min(queued.not_before.saturating_duration_since(now));
                }
            }
            let _ = tokio::time::timeout(pause.max(Duration::from_millis(5)), work).await;
        }
    }

    /// Drops a notification that is handled or too old; otherwise queues it again.
    fn finish(&self, mut notification: Notification, sent: &Result<(), PostError>, phase: Phase) {
        let is_handled = match sent {
            Ok(()) => true,
            // The backend refuses it permanently. After 401 and 403 it is sent again: a wrong
            // secret or clock may be corrected.
            Err(PostError::Refused(refusal)) => {
                refusal.status.is_client_error()
                    && !matches!(refusal.status.as_u16(), 401 | 403 | 429)
            }
            // The backend has received it, and sent an invalid response.
            Err(PostError::Client(ClientError::Invalid(_) | ClientError::TooLarge(_))) => true,
            Err(_) => false,
        };
        if is_handled {
            gauge!("oneport_backend_disconnects_waiting").decrement(1.0);
            return;
        }
        if notification.queued_at.elapsed() > self.endpoint.settings.disconnect_expiry {
            let endpoint = &self.endpoint.settings.url.label;
            let last = sent.as_ref().err().map(ToString::to_string);
            tracing::error!(%endpoint, key = notification.key, last, "disconnect lost: not sent within disconnect_expiry");
            gauge!("oneport_backend_disconnects_waiting").decrement(1.0);
            count_lost(1);
            return;
        }
        notification.attempt += 1;
        let longest = match phase {
            Phase::Running => BACKOFF_MAX,
            Phase::Stopping { .. } => Duration::from_millis(200),
        };
        let pause = match sent {
            Err(PostError::Client(ClientError::CircuitOpen { left })) => {
                (*left).max(Duration::from_millis(10))
            }
            _ => {
                let doubled =
                    Duration::from_millis(100) * 2_u32.saturating_pow(notification.attempt.min(12));
                doubled.min(longest).mul_f64(0.5 + fastrand::f64())
            }
        };
        notification.not_before = Instant::now() + pause;
        self.queue.lock().push(notification);
    }
}

/// Counts disconnects that the backend never gets.
pub(super) fn count_lost(count: usize) {
    counter!("oneport_backend_disconnects_lost_total").increment(count as u64);
}

//! Deadlines: until when a request may take, and who is at fault if it takes longer.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use super::body::UploadProgress;
use super::error::ClientError;

/// The end of a request, with all its waits and attempts.
#[derive(Clone, Copy, Debug)]
pub(crate) struct EndsAt {
    pub(super) at: Instant,
    /// The time allowed, for the error.
    pub(super) timeout: Duration,
}

impl EndsAt {
    /// Starts a timeout.
    pub(crate) fn after(timeout: Duration) -> Self {
        let at = Instant::now() + timeout;
        Self { at, timeout }
    }

    pub(crate) fn has_passed(self) -> bool {
        self.at <= Instant::now()
    }
}

/// The time from which the endpoint owes the head of a response.
#[derive(Debug)]
pub(super) struct HeadTimer {
    began: Instant,
    /// How long the request has waited for its slot before.
    queued: Duration,
    /// `None` while the request waits for a place among those of a shared connection.
    started_at: Mutex<Option<Instant>>,
}

impl HeadTimer {
    pub(super) fn start(queued: Duration) -> Self {
        let began = Instant::now();
        Self {
            began,
            queued,
            started_at: Mutex::new(Some(began)),
        }
    }

    /// The request waits for a place.
    pub(super) fn pause(&self) {
        *self.started_at.lock() = None;
    }

    /// The request has its place.
    pub(super) fn restart(&self) {
        *self.started_at.lock() = Some(Instant::now());
    }

    fn started_at(&self) -> Option<Instant> {
        *self.started_at.lock()
    }

    /// Returns whether the request was waiting for longer than the endpoint has had it.
    fn is_mostly_queued(&self) -> bool {
        let started_at = self.started_at();
        started_at.is_none_or(|at| self.queued + (at - self.began) > at.elapsed())
    }
}

/// Waits for the head until a deadline. Each part of the request's body restarts the head's own
/// timeout; it does not run while the request waits for a place.
pub(super) async fn within<T>(
    mut head: Pin<&mut impl Future<Output = T>>,
    timer: &HeadTimer,
    upload: Option<&UploadProgress>,
    head_timeout: Option<Duration>,
    ends_at: Option<EndsAt>,
) -> Result<T, ClientError> {
    if head_timeout.is_none() && ends_at.is_none() {
        return Ok(head.await);
    }
    let head_due_at = || {
        let started_at = timer.started_at().unwrap_or_else(Instant::now);
        let sent_at = upload.map_or(started_at, |upload| upload.sent_at(started_at));
        head_timeout.map(|timeout| (sent_at + timeout, timeout))
    };
    let total = ends_at.map(|ends_at| (ends_at.at, ends_at.timeout));
    loop {
        let Some((due_at, timeout)) = head_due_at().into_iter().chain(total).min() else {
            return Ok(head.await);
        };
        if let Ok(response) = tokio::time::timeout_at(due_at, head.as_mut()).await {
            return Ok(response);
        }
        let is_due = |(at, _): &(Instant, Duration)| *at <= Instant::now();
        let is_over = total.as_ref().is_some_and(is_due);
        // Race: a part of the body may have been sent since the deadline was computed.
        if !is_over && !head_due_at().as_ref().is_some_and(is_due) {
            continue;
        }
        // An endpoint with too many requests is not blamed for the time that they wait.
        return Err(if is_over && timer.is_mostly_queued() {
            let waited = timer.queued + timer.began.elapsed();
            ClientError::Busy { waited }
        } else if upload.is_some_and(UploadProgress::is_awaited) {
            ClientError::UploadTimeout { timeout }
        } else {
            ClientError::Timeout { timeout }
        });
    }
}

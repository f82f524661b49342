//! ReloadHandle: asks the running server to read its configuration again, and tells the outcome.

use std::time::Duration;

use parking_lot::Mutex;
use serde::Serialize;
use tokio::sync::{mpsc, oneshot};

use crate::config::KeyChange;

/// The most requests that wait for the server.
const REQUESTS_MAX: usize = 16;

/// How long a request waits for its reload.
const DEADLINE: Duration = Duration::from_secs(30);

/// Requests a reload (one for each server). Requests made together share one reload.
#[derive(Debug)]
pub struct ReloadHandle {
    requests: mpsc::Sender<ReloadRequest>,
    /// For the server that applies reloads; `None` once it has taken it.
    server: Mutex<Option<mpsc::Receiver<ReloadRequest>>>,
}

/// A request of a reload: where its report goes.
pub(crate) type ReloadRequest = oneshot::Sender<ReloadReport>;

/// What came of a reload.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ReloadOutcome {
    /// The configuration that was read is in effect.
    Replaced,
    /// It has Problems, or it cannot be applied: the previous one stays in effect.
    Refused,
    /// It is still being read: the log tells the outcome.
    Pending,
    /// The server does not reload, or too many requests wait.
    Unavailable,
}

/// The outcome of a reload, in words.
#[derive(Clone, Debug, Serialize)]
pub struct ReloadReport {
    /// What came of it.
    pub outcome: ReloadOutcome,
    /// Errors and warnings, each with its place in the files.
    pub problems: Vec<String>,
    /// The changed keys that are in effect.
    pub applied: Vec<KeyChange>,
    /// The changed keys that take effect at the next start.
    pub needs_restart: Vec<KeyChange>,
}

impl ReloadReport {
    /// Creates a report without changes.
    pub(crate) fn of(outcome: ReloadOutcome, problems: Vec<String>) -> Self {
        Self {
            outcome,
            problems,
            applied: Vec::new(),
            needs_restart: Vec::new(),
        }
    }
}

impl Default for ReloadHandle {
    fn default() -> Self {
        let (requests, server) = mpsc::channel(REQUESTS_MAX);
        Self {
            requests,
            server: Mutex::new(Some(server)),
        }
    }
}

impl ReloadHandle {
    /// Reloads, as SIGHUP does, and waits for the outcome: 30 s at most.
    pub async fn request(&self) -> ReloadReport {
        let (reply, report) = oneshot::channel();
        let is_served = self.server.lock().is_none();
        if !is_served || self.requests.try_send(reply).is_err() {
            return ReloadReport::of(ReloadOutcome::Unavailable, Vec::new());
        }
        match tokio::time::timeout(DEADLINE, report).await {
            Ok(Ok(report)) => report,
            Ok(Err(_)) => ReloadReport::of(ReloadOutcome::Unavailable, Vec::new()),
            Err(_) => ReloadReport::of(ReloadOutcome::Pending, Vec::new()),
        }
    }

    /// Takes the requests; `None` if they are taken already.
    pub(crate) fn requests(&self) -> Option<mpsc::Receiver<ReloadRequest>> {
        self.server.lock().take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn without_a_server_that_reloads_it_is_unavailable() {
        let handle = ReloadHandle::default();
        assert_eq!(handle.request().await.outcome, ReloadOutcome::Unavailable);
        let requests = handle.requests();
        assert!(requests.is_some() && handle.requests().is_none());
        drop(requests);
        assert_eq!(handle.request().await.outcome, ReloadOutcome::Unavailable);
    }

    #[tokio::test(start_paused = true)]
    async fn reload_that_takes_long_is_pending_and_too_many_requests_are_refused() {
        let handle = ReloadHandle::default();
        let mut requests = handle.requests().unwrap();
        assert_eq!(handle.request().await.outcome, ReloadOutcome::Pending);
        let waiting = async {
            let all = (0..REQUESTS_MAX).map(|_| handle.request());
            futures_util::future::join_all(all).await
        };
        // One is still in the queue.
        let reports = waiting.await;
        let refused = reports
            .iter()
            .filter(|report| report.outcome == ReloadOutcome::Unavailable);
        assert_eq!(refused.count(), 1);
        for _ in 0..REQUESTS_MAX {
            requests.recv().await.unwrap();
        }
    }

    #[tokio::test]
    async fn report_of_the_server_arrives() {
        let handle = ReloadHandle::default();
        let mut requests = handle.requests().unwrap();
        let answer = async {
            let report = ReloadReport::of(ReloadOutcome::Refused, vec!["a".to_owned()]);
            requests.recv().await.unwrap().send(report).unwrap();
        };
        let (report, ()) = tokio::join!(handle.request(), answer);
        assert_eq!(
            (report.outcome, report.problems.len()),
            (ReloadOutcome::Refused, 1)
        );
    }
}

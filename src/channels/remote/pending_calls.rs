//! PendingCalls: calls to other processes that wait for replies.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::mpsc;

use crate::channels::{NodeReply, Sent};

/// The most replies to one call that may wait to be read; further ones are dropped.
const REPLIES_MAX: usize = 1024;

/// Calls to other processes that wait for replies, by their number.
#[derive(Default)]
pub(super) struct PendingCalls {
    last_id: AtomicU64,
    calls: Mutex<HashMap<u64, PendingCall>>,
}

enum PendingCall {
    Counts(mpsc::Sender<(usize, usize)>),
    Replies(mpsc::Sender<NodeReply>),
}

/// The number of a call. Dropping it ends the wait for replies.
pub(super) struct CallId {
    calls: Arc<PendingCalls>,
    pub(super) id: u64,
}

impl Drop for CallId {
    fn drop(&mut self) {
        self.calls.calls.lock().remove(&self.id);
    }
}

/// The counts that other processes send about one event.
pub(super) struct DeliveryCounts {
    pub(super) call: CallId,
    received: mpsc::Receiver<(usize, usize)>,
}

impl DeliveryCounts {
    /// Sums the counts of `expected` processes; returns how many of them did not reply in time.
    pub(super) async fn collect(&mut self, expected: usize, wait: Duration) -> (Sent, usize) {
        let mut sent = Sent::default();
        let deadline = tokio::time::Instant::now() + wait;
        for received in 0..expected {
            match tokio::time::timeout_at(deadline, self.received.recv()).await {
                Ok(Some((queued, dropped))) => {
                    sent.queued += queued;
                    sent.dropped += dropped;
                }
                _ => return (sent, expected - received),
            }
        }
        (sent, 0)
    }
}

impl PendingCalls {
    /// Starts to wait for counts.
    pub(super) fn await_counts(self: &Arc<Self>) -> DeliveryCounts {
        let (sender, received) = mpsc::channel(REPLIES_MAX);
        DeliveryCounts {
            call: self.register(PendingCall::Counts(sender)),
            received,
        }
    }

    /// Starts to wait for replies.
    pub(super) fn await_replies(self: &Arc<Self>) -> (CallId, mpsc::Receiver<NodeReply>) {
        let (sender, received) = mpsc::channel(REPLIES_MAX);
        (self.register(PendingCall::Replies(sender)), received)
    }

    fn register(self: &Arc<Self>, call: PendingCall) -> CallId {
        let id = self.last_id.fetch_add(1, Ordering::Relaxed) + 1;
        self.calls.lock().insert(id, call);
        CallId {
            calls: self.clone(),
            id,
        }
    }

    pub(super) fn on_counts(&self, id: u64, queued: usize, dropped: usize) {
        if let Some(PendingCall::Counts(waiting)) = self.calls.lock().get(&id) {
            let _ = waiting.try_send((queued, dropped)); // over the bound: as good as no reply
        }
    }

    pub(super) fn on_reply(&self, id: u64, reply: NodeReply) {
        if let Some(PendingCall::Replies(waiting)) = self.calls.lock().get(&id) {
            let _ = waiting.try_send(reply); // over the bound: as good as no reply
        }
    }
}

//! Queued bytes: how much is queued for the clients of all WebSockets together.

use std::sync::atomic::{AtomicUsize, Ordering};

/// Bytes in the send queues of all sockets, group events left out.
static TOTAL: AtomicUsize = AtomicUsize::new(0);

/// Returns how many bytes are in the send queues of all sockets. Group events are left out, because
/// their bytes are shared.
pub(crate) fn total() -> usize {
    TOTAL.load(Ordering::Relaxed)
}

/// A share of [`total`], given back on drop.
#[derive(Debug, Default)]
pub(crate) struct QueuedBytes(usize);

impl QueuedBytes {
    pub(crate) fn new(bytes: &[u8]) -> Self {
        TOTAL.fetch_add(bytes.len(), Ordering::Relaxed);
        Self(bytes.len())
    }
}

impl Drop for QueuedBytes {
    fn drop(&mut self) {
        if self.0 > 0 {
            TOTAL.fetch_sub(self.0, Ordering::Relaxed);
        }
    }
}

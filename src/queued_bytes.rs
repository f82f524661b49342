//! Send queues: how much waits for the clients of all WebSockets together.

use std::sync::atomic::{AtomicUsize, Ordering};

/// Bytes that wait in the queues of all sockets and are each socket's own.
static TOTAL: AtomicUsize = AtomicUsize::new(0);

/// Returns how many bytes wait in the queues of all sockets. Events of groups are left out: their bytes are shared.
pub(crate) fn total() -> usize {
    TOTAL.load(Ordering::Relaxed)
}

/// A share of [`total`], until it is dropped.
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

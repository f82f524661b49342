//! Send queues: how much waits for the clients of all WebSockets together.

use std::sync::atomic::{AtomicUsize, Ordering};

/// Bytes that wait in the queues of all sockets and are each socket's own.
static WAITING: AtomicUsize = AtomicUsize::new(0);

/// Returns how many bytes wait in the queues of all sockets. Events of groups are left out: their bytes are shared.
pub(crate) fn waiting() -> usize {
    WAITING.load(Ordering::Relaxed)
}

/// A share of [`waiting`], until it is dropped.
#[derive(Debug, Default)]
pub(crate) struct Waiting(usize);

impl Waiting {
    pub(crate) fn of(bytes: &[u8]) -> Self {
        WAITING.fetch_add(bytes.len(), Ordering::Relaxed);
        Self(bytes.len())
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if self.0 > 0 {
            WAITING.fetch_sub(self.0, Ordering::Relaxed);
        }
    }
}

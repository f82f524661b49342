//! ThreadBuffers: the buffers that all connections of one thread share.

use std::cell::RefCell;

/// The most bytes taken from a socket at once.
pub(super) const READ_BYTES: usize = 64 * 1024;

/// An output buffer that grew beyond this is let go.
const OUT_BYTES_KEPT: usize = 1 << 20;

/// The buffers of one thread; no connection keeps anything in them when its turn ends.
pub(super) struct ThreadBuffers {
    /// What was read and not decoded yet.
    pub(super) input: Vec<u8>,
    /// What `output_owner` said in this turn and was not written yet.
    pub(super) output: Vec<u8>,
    /// The connection whose turn it is.
    pub(super) output_owner: u64,
}

thread_local! {
    static BUFFERS: RefCell<ThreadBuffers> = RefCell::new(ThreadBuffers {
        // The two buffers stay apart modulo 4096: copies between addresses that agree there run several times slower.
        input: vec![0; READ_BYTES + 2048],
        output: Vec::with_capacity(READ_BYTES),
        output_owner: 0,
    });
}

/// Lends the thread's buffers. Not to be nested: nobody calls a consumer from inside.
pub(super) fn with<R>(action: impl FnOnce(&mut ThreadBuffers) -> R) -> R {
    BUFFERS.with_borrow_mut(action)
}

impl ThreadBuffers {
    /// Empties the output buffer after its bytes were written or queued.
    pub(super) fn clear_output(&mut self) {
        self.output.clear();
        if self.output.capacity() > OUT_BYTES_KEPT {
            self.output = Vec::with_capacity(READ_BYTES);
        }
    }
}

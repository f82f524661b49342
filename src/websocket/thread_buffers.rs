//! ThreadBuffers: the input and output buffer that all sockets of one thread share.
//!
//! They belong to the socket whose task is being polled, from its first claim to the end of the
//! poll.

use std::cell::RefCell;
use std::ops::Range;

/// The most bytes of one read.
pub(super) const READ_BYTES: usize = 64 * 1024;

/// An output buffer that grew beyond this is freed.
const OUTPUT_BYTES_KEPT: usize = 1 << 20;

/// The buffers of one thread. Between polls they are empty.
pub(super) struct ThreadBuffers {
    /// The bytes that the owner has read.
    pub(super) input: Vec<u8>,
    /// The part of `input` that is not decoded yet.
    pub(super) undecoded: Range<usize>,
    /// Frames that the owner sends in this poll. They go out in one write.
    pub(super) output: Vec<u8>,
    /// How many messages are in `output`.
    pub(super) messages: u32,
    /// The socket's number; 0 between polls.
    owner: u64,
}

thread_local! {
    static BUFFERS: RefCell<ThreadBuffers> = RefCell::new(ThreadBuffers {
        // The addresses of the two must differ modulo 4096: copies between addresses that are equal
        // modulo 4096 run several times slower.
        input: vec![0; READ_BYTES + 2048],
        undecoded: 0..0,
        output: Vec::with_capacity(READ_BYTES),
        messages: 0,
        owner: 0,
    });
}

/// Lends the thread's buffers. It must not be nested, so `action` must not call a consumer.
pub(super) fn with<R>(action: impl FnOnce(&mut ThreadBuffers) -> R) -> R {
    BUFFERS.with_borrow_mut(action)
}

impl ThreadBuffers {
    pub(super) fn claim(&mut self, owner: u64) {
        debug_assert!(
            self.output.is_empty() || self.owner == owner,
            "a socket left output behind"
        );
        if self.owner != owner {
            self.undecoded = 0..0;
            self.clear_output();
            self.owner = owner;
        }
    }

    pub(super) fn release(&mut self) {
        self.undecoded = 0..0;
        self.owner = 0;
    }

    pub(super) fn is_owned_by(&self, socket: u64) -> bool {
        self.owner == socket
    }

    /// Empties the output buffer after its bytes were written or queued.
    pub(super) fn clear_output(&mut self) {
        self.output.clear();
        self.messages = 0;
        if self.output.capacity() > OUTPUT_BYTES_KEPT {
            self.output = Vec::with_capacity(READ_BYTES);
        }
    }
}

//! Buffers: what all TLS streams of one thread share while one of them reads or writes. Idle
//! streams hold none.

use std::cell::Cell;

use super::session::{HANDSHAKE_BYTES_MAX, OVERHEAD_BYTES, RECORD_BYTES, WIRE_BYTES_MAX};

/// The plaintext that is encrypted for one write.
pub(super) const WRITE_BYTES: usize = 4 * RECORD_BYTES;

/// The buffers of one thread.
pub(super) struct Buffers {
    /// Ciphertext that was read, decrypted in place.
    pub(super) input: Vec<u8>,
    /// Plaintext of several slices that share a record.
    pub(super) record: Vec<u8>,
    /// Ciphertext for one write.
    pub(super) output: Vec<u8>,
}

impl Default for Buffers {
    fn default() -> Self {
        Self {
            input: vec![0; HANDSHAKE_BYTES_MAX + WIRE_BYTES_MAX],
            record: Vec::with_capacity(RECORD_BYTES),
            output: vec![0; WRITE_BYTES + (WRITE_BYTES / RECORD_BYTES + 1) * OVERHEAD_BYTES],
        }
    }
}

thread_local! {
    static BUFFERS: Cell<Option<Box<Buffers>>> = const { Cell::new(None) };
}

/// Lends the thread's buffers. A nested call (TLS over a stream that is itself TLS) gets new ones.
pub(super) fn with<R>(action: impl FnOnce(&mut Buffers) -> R) -> R {
    let mut buffers = BUFFERS.take().unwrap_or_default();
    let result = action(&mut buffers);
    BUFFERS.set(Some(buffers));
    result
}

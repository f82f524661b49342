//! Deflate: compresses and inflates messages (RFC 7692 §7.2), and owns the contexts for it.
//!
//! | context | size | without context takeover | with context takeover |
//! |---|---|---|---|
//! | inflating | 40 KiB | from the thread's pool, from a message's first byte to its last | the connection's own from its first compressed message on |
//! | compressing | 300 KiB | from the thread's pool, for one message | the connection's own from its first compressed message on |
//!
//! So an idle connection without context takeover holds none. An event of a group is always
//! compressed without context, once for all members with the same window.
//!
//! With context takeover a compressed message refers to the messages in the client's window, so the
//! compressor's window has to be the same as the client's:
//!
//! ```text
//!            encode                        encode
//!   Empty ───────────► Same as the client's ────┐
//!     ▲                        │   ▲            │
//!     │         reset          │   └────────────┘
//!     └────────────────────────┘
//! ```
//!
//! `reset` comes before the next message whenever the windows may differ:
//!
//! - a group's event was sent: it is in the client's window, but not in the compressor's
//! - a message was dropped from the send queue: it is in the compressor's window, but not in the
//!   client's
//! - frames wait in the send queue: one of them may still be dropped
//!
//! Messages are compressed under the lock of the send queue, in the order in which they are sent,
//! so none of these can happen between compressing a message and queueing it.

use std::cell::RefCell;

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

use super::decoder::Violation;
use super::extension::{Deflate, DeflateSettings, WINDOW_BITS_MAX};
use super::frame::{Opcode, encode, encode_compressed, unmask};

/// The end of every flushed DEFLATE block. It is not sent: the receiver appends it (§7.2.1).
const TAIL: [u8; 4] = [0, 0, 0xFF, 0xFF];

/// The number of idle contexts of each kind that a thread keeps.
const INFLATERS_KEPT: usize = 4;
const DEFLATERS_KEPT: usize = 4;

/// The number of bytes unmasked at once before they are inflated.
const CHUNK_BYTES: usize = 2048;

/// A buffer of compressed bytes that grew beyond this is freed.
const SCRATCH_BYTES_KEPT: usize = 256 * 1024;

#[derive(Default)]
struct Pool {
    inflaters: Vec<Decompress>,
    /// Ordered by last use; the most recent is last.
    deflaters: Vec<(u8, u8, Compress)>,
    /// A compressed payload, until it is framed.
    scratch: Vec<u8>,
}

thread_local! {
    static POOL: RefCell<Pool> = RefCell::default();
}

/// The source of a connection's inflating contexts.
#[derive(Debug)]
pub(super) enum Inflation {
    /// The thread's pool, for each message.
    PerMessage,
    /// The connection: a message may refer to earlier ones.
    Takeover {
        window_bits: u8,
        kept: Option<Box<Inflater>>,
    },
}

impl Inflation {
    pub(super) fn new(agreed: Deflate) -> Self {
        if agreed.client_context_takeover {
            Self::Takeover {
                window_bits: agreed.client_window_bits,
                kept: None,
            }
        } else {
            Self::PerMessage
        }
    }

    /// Returns the context for a new message.
    pub(super) fn begin(&mut self) -> Box<Inflater> {
        let new = |context| {
            Box::new(Inflater {
                context,
                is_at_start: true,
            })
        };
        match self {
            Self::PerMessage => new(POOL
                .with_borrow_mut(|pool| pool.inflaters.pop())
                .unwrap_or_else(|| Decompress::new_with_window_bits(false, WINDOW_BITS_MAX))),
            Self::Takeover { window_bits, kept } => kept.take().unwrap_or_else(|| {
                // At least 512 bytes: with 256, some compressors use a larger window than they
                // announce.
                new(Decompress::new_with_window_bits(
                    false,
                    (*window_bits).max(9),
                ))
            }),
        }
    }

    /// Returns whether the connection has its own context now.
    pub(super) fn keeps_context(&self) -> bool {
        matches!(self, Self::Takeover { kept: Some(_), .. })
    }

    /// Takes the context back when its message is whole.
    pub(super) fn finish(&mut self, inflater: Box<Inflater>) {
        match self {
            Self::PerMessage => {
                let mut context = inflater.context;
                POOL.with_borrow_mut(|pool| {
                    if pool.inflaters.len() < INFLATERS_KEPT {
                        context.reset(false);
                        pool.inflaters.push(context);
                    }
                });
            }
            Self::Takeover { kept, .. } => *kept = Some(inflater),
        }
    }
}

/// The context that inflates a message.
#[derive(Debug)]
pub(super) struct Inflater {
    context: Decompress,
    /// True until a byte of the DEFLATE stream has been read.
    is_at_start: bool,
}

impl Inflater {
    /// Unmasks a part of a message and appends it inflated. Rotates `key` to match the next octets.
    pub(super) fn inflate_masked(
        &mut self,
        payload: &[u8],
        key: &mut [u8; 4],
        out: &mut Vec<u8>,
        limit: usize,
    ) -> Result<(), Violation> {
        let mut clear = [0; CHUNK_BYTES];
        for chunk in payload.chunks(CHUNK_BYTES) {
            let clear = &mut clear[..chunk.len()];
            clear.copy_from_slice(chunk);
            unmask(clear, key);
            self.inflate(clear, out, limit)?;
        }
        Ok(())
    }

    /// Appends the bytes left in the context after a message's last byte.
    pub(super) fn finish(&mut self, out: &mut Vec<u8>, limit: usize) -> Result<(), Violation> {
        // The message ended with a final block (§7.2.3.4): there is no open stream that the tail
        // could end.
        if self.is_at_start {
            return Ok(());
        }
        self.inflate(&TAIL, out, limit)
    }

    fn inflate(
        &mut self,
        mut input: &[u8],
        out: &mut Vec<u8>,
        limit: usize,
    ) -> Result<(), Violation> {
        loop {
            if out.len() == out.capacity() {
                // One byte more than the limit, to detect that it is exceeded.
                out.reserve_exact(
                    out.len()
                        .max(CHUNK_BYTES)
                        .min((limit - out.len()).saturating_add(1)),
                );
            }
            let before = self.context.total_in();
            let status = self
                .context
                .decompress_vec(input, out, FlushDecompress::Sync)
                .map_err(|_| Violation::InvalidDeflate)?;
            let taken = usize::try_from(self.context.total_in() - before).unwrap_or(input.len());
            input = &input[taken..];
            if taken > 0 {
                self.is_at_start = false;
            }
            if out.len() > limit {
                return Err(Violation::TooBig { limit });
            }
            if status == Status::StreamEnd {
                // A final block may be followed by another stream (§7.2.3.4).
                self.context.reset(false);
                self.is_at_start = true;
            }
            let is_full = out.len() == out.capacity();
            if input.is_empty() && (!is_full || status == Status::StreamEnd) {
                return Ok(());
            }
            if taken == 0 && !is_full && status != Status::StreamEnd {
                return Err(Violation::InvalidDeflate);
            }
        }
    }
}

/// The compressing context of a connection with context takeover.
pub(crate) struct Deflater {
    context: Compress,
    is_at_start: bool,
}

impl Deflater {
    pub(crate) fn new(agreed: Deflate, settings: &DeflateSettings) -> Self {
        Self {
            context: new_compress(settings.level, agreed.server_window_bits),
            is_at_start: true,
        }
    }

    /// Empties the window: the next message refers to no earlier one.
    pub(crate) fn reset(&mut self) {
        if !self.is_at_start {
            self.context.reset();
            self.is_at_start = true;
        }
    }

    /// Appends a compressed frame, which may refer to earlier ones.
    pub(crate) fn encode(&mut self, opcode: Opcode, payload: &[u8], out: &mut Vec<u8>) {
        self.is_at_start = false;
        with_scratch(|scratch| {
            compress(&mut self.context, payload, scratch);
            encode_compressed(opcode, scratch, out);
        });
    }
}

/// Appends a frame that refers to no other, compressed if it is long enough and becomes smaller.
pub(crate) fn encode_standalone(
    agreed: Deflate,
    settings: &DeflateSettings,
    opcode: Opcode,
    payload: &[u8],
    out: &mut Vec<u8>,
) {
    if !should_compress(payload.len(), settings) {
        return encode(opcode, payload, out);
    }
    with_scratch(|scratch| {
        let (level, window_bits) = (settings.level, agreed.server_window_bits);
        let mut context = take_compress(level, window_bits);
        compress(&mut context, payload, scratch);
        give_back(level, window_bits, context);
        if scratch.len() < payload.len() {
            encode_compressed(opcode, scratch, out);
        } else {
            encode(opcode, payload, out);
        }
    });
}

/// Returns whether a message is long enough to be compressed.
pub(super) fn should_compress(length: usize, settings: &DeflateSettings) -> bool {
    length >= settings.threshold.max(1)
}

fn new_compress(level: u8, window_bits: u8) -> Compress {
    Compress::new_with_window_bits(Compression::new(level.into()), false, window_bits)
}

fn take_compress(level: u8, window_bits: u8) -> Compress {
    POOL.with_borrow_mut(|pool| {
        let at = pool
            .deflaters
            .iter()
            .rposition(|(has_level, has_bits, _)| (*has_level, *has_bits) == (level, window_bits));
        at.map(|at| pool.deflaters.remove(at).2)
    })
    .unwrap_or_else(|| new_compress(level, window_bits))
}

fn give_back(level: u8, window_bits: u8, mut context: Compress) {
    context.reset();
    POOL.with_borrow_mut(|pool| {
        if pool.deflaters.len() == DEFLATERS_KEPT {
            pool.deflaters.remove(0);
        }
        pool.deflaters.push((level, window_bits, context));
    });
}

/// Lends the thread's buffer, which is empty.
fn with_scratch(action: impl FnOnce(&mut Vec<u8>)) {
    let mut scratch = POOL.with_borrow_mut(|pool| std::mem::take(&mut pool.scratch));
    action(&mut scratch);
    scratch.clear();
    if scratch.capacity() <= SCRATCH_BYTES_KEPT {
        POOL.with_borrow_mut(|pool| pool.scratch = scratch);
    }
}

/// Appends a compressed message without the tail (§7.2.1).
fn compress(context: &mut Compress, mut input: &[u8], out: &mut Vec<u8>) {
    let start = out.len();
    loop {
        out.reserve((input.len() / 2).max(64));
        let before = context.total_in();
        let outcome = context.compress_vec(input, out, FlushCompress::Sync);
        debug_assert!(
            outcome.is_ok(),
            "compressing fails only with an invalid stream"
        );
        let taken = usize::try_from(context.total_in() - before).unwrap_or(input.len());
        input = &input[taken..];
        if (input.is_empty() && out.len() < out.capacity()) || outcome.is_err() {
            break;
        }
    }
    debug_assert!(out[start..].ends_with(&TAIL), "a flush ends with its tail");
    out.truncate(out.len() - TAIL.len().min(out.len() - start));
}

#[cfg(test)]
mod tests;

//! Direction: the bytes from one side of a tunnel, the source, to the other, the sink.
//!
//! ```text
//!          ┌── a close frame has passed, the source or the sink has ended ──┐
//!          │                                                                ▼
//!        Relay ── interrupt ──► Interrupt ── the frame's end: our own ──► Discard
//!                                            close frame follows
//! ```
//!
//! Bytes are read into the thread's buffer and written from there. Only what the sink does not take
//! is copied; until the sink has taken it, nothing more is read. So a direction holds at most one
//! read, and an idle one holds nothing. A sink that speaks TLS may hold one write's ciphertext
//! besides, which has the same deadline.

use std::io::IoSlice;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};

use super::frame_boundaries::FrameBoundaries;
use crate::clock::Millis;
use crate::net::{BlockedWrite, Stream};
use crate::queued_bytes::QueuedBytes;
use crate::websocket::thread_buffers;

/// One direction of a tunnel.
#[derive(Default)]
pub(super) struct Direction {
    pub(super) frames: FrameBoundaries,
    flow: Flow,
    sink: Sink,
    /// Set at the end of the source's stream, or when reading it fails.
    source_has_ended: bool,
    /// Bytes that were read and that the sink has not taken.
    held: Option<Box<Held>>,
    /// Since when the sink takes nothing: neither what is held, nor its own ciphertext.
    blocked: BlockedWrite,
    /// The bytes that were read, and those that were written.
    pub(super) received: u64,
    pub(super) sent: u64,
}

/// What happens to the source's bytes.
#[derive(Default)]
enum Flow {
    /// They pass.
    #[default]
    Relay,
    /// The rest of the current frame passes; then this close frame follows.
    Interrupt(Box<[u8]>),
    /// They are read and discarded.
    Discard,
}

/// The state of the sink's stream.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
enum Sink {
    #[default]
    Open,
    /// Our side is closed.
    Shut,
    /// A write failed, or it is not to be written any more.
    Gone,
}

struct Held {
    bytes: Bytes,
    _share: QueuedBytes,
}

/// A limit of the source's bytes.
pub(super) trait Limit {
    /// Counts bytes that were read, before they pass.
    fn count(&mut self, frames: &FrameBoundaries, bytes: &[u8]) -> Counted;

    /// Takes the bytes that it kept when it counted last.
    fn take_kept(&mut self) -> Option<Bytes>;
}

/// How many bytes of a read pass.
pub(super) enum Counted {
    All,
    /// So many; the limit keeps the rest.
    Until(usize),
    /// So many; the rest never does. The close frame follows, unless a frame has begun to pass.
    Over {
        at: usize,
        close: Vec<u8>,
    },
}

/// The limits of one call of [`Direction::poll`].
#[derive(Clone, Copy, Debug)]
pub(super) struct Turn {
    pub(super) now: Millis,
    /// The most reads, and bytes of each.
    pub(super) reads: u8,
    pub(super) read_bytes: usize,
}

/// The outcome of one call of [`Direction::poll`].
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Progress {
    /// The source has no more bytes now, or the sink takes none: one of them wakes the task.
    Waiting,
    /// The reads of this poll are used up.
    Busy,
    /// A close frame has passed, or one side has ended.
    Changed,
}

impl Direction {
    /// Takes bytes that the source sent with its handshake.
    pub(super) fn begin(&mut self, bytes: &[u8], now: Millis) {
        self.received += bytes.len() as u64;
        let (passed, _) = self.follow(bytes);
        self.hold(&bytes[..passed], now);
    }

    /// Moves bytes until the source has none, the sink takes none, or something changes.
    pub(super) fn poll<L: Limit>(
        &mut self,
        cx: &mut Context<'_>,
        (source, sink): (&Stream, &Stream),
        turn: Turn,
        mut limit: Option<&mut L>,
    ) -> Progress {
        for _ in 0..turn.reads {
            let before = (self.sink, self.frames.is_closed());
            if self.poll_write(cx, sink, turn.now).is_pending() {
                return Progress::Waiting;
            }
            if before.0 != self.sink {
                return Progress::Changed;
            }
            if self.source_has_ended {
                return Progress::Waiting;
            }
            let limit = limit.as_deref_mut();
            if self.poll_read(cx, (source, sink), turn, limit).is_pending() {
                return Progress::Waiting;
            }
            if self.source_has_ended || before != (self.sink, self.frames.is_closed()) {
                return Progress::Changed;
            }
        }
        Progress::Busy
    }

    /// Writes what is held, and reads nothing.
    pub(super) fn poll_held(
        &mut self,
        cx: &mut Context<'_>,
        sink: &Stream,
        now: Millis,
    ) -> Progress {
        let before = self.sink;
        let _: Poll<()> = self.poll_write(cx, sink, now);
        match before == self.sink {
            true => Progress::Waiting,
            false => Progress::Changed,
        }
    }

    /// Sends a close frame at the end of the current frame, and discards what the source sends from
    /// then on. Does nothing once a close frame has passed.
    pub(super) fn interrupt(&mut self, close: Vec<u8>, now: Millis) {
        if !matches!(self.flow, Flow::Relay) {
            return;
        }
        if self.frames.is_at_boundary() {
            self.flow = Flow::Discard;
            self.hold(&close, now);
        } else if self.source_has_ended {
            self.flow = Flow::Discard; // the frame stays incomplete: nothing may follow
        } else {
            self.flow = Flow::Interrupt(close.into());
        }
    }

    /// Sends a control frame, if nothing waits and no frame is under way. Returns whether it did.
    pub(super) fn inject(&mut self, frame: &'static [u8], now: Millis) -> bool {
        let is_possible = self.is_relaying() && self.held.is_none() && self.frames.is_at_boundary();
        if is_possible {
            self.hold(frame, now);
        }
        is_possible
    }

    /// Passes nothing more; what is held is still written.
    pub(super) fn stop(&mut self) {
        self.flow = Flow::Discard;
    }

    /// Discards what is held and all that follows.
    pub(super) fn discard(&mut self) {
        self.flow = Flow::Discard;
        self.held = None;
        self.blocked.clear();
    }

    /// Gives the sink up: it is not written any more.
    pub(super) fn abandon_sink(&mut self) {
        self.discard();
        self.sink = Sink::Gone;
    }

    /// Closes our side of the sink, if it is open.
    pub(super) fn shut(&mut self, cx: &mut Context<'_>, sink: &Stream) {
        if self.sink == Sink::Open {
            match sink.poll_shutdown_shared(cx) {
                Poll::Ready(Ok(())) => self.sink = Sink::Shut,
                Poll::Ready(Err(_)) => self.abandon_sink(),
                Poll::Pending => {}
            }
        }
    }

    /// Returns whether the source's bytes pass.
    pub(super) fn is_relaying(&self) -> bool {
        matches!(self.flow, Flow::Relay)
    }

    /// Returns whether nothing more will be written: all that passes has been written.
    pub(super) fn is_flushed(&self) -> bool {
        matches!(self.flow, Flow::Discard) && self.held.is_none()
    }

    /// Returns whether bytes wait that were read: nothing more is read then.
    pub(super) fn is_holding(&self) -> bool {
        self.held.is_some()
    }

    /// Reads the source no more: its stream has ended behind bytes that are not to be read.
    pub(super) fn end_source(&mut self) {
        self.source_has_ended = true;
    }

    /// Returns whether the source's stream has ended.
    pub(super) fn source_has_ended(&self) -> bool {
        self.source_has_ended
    }

    /// Returns whether the sink cannot be written any more.
    pub(super) fn sink_is_gone(&self) -> bool {
        self.sink == Sink::Gone
    }

    /// Returns whether our side of the sink is closed, or the sink is gone.
    pub(super) fn sink_is_closed(&self) -> bool {
        self.sink != Sink::Open
    }

    /// Returns the time since which the sink takes nothing; `NEVER` if nothing waits.
    pub(super) fn blocked_since(&self) -> Millis {
        self.blocked.since()
    }

    /// Writes what is held, and flushes the sink.
    fn poll_write(&mut self, cx: &mut Context<'_>, sink: &Stream, now: Millis) -> Poll<()> {
        while let Some(held) = &mut self.held {
            match sink.poll_write_shared(cx, &[IoSlice::new(&held.bytes)]) {
                Poll::Pending => {
                    self.blocked.record(sink, now);
                    return Poll::Pending;
                }
                Poll::Ready(Ok(count @ 1..)) => {
                    self.sent += count as u64;
                    self.blocked.clear();
                    held.bytes.advance(count);
                    if held.bytes.is_empty() {
                        self.held = None;
                    }
                }
                Poll::Ready(_) => self.abandon_sink(),
            }
        }
        if self.sink == Sink::Open {
            match sink.poll_flush_shared(cx) {
                Poll::Ready(Ok(())) => self.blocked.clear(),
                Poll::Ready(Err(_)) => self.abandon_sink(),
                Poll::Pending => self.blocked.record(sink, now),
            }
        }
        Poll::Ready(())
    }

    /// Reads once, or takes what a limit has kept, and writes what passes.
    fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        (source, sink): (&Stream, &Stream),
        turn: Turn,
        mut limit: Option<&mut impl Limit>,
    ) -> Poll<()> {
        thread_buffers::with(|buffers| {
            let input = &mut buffers.input[..turn.read_bytes];
            let kept = limit.as_mut().and_then(|limit| limit.take_kept());
            let bytes = if let Some(kept) = &kept {
                &kept[..]
            } else {
                let count = match source.poll_read_shared(cx, input) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(Ok(count)) => count,
                    Poll::Ready(Err(_)) => 0,
                };
                if count == 0 {
                    self.source_has_ended = true;
                    return Poll::Ready(());
                }
                self.received += count as u64;
                &input[..count]
            };
            let counted = match limit {
                Some(limit) if self.is_relaying() => limit.count(&self.frames, bytes),
                _ => Counted::All,
            };
            match counted {
                Counted::All => self.pass(cx, sink, bytes, turn.now),
                Counted::Until(at) => self.pass(cx, sink, &bytes[..at], turn.now),
                Counted::Over { at, close } => {
                    let (within, rest) = bytes.split_at(at);
                    self.pass(cx, sink, within, turn.now);
                    // The rest of a frame that has begun to pass is over the limit too.
                    match self.frames.is_at_boundary() {
                        true => self.interrupt(close, turn.now),
                        false => self.stop(),
                    }
                    self.pass(cx, sink, rest, turn.now);
                }
            }
            Poll::Ready(())
        })
    }

    fn pass(&mut self, cx: &mut Context<'_>, sink: &Stream, bytes: &[u8], now: Millis) {
        let (passed, close) = self.follow(bytes);
        self.write(cx, sink, &bytes[..passed], now);
        if let Some(close) = close {
            self.hold(&close, now);
        }
    }

    /// Follows the source's frames. Returns how many of the bytes pass, and our close frame if it
    /// follows them.
    fn follow(&mut self, bytes: &[u8]) -> (usize, Option<Box<[u8]>>) {
        match &mut self.flow {
            Flow::Relay => {
                let passed = self.frames.pass(bytes);
                if self.frames.is_closed() {
                    self.flow = Flow::Discard;
                }
                (passed, None)
            }
            Flow::Interrupt(close) => {
                let passed = self.frames.pass_frame(bytes);
                if !self.frames.is_at_boundary() {
                    return (passed, None);
                }
                // The frame that ends may be a close frame, which no other may follow.
                let close = (!self.frames.is_closed()).then(|| std::mem::take(close));
                self.flow = Flow::Discard;
                self.frames.pass(&bytes[passed..]);
                (passed, close)
            }
            Flow::Discard => {
                self.frames.pass(bytes);
                (0, None)
            }
        }
    }

    fn write(&mut self, cx: &mut Context<'_>, sink: &Stream, bytes: &[u8], now: Millis) {
        if bytes.is_empty() {
            return;
        }
        if self.held.is_some() {
            return self.hold(bytes, now);
        }
        match sink.poll_write_shared(cx, &[IoSlice::new(bytes)]) {
            Poll::Ready(Ok(count @ 1..)) => {
                self.sent += count as u64;
                self.hold(&bytes[count..], now);
            }
            Poll::Ready(_) => self.abandon_sink(),
            Poll::Pending => self.hold(bytes, now),
        }
    }

    /// Keeps bytes until the sink takes them, behind those that it keeps already.
    fn hold(&mut self, bytes: &[u8], now: Millis) {
        if bytes.is_empty() || self.sink != Sink::Open {
            return;
        }
        self.blocked.begin(now);
        let bytes = match self.held.take() {
            Some(held) => [&held.bytes, bytes].concat().into(),
            None => Bytes::copy_from_slice(bytes),
        };
        self.held = Some(Box::new(Held {
            _share: QueuedBytes::new(&bytes),
            bytes,
        }));
    }
}

#[cfg(test)]
mod tests;

//! SendQueue: the frames that a socket could not write yet, and whether it may still send.
//!
//! ```text
//!                  ┌───────────── poll_flush wrote everything ─────────────┐
//!                  ▼                                                       │
//!            Open, empty ─── try_write: the stream takes less ───► Open, frames wait ──┐
//!                  │                                                       │   ▲       │
//!                  │                                                       │   └───────┘
//!                  │ send_close                                 send_close │   enqueue: over the limit
//!                  ▼                                                       ▼   `slow_client` decides
//!         CloseSent, empty ◄────── poll_flush wrote everything ── CloseSent, frames wait
//!                  │                                                       │
//!                  └─────────── close: a write failed, or the end ─────────┘
//!                                            ▼
//!                                         Closed
//! ```
//!
//! The whole queue is behind the lock of the `SocketHandle`, so a sender either writes to the
//! stream or appends to the waiting frames. It writes only if no frame waits; otherwise its frame
//! would overtake them. Only the connection's own task empties the queue: it alone is woken when
//! the stream is writable again.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::task::{Context, Poll, Waker};

use bytes::{Buf, Bytes};
use tokio::sync::oneshot;

use super::close::Ending;
use super::deflate::Deflater;
use super::inspection::SocketReport;
use super::settings::SlowClient;
use crate::channels::Delivery;
use crate::clock::{Millis, NEVER};
use crate::net::{BlockedWrite, Stream};
use crate::queued_bytes::QueuedBytes;

/// The number of frames in one vectored write.
const FRAMES_PER_WRITE: usize = 16;

/// The outgoing frames of one socket. Each idle socket holds one, so rarely needed fields are in
/// `SendExtras`.
#[derive(Default)]
pub(super) struct SendQueue {
    state: SendState,
    /// True once a deadline or another task has ended the socket; frames may still be sent.
    is_ending: bool,
    /// Bytes of `SendExtras::frames`. A frame has at least two, so 0 means that none waits.
    bytes: usize,
    /// Wakes the connection's task.
    waker: Option<Waker>,
    sent_bytes: u64,
    /// The number of messages dropped because the client was too slow.
    dropped: u32,
    /// Allocated when it is first needed and kept from then on.
    extras: Option<Box<SendExtras>>,
}

#[derive(Default)]
struct SendExtras {
    frames: VecDeque<QueuedFrame>,
    /// Since when a write makes no progress: a frame waits, or ciphertext of the stream.
    blocked: BlockedWrite,
    /// The ending that another task requested; the connection's task takes it.
    end_request: Option<Ending>,
    /// Gets a report from the connection's task.
    report_request: Option<oneshot::Sender<SocketReport>>,
    /// A consumer's wait in `Context::drained` until at most this many bytes are queued.
    drained: Option<(usize, Waker)>,
    /// Set with context takeover, from the first compressed message on.
    deflater: Option<Deflater>,
}

/// A waiting frame, or the rest of one that is partly written.
pub(super) struct QueuedFrame {
    pub(super) bytes: Bytes,
    /// Its share of the bytes of all send queues; 0 for a group's event, which its members share.
    pub(super) share: QueuedBytes,
    /// True if its first bytes are on the wire, so the rest must follow.
    pub(super) is_partly_written: bool,
    /// `slow_client = "conflate"`: a newer frame with the same key replaces this one.
    pub(super) conflate_key: Option<Box<str>>,
}

impl QueuedFrame {
    /// Creates the rest of frames that belong to one socket alone, of which `written` bytes were
    /// sent.
    pub(super) fn own(bytes: Bytes, written: usize) -> Self {
        Self {
            share: QueuedBytes::new(&bytes),
            bytes,
            is_partly_written: written > 0,
            conflate_key: None,
        }
    }
}

/// Whether frames may be sent.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) enum SendState {
    /// Any frame may be sent.
    #[default]
    Open,
    /// Our close frame is written or queued; no frame may follow it (RFC 6455 §5.5.1).
    CloseSent,
    /// A write failed, or the socket has ended.
    Closed,
    /// The stream is a tunnel's: an upstream server sends the frames, past this queue.
    Tunnelled,
}

/// The totals that one socket sent.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct SendStats {
    pub(super) bytes: u64,
    /// The number of messages dropped because the client was too slow.
    pub(super) dropped: u32,
}

impl SendQueue {
    /// Returns whether further frames may be sent.
    pub(super) fn is_open(&self) -> bool {
        self.state == SendState::Open
    }

    /// Returns whether no frame waits.
    pub(super) fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// Returns how many bytes are queued.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn stats(&self) -> SendStats {
        SendStats {
            bytes: self.sent_bytes,
            dropped: self.dropped,
        }
    }

    /// Returns the time since which a write makes no progress; `NEVER` if nothing waits.
    pub(super) fn blocked_since(&self) -> Millis {
        let extras = self.extras.as_ref();
        extras.map_or(NEVER, |extras| extras.blocked.since())
    }

    /// Writes if no frame waits. Returns the first unwritten offset, from which the rest must be
    /// queued; `None` if everything is written, or if sending has ended.
    pub(super) fn try_write(&mut self, stream: &Stream, bytes: &[u8]) -> Option<usize> {
        if self.state != SendState::Open {
            return None;
        }
        if !self.is_empty() {
            return Some(0);
        }
        match stream.try_write_shared(bytes, self.waker.as_ref()) {
            Ok(written) => {
                self.sent_bytes += written as u64;
                if stream.is_unflushed() {
                    self.wake(); // only the owner is woken when there is room
                }
                (written < bytes.len()).then_some(written)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Some(0),
            Err(_) => {
                self.close();
                // The connection's task may be asleep: its next read or flush fails.
                self.wake();
                None
            }
        }
    }

    /// Queues a frame that could not be written, or drops frames according to the route's policy.
    /// Returns the outcome of this frame, and how many messages were dropped.
    ///
    /// A partly written frame is always queued, and so is one that finds the queue empty: its
    /// client is not late. The queue thus exceeds `limit` by one frame, or one poll's output, at
    /// most.
    pub(super) fn enqueue(
        &mut self,
        frame: QueuedFrame,
        limit: usize,
        policy: SlowClient,
        now: Millis,
    ) -> (Delivery, u32) {
        let mut dropped = 0;
        if policy == SlowClient::Conflate && self.conflate(&frame, limit) {
            self.wake_drained();
            return (Delivery::Queued, 1); // the older frame was dropped
        }
        if policy == SlowClient::DropOldest {
            dropped = self.drop_oldest(frame.bytes.len(), limit);
        }
        let must_follow = frame.is_partly_written || self.is_empty();
        let is_dropped = self.bytes + frame.bytes.len() > limit && !must_follow;
        if !is_dropped {
            self.push(frame, now);
        }
        // Dropped frames may have made the room that a consumer waits for.
        self.wake_drained();
        match is_dropped {
            true => (Delivery::Dropped, dropped + 1),
            false => (Delivery::Queued, dropped),
        }
    }

    /// Writes or queues the close frame, after which nothing may be sent.
    ///
    /// A client whose queue is full still gets the reason for the close: waiting frames are dropped
    /// to make room, except a partly written one.
    pub(super) fn send_close(
        &mut self,
        stream: &Stream,
        mut frame: Bytes,
        limit: usize,
        now: Millis,
    ) {
        if let Some(written) = self.try_write(stream, &frame) {
            if self.bytes + frame.len() > limit
                && let Some(extras) = &mut self.extras
            {
                extras.frames.retain(|waiting| waiting.is_partly_written);
                self.bytes = extras
                    .frames
                    .iter()
                    .map(|waiting| waiting.bytes.len())
                    .sum();
            }
            frame.advance(written);
            self.push(QueuedFrame::own(frame, written), now);
        }
        if self.state == SendState::Open {
            self.state = SendState::CloseSent;
        }
    }

    /// Writes the waiting frames, for the connection's task, which is woken when more can be
    /// written. `Ready(Ok)`: the queue is empty.
    pub(super) fn poll_flush(
        &mut self,
        stream: &Stream,
        cx: &mut Context<'_>,
        now: Millis,
    ) -> Poll<io::Result<()>> {
        self.register(cx);
        loop {
            if self.state == SendState::Closed {
                return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
            }
            let Some(extras) = self.extras.as_mut().filter(|_| self.bytes > 0) else {
                return self.poll_flush_stream(stream, cx, now);
            };
            let mut slices = [IoSlice::new(&[]); FRAMES_PER_WRITE];
            let count = extras.frames.len().min(FRAMES_PER_WRITE);
            for (slice, frame) in slices.iter_mut().zip(&extras.frames) {
                *slice = IoSlice::new(&frame.bytes);
            }
            let failed = match stream.poll_write_shared(cx, &slices[..count]) {
                Poll::Ready(Ok(0)) => io::ErrorKind::WriteZero.into(),
                Poll::Ready(Ok(written)) => {
                    self.advance(written);
                    continue;
                }
                Poll::Ready(Err(error)) => error,
                Poll::Pending => {
                    extras.blocked.record(stream, now);
                    return Poll::Pending;
                }
            };
            self.close();
            return Poll::Ready(Err(failed));
        }
    }

    /// Flushes what the stream itself holds. It has a deadline like a waiting frame.
    fn poll_flush_stream(
        &mut self,
        stream: &Stream,
        cx: &mut Context<'_>,
        now: Millis,
    ) -> Poll<io::Result<()>> {
        let flushed = stream.poll_flush_shared(cx);
        if flushed.is_pending() {
            self.extras().blocked.record(stream, now);
        } else if let Some(extras) = &mut self.extras {
            extras.blocked.clear();
        }
        flushed
    }

    /// Waits until at most `bytes` are queued, or the socket ends.
    pub(super) fn poll_drained(&mut self, bytes: usize, cx: &Context<'_>) -> Poll<()> {
        if self.bytes <= bytes || self.is_ending || self.state != SendState::Open {
            return Poll::Ready(());
        }
        self.extras().drained = Some((bytes, cx.waker().clone()));
        Poll::Pending
    }

    /// Ends the wait in `poll_drained`: a deadline or another task has ended the socket, and its
    /// consumer may only finish.
    pub(super) fn end_drained(&mut self) {
        self.is_ending = true;
        self.wake_drained();
    }

    /// Drops the waiting frames and ends sending.
    pub(super) fn close(&mut self) {
        self.state = SendState::Closed;
        self.bytes = 0;
        if let Some(extras) = &mut self.extras {
            extras.frames = VecDeque::new();
            extras.blocked.clear();
        }
        self.wake_drained();
    }

    /// Asks the connection's task to end the socket. The first request wins; later ones are
    /// ignored.
    pub(super) fn request_end(&mut self, ending: Ending) {
        self.extras().end_request.get_or_insert(ending);
    }

    pub(super) fn take_end_request(&mut self) -> Option<Ending> {
        self.extras.as_mut()?.end_request.take()
    }

    /// Asks the connection's task for a report. An earlier request that it has not seen is dropped.
    pub(super) fn request_report(&mut self, to: oneshot::Sender<SocketReport>) {
        self.extras().report_request = Some(to);
    }

    pub(super) fn take_report_request(&mut self) -> Option<oneshot::Sender<SocketReport>> {
        self.extras.as_mut()?.report_request.take()
    }

    /// Counts messages dropped because the client was too slow. No later message may refer to them.
    pub(super) fn count_dropped(&mut self, messages: u32) {
        self.reset_context();
        self.dropped = self.dropped.saturating_add(messages);
    }

    /// Returns the compressing context, created when it is first needed.
    ///
    /// It is reset while frames wait: a waiting frame may still be dropped, so no later frame may
    /// refer to it.
    pub(super) fn deflater(&mut self, new: impl FnOnce() -> Deflater) -> &mut Deflater {
        if !self.is_empty() {
            self.reset_context();
        }
        self.extras().deflater.get_or_insert_with(new)
    }

    /// Resets the context: the next compressed message refers to no earlier one.
    pub(super) fn reset_context(&mut self) {
        if let Some(extras) = &mut self.extras
            && let Some(deflater) = &mut extras.deflater
        {
            deflater.reset();
        }
    }

    /// Leaves the stream to a tunnel: nothing is sent through the queue.
    pub(super) fn leave_to_tunnel(&mut self) {
        self.state = SendState::Tunnelled;
    }

    /// Wakes the connection's task, if it has registered.
    pub(super) fn wake(&self) {
        if let Some(waker) = &self.waker {
            waker.wake_by_ref();
        }
    }

    /// Forgets the connection's task. Its waker keeps the task's memory alive, and groups may keep
    /// this handle for longer.
    pub(super) fn unregister(&mut self) {
        self.waker = None;
    }

    /// Registers the connection's task, which the next notification wakes.
    pub(super) fn register(&mut self, cx: &Context<'_>) {
        let known = self.waker.as_ref();
        if !known.is_some_and(|waker| waker.will_wake(cx.waker())) {
            self.waker = Some(cx.waker().clone());
        }
    }

    fn extras(&mut self) -> &mut SendExtras {
        self.extras.get_or_insert_default()
    }

    fn push(&mut self, frame: QueuedFrame, now: Millis) {
        let was_empty = self.is_empty();
        self.bytes += frame.bytes.len();
        let extras = self.extras();
        extras.frames.push_back(frame);
        if was_empty {
            extras.blocked.begin(now);
            self.wake(); // it begins to wait for the stream to become writable
        }
    }

    /// Removes the written bytes from the queue.
    fn advance(&mut self, mut count: usize) {
        self.bytes -= count;
        self.sent_bytes += count as u64;
        let Some(extras) = &mut self.extras else {
            return;
        };
        extras.blocked.clear();
        while let Some(first) = extras.frames.front_mut() {
            if count < first.bytes.len() {
                if count > 0 {
                    first.bytes.advance(count);
                    first.is_partly_written = true;
                }
                break;
            }
            count -= first.bytes.len();
            extras.frames.pop_front();
        }
        if extras.frames.is_empty() {
            extras.frames = VecDeque::new();
        }
        self.wake_drained();
    }

    fn wake_drained(&mut self) {
        if let Some(extras) = &mut self.extras
            && let Some((bytes, _)) = extras.drained
            && (self.bytes <= bytes || self.is_ending || self.state != SendState::Open)
            && let Some((_, waker)) = extras.drained.take()
        {
            waker.wake();
        }
    }

    /// Replaces a waiting frame that has the same key.
    fn conflate(&mut self, frame: &QueuedFrame, limit: usize) -> bool {
        let Some(key) = frame.conflate_key.as_deref() else {
            return false;
        };
        let Some(older) = self.extras.as_mut().and_then(|extras| {
            extras.frames.iter_mut().find(|waiting| {
                !waiting.is_partly_written && waiting.conflate_key.as_deref() == Some(key)
            })
        }) else {
            return false;
        };
        let bytes = self.bytes - older.bytes.len() + frame.bytes.len();
        if bytes > limit {
            return false;
        }
        self.bytes = bytes;
        older.bytes = frame.bytes.clone();
        older.share = QueuedBytes::default(); // only a group's event has a key
        true
    }

    /// Drops the oldest frames until `more` bytes fit. Returns how many.
    fn drop_oldest(&mut self, more: usize, limit: usize) -> u32 {
        let mut dropped = 0;
        let Some(extras) = &mut self.extras else {
            return 0;
        };
        while self.bytes + more > limit
            && let Some(at) = extras
                .frames
                .iter()
                .position(|waiting| !waiting.is_partly_written)
            && let Some(oldest) = extras.frames.remove(at)
        {
            self.bytes -= oldest.bytes.len();
            dropped += 1;
        }
        dropped
    }
}

#[cfg(test)]
mod tests;

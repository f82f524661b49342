//! ClientLimits: applies a route's limits of messages to what the client of a tunnel sends.
//!
//! ```text
//!   read ──► count, frame by frame ──► Pass ────► upstream
//!                 ├────► Pause ──► upstream; the rest of the read waits for its end, as what other
//!                 │                sockets owe does before the first frame
//!                 └────► Close ──► neither the frame nor the rest passes, and the tunnel ends
//! ```

use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use bytes::Bytes;

use super::closing::masked_close;
use super::direction::{Counted, Limit};
use super::frame_boundaries::FrameBoundaries;
use crate::clock::Millis;
use crate::queued_bytes::QueuedBytes;
use crate::websocket::close::{Cause, Ending};
use crate::websocket::message_limits::{MessageLimiter, Sent, Verdict};
use crate::websocket::pause::{Pause, PauseEnd};
use crate::websocket::socket_handle::SocketHandle;

/// The limits of a tunnel whose route has some.
pub(super) struct ClientLimits {
    handle: Arc<SocketHandle>,
    /// `None` once the tunnel closes.
    limiter: Option<MessageLimiter>,
    /// The client is not read before it ends.
    pause: Option<Pause>,
    /// The rest of a read, behind the frame that began a pause.
    kept: Option<(Bytes, QueuedBytes)>,
    is_exceeded: bool,
}

impl ClientLimits {
    /// Returns the limits of a tunnel's route, if it has some. `read_already`: what the client has
    /// sent with its handshake.
    pub(super) fn new(handle: &Arc<SocketHandle>, read_already: &Bytes) -> Option<Box<Self>> {
        let limits = &handle.route().settings.message_limits;
        if limits.is_empty() {
            return None;
        }
        let mut limits = Self {
            handle: handle.clone(),
            limiter: Some(MessageLimiter::new(limits, handle.scope())),
            pause: None,
            kept: None,
            is_exceeded: false,
        };
        limits.keep(read_already);
        Some(Box::new(limits))
    }

    /// Lets pass whatever the client sends: the tunnel closes.
    pub(super) fn end(&mut self) {
        self.limiter = None;
        self.pause = None;
    }

    /// Returns whether a limit closes the tunnel.
    pub(super) fn is_exceeded(&self) -> bool {
        self.is_exceeded
    }

    /// Returns whether the client is not read before the end of a pause.
    pub(super) fn is_paused(&self) -> bool {
        self.pause.is_some()
    }

    /// Waits for the end of a pause, and until other sockets have paid off what they owe. Ready with
    /// the end of a pause, and since when the client was not read.
    pub(super) fn poll_pause(&mut self, cx: &mut Context<'_>) -> Poll<Option<(PauseEnd, Millis)>> {
        let mut ended = None;
        loop {
            if let Some(pause) = &mut self.pause {
                let end = ready!(pause.poll(cx));
                let since = ended.map_or(pause.since(), |(_, since)| since);
                ended = Some((end, since));
                self.pause = None;
            }
            let Some(limiter) = &self.limiter else {
                return Poll::Ready(ended);
            };
            let debt = limiter.debt(Instant::now());
            if debt.is_zero() || matches!(ended, Some((PauseEnd::ClientGone, _))) {
                return Poll::Ready(ended);
            }
            let since = ended.map(|(_, since)| since);
            self.pause = Some(Pause::new(&self.handle, since, debt));
        }
    }

    fn keep(&mut self, bytes: &[u8]) {
        if !bytes.is_empty() {
            self.kept = Some((Bytes::copy_from_slice(bytes), QueuedBytes::new(bytes)));
        }
    }
}

impl Limit for ClientLimits {
    fn take_kept(&mut self) -> Option<Bytes> {
        self.kept.take().map(|(bytes, _)| bytes)
    }

    fn count(&mut self, frames: &FrameBoundaries, bytes: &[u8]) -> Counted {
        let Some(limiter) = &mut self.limiter else {
            return Counted::All;
        };
        let (mut frames, mut at) = (frames.clone(), 0);
        // Counted when their headers passed.
        frames.take_messages();
        frames.take_pings();
        while at < bytes.len() {
            let passed = frames.pass_one(&bytes[at..]);
            if frames.is_closed() {
                break; // a close frame does not count, and nothing follows it
            }
            let sent = Sent {
                messages: u64::from(frames.take_messages()) + u64::from(frames.take_pings()),
                bytes: passed as u64,
            };
            match limiter.count(sent, Instant::now()) {
                Verdict::Pass => at += passed,
                Verdict::Pause(wait) => {
                    at += passed;
                    self.pause = Some(Pause::new(&self.handle, None, wait));
                    self.keep(&bytes[at..]);
                    return Counted::Until(at);
                }
                // `check` refuses to drop messages of a tunnel.
                Verdict::Drop | Verdict::Close => {
                    self.is_exceeded = true;
                    let close = masked_close(&Ending::of(Cause::RateLimited));
                    return Counted::Over { at, close };
                }
            }
        }
        Counted::All
    }
}

//! ClientLimits: applies a route's limits of messages to what the client of a tunnel sends.
//!
//! ```text
//!   read ──► used up by other sockets ──► Pause; the whole read waits for its end
//!     └────► count, frame by frame ──► Pass ────► upstream
//!                 ├────► Pause ──► upstream; the rest of the read waits for its end
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
    /// What was read and waits for the end of a pause.
    kept: Option<(Bytes, QueuedBytes)>,
    /// The fragments of the message that is under way.
    fragments: usize,
    fragments_max: usize,
    /// Whether something of the client has passed.
    has_passed: bool,
    is_exceeded: bool,
}

impl ClientLimits {
    /// Returns the limits of a tunnel's route, if it has some. `read_already`: what the client has
    /// sent with its handshake.
    pub(super) fn new(handle: &Arc<SocketHandle>, read_already: &Bytes) -> Option<Box<Self>> {
        let settings = &handle.route().settings;
        let limits = &settings.message_limits;
        if limits.is_empty() {
            return None;
        }
        let mut limits = Self {
            handle: handle.clone(),
            limiter: Some(MessageLimiter::new(limits, handle.scope())),
            pause: None,
            kept: None,
            fragments: 0,
            fragments_max: settings.limits.fragments_max,
            has_passed: false,
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

    /// Returns whether something of the client has passed: its first message waits no longer.
    pub(super) fn has_passed(&self) -> bool {
        self.has_passed
    }

    /// Waits for the end of a pause. Ready with it, and since when the client was not read; ready
    /// without one if nothing was read that waits.
    pub(super) fn poll_pause(&mut self, cx: &mut Context<'_>) -> Poll<Option<(PauseEnd, Millis)>> {
        if self.pause.is_none() && self.kept.is_some() {
            self.is_delayed();
        }
        let Some(pause) = &mut self.pause else {
            return Poll::Ready(None);
        };
        let end = ready!(pause.poll(cx));
        let since = pause.since();
        self.pause = None;
        Poll::Ready(Some((end, since)))
    }

    /// Returns whether other sockets have used up a limit that delays. In that case a pause begins.
    ///
    /// Asked only for a client that has sent something: the debts of others do not keep a silent
    /// one from its deadlines.
    fn is_delayed(&mut self) -> bool {
        let Some(limiter) = &self.limiter else {
            return false;
        };
        let debt = limiter.debt(Instant::now());
        if !debt.is_zero() {
            self.pause = Some(Pause::new(&self.handle, debt));
        }
        !debt.is_zero()
    }

    /// Returns how many messages the headers of some frames count as: a message, a ping, and each
    /// frame of a message that has more than `max_fragments`.
    fn messages(&mut self, frames: &mut FrameBoundaries) -> u64 {
        let mut counted = u64::from(frames.take_pings());
        let (ends, fragments) = (frames.take_messages(), frames.take_fragments());
        if ends > 0 {
            counted += u64::from(ends);
            self.fragments = 0;
        }
        if fragments > 0 {
            self.fragments += usize::from(fragments);
            if self.fragments > self.fragments_max {
                counted += u64::from(fragments);
            }
        }
        counted
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
        if self.is_delayed() {
            self.keep(bytes);
            return Counted::Until(0);
        }
        self.has_passed = true;
        let (mut frames, mut at) = (frames.clone(), 0);
        // Counted when their headers passed.
        frames.take_messages();
        frames.take_pings();
        frames.take_fragments();
        while at < bytes.len() {
            let passed = frames.pass_one(&bytes[at..]);
            if frames.is_closed() {
                break; // a close frame does not count, and nothing follows it
            }
            let sent = Sent {
                messages: self.messages(&mut frames),
                bytes: passed as u64,
            };
            let Some(limiter) = &mut self.limiter else {
                return Counted::All;
            };
            match limiter.count(sent, Instant::now()) {
                Verdict::Pass => at += passed,
                Verdict::Pause(wait) => {
                    at += passed;
                    self.pause = Some(Pause::new(&self.handle, wait));
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

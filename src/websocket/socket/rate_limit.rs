//! Rate limit: applies a route's limits of messages to one socket.
//!
//! ```text
//!   undecoded ──► used up by other sockets ──► Pause, before the next item is decoded
//!   decoded ──► count ──► Pass ────────────────────────────────► consumer
//!                  ├────► Pause ──► consumer; nothing is decoded or read before `pause` ends,
//!                  │                and the client's writes come to a halt in the kernel.
//!                  │                A client that leaves in a pause ends it, and the socket
//!                  ├────► Drop
//!                  └────► Close ──► the socket ends with 1008
//! ```

use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use super::Socket;
use crate::websocket::close::{Cause, Ending};
use crate::websocket::decoder::Item;
use crate::websocket::message_limits::{MessageLimiter, Sent, Verdict};
use crate::websocket::pause::{Pause, PauseEnd};

/// The shortest header of a client's frame: two bytes and a key of four. An item counts with it, so
/// that those without a payload count as well.
const HEADER_BYTES: u64 = 6;

/// The counters of a socket whose route limits its messages.
pub(super) struct Counters {
    limiter: MessageLimiter,
    /// Nothing is decoded or read before it ends.
    pause: Option<Pause>,
    taken: Taken,
}

/// How much of what the client sends has been decoded.
///
/// ```text
///   Nothing ──► Part ──► Whole      the others' debts are paid off ──► Part
///                 ▲────────┘        an item is counted ──► Whole
/// ```
#[derive(Clone, Copy, Eq, PartialEq)]
enum Taken {
    /// Nothing yet: the client's first message may wait for what others owe.
    Nothing,
    /// An item has begun. It is not delayed until it is whole.
    Part,
    /// Its last item is whole; the next one has not begun.
    Whole,
}

impl Socket {
    /// Counts an item of the client. Returns whether it is dropped.
    #[cold]
    pub(super) fn is_dropped(&mut self, item: &Item) -> bool {
        let (messages, payload) = match item {
            Item::Message(message) => (1, message.len()),
            Item::Ping(payload) => (1, payload.len()),
            Item::Pong { bytes } => (0, *bytes),
            Item::Close { .. } => return false,
        };
        let sent = Sent {
            messages,
            bytes: payload as u64 + HEADER_BYTES,
        };
        let counters = self.counters();
        counters.taken = Taken::Whole;
        match counters.limiter.count(sent, Instant::now()) {
            Verdict::Pass => false,
            Verdict::Pause(wait) => {
                self.start_pause(wait);
                false
            }
            Verdict::Drop => true,
            Verdict::Close => {
                self.stop_reading(Ending::of(Cause::RateLimited));
                true
            }
        }
    }

    /// Counts what has arrived of an item that will never be whole, or that breaks the rules:
    /// `arrived` bytes at least.
    #[cold]
    pub(super) fn count_unfinished(&mut self, arrived: usize) {
        let arrived = arrived.max(self.decoder.unfinished_bytes());
        let extras = self.extras.as_mut();
        let counters = extras.and_then(|extras| extras.counters.as_mut());
        if let (1.., Some(counters)) = (arrived, counters) {
            let sent = Sent {
                messages: 0,
                bytes: arrived as u64 + HEADER_BYTES,
            };
            counters.limiter.owe(sent, Instant::now());
        }
    }

    /// Returns whether nothing may be decoded now: a pause has not ended, or other sockets have
    /// used up a limit that delays the next item. In that case a pause begins.
    #[cold]
    pub(super) fn is_delayed(&mut self) -> bool {
        if self.is_paused() {
            return true;
        }
        let counters = self.counters();
        if counters.taken == Taken::Part {
            return false;
        }
        match counters.limiter.debt(Instant::now()) {
            Duration::ZERO => {
                counters.taken = Taken::Part;
                false
            }
            debt => {
                self.start_pause(debt);
                true
            }
        }
    }

    fn counters(&mut self) -> &mut Counters {
        let handle = self.handle.clone();
        self.extras().counters.get_or_insert_with(|| {
            let limits = &handle.route().settings.message_limits;
            Box::new(Counters {
                limiter: MessageLimiter::new(limits, handle.scope()),
                pause: None,
                taken: Taken::Nothing,
            })
        })
    }

    fn start_pause(&mut self, wait: Duration) {
        let pause = Pause::new(&self.handle, wait);
        self.counters().pause = Some(pause);
    }

    /// Returns whether a pause has begun whose end was not seen.
    pub(super) fn is_paused(&self) -> bool {
        let counters = self
            .extras
            .as_ref()
            .and_then(|extras| extras.counters.as_ref());
        counters.is_some_and(|counters| counters.pause.is_some())
    }

    /// Waits for the end of a pause; ready if there is none. If the client has left, the socket
    /// ends.
    pub(super) fn poll_pause(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let extras = self.extras.as_mut();
        let Some(counters) = extras.and_then(|extras| extras.counters.as_mut()) else {
            return Poll::Ready(());
        };
        let Some(pause) = &mut counters.pause else {
            return Poll::Ready(());
        };
        let end = ready!(pause.poll(cx));
        let (since, now) = (pause.since(), self.handle.services().clock.now());
        counters.pause = None;
        match end {
            PauseEnd::Elapsed => {
                let paused = now.saturating_sub(since);
                self.keepalive.resumed(now, paused);
                if counters.taken == Taken::Nothing {
                    self.keepalive.first_message_waited(paused);
                }
                self.is_timer_outdated = true;
            }
            PauseEnd::ClientGone => {
                self.peer_closed = true;
                self.stop_reading(Ending::of(Cause::ClientGone));
            }
        }
        Poll::Ready(())
    }
}

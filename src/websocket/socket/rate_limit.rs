//! Rate limit: applies a route's limits of messages to one socket.
//!
//! ```text
//!   decoded ──► count ──► Pass ────────────────────────────────► consumer
//!                  ├────► Pause ──► consumer; nothing is decoded or read before `pause` ends,
//!                  │                and the client's writes come to a halt in the kernel
//!                  ├────► Drop
//!                  └────► Close ──► the socket ends with 1008
//! ```

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::time::Sleep;

use super::Socket;
use crate::websocket::close::{Cause, Ending};
use crate::websocket::decoder::Item;
use crate::websocket::keepalive::millis;
use crate::websocket::message_limits::{MessageLimiter, Sent, Verdict};

/// The counters of a socket whose route limits its messages.
pub(super) struct Counters {
    limiter: MessageLimiter,
    /// Nothing is decoded or read before it ends.
    pause: Option<Pin<Box<Sleep>>>,
}

impl Socket {
    /// Counts an item of the client. Returns whether it is dropped.
    #[cold]
    pub(super) fn is_dropped(&mut self, item: &Item) -> bool {
        let sent = match item {
            Item::Message(message) => Sent {
                messages: 1,
                bytes: message.len() as u64,
            },
            Item::Ping(payload) => Sent {
                messages: 1,
                bytes: payload.len() as u64,
            },
            Item::Pong { bytes } => Sent {
                messages: 0,
                bytes: *bytes as u64,
            },
            Item::Close { .. } => return false,
        };
        let handle = self.handle.clone();
        let limits = &handle.route().settings.message_limits;
        let counters = self.extras().counters.get_or_insert_with(|| {
            Box::new(Counters {
                limiter: MessageLimiter::new(limits, handle.scope()),
                pause: None,
            })
        });
        match counters.limiter.count(sent, Instant::now()) {
            Verdict::Pass => false,
            Verdict::Pause(wait) => {
                counters.pause = Some(Box::pin(tokio::time::sleep(wait)));
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

    /// The client can send no byte that is seen before the pause ends: its silence counts from
    /// then on.
    fn start_pause(&mut self, wait: Duration) {
        let ends = self.handle.services().clock.now() + millis(wait);
        self.keepalive.received(ends);
        self.is_timer_outdated = true;
    }

    /// Returns whether a pause has begun whose end was not seen.
    pub(super) fn is_paused(&self) -> bool {
        let counters = self
            .extras
            .as_ref()
            .and_then(|extras| extras.counters.as_ref());
        counters.is_some_and(|counters| counters.pause.is_some())
    }

    /// Waits for the end of a pause; ready if there is none.
    pub(super) fn poll_pause(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let extras = self.extras.as_mut();
        let Some(counters) = extras.and_then(|extras| extras.counters.as_mut()) else {
            return Poll::Ready(());
        };
        if let Some(pause) = &mut counters.pause {
            if pause.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            counters.pause = None;
        }
        Poll::Ready(())
    }
}

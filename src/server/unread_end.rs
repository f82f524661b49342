//! Unread end: the client's end behind bytes that hyper leaves unread.
//!
//! While a response is in flight, hyper reads until it has a byte of the next request, and sees no
//! end behind it. A response without an end of its own, such as an event stream, waits for that
//! end.

use std::pin::{Pin, pin};
use std::task::Context;
use std::time::Duration;

use tokio::time::{Instant, Sleep};

use crate::http::ClientEnd;
use crate::net::Stream;

/// How often the stream is asked for its end.
const INTERVAL: Duration = Duration::from_secs(1);

/// Looks for the end of a client during one response.
pub(super) struct UnreadEnd {
    next: Pin<Box<Sleep>>,
    is_found: bool,
}

impl Default for UnreadEnd {
    fn default() -> Self {
        Self {
            next: Box::pin(tokio::time::sleep(INTERVAL)),
            is_found: false,
        }
    }
}

impl UnreadEnd {
    /// Ends the client's side once the stream is closed. Wakes the task to be polled again.
    pub(super) fn poll(&mut self, stream: &Stream, client: &ClientEnd, cx: &mut Context<'_>) {
        while !self.is_found && self.next.as_mut().poll(cx).is_ready() {
            if pin!(stream.closed()).poll(cx).is_ready() {
                self.is_found = true;
                client.end();
            }
            self.next.as_mut().reset(Instant::now() + INTERVAL);
        }
    }

    /// Returns whether it has ended the client's side.
    pub(super) fn is_found(&self) -> bool {
        self.is_found
    }
}

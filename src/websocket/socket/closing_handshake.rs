//! Closing handshake: the close frame, and the wait until the client has received it.
//!
//! ```text
//!                 start_closing                     finish_closing
//!   ending known ───────────────► close frame ─────────────────────► connection closed
//!                                 written or    (the consumer's
//!                                 queued        `disconnect` runs
//!                                               in between)
//! ```
//!
//! Why it waits: closing a TCP connection while received bytes are unread resets it (RFC 1122
//! §4.2.2.13), and the reset can overtake the close frame. So `finish_closing` continues to read
//! until the client's close frame or the end of its stream, at most for the route's
//! `close_timeout`. A column of the table in `close.rs` says how much of this each cause needs.

use std::future::poll_fn;
use std::task::{Context, Poll};

use super::{Ended, Socket};
use crate::websocket::close::{Cause, ClosingHandshake, Ending};

impl Socket {
    /// Sends the close frame of an ending, if its cause has one. Nothing can be sent after it.
    pub(in crate::websocket) fn start_closing(&mut self, ending: &Ending) {
        self.claim_buffers();
        self.save_undecoded(); // the client's close frame may be in it
        self.write_output();
        match ending.cause {
            // The reply repeats the client's code (RFC 6455 §5.5.1).
            Cause::ClientClose => self.handle.send_close(ending.code, ""),
            cause if cause.closing_handshake() == ClosingHandshake::Skipped => self.handle.abort(),
            _ => self.handle.send_close(ending.code, &ending.reason),
        }
        if !self.has_ended() {
            self.set_ended(Ended::AtOnce(ending.clone()));
        }
        self.release_buffers();
    }

    /// Writes the queued frames, then waits for the client's close frame or the end of its stream.
    /// Gives up after the route's `close_timeout`.
    pub(in crate::websocket) async fn finish_closing(&mut self, ending: &Ending) {
        let can_decode = match ending.cause.closing_handshake() {
            ClosingHandshake::Full => true,
            ClosingHandshake::HalfClose => false,
            ClosingHandshake::FrameOnly | ClosingHandshake::Skipped => return,
        };
        let deadline = self.handle.route().settings.close_timeout;
        let _ = tokio::time::timeout(deadline, async {
            if poll_fn(|cx| self.handle.poll_flush(cx)).await.is_err() {
                return;
            }
            if !can_decode {
                let _ = poll_fn(|cx| self.handle.poll_shutdown(cx)).await;
            }
            while !self.peer_closed {
                if !poll_fn(|cx| self.poll_discard(cx, can_decode)).await {
                    return;
                }
            }
            let _ = poll_fn(|cx| self.handle.poll_shutdown(cx)).await;
            // Dropping a stream before its other half ends resets it (RFC 9113 §8.1).
            if self.handle.stream().is_boxed() {
                while poll_fn(|cx| self.poll_discard(cx, false)).await {}
            }
        })
        .await;
    }

    /// Reads and discards bytes; `false` at the end of the stream.
    ///
    /// While the bytes can be decoded, it looks for the client's close frame among them.
    /// No bytes stay in the thread's buffers after it: the next socket would decode them.
    fn poll_discard(&mut self, cx: &mut Context<'_>, can_decode: bool) -> Poll<bool> {
        self.claim_buffers();
        let polled = self.read_and_discard(cx, can_decode);
        self.release_buffers();
        polled
    }

    fn read_and_discard(&mut self, cx: &mut Context<'_>, can_decode: bool) -> Poll<bool> {
        if can_decode && self.has_undecoded() {
            self.take_ended(); // otherwise `decode` returns nothing
            while !self.has_ended() && self.decode_next(false).is_some() {}
            self.extras = None;
            return Poll::Ready(true);
        }
        match self.read_some(cx) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Ok(1..)) => {
                if can_decode {
                    self.save_undecoded();
                }
                Poll::Ready(true)
            }
            Poll::Ready(_) => Poll::Ready(false),
        }
    }
}

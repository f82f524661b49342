//! Leave: a socket's last words, and the care that they reach the client.

use std::future::poll_fn;
use std::task::{Context, Poll};

use super::Socket;
use crate::websocket::close::{Cause, Ending};

impl Socket {
    /// Says the close frame that fits an ending, if one can be said.
    pub(in crate::websocket) fn send_close_frame(&mut self, ending: &Ending) {
        self.claim_buffers();
        self.write_out();
        match ending.cause {
            // Nobody would read it.
            Cause::ClientGone | Cause::PingTimeout => self.handle.abort(),
            // The answer to a close frame repeats its code (RFC 6455 §5.5.1).
            Cause::ClientClose => self.handle.send_close(ending.code, ""),
            _ => self.handle.send_close(ending.code, &ending.reason),
        }
        self.ending.get_or_insert_with(|| Box::new(ending.clone()));
        self.release_buffers();
    }

    /// Makes sure the client gets the close frame: writes what waits, then reads on until the client's close frame or the
    /// end of its stream, at most for the route's `close_timeout`. A connection closed with unread bytes would be reset, and
    /// the reset would swallow the frame.
    pub(in crate::websocket) async fn leave(&mut self, ending: &Ending) {
        if matches!(
            ending.cause,
            Cause::ClientGone | Cause::PingTimeout | Cause::WriteTimeout
        ) {
            return;
        }
        let deadline = self.handle.route().settings.close_timeout;
        let can_decode = !matches!(
            ending.cause,
            Cause::ProtocolError | Cause::InvalidData | Cause::TooBig
        );
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
            // A stream that is dropped before its other half ends is reset (RFC 9113 §8.1).
            if self.handle.transport().is_stream() {
                while poll_fn(|cx| self.poll_discard(cx, false)).await {}
            }
        })
        .await;
    }

    /// Reads and throws away; `false` at the end of the stream.
    fn poll_discard(&mut self, cx: &mut Context<'_>, can_decode: bool) -> Poll<bool> {
        if can_decode && self.has_undecoded() {
            self.ending = None;
            while self.ending.is_none() && self.decode().is_some() {}
            self.pending_input = None;
            self.buffered = 0..0;
            self.release_buffers();
            return Poll::Ready(true);
        }
        self.buffered = 0..0;
        match self.read_some(cx) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Ok(count @ 1..)) => {
                self.buffered = 0..count;
                if can_decode {
                    self.save_undecoded();
                }
                Poll::Ready(true)
            }
            Poll::Ready(_) => Poll::Ready(false),
        }
    }
}

//! Closing: the end of a tunnel, from its ending to the line in the access log.
//!
//! Both directions go on, so that the reply to a close frame passes. The end of one side's stream
//! passes on to the other once nothing more will be written there. When both close frames have
//! passed, our side of the client's stream is closed; the upstream closes its own first, as a
//! server does (RFC 6455 §7.1.1). After `close_timeout` everything is closed.

use std::future::poll_fn;
use std::task::{Context, Poll};

use super::direction::Progress;
use super::frame_boundaries::FrameBoundaries;
use super::tunnel::{Tunnel, closed, yield_to_others};
use crate::websocket::access_log::{self, Counts};
use crate::websocket::close::{Cause, ClosingHandshake, Ending};
use crate::websocket::frame::encode_close;

impl Tunnel {
    /// Closes both sides, and releases everything.
    pub(super) async fn end(mut self, ending: Ending) {
        let handle = self.handle.clone();
        let settings = &handle.route().settings;
        self.start_closing(&ending);
        let closing = poll_fn(|cx| self.poll_closing(cx));
        let _ = tokio::time::timeout(settings.close_timeout, closing).await;
        handle.abort();
        self.sockets.remove(handle.id());
        self.log_end(&self.final_ending(ending));
    }

    /// A side whose stream failed may have sent a close frame before that was read only later.
    fn final_ending(&self, ending: Ending) -> Ending {
        let (client, upstream) = (&self.to_upstream.frames, &self.to_client.frames);
        match ending.cause {
            Cause::ClientGone if client.is_closed() => closed(Cause::ClientClose, client),
            Cause::UpstreamGone if upstream.is_closed() => closed(Cause::UpstreamClose, upstream),
            _ => ending,
        }
    }

    /// Sends the close frame of an ending that came from neither side, or gives up a side that
    /// takes nothing.
    fn start_closing(&mut self, ending: &Ending) {
        let now = self.handle.services().clock.now();
        self.end_limits();
        match (ending.cause, ending.cause.closing_handshake()) {
            (
                Cause::ClientClose | Cause::UpstreamClose | Cause::ClientGone | Cause::UpstreamGone,
                _,
            ) => {}
            (Cause::UpstreamStalled, _) => {
                self.to_upstream.abandon_sink();
                self.to_client.interrupt(close_frame(ending), now);
            }
            (_, ClosingHandshake::Full | ClosingHandshake::HalfClose) => {
                self.to_client.interrupt(close_frame(ending), now);
                self.to_upstream.interrupt(masked_close(ending), now);
            }
            // The client is gone, or in the middle of a frame that it does not read.
            (_, ClosingHandshake::FrameOnly | ClosingHandshake::Skipped) => {
                self.to_client.abandon_sink();
                self.to_upstream.discard();
            }
        }
    }

    /// Relays what belongs to the closing handshake. Completes when both sides have ended.
    fn poll_closing(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            let progress = self.poll_directions(cx);
            let has_more = self.pass_ends_on(cx);
            if self.client_is_done() && self.upstream_is_done() {
                return Poll::Ready(());
            }
            match progress {
                Progress::Changed => {}
                Progress::Waiting if has_more => {}
                Progress::Waiting => return Poll::Pending,
                Progress::Busy => {
                    yield_to_others(cx);
                    return Poll::Pending;
                }
            }
        }
    }

    /// Passes the end of one side on to the other. Returns whether there is more to write.
    fn pass_ends_on(&mut self, cx: &mut Context<'_>) -> bool {
        let mut has_more = false;
        let has_answered =
            self.to_upstream.frames.is_closed() || self.to_upstream.source_has_ended();
        if self.to_client.source_has_ended() && self.to_client.is_relaying() {
            if has_answered {
                self.to_client.stop();
            } else {
                let frame = close_frame(&Ending::of(Cause::UpstreamGone));
                let now = self.handle.services().clock.now();
                self.to_client.interrupt(frame, now);
                has_more = true;
            }
        }
        for direction in [&mut self.to_client, &mut self.to_upstream] {
            if direction.source_has_ended() {
                direction.stop();
            }
        }
        let client_is_alone = has_answered || self.to_client.source_has_ended();
        if self.to_client.is_flushed() && client_is_alone {
            self.to_client.shut(cx, self.handle.stream());
        }
        let upstream_is_alone = self.to_upstream.source_has_ended()
            || self.to_client.source_has_ended()
            || self.to_client.sink_is_gone();
        if self.to_upstream.is_flushed() && upstream_is_alone {
            self.to_upstream.shut(cx, &self.upstream);
        }
        has_more
    }

    /// Returns whether the client needs nothing more. A stream of HTTP/2 that is dropped before its
    /// other half has ended is reset (RFC 9113 §8.1).
    fn client_is_done(&self) -> bool {
        let has_closed = self.to_upstream.frames.is_closed() && !self.handle.stream().is_boxed();
        self.to_client.sink_is_gone()
            || (self.to_client.sink_is_closed()
                && (has_closed || self.to_upstream.source_has_ended()))
    }

    /// Returns whether the upstream needs nothing more. When the client can no longer be written,
    /// all that the upstream sends is for nothing.
    fn upstream_is_done(&self) -> bool {
        self.to_client.source_has_ended()
            || self.to_upstream.sink_is_gone()
            || (self.to_client.sink_is_gone() && self.to_upstream.is_flushed())
    }

    /// Counts the end and writes the access log line.
    fn log_end(&self, ending: &Ending) {
        let code = |frames: &FrameBoundaries| frames.close().map(|(code, _)| code.unwrap_or(1005));
        let counts = Counts {
            messages: self.messages,
            bytes_in: self.to_upstream.received,
            bytes_out: self.to_client.sent,
            dropped: None,
            client_code: code(&self.to_upstream.frames),
            upstream_code: code(&self.to_client.frames),
        };
        access_log::log_end(&self.handle, ending, &counts);
    }
}

/// Returns the close frame of an ending.
fn close_frame(ending: &Ending) -> Vec<u8> {
    let mut frame = Vec::new();
    encode_close(ending.code, &ending.reason, &mut frame);
    frame
}

/// Returns the close frame of an ending as clients send it: masked (RFC 6455 §5.3).
pub(super) fn masked_close(ending: &Ending) -> Vec<u8> {
    let mut frame = close_frame(ending);
    let key = fastrand::u32(..).to_ne_bytes();
    frame[1] |= 0x80;
    for (at, byte) in frame[2..].iter_mut().enumerate() {
        *byte ^= key[at % 4];
    }
    frame.splice(2..2, key);
    frame
}

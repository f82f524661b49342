//! Input: reads and decodes a socket's bytes, and keeps messages that the consumer cannot take yet.

use std::io;
use std::task::{Context, Poll};

use bytes::Bytes;

use super::{Ended, Socket};
use crate::websocket::close::{Cause, CloseCode, Ending};
use crate::websocket::decoder::Item;
use crate::websocket::frame::{Opcode, encode};
use crate::websocket::message::Message;
use crate::websocket::thread_buffers::{self, READ_BYTES};

impl Socket {
    /// Returns whether undecoded bytes were saved.
    pub(super) fn has_undecoded(&self) -> bool {
        let extras = self.extras.as_ref();
        extras.is_some_and(|extras| !extras.undecoded.is_empty())
    }

    /// Returns whether messages were read ahead.
    pub(super) fn has_read_ahead(&self) -> bool {
        let extras = self.extras.as_ref();
        extras.is_some_and(|extras| !extras.read_ahead.is_empty())
    }

    /// Decodes messages ahead of the consumer, as far as the socket and the route's backlog have
    /// room.
    pub(super) fn read_ahead(&mut self) {
        while !self.has_ended() && self.has_room_ahead() {
            let Some(message) = self.decode() else { return };
            let extras = self.extras.get_or_insert_default();
            let backlog = self.handle.route().backlog();
            extras.read_ahead.push(message, backlog);
        }
    }

    fn has_room_ahead(&self) -> bool {
        let extras = self.extras.as_ref();
        let backlog = self.handle.route().backlog();
        extras.is_none_or(|extras| extras.read_ahead.has_room())
            && backlog.is_none_or(|backlog| backlog.has_room_ahead())
    }

    /// Takes the oldest message: one that was read ahead, or the next one decoded.
    pub(super) fn next_message(&mut self) -> Option<Message> {
        if let Some(extras) = &mut self.extras
            && let Some(message) = extras.read_ahead.pop()
        {
            self.free_extras();
            return Some(message);
        }
        self.decode()
    }

    /// Decodes the next message, and handles the control frames before it. `None`: more bytes are
    /// needed, or the socket has ended.
    pub(super) fn decode(&mut self) -> Option<Message> {
        let is_limited = !self.handle.route().settings.message_limits.is_empty();
        self.decode_next(is_limited)
    }

    /// Decodes the next message. `is_limited`: what the client sends counts against the route's
    /// limits of messages.
    pub(super) fn decode_next(&mut self, is_limited: bool) -> Option<Message> {
        if self.has_ended() {
            return None;
        }
        let limits = self.handle.route().settings.limits;
        thread_buffers::with(|buffers| {
            loop {
                if is_limited
                    && (!buffers.undecoded.is_empty() || self.has_undecoded())
                    && self.is_delayed()
                {
                    return None;
                }
                let extras = self.extras.as_mut();
                let saved = extras.map(|extras| &mut extras.undecoded);
                let (item, taken) = match saved.filter(|saved| !saved.is_empty()) {
                    Some(saved) => {
                        let mut input = &saved[..];
                        let item = self.decoder.next(&mut input, limits);
                        let taken = saved.len() - input.len();
                        *saved = saved.slice(taken..);
                        (item, taken)
                    }
                    None if buffers.undecoded.is_empty() => {
                        self.free_extras();
                        return None;
                    }
                    None => {
                        let mut input = &buffers.input[buffers.undecoded.clone()];
                        let item = self.decoder.next(&mut input, limits);
                        let start = buffers.undecoded.end - input.len();
                        let taken = start - buffers.undecoded.start;
                        buffers.undecoded.start = start;
                        (item, taken)
                    }
                };
                if is_limited
                    && let Ok(Some(item)) = &item
                    && self.is_dropped(item)
                {
                    self.uncounted_messages += u32::from(matches!(item, Item::Message(_)));
                    self.keepalive.message();
                    if self.has_ended() {
                        buffers.undecoded = 0..0;
                        return None;
                    }
                    continue;
                }
                match item {
                    Ok(Some(Item::Message(message))) => {
                        self.uncounted_messages += 1;
                        self.keepalive.message();
                        return Some(message);
                    }
                    Ok(Some(Item::Ping(payload))) => {
                        encode(Opcode::Pong, &payload, &mut buffers.output);
                    }
                    Ok(Some(Item::Pong { .. })) => {}
                    Ok(Some(Item::Close { code, reason })) => self.peer_close(code, reason),
                    Ok(None) => {}
                    Err(violation) => {
                        if is_limited {
                            self.count_unfinished(taken);
                            self.decoder.free();
                        }
                        self.stop_reading(violation.into());
                    }
                }
                if self.has_ended() {
                    buffers.undecoded = 0..0;
                    return None;
                }
            }
        })
    }

    fn peer_close(&mut self, code: CloseCode, reason: String) {
        self.stop_reading(Ending::chosen(Cause::ClientClose, code, reason));
        self.peer_closed = true;
    }

    /// Ends the socket after the messages that were read ahead. Later bytes are not decoded.
    ///
    /// An incomplete message is freed at once: the closing handshake may take long.
    pub(super) fn stop_reading(&mut self, ending: Ending) {
        self.count_unfinished(0);
        self.decoder.free();
        self.extras().undecoded = Bytes::new();
        let is_at_once = matches!(self.ended(), Some(Ended::AtOnce(_)));
        self.set_ended(match is_at_once {
            // A write may fail after a deadline or another task has ended the socket: the waiting
            // messages stay dropped.
            true => Ended::AtOnce(ending),
            false => Ended::AfterMessages(ending),
        });
    }

    /// Saves the undecoded bytes, before another socket reads into the thread's input buffer.
    pub(super) fn save_undecoded(&mut self) {
        thread_buffers::with(|buffers| {
            if !buffers.undecoded.is_empty() {
                let undecoded = std::mem::take(&mut buffers.undecoded);
                self.extras().undecoded = Bytes::copy_from_slice(&buffers.input[undecoded]);
            }
        });
    }

    pub(super) fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match self.read_some(cx) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(Ok(count @ 1..)) => {
                let bytes = count as u64;
                self.received.bytes += bytes;
                self.handle.route().metrics.received_bytes.increment(bytes);
                // A ping was answered: the next deadline is later than the pong's.
                self.is_timer_outdated |=
                    self.keepalive.received(self.handle.services().clock.now());
            }
            Poll::Ready(_) => {
                self.peer_closed = true;
                self.stop_reading(Ending::of(Cause::ClientGone));
            }
        }
        Poll::Ready(())
    }

    /// Reads into the thread's input buffer, whose previous bytes have all been decoded or saved. 0
    /// is the end of the stream.
    pub(super) fn read_some(&self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        thread_buffers::with(|buffers| {
            let input = &mut buffers.input[..READ_BYTES];
            let read = self.handle.stream().poll_read_shared(cx, input);
            if let Poll::Ready(Ok(count)) = read {
                buffers.undecoded = 0..count;
            }
            read
        })
    }

    /// Frees the extras if they are empty.
    fn free_extras(&mut self) {
        if let Some(extras) = &self.extras
            && extras.undecoded.is_empty()
            && extras.read_ahead.is_empty()
            && extras.ended.is_none()
            && extras.counters.is_none()
        {
            self.extras = None;
        }
    }
}

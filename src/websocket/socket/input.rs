//! The input of a socket: reading, decoding, and keeping what the consumer cannot take yet.

use std::io;
use std::task::{Context, Poll};

use bytes::Bytes;

use super::read_ahead::ReadAhead;
use super::{Ended, Socket};
use crate::websocket::close::{Cause, CloseCode, Ending};
use crate::websocket::decoder::Item;
use crate::websocket::frame::{Opcode, encode};
use crate::websocket::message::Message;
use crate::websocket::thread_buffers::{self, READ_BYTES};

/// Input that outlasts a poll, because the consumer could not take it. Decoded messages are older than
/// undecoded bytes, and those are older than the thread's input buffer.
#[derive(Default)]
pub(super) struct PendingInput {
    /// Read and not decoded.
    pub(super) undecoded: Bytes,
    /// Decoded while the consumer was busy.
    pub(super) read_ahead: ReadAhead,
}

impl Socket {
    pub(super) fn pending_input(&mut self) -> &mut PendingInput {
        self.pending_input.get_or_insert_default()
    }

    /// Tells whether undecoded bytes were saved.
    pub(super) fn has_undecoded(&self) -> bool {
        let pending = self.pending_input.as_ref();
        pending.is_some_and(|pending| !pending.undecoded.is_empty())
    }

    /// Tells whether messages were read ahead.
    pub(super) fn has_read_ahead(&self) -> bool {
        let pending = self.pending_input.as_ref();
        pending.is_some_and(|pending| !pending.read_ahead.is_empty())
    }

    /// Decodes messages ahead of the consumer, as far as the socket and the route's backlog have room.
    pub(super) fn read_ahead(&mut self) {
        while !self.has_ended() && self.has_room_ahead() {
            let Some(message) = self.decode() else { return };
            let pending = self.pending_input.get_or_insert_default();
            let backlog = self.handle.route().backlog();
            pending.read_ahead.push(message, backlog);
        }
    }

    fn has_room_ahead(&self) -> bool {
        let pending = self.pending_input.as_ref();
        let backlog = self.handle.route().backlog();
        pending.is_none_or(|pending| pending.read_ahead.has_room())
            && backlog.is_none_or(|backlog| backlog.has_room_ahead())
    }

    /// Takes the oldest message: one that was read ahead, or the next one decoded.
    pub(super) fn next_message(&mut self) -> Option<Message> {
        if let Some(pending) = &mut self.pending_input
            && let Some(message) = pending.read_ahead.pop()
        {
            self.free_pending_input();
            return Some(message);
        }
        self.decode()
    }

    /// Decodes the next message, and handles the control frames before it. `None`: more has to be read,
    /// or the socket has ended.
    pub(super) fn decode(&mut self) -> Option<Message> {
        if self.has_ended() || (self.buffered.is_empty() && !self.has_undecoded()) {
            return None;
        }
        let limits = self.handle.route().settings.limits;
        thread_buffers::with(|buffers| {
            loop {
                let pending = self.pending_input.as_mut();
                let undecoded = pending.map(|pending| &mut pending.undecoded);
                let item = match undecoded.filter(|undecoded| !undecoded.is_empty()) {
                    Some(undecoded) => {
                        let mut input = &undecoded[..];
                        let item = self.decoder.next(&mut input, limits);
                        let taken = undecoded.len() - input.len();
                        *undecoded = undecoded.slice(taken..);
                        item
                    }
                    None => {
                        let (start, end) =
                            (self.buffered.start as usize, self.buffered.end as usize);
                        let mut input = &buffers.input[start..end];
                        let item = self.decoder.next(&mut input, limits);
                        self.buffered.start = self.buffered.end - input.len() as u32;
                        item
                    }
                };
                match item {
                    Ok(Some(Item::Message(message))) => {
                        self.uncounted_messages += 1;
                        self.keepalive.message();
                        return Some(message);
                    }
                    Ok(Some(Item::Ping(payload))) => {
                        encode(Opcode::Pong, &payload, &mut buffers.output);
                    }
                    Ok(Some(Item::Pong)) => {}
                    Ok(Some(Item::Close { code, reason })) => self.peer_close(code, reason),
                    Ok(None) if self.buffered.is_empty() && !self.has_undecoded() => {
                        self.free_pending_input();
                        return None;
                    }
                    Ok(None) => {}
                    Err(violation) => self.stop_reading(violation.into()),
                }
                if self.has_ended() {
                    return None;
                }
            }
        })
    }

    fn peer_close(&mut self, code: CloseCode, reason: String) {
        self.stop_reading(Ending::chosen(Cause::ClientClose, code, reason));
        self.peer_closed = true;
    }

    /// Ends the socket after the messages that were read ahead. What follows is not decoded.
    ///
    /// Half a message is freed at once: the closing handshake may take long.
    pub(super) fn stop_reading(&mut self, ending: Ending) {
        self.decoder.forget();
        if let Some(pending) = &mut self.pending_input {
            pending.undecoded = Bytes::new();
            self.free_pending_input();
        }
        self.buffered = 0..0;
        self.ended = Some(Box::new(Ended::AfterMessages(ending)));
    }

    /// Saves what is undecoded, before another socket reads into the thread's input buffer.
    pub(super) fn save_undecoded(&mut self) {
        if !self.buffered.is_empty() {
            let (start, end) = (self.buffered.start as usize, self.buffered.end as usize);
            self.buffered = 0..0;
            self.pending_input().undecoded =
                thread_buffers::with(|buffers| Bytes::copy_from_slice(&buffers.input[start..end]));
        }
    }

    pub(super) fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match self.read_some(cx) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(Ok(count @ 1..)) => {
                self.buffered = 0..count;
                self.received.bytes += u64::from(count);
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

    /// Reads into the thread's input buffer. 0 is the end of the stream.
    pub(super) fn read_some(&self, cx: &mut Context<'_>) -> Poll<io::Result<u32>> {
        thread_buffers::with(|buffers| {
            let read = self
                .handle
                .stream()
                .poll_read_shared(cx, &mut buffers.input[..READ_BYTES]);
            read.map_ok(|count| count as u32)
        })
    }

    /// Frees the memory of pending input if there is none.
    fn free_pending_input(&mut self) {
        if let Some(pending) = &self.pending_input
            && pending.undecoded.is_empty()
            && pending.read_ahead.is_empty()
        {
            self.pending_input = None;
        }
    }
}

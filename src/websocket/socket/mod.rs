//! Socket: the receiving side of one WebSocket and its deadlines; what its own task, the driver, polls.

mod closing_handshake;
mod deadlines;
mod read_ahead;

use std::io;
use std::ops::Range;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;

use self::read_ahead::ReadAhead;
use crate::channels::mailbox;
use crate::clock::TimerKey;
use crate::websocket::close::{Cause, CloseCode, Ending};
use crate::websocket::decoder::{Decoder, Item};
use crate::websocket::extension::Deflate;
use crate::websocket::frame::{Opcode, encode};
use crate::websocket::keepalive::KeepAlive;
use crate::websocket::message::Message;
use crate::websocket::socket_handle::SocketHandle;
use crate::websocket::thread_buffers::{self, READ_BYTES, ThreadBuffers};

/// How many reads, and how many messages, one turn takes before other sockets have theirs.
const READS_PER_POLL: u8 = 8;
const MESSAGES_PER_POLL: u32 = 4096;

/// What comes next in a socket's life.
pub(super) enum Next {
    /// The client sent a message.
    Message(Message),
    /// A group that the consumer joined by events was sent one.
    Event(mailbox::Received),
    /// It is over.
    End(Ending),
}

/// What one socket received.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct ReceiveStats {
    pub(super) messages: u64,
    pub(super) bytes: u64,
}

/// The receiving side of one WebSocket. Small, because it is all that an idle one is: what is rarely there stands behind a pointer.
pub(super) struct Socket {
    handle: Arc<SocketHandle>,
    decoder: Decoder,
    keepalive: KeepAlive,
    /// When the clock will call.
    call: Option<TimerKey>,
    /// What of the worker's scratch is not decoded yet; empty between turns.
    buffered: Range<u32>,
    /// What had to wait; absent when nothing did.
    pending_input: Option<Box<PendingInput>>,
    ending: Option<Box<Ending>>,
    received: ReceiveStats,
    messages_uncounted: u32,
    /// The ending does not wait for messages that were read before it: an order or a deadline, not the client's own doing.
    at_once: bool,
    /// The deadlines were looked at for the first time.
    has_begun: bool,
    /// The worker's output buffer is this socket's own in the poll that goes on.
    owns_buffers: bool,
    /// Of this turn; however many messages they brought.
    reads: u8,
    /// The client's close frame came, or the end of its stream.
    peer_closed: bool,
}

/// What a client said and its consumer could not take yet.
#[derive(Default)]
struct PendingInput {
    /// Undecoded, before anything buffered.
    undecoded: Bytes,
    /// Decoded while the consumer was busy.
    ahead: ReadAhead,
}

impl Socket {
    pub(super) fn new(
        handle: Arc<SocketHandle>,
        read_already: &[u8],
        deflate: Option<Deflate>,
    ) -> Self {
        let settings = &handle.route().settings;
        let now = handle.services().clock.now();
        let mut socket = Self {
            decoder: Decoder::new(deflate),
            keepalive: KeepAlive::new(now, settings, fastrand::f64()),
            call: None,
            buffered: 0..0,
            pending_input: None,
            ending: None,
            received: ReceiveStats {
                bytes: read_already.len() as u64,
                ..ReceiveStats::default()
            },
            messages_uncounted: 0,
            at_once: false,
            has_begun: false,
            owns_buffers: false,
            reads: 0,
            peer_closed: false,
            handle,
        };
        if !read_already.is_empty() {
            // A copy: the original is a slice of the buffer that the handshake was read into.
            socket.pending_input_mut().undecoded = Bytes::copy_from_slice(read_already);
        }
        socket
    }

    fn pending_input_mut(&mut self) -> &mut PendingInput {
        self.pending_input.get_or_insert_default()
    }

    /// Tells whether something undecoded had to wait.
    fn has_undecoded(&self) -> bool {
        self.pending_input
            .as_ref()
            .is_some_and(|held| !held.undecoded.is_empty())
    }

    /// Tells whether messages wait for the consumer.
    fn has_ahead(&self) -> bool {
        let held = self.pending_input.as_ref();
        held.is_some_and(|held| !held.ahead.is_empty())
    }

    /// Tells whether another message may be read while the consumer is busy.
    fn has_room_ahead(&self) -> bool {
        let held = self.pending_input.as_ref();
        held.is_none_or(|held| held.ahead.has_room())
            && self
                .handle
                .route()
                .backlog()
                .is_none_or(|backlog| backlog.has_room_ahead())
    }

    /// Reads messages ahead of the consumer, as far as there is room.
    fn read_ahead(&mut self) {
        while self.ending.is_none() && self.has_room_ahead() {
            let Some(message) = self.decode() else { return };
            let held = self.pending_input.get_or_insert_default();
            held.ahead.push(message, self.handle.route().backlog());
        }
    }

    /// Lets go of what holds nothing any more.
    fn drop_if_empty(&mut self) {
        if let Some(held) = &self.pending_input
            && held.undecoded.is_empty()
            && held.ahead.is_empty()
        {
            self.pending_input = None;
        }
    }

    pub(super) fn handle(&self) -> &SocketHandle {
        &self.handle
    }

    pub(super) fn received(&self) -> ReceiveStats {
        self.received
    }

    /// Tells whether the client or a deadline has ended it; the consumer may not know yet.
    pub(super) fn has_ended(&self) -> bool {
        self.ending.is_some()
    }

    /// Returns how it ended.
    pub(super) fn take_ending(&mut self) -> Ending {
        self.ending
            .take()
            .map_or_else(|| Ending::of(Cause::ClientGone), |ending| *ending)
    }

    /// Makes the worker's output buffer this socket's own until the turn ends.
    pub(super) fn claim_buffers(&mut self) {
        if self.owns_buffers {
            return;
        }
        self.owns_buffers = true;
        self.reads = 0;
        thread_buffers::with(|buffers| {
            debug_assert!(
                buffers.output.is_empty() || buffers.output_owner == self.handle.id(),
                "a socket left output behind"
            );
            if buffers.output_owner != self.handle.id() {
                buffers.clear_output();
                buffers.output_owner = self.handle.id();
            }
        });
    }

    /// Ends a turn that a consumer's call began.
    pub(super) fn release_buffers(&mut self) {
        let _: Poll<()> = self.end_poll();
    }

    /// Waits for what comes next. Cancel-safe: nothing is lost when it is dropped between two polls.
    pub(super) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Next> {
        self.claim_buffers();
        loop {
            self.answer_call();
            if self.ending.is_some() && (self.at_once || !self.has_ahead()) {
                return Poll::Ready(Next::End(self.take_ending()));
            }
            if self.messages_uncounted >= MESSAGES_PER_POLL {
                self.save_undecoded();
                return self.yield_to_others(cx);
            }
            match self.next_message() {
                Some(message) => return Poll::Ready(Next::Message(message)),
                None if self.ending.is_some() => continue,
                None => {}
            }
            if let Some(Poll::Ready(received)) = self
                .handle
                .existing_mailbox()
                .map(|mailbox| mailbox.poll_receive(cx))
            {
                return Poll::Ready(Next::Event(received));
            }
            let has_room = self.flush(cx);
            // The flush made this task known to callers; one who called before it woke nobody.
            if self.ending.is_some() || self.handle.is_notified() {
                continue;
            }
            if !has_room {
                return self.end_poll();
            }
            if self.reads == READS_PER_POLL {
                return self.yield_to_others(cx);
            }
            self.reads += 1;
            if self.poll_read(cx).is_pending() {
                return self.end_poll();
            }
        }
    }

    /// Serves the socket while the consumer is busy: control frames, output, deadlines, and some reading ahead.
    pub(super) fn serve(&mut self, cx: &mut Context<'_>) {
        for _ in 0..READS_PER_POLL {
            self.answer_call();
            self.read_ahead();
            self.save_undecoded();
            let has_room = self.flush(cx);
            if self.handle.is_notified() {
                continue;
            }
            if self.ending.is_some()
                || !has_room
                || self.has_undecoded()
                || self.poll_read(cx).is_pending()
            {
                self.release_buffers();
                return;
            }
        }
        self.save_undecoded();
        let _: Poll<()> = self.yield_to_others(cx);
    }

    /// Looks at orders and deadlines when somebody called.
    #[inline]
    fn answer_call(&mut self) {
        if self.handle.take_notification() || !self.has_begun {
            self.answer();
        }
    }

    fn answer(&mut self) {
        let is_first = !std::mem::replace(&mut self.has_begun, true);
        if let Some(ending) = self.handle.take_end_request() {
            self.at_once = true;
            self.ending.get_or_insert_with(|| Box::new(ending));
            return;
        }
        self.keep_deadlines(is_first);
    }

    fn next_message(&mut self) -> Option<Message> {
        if let Some(held) = &mut self.pending_input
            && let Some(message) = held.ahead.pop()
        {
            self.drop_if_empty();
            return Some(message);
        }
        self.decode()
    }

    /// Takes the next message out of what was read, handling control frames on the way.
    fn decode(&mut self) -> Option<Message> {
        if self.ending.is_some() || (self.buffered.is_empty() && !self.has_undecoded()) {
            return None;
        }
        let limits = self.handle.route().settings.limits;
        thread_buffers::with(|buffers| {
            loop {
                let undecoded = self.pending_input.as_mut().map(|held| &mut held.undecoded);
                let item = match undecoded.filter(|undecoded| !undecoded.is_empty()) {
                    Some(undecoded) => {
                        let mut input = &undecoded[..];
                        let item = self.decoder.next(&mut input, limits);
                        let rest = undecoded.len() - input.len();
                        *undecoded = undecoded.slice(rest..);
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
                        self.messages_uncounted += 1;
                        self.keepalive.message();
                        return Some(message);
                    }
                    Ok(Some(Item::Ping(payload))) => {
                        encode(Opcode::Pong, &payload, &mut buffers.output);
                    }
                    Ok(Some(Item::Pong)) => {}
                    Ok(Some(Item::Close { code, reason })) => self.peer_close(code, reason),
                    Ok(None) if self.buffered.is_empty() && !self.has_undecoded() => {
                        self.drop_if_empty();
                        return None;
                    }
                    Ok(None) => {}
                    Err(violation) => self.stop_reading(violation.into()),
                }
                if self.ending.is_some() {
                    return None;
                }
            }
        })
    }

    fn peer_close(&mut self, code: CloseCode, reason: String) {
        self.stop_reading(Ending::chosen(Cause::ClientClose, code, reason));
        self.peer_closed = true;
    }

    /// What follows is not looked at, and what has arrived of a message is let go: the socket may wait long for its peer to leave.
    fn stop_reading(&mut self, ending: Ending) {
        self.decoder.forget();
        if let Some(held) = &mut self.pending_input {
            held.undecoded = Bytes::new();
            self.drop_if_empty();
        }
        self.buffered = 0..0;
        self.ending = Some(Box::new(ending));
    }

    /// Keeps what is undecoded over the turn's end.
    fn save_undecoded(&mut self) {
        if !self.buffered.is_empty() {
            let (start, end) = (self.buffered.start as usize, self.buffered.end as usize);
            self.buffered = 0..0;
            self.pending_input_mut().undecoded =
                thread_buffers::with(|buffers| Bytes::copy_from_slice(&buffers.input[start..end]));
        }
    }

    /// Writes what was said in this turn and what waited. `false`: so much waits that nothing more is to be read.
    fn flush(&mut self, cx: &mut Context<'_>) -> bool {
        self.write_out();
        match self.handle.poll_flush(cx) {
            Poll::Ready(Ok(())) => true,
            Poll::Ready(Err(_)) => {
                self.stop_reading(Ending::of(Cause::ClientGone));
                true
            }
            Poll::Pending => {
                self.keep_write_deadline();
                // What one read may call forth shall still fit.
                let (waiting, limit) = (self.handle.queued_bytes(), self.handle.queue_limit());
                waiting == 0 || (waiting < limit / 2 && waiting + READ_BYTES <= limit)
            }
        }
    }

    fn write_out(&self) {
        thread_buffers::with(|buffers: &mut ThreadBuffers| {
            if !buffers.output.is_empty() {
                self.handle.send(&buffers.output);
                buffers.clear_output();
            }
        });
    }

    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match self.read_some(cx) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(Ok(count @ 1..)) => {
                self.buffered = 0..count;
                self.received.bytes += u64::from(count);
                if self.keepalive.received(self.handle.services().clock.now()) {
                    self.has_begun = false; // the deadlines are looked at as if for the first time
                }
            }
            Poll::Ready(_) => {
                self.peer_closed = true;
                self.stop_reading(Ending::of(Cause::ClientGone));
            }
        }
        Poll::Ready(())
    }

    /// Reads into the worker's scratch.
    fn read_some(&self, cx: &mut Context<'_>) -> Poll<io::Result<u32>> {
        thread_buffers::with(|buffers| {
            let scratch = &mut buffers.input[..READ_BYTES];
            let read = self.handle.stream().poll_read_shared(cx, scratch);
            read.map_ok(|count| count as u32)
        })
    }

    /// Ends a turn that has more to do. The next one comes after the runtime has looked for input of others: a task that wakes itself
    /// is polled up to 61 times before that.
    fn yield_to_others<T>(&mut self, cx: &mut Context<'_>) -> Poll<T> {
        let _ = pin!(tokio::task::yield_now()).poll(cx);
        self.end_poll()
    }

    /// Nothing of this socket stays with the buffers.
    fn end_poll<T>(&mut self) -> Poll<T> {
        self.write_out();
        thread_buffers::with(|buffers| buffers.output_owner = 0);
        self.owns_buffers = false;
        if self.messages_uncounted > 0 {
            self.handle
                .route()
                .metrics
                .received
                .increment(self.messages_uncounted.into());
            self.received.messages += u64::from(self.messages_uncounted);
            self.messages_uncounted = 0;
        }
        Poll::Pending
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if let Some(call) = self.call {
            self.handle.services().clock.cancel(call);
        }
    }
}

//! Socket: the receiving side of one WebSocket and its deadlines; what its own task, the driver, polls.

mod ahead;
mod deadlines;
mod leave;

use std::io;
use std::ops::Range;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;

use self::ahead::Ahead;
use crate::channels::mailbox;
use crate::clock::Call;
use crate::websocket::close::{Cause, CloseCode, Ending};
use crate::websocket::decoder::{Decoder, Item};
use crate::websocket::extension::Deflate;
use crate::websocket::frame::{Opcode, encode};
use crate::websocket::keepalive::KeepAlive;
use crate::websocket::link::Link;
use crate::websocket::message::Message;
use crate::websocket::worker::{self, READ_BYTES, Worker};

/// How many reads, and how many messages, one turn takes before other sockets have theirs.
const READS_A_TURN: u8 = 8;
const MESSAGES_A_TURN: u32 = 4096;

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
pub(super) struct Received {
    pub(super) messages: u64,
    pub(super) bytes: u64,
}

/// The receiving side of one WebSocket. Small, because it is all that an idle one is: what is rarely there stands behind a pointer.
pub(super) struct Socket {
    link: Arc<Link>,
    decoder: Decoder,
    keepalive: KeepAlive,
    /// When the clock will call.
    call: Option<Call>,
    /// What of the worker's scratch is not decoded yet; empty between turns.
    fresh: Range<u32>,
    /// What had to wait; absent when nothing did.
    held_back: Option<Box<HeldBack>>,
    ending: Option<Box<Ending>>,
    received: Received,
    messages_uncounted: u32,
    /// The ending does not wait for messages that were read before it: an order or a deadline, not the client's own doing.
    at_once: bool,
    /// The deadlines were looked at for the first time.
    has_begun: bool,
    /// The worker's output buffer is this socket's own in the poll that goes on.
    is_in_turn: bool,
    /// Of this turn; however many messages they brought.
    reads: u8,
    /// The client's close frame came, or the end of its stream.
    peer_closed: bool,
}

/// What a client said and its consumer could not take yet.
#[derive(Default)]
struct HeldBack {
    /// Undecoded, before anything fresh.
    carried: Bytes,
    /// Decoded while the consumer was busy.
    ahead: Ahead,
}

impl Socket {
    pub(super) fn new(link: Arc<Link>, read_already: &[u8], deflate: Option<Deflate>) -> Self {
        let settings = &link.route().settings;
        let now = link.services().clock.now();
        let mut socket = Self {
            decoder: Decoder::new(deflate),
            keepalive: KeepAlive::new(now, settings, fastrand::f64()),
            call: None,
            fresh: 0..0,
            held_back: None,
            ending: None,
            received: Received {
                bytes: read_already.len() as u64,
                ..Received::default()
            },
            messages_uncounted: 0,
            at_once: false,
            has_begun: false,
            is_in_turn: false,
            reads: 0,
            peer_closed: false,
            link,
        };
        if !read_already.is_empty() {
            // A copy: the original is a slice of the buffer that the handshake was read into.
            socket.hold_back().carried = Bytes::copy_from_slice(read_already);
        }
        socket
    }

    fn hold_back(&mut self) -> &mut HeldBack {
        self.held_back.get_or_insert_default()
    }

    /// Tells whether something undecoded had to wait.
    fn has_carried(&self) -> bool {
        self.held_back
            .as_ref()
            .is_some_and(|held| !held.carried.is_empty())
    }

    /// Tells whether messages wait for the consumer.
    fn has_ahead(&self) -> bool {
        let held = self.held_back.as_ref();
        held.is_some_and(|held| !held.ahead.is_empty())
    }

    /// Tells whether another message may be read while the consumer is busy.
    fn has_room_ahead(&self) -> bool {
        let held = self.held_back.as_ref();
        held.is_none_or(|held| held.ahead.has_room())
            && self
                .link
                .route()
                .backlog()
                .is_none_or(|backlog| backlog.has_room_ahead())
    }

    /// Reads messages ahead of the consumer, as far as there is room.
    fn read_ahead(&mut self) {
        while self.ending.is_none() && self.has_room_ahead() {
            let Some(message) = self.decode() else { return };
            let held = self.held_back.get_or_insert_default();
            held.ahead.push(message, self.link.route().backlog());
        }
    }

    /// Lets go of what holds nothing any more.
    fn tidy(&mut self) {
        if let Some(held) = &self.held_back
            && held.carried.is_empty()
            && held.ahead.is_empty()
        {
            self.held_back = None;
        }
    }

    pub(super) fn link(&self) -> &Link {
        &self.link
    }

    pub(super) fn received(&self) -> Received {
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
            .map_or_else(Ending::gone, |ending| *ending)
    }

    /// Makes the worker's output buffer this socket's own until the turn ends.
    pub(super) fn begin_turn(&mut self) {
        if self.is_in_turn {
            return;
        }
        self.is_in_turn = true;
        self.reads = 0;
        worker::with(|worker| {
            debug_assert!(
                worker.out.is_empty() || worker.out_owner == self.link.id(),
                "a socket left output behind"
            );
            if worker.out_owner != self.link.id() {
                worker.clear_out();
                worker.out_owner = self.link.id();
            }
        });
    }

    /// Ends a turn that a consumer's call began.
    pub(super) fn finish_turn(&mut self) {
        let _: Poll<()> = self.end_turn();
    }

    /// Waits for what comes next. Cancel-safe: nothing is lost when it is dropped between two polls.
    pub(super) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Next> {
        self.begin_turn();
        loop {
            self.answer_call();
            if self.ending.is_some() && (self.at_once || !self.has_ahead()) {
                return Poll::Ready(Next::End(self.take_ending()));
            }
            if self.messages_uncounted >= MESSAGES_A_TURN {
                self.carry();
                return self.yield_turn(cx);
            }
            match self.next_message() {
                Some(message) => return Poll::Ready(Next::Message(message)),
                None if self.ending.is_some() => continue,
                None => {}
            }
            if let Some(Poll::Ready(received)) = self
                .link
                .has_mailbox()
                .map(|mailbox| mailbox.poll_receive(cx))
            {
                return Poll::Ready(Next::Event(received));
            }
            let has_room = self.flush(cx);
            // The flush made this task known to callers; one who called before it woke nobody.
            if self.ending.is_some() || self.link.is_called() {
                continue;
            }
            if !has_room {
                return self.end_turn();
            }
            if self.reads == READS_A_TURN {
                return self.yield_turn(cx);
            }
            self.reads += 1;
            if self.poll_read(cx).is_pending() {
                return self.end_turn();
            }
        }
    }

    /// Serves the socket while the consumer is busy: control frames, output, deadlines, and some reading ahead.
    pub(super) fn serve(&mut self, cx: &mut Context<'_>) {
        for _ in 0..READS_A_TURN {
            self.answer_call();
            self.read_ahead();
            self.carry();
            let has_room = self.flush(cx);
            if self.link.is_called() {
                continue;
            }
            if self.ending.is_some()
                || !has_room
                || self.has_carried()
                || self.poll_read(cx).is_pending()
            {
                self.finish_turn();
                return;
            }
        }
        self.carry();
        let _: Poll<()> = self.yield_turn(cx);
    }

    /// Looks at orders and deadlines when somebody called.
    #[inline]
    fn answer_call(&mut self) {
        if self.link.take_call() || !self.has_begun {
            self.answer();
        }
    }

    fn answer(&mut self) {
        let is_first = !std::mem::replace(&mut self.has_begun, true);
        if let Some(ending) = self.link.take_order() {
            self.at_once = true;
            self.ending.get_or_insert(ending);
            return;
        }
        self.keep_deadlines(is_first);
    }

    fn next_message(&mut self) -> Option<Message> {
        if let Some(held) = &mut self.held_back
            && let Some(message) = held.ahead.pop()
        {
            self.tidy();
            return Some(message);
        }
        self.decode()
    }

    /// Takes the next message out of what was read, handling control frames on the way.
    fn decode(&mut self) -> Option<Message> {
        if self.ending.is_some() || (self.fresh.is_empty() && !self.has_carried()) {
            return None;
        }
        let limits = self.link.route().settings.limits;
        worker::with(|worker| {
            loop {
                let carried = self.held_back.as_mut().map(|held| &mut held.carried);
                let item = match carried.filter(|carried| !carried.is_empty()) {
                    Some(carried) => {
                        let mut input = &carried[..];
                        let item = self.decoder.next(&mut input, limits);
                        let rest = carried.len() - input.len();
                        *carried = carried.slice(rest..);
                        item
                    }
                    None => {
                        let (start, end) = (self.fresh.start as usize, self.fresh.end as usize);
                        let mut input = &worker.scratch[start..end];
                        let item = self.decoder.next(&mut input, limits);
                        self.fresh.start = self.fresh.end - input.len() as u32;
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
                        encode(Opcode::Pong, &payload, &mut worker.out);
                    }
                    Ok(Some(Item::Pong)) => {}
                    Ok(Some(Item::Close { code, reason })) => self.peer_close(code, reason),
                    Ok(None) if self.fresh.is_empty() && !self.has_carried() => {
                        self.tidy();
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
        self.stop_reading(Ending::new(code, Cause::ClientClose, reason));
        self.peer_closed = true;
    }

    /// What follows is not looked at, and what has arrived of a message is let go: the socket may wait long for its peer to leave.
    fn stop_reading(&mut self, ending: Ending) {
        self.decoder.forget();
        if let Some(held) = &mut self.held_back {
            held.carried = Bytes::new();
            self.tidy();
        }
        self.fresh = 0..0;
        self.ending = Some(Box::new(ending));
    }

    /// Keeps what is undecoded over the turn's end.
    fn carry(&mut self) {
        if !self.fresh.is_empty() {
            let (start, end) = (self.fresh.start as usize, self.fresh.end as usize);
            self.fresh = 0..0;
            self.hold_back().carried =
                worker::with(|worker| Bytes::copy_from_slice(&worker.scratch[start..end]));
        }
    }

    /// Writes what was said in this turn and what waited. `false`: so much waits that nothing more is to be read.
    fn flush(&mut self, cx: &mut Context<'_>) -> bool {
        self.write_out();
        match self.link.poll_flush(cx) {
            Poll::Ready(Ok(())) => true,
            Poll::Ready(Err(_)) => {
                self.stop_reading(Ending::gone());
                true
            }
            Poll::Pending => {
                self.keep_write_deadline();
                // What one read may call forth shall still fit.
                let (waiting, limit) = (self.link.waiting(), self.link.send_queue());
                waiting == 0 || (waiting < limit / 2 && waiting + READ_BYTES <= limit)
            }
        }
    }

    fn write_out(&self) {
        worker::with(|worker: &mut Worker| {
            if !worker.out.is_empty() {
                self.link.send(&worker.out);
                worker.clear_out();
            }
        });
    }

    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match self.read_some(cx) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(Ok(count @ 1..)) => {
                self.fresh = 0..count;
                self.received.bytes += u64::from(count);
                if self.keepalive.received(self.link.services().clock.now()) {
                    self.has_begun = false; // the deadlines are looked at as if for the first time
                }
            }
            Poll::Ready(_) => {
                self.peer_closed = true;
                self.stop_reading(Ending::gone());
            }
        }
        Poll::Ready(())
    }

    /// Reads into the worker's scratch.
    fn read_some(&self, cx: &mut Context<'_>) -> Poll<io::Result<u32>> {
        worker::with(|worker| {
            let scratch = &mut worker.scratch[..READ_BYTES];
            let read = self.link.transport().poll_read(cx, scratch);
            read.map_ok(|count| count as u32)
        })
    }

    /// Ends a turn that has more to do. The next one comes after the runtime has looked for input of others: a task that wakes itself
    /// is polled up to 61 times before that.
    fn yield_turn<T>(&mut self, cx: &mut Context<'_>) -> Poll<T> {
        let _ = pin!(tokio::task::yield_now()).poll(cx);
        self.end_turn()
    }

    /// Nothing of this socket stays with the worker.
    fn end_turn<T>(&mut self) -> Poll<T> {
        self.write_out();
        worker::with(|worker| worker.out_owner = 0);
        self.is_in_turn = false;
        if self.messages_uncounted > 0 {
            self.link
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
            self.link.services().clock.call_off(call);
        }
    }
}

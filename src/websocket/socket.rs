//! Socket: the receiving side of one WebSocket and its deadlines; what its own task, the driver, polls.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::ops::Range;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};

use bytes::Bytes;

use super::close::{Cause, CloseCode, Ending};
use super::decoder::{Decoder, Item};
use super::extension::Deflate;
use super::frame::{Opcode, encode};
use super::keepalive::{Due, KeepAlive};
use super::link::Link;
use super::message::Message;
use super::transport::Reader;
use super::worker::{self, READ_BYTES, Worker};
use crate::channels::Event;
use crate::clock::{Millis, Tick};

/// How many messages are read ahead while a consumer is busy.
pub(super) const AHEAD_MESSAGES_MAX: usize = 32;

/// How many reads one turn takes before other sockets have theirs.
const READS_A_TURN: usize = 16;

/// What comes next in a socket's life.
pub(super) enum Next {
    /// The client sent a message.
    Message(Message),
    /// A group that the consumer joined by events was sent one.
    Event(Event),
    /// It is over.
    End(Ending),
}

/// What one socket received.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Received {
    pub(super) messages: u64,
    pub(super) bytes: u64,
}

/// The receiving side of one WebSocket.
pub(super) struct Socket {
    link: Arc<Link>,
    reader: Reader,
    decoder: Decoder,
    keepalive: KeepAlive,
    /// When the clock will call.
    called_at: Millis,
    /// What of the worker's scratch is not decoded yet; empty between turns.
    fresh: Range<usize>,
    /// What was read but had to wait: undecoded, before anything fresh.
    carried: Bytes,
    /// Decoded while the consumer was busy.
    ahead: VecDeque<Message>,
    ending: Option<Ending>,
    received: Received,
    messages_uncounted: u64,
    /// The ending does not wait for messages that were read before it: an order or a deadline, not the client's own doing.
    at_once: bool,
    /// The client's close frame came, or the end of its stream.
    peer_closed: bool,
}

impl Socket {
    pub(super) fn new(
        link: Arc<Link>,
        reader: Reader,
        read_already: Bytes,
        deflate: Option<Deflate>,
    ) -> Self {
        let settings = &link.route().settings;
        let now = link.services().clock.now();
        let read_already_len = read_already.len() as u64;
        Self {
            decoder: Decoder::new(settings.limits, deflate),
            keepalive: KeepAlive::new(now, settings, fastrand::f64()),
            called_at: Millis::MAX,
            fresh: 0..0,
            carried: read_already,
            ahead: VecDeque::new(),
            ending: None,
            received: Received {
                bytes: read_already_len,
                ..Received::default()
            },
            messages_uncounted: 0,
            at_once: false,
            peer_closed: false,
            link,
            reader,
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
        self.ending.take().unwrap_or_else(Ending::gone)
    }

    /// Makes the worker's output buffer this socket's own until the turn ends.
    pub(super) fn begin_turn(&self) {
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
        let mut reads = 0;
        loop {
            self.answer_call();
            if self.ending.is_some() && (self.at_once || self.ahead.is_empty()) {
                return Poll::Ready(Next::End(self.take_ending()));
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
                return Poll::Ready(Next::Event(received.event));
            }
            let has_room = self.flush(cx);
            // The flush made this task known to callers; one who called before it woke nobody.
            if self.ending.is_some() || self.link.is_called() {
                continue;
            }
            if !has_room {
                return self.end_turn();
            }
            if reads == READS_A_TURN {
                cx.waker().wake_by_ref();
                return self.end_turn();
            }
            reads += 1;
            if self.poll_read(cx).is_pending() {
                return self.end_turn();
            }
        }
    }

    /// Serves the socket while the consumer is busy: control frames, output, deadlines, and some reading ahead.
    pub(super) fn serve(&mut self, cx: &mut Context<'_>) {
        for _ in 0..READS_A_TURN {
            self.answer_call();
            while self.ending.is_none() && self.ahead.len() < AHEAD_MESSAGES_MAX {
                match self.decode() {
                    Some(message) => self.ahead.push_back(message),
                    None => break,
                }
            }
            self.carry();
            let has_room = self.flush(cx);
            if self.link.is_called() {
                continue;
            }
            if self.ending.is_some()
                || !has_room
                || !self.carried.is_empty()
                || self.poll_read(cx).is_pending()
            {
                self.finish_turn();
                return;
            }
        }
        self.carry();
        cx.waker().wake_by_ref();
        self.finish_turn();
    }

    /// Says the close frame that fits an ending, if one can be said.
    pub(super) fn say_close(&mut self, ending: &Ending) {
        self.begin_turn();
        self.write_out();
        match ending.cause {
            // Nobody would read it.
            Cause::ClientGone | Cause::PingTimeout => self.link.kill(),
            // The answer to a close frame repeats its code (RFC 6455 §5.5.1).
            Cause::ClientClose => self.link.send_close(ending.code, ""),
            _ => self.link.send_close(ending.code, &ending.reason),
        }
        self.ending.get_or_insert_with(|| ending.clone());
        self.finish_turn();
    }

    /// Makes sure the client gets the close frame: writes what waits, then reads on until the client's close frame or the
    /// end of its stream, at most for the route's `close_timeout`. A connection closed with unread bytes would be reset, and
    /// the reset would swallow the frame.
    pub(super) async fn leave(&mut self, ending: &Ending) {
        if matches!(
            ending.cause,
            Cause::ClientGone | Cause::PingTimeout | Cause::WriteTimeout
        ) {
            return;
        }
        let deadline = self.link.route().settings.close_timeout;
        let can_decode = !matches!(
            ending.cause,
            Cause::ProtocolError | Cause::InvalidData | Cause::TooBig
        );
        let _ = tokio::time::timeout(deadline, async {
            if poll_fn(|cx| self.link.poll_flush(cx)).await.is_err() {
                return;
            }
            if !can_decode {
                let _ = poll_fn(|cx| self.link.poll_shutdown(cx)).await;
            }
            while !self.peer_closed {
                if !poll_fn(|cx| self.poll_discard(cx, can_decode)).await {
                    return;
                }
            }
            let _ = poll_fn(|cx| self.link.poll_shutdown(cx)).await;
            // A stream that is dropped before its other half ends is reset (RFC 9113 §8.1).
            if self.reader.is_stream() {
                while poll_fn(|cx| self.poll_discard(cx, false)).await {}
            }
        })
        .await;
    }

    /// Reads and throws away; `false` at the end of the stream.
    fn poll_discard(&mut self, cx: &mut Context<'_>, can_decode: bool) -> Poll<bool> {
        if can_decode && !self.carried.is_empty() {
            self.ending = None;
            self.ahead.clear();
            while self.ending.is_none() && self.decode().is_some() {}
            self.carried = Bytes::new();
            self.fresh = 0..0;
            self.finish_turn();
            return Poll::Ready(true);
        }
        self.fresh = 0..0;
        let scratch_read =
            worker::with(|worker| self.reader.poll_read(cx, &mut worker.scratch[..READ_BYTES]));
        match scratch_read {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Ok(count @ 1..)) => {
                self.fresh = 0..count;
                if can_decode {
                    self.carry();
                }
                Poll::Ready(true)
            }
            Poll::Ready(_) => Poll::Ready(false),
        }
    }

    /// Looks at orders and deadlines when somebody called.
    fn answer_call(&mut self) {
        let is_first = self.called_at == Millis::MAX;
        if !self.link.take_call() && !is_first {
            return;
        }
        if let Some(ending) = self.link.take_order() {
            self.at_once = true;
            self.ending.get_or_insert(ending);
            return;
        }
        self.keep_deadlines(is_first);
    }

    fn keep_deadlines(&mut self, is_first: bool) {
        let now = self.link.services().clock.now();
        let settings = &self.link.route().settings;
        let is_reading = self.carried.is_empty() && self.link.blocked_since().is_none();
        let due = match self
            .keepalive
            .due(now, settings, self.link.blocked_since(), is_reading)
        {
            Due::Ping => {
                self.keepalive.pinged(now);
                worker::with(|worker| encode(Opcode::Ping, &[], &mut worker.out));
                self.keepalive
                    .due(now, settings, self.link.blocked_since(), is_reading)
            }
            other => other,
        };
        match due {
            Due::End(ending) => {
                self.at_once = true;
                self.ending.get_or_insert(ending);
            }
            Due::Nothing(at) if is_first || now >= self.called_at || at < self.called_at => {
                self.call_at(at);
            }
            Due::Nothing(_) | Due::Ping => {}
        }
    }

    fn call_at(&mut self, at: Millis) {
        self.called_at = at.min(Millis::MAX - 1);
        if at < Millis::MAX {
            let waiting: Weak<dyn Tick> = Arc::downgrade(&(self.link.clone() as Arc<dyn Tick>));
            self.link.services().clock.wake_at(at, waiting);
        }
    }

    fn next_message(&mut self) -> Option<Message> {
        self.ahead.pop_front().or_else(|| self.decode())
    }

    /// Takes the next message out of what was read, handling control frames on the way.
    fn decode(&mut self) -> Option<Message> {
        if self.ending.is_some() || (self.carried.is_empty() && self.fresh.is_empty()) {
            return None;
        }
        worker::with(|worker| {
            loop {
                let is_carried = !self.carried.is_empty();
                let mut input = if is_carried {
                    &self.carried[..]
                } else {
                    &worker.scratch[self.fresh.clone()]
                };
                let before = input.len();
                let item = self.decoder.next(&mut input);
                let taken = before - input.len();
                if is_carried {
                    self.carried = self.carried.slice(taken..);
                } else {
                    self.fresh.start += taken;
                }
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
                    Ok(None) if self.carried.is_empty() && self.fresh.is_empty() => return None,
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

    /// What follows is not looked at.
    fn stop_reading(&mut self, ending: Ending) {
        self.carried = Bytes::new();
        self.fresh = 0..0;
        self.ending = Some(ending);
    }

    /// Keeps what is undecoded over the turn's end.
    fn carry(&mut self) {
        if !self.fresh.is_empty() {
            let fresh = std::mem::take(&mut self.fresh);
            self.carried = worker::with(|worker| Bytes::copy_from_slice(&worker.scratch[fresh]));
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
                self.link.waiting() < self.link.route().settings.send_queue / 2
            }
        }
    }

    fn keep_write_deadline(&mut self) {
        let wait = super::keepalive::millis(self.link.route().settings.write_timeout);
        if let Some(since) = self.link.blocked_since()
            && wait > 0
            && since + wait < self.called_at
        {
            self.call_at(since + wait);
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
        let read =
            worker::with(|worker| self.reader.poll_read(cx, &mut worker.scratch[..READ_BYTES]));
        match read {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(Ok(count @ 1..)) => {
                self.fresh = 0..count;
                self.received.bytes += count as u64;
                self.keepalive.received(self.link.services().clock.now());
            }
            Poll::Ready(_) => {
                self.peer_closed = true;
                self.stop_reading(Ending::gone());
            }
        }
        Poll::Ready(())
    }

    /// Nothing of this socket stays with the worker.
    fn end_turn<T>(&mut self) -> Poll<T> {
        self.write_out();
        worker::with(|worker| worker.out_owner = 0);
        if self.messages_uncounted > 0 {
            self.link
                .route()
                .metrics
                .received
                .increment(self.messages_uncounted);
            self.received.messages += self.messages_uncounted;
            self.messages_uncounted = 0;
        }
        Poll::Pending
    }
}

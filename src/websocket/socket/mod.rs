//! Socket: the receiving side of one WebSocket and its deadlines, polled by the connection's task.
//!
//! ```text
//!   stream ──► thread's input buffer ──► decoder ──► consumer
//!                     │                    │ ▲          │
//!                     │ the poll ends      │ │          ▼
//!                     ▼                    │ │   thread's output buffer ──► SocketHandle ──► stream
//!              SocketExtras.undecoded ─────┼─┘
//!              SocketExtras.read_ahead ◄───┘ the consumer is busy
//! ```
//!
//! One poll of the task claims the thread's buffers, reads once into the input buffer, decodes each
//! message in place, and gathers everything the consumer sends in the output buffer. Before the
//! task sleeps, `release_buffers` writes the output and saves the undecoded bytes. So an idle
//! socket holds no buffer, and no socket sees the bytes of another.

mod closing_handshake;
mod deadlines;
mod input;
mod rate_limit;
mod read_ahead;

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use tokio::time::Sleep;

use self::rate_limit::Counters;
use self::read_ahead::ReadAhead;
use crate::channels::mailbox;
use crate::clock::TimerKey;
use crate::websocket::close::{Cause, Ending};
use crate::websocket::decoder::Decoder;
use crate::websocket::extension::Deflate;
use crate::websocket::keepalive::KeepAlive;
use crate::websocket::message::Message;
use crate::websocket::socket_handle::SocketHandle;
use crate::websocket::thread_buffers::{self, READ_BYTES, ThreadBuffers};

/// The most reads, and messages, in one poll before other tasks run.
const READS_PER_POLL: u8 = 8;
const MESSAGES_PER_POLL: u32 = 4096;

/// The next item for the consumer.
pub(super) enum Next {
    /// The client sent a message.
    Message(Message),
    /// A group that the consumer joined by events received one.
    Event(mailbox::Received),
    /// The socket ends.
    End(Ending),
}

/// The totals that one socket received.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct ReceiveStats {
    pub(super) messages: u64,
    pub(super) bytes: u64,
}

/// How the socket ends, and whether messages read before that still reach the consumer.
enum Ended {
    /// The client ended it: its earlier messages come first.
    AfterMessages(Ending),
    /// A deadline or another task ended it: waiting messages are dropped.
    AtOnce(Ending),
}

impl Ended {
    fn into_ending(self) -> Ending {
        match self {
            Self::AfterMessages(ending) | Self::AtOnce(ending) => ending,
        }
    }
}

/// The receiving side of one WebSocket. Each idle socket holds one, so rarely needed fields are
/// behind a pointer.
pub(super) struct Socket {
    handle: Arc<SocketHandle>,
    decoder: Decoder,
    keepalive: KeepAlive,
    /// The tick that is pending at the clock.
    timer: Option<TimerKey>,
    extras: Option<Box<SocketExtras>>,
    received: ReceiveStats,
    /// Messages of this poll; counted in the metrics once, when it ends.
    uncounted_messages: u32,
    /// Reads of this poll.
    reads: u8,
    /// True if deadlines have changed in a way that the pending tick does not cover: it is
    /// scheduled again.
    is_timer_outdated: bool,
    /// True if the thread's buffers belong to this socket until the poll ends.
    owns_buffers: bool,
    /// True if the client's close frame has arrived, or the end of its stream.
    peer_closed: bool,
}

/// State that a socket needs only while its consumer is busy, and after it has ended.
///
/// The input in it outlasts a poll. Messages in `read_ahead` are older than the bytes in
/// `undecoded`, and those are older than the thread's input buffer.
#[derive(Default)]
struct SocketExtras {
    /// Bytes that were read but not decoded.
    undecoded: Bytes,
    /// Messages decoded while the consumer was busy.
    read_ahead: ReadAhead,
    ended: Option<Box<Ended>>,
    /// Kept from the first message on, if the route limits messages.
    counters: Option<Box<Counters>>,
    /// The time at which a pending call of the consumer is dropped; set once the socket has ended.
    call_timeout: Option<Pin<Box<Sleep>>>,
}

impl Socket {
    /// Creates a socket; `read_already` holds the bytes that the client sent right after its
    /// handshake.
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
            timer: None,
            extras: None,
            received: ReceiveStats {
                bytes: read_already.len() as u64,
                ..ReceiveStats::default()
            },
            uncounted_messages: 0,
            reads: 0,
            is_timer_outdated: true,
            owns_buffers: false,
            peer_closed: false,
            handle,
        };
        if !read_already.is_empty() {
            // A copy: the original is a slice of the buffer that the handshake was read into.
            socket.extras().undecoded = Bytes::copy_from_slice(read_already);
        }
        socket
    }

    pub(super) fn handle(&self) -> &SocketHandle {
        &self.handle
    }

    pub(super) fn received(&self) -> ReceiveStats {
        self.received
    }

    /// Returns whether the client, a deadline or another task has ended it; the consumer may not
    /// know yet.
    pub(super) fn has_ended(&self) -> bool {
        self.ended().is_some()
    }

    /// Returns how it ended.
    pub(super) fn take_ending(&mut self) -> Ending {
        match self.take_ended() {
            Some(ended) => ended.into_ending(),
            None => Ending::of(Cause::ClientGone),
        }
    }

    /// Starts a call of the consumer. A call that is pending when the socket ends gets the full
    /// `disconnect_timeout`, regardless of the previous call.
    pub(super) fn start_call(&mut self) {
        if let Some(extras) = &mut self.extras {
            extras.call_timeout = None;
        }
    }

    /// Completes once the route's `disconnect_timeout` has passed since the socket ended, or since
    /// the call started if that was later.
    pub(super) fn poll_call_timeout(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if !self.has_ended() {
            return Poll::Pending; // `serve` ends the socket, and then this is polled again
        }
        let wait = self.handle.route().settings.disconnect_timeout;
        let timeout = &mut self.extras().call_timeout;
        let timeout = timeout.get_or_insert_with(|| Box::pin(tokio::time::sleep(wait)));
        timeout.as_mut().poll(cx)
    }

    fn ended(&self) -> Option<&Ended> {
        self.extras.as_ref()?.ended.as_deref()
    }

    fn take_ended(&mut self) -> Option<Ended> {
        self.extras.as_mut()?.ended.take().map(|ended| *ended)
    }

    fn set_ended(&mut self, ended: Ended) {
        self.extras().ended = Some(Box::new(ended));
    }

    fn extras(&mut self) -> &mut SocketExtras {
        self.extras.get_or_insert_default()
    }

    /// Waits for the consumer's next item. Cancel-safe: dropping it between two polls loses
    /// nothing.
    pub(super) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Next> {
        self.claim_buffers();
        loop {
            self.handle_notification();
            match self.ended() {
                Some(Ended::AfterMessages(_)) if self.has_read_ahead() => {}
                Some(_) => return Poll::Ready(Next::End(self.take_ending())),
                None => {}
            }
            if self.uncounted_messages >= MESSAGES_PER_POLL {
                self.save_undecoded();
                return self.yield_to_others(cx);
            }
            match self.next_message() {
                Some(message) => return Poll::Ready(Next::Message(message)),
                None if self.has_ended() => continue,
                None => {}
            }
            let mailbox = self.handle.existing_mailbox();
            if let Some(Poll::Ready(received)) = mailbox.map(|mailbox| mailbox.poll_receive(cx)) {
                return Poll::Ready(Next::Event(received));
            }
            let has_room = self.flush(cx);
            // Checked again: the flush registered the task, so an earlier notification woke nothing
            // (see `SocketHandle`).
            if self.has_ended() || self.handle.is_notified() {
                continue;
            }
            if self.is_paused() {
                if self.poll_pause(cx).is_ready() {
                    continue;
                }
                self.save_undecoded();
                return self.end_poll();
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

    /// Serves the socket while the consumer is busy: control frames, output, deadlines, and reading
    /// ahead as far as there is room.
    pub(super) fn serve(&mut self, cx: &mut Context<'_>) {
        for _ in 0..READS_PER_POLL {
            let _: Poll<()> = self.poll_pause(cx);
            self.handle_notification();
            self.read_ahead();
            self.save_undecoded();
            let has_room = self.flush(cx);
            if self.handle.is_notified() {
                continue; // as in `poll_next`
            }
            // Reading ahead may have begun a pause, whose end has to wake the task.
            if self.is_paused() && self.poll_pause(cx).is_ready() {
                continue;
            }
            if self.has_ended()
                || !has_room
                || self.has_undecoded()
                || self.is_paused()
                || self.poll_read(cx).is_pending()
            {
                self.release_buffers();
                return;
            }
        }
        self.save_undecoded();
        let _: Poll<()> = self.yield_to_others(cx);
    }

    /// Claims the thread's buffers for this socket until the poll ends.
    pub(super) fn claim_buffers(&mut self) {
        if self.owns_buffers {
            return;
        }
        self.owns_buffers = true;
        self.reads = 0;
        thread_buffers::with(|buffers| buffers.claim(self.handle.id()));
    }

    /// Writes the output and returns the thread's buffers. Undecoded bytes have been saved.
    pub(super) fn release_buffers(&mut self) {
        self.write_output();
        thread_buffers::with(ThreadBuffers::release);
        self.owns_buffers = false;
        if self.uncounted_messages > 0 {
            let messages = u64::from(std::mem::take(&mut self.uncounted_messages));
            self.handle.route().metrics.received.increment(messages);
            self.received.messages += messages;
        }
    }

    /// Ends a poll whose task is woken by input, by room to write or by a notification.
    fn end_poll<T>(&mut self) -> Poll<T> {
        self.release_buffers();
        Poll::Pending
    }

    /// Ends a poll that has more to do, after other tasks and their input.
    ///
    /// It does not use `wake_by_ref`: the runtime polls a task that wakes itself up to 61 times
    /// before it checks for input again.
    fn yield_to_others<T>(&mut self, cx: &mut Context<'_>) -> Poll<T> {
        let _ = pin!(tokio::task::yield_now()).poll(cx);
        self.end_poll()
    }

    /// Checks deadlines and requests to end, if there was a notification.
    #[inline]
    fn handle_notification(&mut self) {
        if self.handle.take_notification() || self.is_timer_outdated {
            self.check_deadlines();
        }
    }

    /// Writes the output of this poll and the queued frames. `false`: the queue is so full that
    /// nothing more may be read.
    fn flush(&mut self, cx: &mut Context<'_>) -> bool {
        self.write_output();
        match self.handle.poll_flush(cx) {
            Poll::Ready(Ok(())) => true,
            Poll::Ready(Err(_)) => {
                self.stop_reading(Ending::of(Cause::ClientGone));
                true
            }
            Poll::Pending => {
                self.keep_write_deadline();
                // The replies to one more read must still fit.
                let (queued, limit) = (self.handle.queued_bytes(), self.handle.queue_limit());
                queued == 0 || (queued < limit / 2 && queued + READ_BYTES <= limit)
            }
        }
    }

    fn write_output(&self) {
        thread_buffers::with(|buffers| {
            if !buffers.output.is_empty() {
                self.handle.send(&buffers.output, buffers.messages);
                buffers.clear_output();
            }
        });
    }
}

impl Drop for Socket {
    /// Until the tick, the clock's weak reference keeps the handle's memory allocated, so the tick
    /// is cancelled now.
    fn drop(&mut self) {
        self.count_unfinished(0);
        if let Some(timer) = self.timer {
            self.handle.services().clock.cancel(timer);
        }
    }
}

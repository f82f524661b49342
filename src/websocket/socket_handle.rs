//! SocketHandle: the sending side of one socket, shared by its own task, the groups it is in and the server.
//!
//! Whoever has something to say writes it at once when nothing waits before it; only a full socket gets a queue, and then its
//! own task is woken to empty it. The queue is bounded by the route's `send_queue`; its `slow_client` says what happens there.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::{Mutex, MutexGuard};

use super::close::{Cause, CloseCode, Ending};
use super::deflate::{self, Deflater};
use super::extension::Deflate;
use super::frame::{Opcode, encode, encode_close};
use super::message::Message;
use super::route::Route;
use super::send_queue::{QueuedFrame, SendQueue, SendState, SendStats};
use super::settings::SlowClient;
use crate::auth::Login;
use crate::channels::{Delivery, GroupName, Mailbox};
use crate::clock::{Millis, NEVER, Tick};
use crate::net::Stream;
use crate::queued_bytes::{self, QueuedBytes};
use crate::scope::Scope;
use crate::services::Services;

/// How many waiting pieces one write takes.
const FRAMES_PER_WRITE: usize = 16;

/// A send queue while those of all sockets take too much.
const SEND_QUEUE_SCARCE: usize = 64 * 1024;

/// The sending side of one socket.
pub struct SocketHandle {
    stream: Stream,
    route: Arc<Route>,
    services: Services,
    /// What was agreed about compression.
    deflate: Option<Deflate>,
    /// What was known at the handshake.
    scope: Arc<Scope>,
    /// In microseconds of the clock's age: half of what an instant takes.
    started: u64,
    /// From the first group on.
    joined: OnceLock<Box<GroupState>>,
    out: Mutex<SendQueue>,
    called: AtomicBool,
}

/// Every idle WebSocket keeps one behind two counters: 224 bytes with them, and an allocator's next size is 256.
#[cfg(target_pointer_width = "64")]
const _: () = assert!(size_of::<SocketHandle>() <= 208);

/// What only a socket has that is, or was, in a group.
#[derive(Default)]
struct GroupState {
    groups: Mutex<Vec<GroupName>>,
    mailbox: OnceLock<Arc<Mailbox>>,
}

impl std::fmt::Debug for SocketHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SocketHandle")
            .field("id", &self.id())
            .finish_non_exhaustive()
    }
}

impl SocketHandle {
    pub(super) fn new(
        stream: Stream,
        route: Arc<Route>,
        services: Services,
        deflate: Option<Deflate>,
        scope: Arc<Scope>,
    ) -> Arc<Self> {
        let started = u64::try_from(services.clock.age().as_micros()).unwrap_or(u64::MAX);
        Arc::new(Self {
            stream,
            route,
            services,
            deflate,
            scope,
            started,
            joined: OnceLock::new(),
            out: Mutex::default(),
            called: AtomicBool::new(false),
        })
    }

    /// Returns the number that names the socket in this process.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.scope.connection
    }

    /// Returns the route whose socket it is.
    #[must_use]
    pub fn route(&self) -> &Arc<Route> {
        &self.route
    }

    /// Returns what the socket's user rests on.
    #[must_use]
    pub fn login(&self) -> Option<&Arc<Login>> {
        self.scope.login.as_ref()
    }

    /// Returns what was known at the handshake.
    #[must_use]
    pub fn scope(&self) -> &Scope {
        &self.scope
    }

    /// Returns since how long it is open.
    #[must_use]
    pub fn age(&self) -> Duration {
        let age = self.services.clock.age();
        age.saturating_sub(Duration::from_micros(self.started))
    }

    /// Returns what names it among the sockets of all processes: `NODE.NUMBER`.
    #[must_use]
    pub fn connection_id(&self) -> String {
        format!("{:016x}.{}", self.services.layer.node(), self.id())
    }

    /// Tells whether it is in a group.
    pub(super) fn is_in(&self, group: &str) -> bool {
        self.joined.get().is_some() && self.groups().iter().any(|joined| joined.as_str() == group)
    }

    /// Returns the names of the groups it is in, not more than so many.
    pub(super) fn group_names(&self, max: usize) -> Vec<String> {
        if self.joined.get().is_none() {
            return Vec::new();
        }
        let groups = self.groups();
        groups.iter().take(max).map(GroupName::to_string).collect()
    }

    /// Returns the groups it is in, for one who joins or leaves.
    pub(super) fn groups(&self) -> MutexGuard<'_, Vec<GroupName>> {
        let joined = self.joined.get_or_init(Box::default);
        joined.groups.lock()
    }

    /// Takes it out of all groups; returns which they were.
    pub(super) fn take_groups(&self) -> Vec<GroupName> {
        if self.joined.get().is_none() {
            return Vec::new();
        }
        std::mem::take(&mut *self.groups())
    }

    /// Ends the socket from outside: its own task sends the close frame and tells the consumer. The first order counts.
    pub fn end(&self, ending: Ending) {
        let mut out = self.out();
        out.order.get_or_insert_with(|| Box::new(ending));
        self.call(&out);
    }

    /// Returns the mailbox for events that the consumer handles itself, made when it is first asked for.
    pub(super) fn mailbox(&self) -> &Arc<Mailbox> {
        let joined = self.joined.get_or_init(Box::default);
        joined.mailbox.get_or_init(|| {
            let mailbox = self.services.layer.mailbox();
            self.out().wake(); // so that its task begins to listen to it
            mailbox
        })
    }

    /// Returns the mailbox when there is one.
    pub(super) fn has_mailbox(&self) -> Option<&Arc<Mailbox>> {
        self.joined.get()?.mailbox.get()
    }

    /// Returns the stream, for the socket's own task to read.
    pub(super) fn stream(&self) -> &Stream {
        &self.stream
    }

    /// Returns what was agreed about compression.
    pub(super) fn deflate(&self) -> Option<Deflate> {
        self.deflate
    }

    pub(super) fn services(&self) -> &Services {
        &self.services
    }

    /// Takes a call: a deadline may have come, or an order to end.
    pub(super) fn take_notification(&self) -> bool {
        self.called.load(Ordering::Relaxed) && self.called.swap(false, Ordering::Acquire)
    }

    /// Tells whether a call waits to be taken.
    pub(super) fn is_notified(&self) -> bool {
        self.called.load(Ordering::Relaxed)
    }

    fn call(&self, out: &SendQueue) {
        self.called.store(true, Ordering::Release);
        out.wake();
    }

    /// Takes an order to end.
    pub(super) fn take_end_request(&self) -> Option<Box<Ending>> {
        self.out().order.take()
    }

    /// Says a message, from wherever; it never waits.
    pub(super) fn send_message(&self, message: &Message) {
        let (opcode, payload) = match message {
            Message::Text(text) => (Opcode::Text, text.as_bytes()),
            Message::Binary(bytes) => (Opcode::Binary, &**bytes),
        };
        let mut frame = Vec::with_capacity(payload.len() + 10);
        if self.encode(opcode, payload, &mut frame) {
            self.send(&frame);
        } else {
            self.send_with_context(opcode, payload);
        }
    }

    /// Says whole frames that belong to this socket alone.
    pub(super) fn send(&self, frames: &[u8]) {
        let mut out = self.out();
        let Some(rest) = out.write_now(&self.stream, frames) else {
            return;
        };
        let bytes = Bytes::copy_from_slice(&frames[rest..]);
        let piece = QueuedFrame {
            own: QueuedBytes::new(&bytes),
            bytes,
            is_begun: rest > 0,
            conflate_key: None,
        };
        self.enqueue(&mut out, piece);
    }

    /// Appends the frame of a message, compressed as was agreed. `false`: it has to go through [`SocketHandle::send_with_context`].
    pub(super) fn encode(&self, opcode: Opcode, payload: &[u8], out: &mut Vec<u8>) -> bool {
        let settings = &self.route.settings.deflate;
        match self.deflate {
            None => encode(opcode, payload, out),
            Some(agreed) if !agreed.server_context_takeover => {
                deflate::encode_standalone(agreed, settings, opcode, payload, out);
            }
            Some(_) if !deflate::should_compress(payload.len(), settings) => {
                encode(opcode, payload, out);
            }
            Some(_) => return false,
        }
        true
    }

    /// Says a message that is compressed with regard to those before. What was said earlier must have been sent.
    ///
    /// It is compressed as it leaves, because what a group says in between changes what the client has in its window.
    pub(super) fn send_with_context(&self, opcode: Opcode, payload: &[u8]) {
        let Some(agreed) = self.deflate else { return };
        let mut frame = Vec::new();
        let mut out = self.out();
        if out.state != SendState::Open {
            return;
        }
        if !out.queue.is_empty() {
            out.reset_context(); // a message that waits may be dropped, so none may refer to it
        }
        out.deflater
            .get_or_insert_with(|| Box::new(Deflater::new(agreed, &self.route.settings.deflate)))
            .encode(opcode, payload, &mut frame);
        self.say(&mut out, &frame.into());
    }

    fn say(&self, out: &mut SendQueue, frame: &Bytes) {
        if let Some(rest) = out.write_now(&self.stream, frame) {
            let bytes = frame.slice(rest..);
            let piece = QueuedFrame {
                own: QueuedBytes::new(&bytes),
                bytes,
                is_begun: rest > 0,
                conflate_key: None,
            };
            self.enqueue(out, piece);
        }
    }

    /// Says the close frame, the last that is said.
    pub(super) fn send_close(&self, code: CloseCode, reason: &str) {
        let mut frame = Vec::new();
        encode_close(code, reason, &mut frame);
        let mut out = self.out();
        if out.state != SendState::Open {
            return;
        }
        if let Some(rest) = out.write_now(&self.stream, &frame) {
            // A client so slow that its queue is full shall still learn why: what waits makes room, but for a frame begun.
            if out.bytes + frame.len() > self.route.settings.send_queue {
                out.queue.retain(|piece| piece.is_begun);
                out.bytes = out.queue.iter().map(|piece| piece.bytes.len()).sum();
            }
            out.bytes += frame.len() - rest;
            let bytes = Bytes::from(frame).slice(rest..);
            out.queue.push_back(QueuedFrame {
                own: QueuedBytes::new(&bytes),
                bytes,
                is_begun: rest > 0,
                conflate_key: None,
            });
        }
        if out.state == SendState::Open {
            out.state = SendState::CloseSent;
        }
    }

    /// Writes what waits, for the socket's own task. `Ready(Ok)`: nothing waits any more.
    pub(super) fn poll_flush(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut out = self.out();
        out.listen(cx);
        loop {
            if out.state == SendState::Closed {
                return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
            }
            if out.queue.is_empty() {
                out.blocked_since = NEVER;
                return self.stream.poll_flush_shared(cx);
            }
            let mut slices = [IoSlice::new(&[]); FRAMES_PER_WRITE];
            let count = out.queue.len().min(FRAMES_PER_WRITE);
            for (slice, piece) in slices.iter_mut().zip(&out.queue) {
                *slice = IoSlice::new(&piece.bytes);
            }
            match self.stream.poll_write_shared(cx, &slices[..count]) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(written)) => out.written(written),
                Poll::Ready(Err(error)) => {
                    out.state = SendState::Closed;
                    return Poll::Ready(Err(error));
                }
                Poll::Pending => {
                    if out.blocked_since == NEVER {
                        out.blocked_since = self.services.clock.now();
                    }
                    return Poll::Pending;
                }
            }
        }
    }

    /// Says to the peer that nothing more comes.
    pub(super) fn poll_shutdown(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream.poll_shutdown_shared(cx)
    }

    /// Returns how many bytes may wait: the route's `send_queue`, or less while those of all sockets take too much.
    pub(super) fn send_queue(&self) -> usize {
        let most = self.route.settings.send_queue;
        if queued_bytes::total() > self.services.send_queue_total {
            most.min(SEND_QUEUE_SCARCE)
        } else {
            most
        }
    }

    /// Returns how many bytes wait.
    pub(super) fn waiting(&self) -> usize {
        self.out().bytes
    }

    /// Returns since when a write makes no progress; `NEVER` when none is waiting.
    pub(super) fn blocked_since(&self) -> Millis {
        self.out().blocked_since
    }

    /// Lets go of what waits: nobody will read it.
    pub(super) fn abort(&self) {
        let mut out = self.out();
        out.state = SendState::Closed;
        out.queue = VecDeque::new();
        out.bytes = 0;
        out.task = None;
    }

    pub(super) fn send_stats(&self) -> SendStats {
        let out = self.out();
        SendStats {
            bytes: out.sent_bytes,
            dropped: out.dropped,
        }
    }

    /// Queues what could not be written at once, or lets the route's policy decide.
    pub(super) fn enqueue(&self, out: &mut SendQueue, piece: QueuedFrame) -> Delivery {
        let limit = self.send_queue();
        let policy = self.route.settings.slow_client;
        if policy == SlowClient::Conflate && out.conflate(&piece, limit) {
            self.count_dropped(out, 1); // the one whose place it took
            return Delivery::Queued;
        }
        if policy == SlowClient::DropOldest {
            let mut dropped = 0;
            while out.bytes + piece.bytes.len() > limit
                && let Some(at) = out.queue.iter().position(|waiting| !waiting.is_begun)
                && let Some(oldest) = out.queue.remove(at)
            {
                out.bytes -= oldest.bytes.len();
                dropped += 1;
            }
            self.count_dropped(out, dropped);
        }
        // The rest of what was begun has to follow, whatever it costs, and what finds nobody waiting is not late: at most one frame,
        // or what was said in one turn, over the limit.
        let is_due = piece.is_begun || out.queue.is_empty();
        if out.bytes + piece.bytes.len() > limit && !is_due {
            self.count_dropped(out, 1);
            if policy == SlowClient::Close {
                out.order
                    .get_or_insert_with(|| Box::new(Ending::of(Cause::SlowClient)));
                self.call(out);
            }
            return Delivery::Dropped;
        }
        out.bytes += piece.bytes.len();
        let was_empty = out.queue.is_empty();
        out.queue.push_back(piece);
        if was_empty {
            out.blocked_since = self.services.clock.now();
            out.wake();
        }
        Delivery::Queued
    }

    fn count_dropped(&self, out: &mut SendQueue, messages: u32) {
        if messages > 0 {
            out.reset_context();
            out.dropped = out.dropped.saturating_add(messages);
            self.route.metrics.dropped.increment(messages.into());
        }
    }

    pub(super) fn out(&self) -> MutexGuard<'_, SendQueue> {
        self.out.lock()
    }
}

/// The clock's call.
impl Tick for SocketHandle {
    fn tick(&self) {
        self.call(&self.out());
    }
}

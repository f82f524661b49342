//! SocketHandle: the sending side of one socket, shared by its own task, its groups and the server.
//!
//! A sender takes the lock of the send queue and writes to the stream at once. Only the bytes that
//! the stream does not take are queued; the connection's own task is then woken to write them. So
//! an event of a group reaches its members' streams without waking their tasks.
//!
//! # Notifications
//!
//! The clock, and any task that ends the socket, notify the connection's task. The race: the task
//! may be about to sleep.
//!
//! ```text
//! notifier                        connection's task
//!   lock queue                      lock queue
//!   set `is_notified`               register waker      (poll_flush)
//!   wake, if a waker is registered  unlock
//!   unlock                          sleep, unless `is_notified`
//! ```
//!
//! Regardless of which locks first, no notification is lost: either the task sees the flag, because
//! the notifier set it before it released the lock, or the notifier sees the waker.

use std::io;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, Bytes};
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::oneshot;

use super::close::{Cause, CloseCode, Ending};
use super::deflate::{self, Deflater};
use super::extension::Deflate;
use super::frame::{Opcode, encode, encode_close};
use super::inspection::SocketReport;
use super::message::Message;
use super::send_queue::{QueuedFrame, SendQueue, SendStats};
use super::settings::SlowClient;
use super::socket_groups::SocketGroups;
use super::socket_route::SocketRoute;
use crate::auth::Login;
use crate::channels::{ConnectionId, Delivery, GroupLimitReached, GroupName, Mailbox};
use crate::clock::{Millis, Tick};
use crate::net::Stream;
use crate::queued_bytes;
use crate::scope::Scope;
use crate::services::Services;
use crate::telemetry::trace::{Entered, ScopeSpan};

/// The limit of one send queue while all of them together exceed `send_queue_total`.
const SEND_QUEUE_SCARCE: usize = 64 * 1024;

/// The sending side of one socket.
pub struct SocketHandle {
    stream: Stream,
    route: Arc<SocketRoute>,
    services: Services,
    /// The parameters of permessage-deflate, if it was negotiated.
    deflate: Option<Deflate>,
    /// The request that became this socket.
    scope: Arc<Scope>,
    /// When it opened, in microseconds on the clock: half the size of an `Instant`.
    opened: u64,
    /// Allocated when the socket joins its first group: most routes have none.
    groups: OnceLock<Box<GroupState>>,
    /// Behind a lock, because groups and the server send from their own tasks.
    queue: Mutex<SendQueue>,
    /// True if a deadline may be due, or the end was requested. Separate from the queue, so that
    /// the connection's task can check it without the lock.
    is_notified: AtomicBool,
    /// The number of messages sent, changed under the lock of the queue. In the handle, where its
    /// four bytes fill a gap.
    sent_messages: AtomicU32,
}

/// Every idle socket keeps one behind two reference counts: 192 bytes, a size class of jemalloc;
/// the next one is 224.
#[cfg(target_pointer_width = "64")]
const _: () = assert!(size_of::<SocketHandle>() <= 176);

/// The groups of a socket.
#[derive(Default)]
struct GroupState {
    /// The names for `take_groups`, which leaves them all at the end.
    names: Mutex<SocketGroups>,
    /// Events that the consumer handles itself; created by the first `Context::group_add`.
    mailbox: OnceLock<Arc<Mailbox>>,
}

/// Every socket in a group keeps one, in a size class of jemalloc; the next one is 64.
#[cfg(target_pointer_width = "64")]
const _: () = assert!(size_of::<GroupState>() <= 48);

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
        route: Arc<SocketRoute>,
        services: Services,
        deflate: Option<Deflate>,
        scope: Arc<Scope>,
    ) -> Arc<Self> {
        let opened = u64::try_from(services.clock.age().as_micros()).unwrap_or(u64::MAX);
        Arc::new(Self {
            stream,
            route,
            services,
            deflate,
            scope,
            opened,
            groups: OnceLock::new(),
            queue: Mutex::default(),
            is_notified: AtomicBool::new(false),
            sent_messages: AtomicU32::new(0),
        })
    }

    /// Returns the socket's number, unique in this process.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.scope.connection
    }

    /// Returns the socket's name, unique among all processes: `NODE.NUMBER`.
    #[must_use]
    pub fn connection_id(&self) -> String {
        let (node, number) = (self.services.layer.node(), self.id());
        ConnectionId { node, number }.to_string()
    }

    /// Returns the socket's route.
    #[must_use]
    pub fn route(&self) -> &Arc<SocketRoute> {
        &self.route
    }

    /// Returns the session or token that authenticated the user.
    #[must_use]
    pub fn login(&self) -> Option<&Arc<Login>> {
        self.scope.login.as_ref()
    }

    /// Returns the request that became this socket.
    #[must_use]
    pub fn scope(&self) -> &Scope {
        &self.scope
    }

    /// Returns how long the socket has been open.
    #[must_use]
    pub fn age(&self) -> Duration {
        let age = self.services.clock.age();
        age.saturating_sub(Duration::from_micros(self.opened))
    }

    /// Ends the socket from outside: its own task sends the close frame and calls the consumer's
    /// `disconnect`. The first call wins; later ones are ignored.
    pub fn end(&self, ending: Ending) {
        let mut queue = self.queue.lock();
        queue.request_end(ending);
        self.notify(&queue);
    }

    /// Returns whether it is in a group.
    pub(super) fn is_in(&self, group: &str) -> bool {
        self.groups.get().is_some() && self.groups().contains(group)
    }

    /// Returns the names of at most `max` of its groups.
    pub(super) fn group_names(&self, max: usize) -> Vec<String> {
        if self.groups.get().is_none() {
            return Vec::new();
        }
        self.groups().names(max)
    }

    /// Returns its groups, for [`SocketHandle::join_group`].
    pub(super) fn groups(&self) -> MutexGuard<'_, SocketGroups> {
        self.groups.get_or_init(Box::default).names.lock()
    }

    /// Checks whether it may join a group, before it waits for Redis.
    pub(super) fn check_group(&self, group: &GroupName) -> Result<(), GroupLimitReached> {
        let groups = self.groups();
        if groups.contains(group.as_str()) {
            return Ok(());
        }
        let limits = &self.services.group_limits;
        limits.check(self.client_ip(), groups.len(), group)
    }

    /// Adds a group to its groups, within the limits of groups.
    pub(super) fn join_group(
        &self,
        groups: &mut SocketGroups,
        group: &GroupName,
    ) -> Result<(), GroupLimitReached> {
        groups.join(group, &self.services.group_limits, self.client_ip())
    }

    /// Removes a group from its groups.
    pub(super) fn leave_group(&self, group: &GroupName) {
        if self.groups.get().is_some() {
            let (limits, client) = (&self.services.group_limits, self.client_ip());
            self.groups().leave(group.as_str(), limits, client);
        }
    }

    /// Returns its groups and forgets them.
    pub(super) fn take_groups(&self) -> Vec<GroupName> {
        if self.groups.get().is_none() {
            return Vec::new();
        }
        let (limits, client) = (&self.services.group_limits, self.client_ip());
        self.groups().leave_all(limits, client)
    }

    fn client_ip(&self) -> Option<IpAddr> {
        self.scope.client.as_ref().map(|client| client.ip())
    }

    /// Returns the mailbox for events that the consumer handles itself, created by the first call.
    pub(super) fn mailbox(&self) -> &Arc<Mailbox> {
        let groups = self.groups.get_or_init(Box::default);
        groups.mailbox.get_or_init(|| {
            let mailbox = self.services.layer.mailbox();
            // A task that sleeps has not polled the mailbox yet, so no event would wake it.
            self.queue.lock().wake();
            mailbox
        })
    }

    /// Returns the mailbox if there is one.
    pub(super) fn existing_mailbox(&self) -> Option<&Arc<Mailbox>> {
        self.groups.get()?.mailbox.get()
    }

    /// Returns the stream, which the connection's task reads.
    pub(super) fn stream(&self) -> &Stream {
        &self.stream
    }

    /// Returns the parameters of permessage-deflate.
    pub(super) fn deflate(&self) -> Option<Deflate> {
        self.deflate
    }

    pub(super) fn services(&self) -> &Services {
        &self.services
    }

    /// Returns whether a notification is pending.
    pub(super) fn is_notified(&self) -> bool {
        self.is_notified.load(Ordering::Relaxed)
    }

    /// Clears the notification: a deadline may be due, or the end was requested. Returns whether
    /// there was one.
    pub(super) fn take_notification(&self) -> bool {
        // The load spares most polls the swap, which is a locked instruction.
        self.is_notified() && self.is_notified.swap(false, Ordering::Acquire)
    }

    /// Asks the socket's own task for a report. The receiver gets none from a task that is busy
    /// until it ends, or that only passes bytes on.
    pub(super) fn request_report(&self) -> oneshot::Receiver<SocketReport> {
        let (to, report) = oneshot::channel();
        let mut queue = self.queue.lock();
        queue.request_report(to);
        self.notify(&queue);
        report
    }

    /// Takes the request for a report.
    pub(super) fn take_report_request(&self) -> Option<oneshot::Sender<SocketReport>> {
        self.queue.lock().take_report_request()
    }

    /// Takes the ending that another task requested.
    pub(super) fn take_end_request(&self) -> Option<Ending> {
        self.queue.lock().take_end_request()
    }

    /// Sends a message from any task; never waits.
    pub(super) fn send_message(&self, message: &Message) {
        let (opcode, payload) = match message {
            Message::Text(text) => (Opcode::Text, text.as_bytes()),
            Message::Binary(bytes) => (Opcode::Binary, &**bytes),
        };
        let mut frame = Vec::with_capacity(payload.len() + 10);
        if self.encode(opcode, payload, &mut frame) {
            self.send(&frame, 1);
        } else {
            self.send_with_context(opcode, payload);
        }
    }

    /// Sends whole frames that belong to this socket alone, with that many messages.
    pub(super) fn send(&self, frames: &[u8], messages: u32) {
        let mut queue = self.queue.lock();
        self.count_sent(&queue, messages);
        if let Some(written) = queue.try_write(&self.stream, frames) {
            // Only the unwritten bytes are copied; most frames are written whole.
            let rest = Bytes::copy_from_slice(&frames[written..]);
            self.enqueue(&mut queue, QueuedFrame::own(rest, written));
        }
    }

    /// Appends the frame of a message, compressed as negotiated. `false`: it must go through
    /// [`SocketHandle::send_with_context`].
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

    /// Sends a message that is compressed with the context of the messages before it, which must
    /// have been sent.
    ///
    /// It is compressed under the lock, at the moment it is sent: a group's event in between would
    /// change the client's window.
    pub(super) fn send_with_context(&self, opcode: Opcode, payload: &[u8]) {
        let Some(agreed) = self.deflate else { return };
        let mut queue = self.queue.lock();
        if !queue.is_open() {
            return;
        }
        self.count_sent(&queue, 1);
        let mut frame = Vec::new();
        queue
            .deflater(|| Deflater::new(agreed, &self.route.settings.deflate))
            .encode(opcode, payload, &mut frame);
        let mut frame = Bytes::from(frame);
        if let Some(written) = queue.try_write(&self.stream, &frame) {
            frame.advance(written);
            self.enqueue(&mut queue, QueuedFrame::own(frame, written));
        }
    }

    /// Sends the close frame, after which nothing is sent.
    pub(super) fn send_close(&self, code: CloseCode, reason: &str) {
        let mut frame = Vec::new();
        encode_close(code, reason, &mut frame);
        let (limit, now) = (self.route.settings.send_queue, self.services.clock.now());
        let mut queue = self.queue.lock();
        queue.send_close(&self.stream, frame.into(), limit, now);
    }

    /// Writes the queued frames, for the connection's task. `Ready(Ok)`: the queue is empty.
    pub(super) fn poll_flush(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let now = self.services.clock.now();
        self.queue.lock().poll_flush(&self.stream, cx, now)
    }

    /// Leaves the stream to a tunnel: no other sender writes to it.
    pub(super) fn leave_to_tunnel(&self) {
        self.queue.lock().leave_to_tunnel();
    }

    /// Registers the connection's task, for one that does not call `poll_flush`.
    pub(super) fn register(&self, cx: &Context<'_>) {
        self.queue.lock().register(cx);
    }

    /// Ends the wait in `poll_drained`.
    pub(super) fn end_drained(&self) {
        self.queue.lock().end_drained();
    }

    /// Waits until at most half of the route's `send_queue` is full, or the socket ends.
    pub(super) fn poll_drained(&self, cx: &Context<'_>) -> Poll<()> {
        let half = self.route.settings.send_queue / 2;
        self.queue.lock().poll_drained(half, cx)
    }

    /// Half-closes the stream.
    pub(super) fn poll_shutdown(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream.poll_shutdown_shared(cx)
    }

    /// Returns the limit of the queue in bytes: the route's `send_queue`, or less while the queues
    /// of all sockets exceed `send_queue_total`.
    pub(super) fn queue_limit(&self) -> usize {
        let most = self.route.settings.send_queue;
        if queued_bytes::total() > self.services.send_queue_total() {
            most.min(SEND_QUEUE_SCARCE)
        } else {
            most
        }
    }

    /// Returns how many bytes are queued.
    pub(super) fn queued_bytes(&self) -> usize {
        self.queue.lock().bytes()
    }

    /// Returns the time since which a write makes no progress; `NEVER` if the queue is empty.
    pub(super) fn blocked_since(&self) -> Millis {
        self.queue.lock().blocked_since()
    }

    /// Discards the queued frames, and ends sending.
    pub(super) fn abort(&self) {
        let mut queue = self.queue.lock();
        queue.close();
        queue.unregister();
    }

    /// Makes the socket's span the current one of this thread; `None` while nothing is traced.
    #[inline]
    pub(super) fn enter_span(&self) -> Option<Entered> {
        ScopeSpan::of(&self.scope().extensions).map(ScopeSpan::enter)
    }

    pub(super) fn send_stats(&self) -> SendStats {
        self.queue.lock().stats()
    }

    /// Counts messages that were handed to the stream or to the queue.
    pub(super) fn count_sent(&self, queue: &SendQueue, messages: u32) {
        if !queue.is_open() {
            return;
        }
        let before = self.sent_messages.load(Ordering::Relaxed);
        let sent = before.checked_add(messages).unwrap_or_else(|| {
            self.route.metrics.sent.increment(before.into()); // the rest is counted at the end
            messages
        });
        self.sent_messages.store(sent, Ordering::Relaxed);
    }

    /// Returns how many messages were sent that the route's counter lacks until the socket ends.
    pub(super) fn sent_messages(&self) -> u32 {
        self.sent_messages.load(Ordering::Relaxed)
    }

    /// Queues bytes that could not be written, or drops frames according to the route's
    /// `slow_client`.
    pub(super) fn enqueue(&self, queue: &mut SendQueue, frame: QueuedFrame) -> Delivery {
        let policy = self.route.settings.slow_client;
        let now = self.services.clock.now();
        let (delivery, dropped) = queue.enqueue(frame, self.queue_limit(), policy, now);
        self.route.metrics.note_queued(queue.bytes());
        if dropped > 0 {
            queue.count_dropped(dropped);
            self.route.metrics.dropped.increment(dropped.into());
        }
        if delivery == Delivery::Dropped && policy == SlowClient::Close {
            queue.request_end(Ending::of(Cause::SlowClient));
            self.notify(queue);
        }
        delivery
    }

    pub(super) fn lock_queue(&self) -> MutexGuard<'_, SendQueue> {
        self.queue.lock()
    }

    /// Takes the locked queue as proof of the order in the module's diagram.
    fn notify(&self, queue: &SendQueue) {
        self.is_notified.store(true, Ordering::Release);
        queue.wake();
    }
}

/// A deadline may be due.
impl Tick for SocketHandle {
    fn tick(&self) {
        self.notify(&self.queue.lock());
    }
}

//! Tunnel: relays the bytes of one WebSocket between the client and an upstream server.
//!
//! ```text
//!  run ──► Open ──────────────────────────────────────────────────────────► Closing ──► ended
//!            │ a close frame has passed, either way                          close_timeout
//!            │ the client's stream has ended
//!            │ the upstream's stream has ended: 1014 to the client, if no frame is under way
//!            │ drain, reload, a deadline, the server API: each side gets the close frame of
//!            └ the cause, after the frame that is under way to it
//! ```
//!
//! Both directions run in the connection's own task. While the tunnel is open, that task is one
//! struct, polled in place; the end is boxed when it is reached.

use std::any::Any;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};

use bytes::Bytes;

use super::client_limits::ClientLimits;
use super::direction::{Direction, Progress, Turn};
use super::frame_boundaries::FrameBoundaries;
use crate::clock::{Millis, NEVER, Tick, TimerKey};
use crate::net::Stream;
use crate::queued_bytes;
use crate::upstream::Slot;
use crate::websocket::close::{Cause, CloseCode, Ending};
use crate::websocket::connection_task::ConnectionTask;
use crate::websocket::driver::SocketParts;
use crate::websocket::frame::Opcode;
use crate::websocket::keepalive::{Due, KeepAlive, Reading, millis};
use crate::websocket::pause::PauseEnd;
use crate::websocket::settings::SocketSettings;
use crate::websocket::socket_handle::SocketHandle;
use crate::websocket::sockets::Sockets;
use crate::websocket::thread_buffers::READ_BYTES;

/// The most reads of each direction in one poll before other tasks run.
const READS_PER_POLL: u8 = 8;

/// The most bytes of one read while the queues of all sockets exceed `send_queue_total`.
const READ_BYTES_SCARCE: usize = 4096;

/// The most bytes of one read of a client whose messages are limited.
const READ_BYTES_LIMITED: usize = 16 * 1024;

/// A ping without a payload, as servers send it.
const PING: &[u8] = &[0x80 | Opcode::Ping as u8, 0];

/// The upstream's end of a tunnel.
pub(super) struct UpstreamEnd {
    pub(super) stream: Stream,
    /// The bytes that it sent right after its 101.
    pub(super) read_already: Bytes,
    /// How long it may take none of the client's bytes.
    pub(super) stall_timeout: Millis,
    /// Its place among the upstream's connections, until the tunnel ends.
    pub(super) slot: Slot,
}

/// A WebSocket whose bytes pass between the client and an upstream server.
pub(super) struct Tunnel {
    /// The client's stream, and what other tasks ask of the socket.
    pub(super) handle: Arc<SocketHandle>,
    pub(super) upstream: Stream,
    stall_timeout: Millis,
    pub(super) to_upstream: Direction,
    pub(super) to_client: Direction,
    keepalive: KeepAlive,
    /// The tick that is pending at the clock.
    timer: Option<TimerKey>,
    /// True if deadlines have changed in a way that the pending tick does not cover.
    is_timer_outdated: bool,
    pub(super) messages: u64,
    pub(super) sockets: Sockets,
    extras: Box<TunnelExtras>,
}

/// The parts of a tunnel that are rarely needed.
struct TunnelExtras {
    _permits: (Box<dyn Any + Send>, Slot),
    /// Of what the client sends, if the route has some.
    limits: Option<Box<ClientLimits>>,
}

/// Relays until the tunnel ends.
pub(super) fn run(parts: SocketParts, upstream: UpstreamEnd) -> ConnectionTask {
    let tunnel = Tunnel::new(parts, upstream);
    ConnectionTask::new(relay(tunnel))
}

#[expect(
    clippy::manual_async_fn,
    reason = "the future of an async fn would hold the arguments twice"
)]
fn relay(mut tunnel: Tunnel) -> impl Future<Output = Option<ConnectionTask>> + Send {
    async move {
        let ending = poll_fn(|cx| tunnel.poll_open(cx)).await;
        Box::pin(tunnel.end(ending)).await;
        None
    }
}

impl Tunnel {
    fn new(parts: SocketParts, upstream: UpstreamEnd) -> Self {
        let handle =
            SocketHandle::new(parts.stream, parts.route, parts.services, None, parts.scope);
        handle.leave_to_tunnel();
        let now = handle.services().clock.now();
        let mut tunnel = Self {
            keepalive: KeepAlive::new(now, &handle.route().settings, fastrand::f64()),
            upstream: upstream.stream,
            stall_timeout: upstream.stall_timeout,
            to_upstream: Direction::default(),
            to_client: Direction::default(),
            timer: None,
            is_timer_outdated: true,
            messages: 0,
            sockets: parts.sockets,
            extras: Box::new(TunnelExtras {
                _permits: (parts.permits, upstream.slot),
                limits: ClientLimits::new(&handle, &parts.read_already),
            }),
            handle,
        };
        match tunnel.extras.limits {
            Some(_) => tunnel.to_upstream.received += parts.read_already.len() as u64,
            None => tunnel.to_upstream.begin(&parts.read_already, now),
        }
        tunnel.to_client.begin(&upstream.read_already, now);
        tunnel.sockets.open(&tunnel.handle);
        tunnel
    }

    /// Relays until a close frame has passed, one side has ended, or the tunnel is to end.
    fn poll_open(&mut self, cx: &mut Context<'_>) -> Poll<Ending> {
        loop {
            self.handle.register(cx);
            if (self.handle.take_notification() || self.is_timer_outdated)
                && let Some(ending) = self.check_deadlines()
            {
                return Poll::Ready(ending);
            }
            let progress = self.poll_directions(cx);
            if let Some(ending) = self.known_ending() {
                return Poll::Ready(ending);
            }
            match progress {
                Progress::Waiting if self.handle.is_notified() || self.is_timer_outdated => {}
                Progress::Waiting => return self.wait(),
                Progress::Changed => {}
                Progress::Busy => {
                    yield_to_others(cx);
                    return Poll::Pending;
                }
            }
        }
    }

    /// Moves the bytes of both directions.
    pub(super) fn poll_directions(&mut self, cx: &mut Context<'_>) -> Progress {
        let handle = &*self.handle;
        let services = handle.services();
        let is_scarce = queued_bytes::total() > services.send_queue_total();
        let turn = Turn {
            now: services.clock.now(),
            reads: READS_PER_POLL,
            read_bytes: if is_scarce {
                READ_BYTES_SCARCE
            } else {
                READ_BYTES
            },
        };
        let (client, upstream) = (handle.stream(), &self.upstream);
        let (received, sent) = (self.to_upstream.received, self.to_client.sent);
        let progress = [
            match poll_pause(&mut self.extras, cx) {
                Poll::Ready(Some((end, since))) => {
                    match end {
                        PauseEnd::Elapsed => {
                            let paused = turn.now.saturating_sub(since);
                            self.keepalive.resumed(turn.now, paused);
                            let limits = self.extras.limits.as_ref();
                            if limits.is_some_and(|limits| !limits.has_passed()) {
                                self.keepalive.first_message_waited(paused);
                            }
                            self.is_timer_outdated = true;
                        }
                        PauseEnd::ClientGone => self.to_upstream.end_source(),
                    }
                    // The deadlines are checked before the next read may begin another pause.
                    Progress::Changed
                }
                Poll::Ready(None) => {
                    let limits = self.extras.limits.as_deref_mut();
                    let turn = match limits {
                        // A pause may follow each read, and keeps the rest of it.
                        Some(_) => Turn {
                            reads: 1,
                            read_bytes: turn.read_bytes.min(READ_BYTES_LIMITED),
                            ..turn
                        },
                        None => turn,
                    };
                    let streams = (client, upstream);
                    self.to_upstream.poll(cx, streams, turn, limits)
                }
                Poll::Pending => self.to_upstream.poll_held(cx, upstream, turn.now),
            },
            self.to_client
                .poll(cx, (upstream, client), turn, None::<&mut ClientLimits>),
        ];
        let metrics = &handle.route().metrics;
        if self.to_client.sent != sent {
            metrics.sent_bytes.increment(self.to_client.sent - sent);
            let messages = self.to_client.frames.take_messages();
            metrics.sent.increment(messages.into());
        }
        if self.to_upstream.received != received {
            let bytes = self.to_upstream.received - received;
            metrics.received_bytes.increment(bytes);
            self.is_timer_outdated |= self.keepalive.received(turn.now);
        }
        let messages = self.to_upstream.frames.take_messages();
        if messages > 0 {
            self.keepalive.message();
            self.messages += u64::from(messages);
            metrics.received.increment(messages.into());
        }
        match progress {
            [Progress::Changed, _] | [_, Progress::Changed] => Progress::Changed,
            [Progress::Busy, _] | [_, Progress::Busy] => Progress::Busy,
            _ => Progress::Waiting,
        }
    }

    /// Reads the client again, whatever it sends: the tunnel closes.
    pub(super) fn end_limits(&mut self) {
        if let Some(limits) = &mut self.extras.limits {
            limits.end();
        }
    }

    /// Returns how the tunnel ends, once one of its sides has ended it.
    fn known_ending(&self) -> Option<Ending> {
        let limits = self.extras.limits.as_ref();
        if limits.is_some_and(|limits| limits.is_exceeded()) {
            return Some(Ending::of(Cause::RateLimited));
        }
        if self.to_upstream.frames.is_closed() {
            Some(closed(Cause::ClientClose, &self.to_upstream.frames))
        } else if self.to_client.frames.is_closed() {
            Some(closed(Cause::UpstreamClose, &self.to_client.frames))
        } else if self.to_upstream.source_has_ended() || self.to_client.sink_is_gone() {
            Some(Ending::of(Cause::ClientGone))
        } else if self.to_client.source_has_ended() || self.to_upstream.sink_is_gone() {
            Some(Ending::of(Cause::UpstreamGone))
        } else {
            None
        }
    }

    /// Schedules the deadlines of blocked writes before the task sleeps.
    fn wait(&mut self) -> Poll<Ending> {
        let due = self.stalled_at().min(self.write_timeout_at());
        if due < self.tick_at() {
            self.set_timer(due);
        }
        Poll::Pending
    }

    /// Returns how the tunnel ends, if another task has requested it or a deadline has passed.
    /// Pings a silent client.
    fn check_deadlines(&mut self) -> Option<Ending> {
        let is_timer_outdated = std::mem::take(&mut self.is_timer_outdated);
        if let Some(ending) = self.handle.take_end_request() {
            return Some(ending);
        }
        let now = self.handle.services().clock.now();
        if now >= self.stalled_at() {
            return Some(Ending::of(Cause::UpstreamStalled));
        }
        let due = match self.due(now, KeepAlive::due) {
            Due::Ping if self.to_client.inject(PING, now) => {
                self.keepalive.pinged(now);
                self.due(now, KeepAlive::due)
            }
            // The upstream is in the middle of a frame, or the client does not read, so no ping
            // fits: try again later.
            Due::Ping => {
                let again = now + millis(self.handle.route().settings.pong_timeout);
                match self.due(now, KeepAlive::due_without_ping) {
                    Due::Nothing(next) => Due::Nothing(next.min(again)),
                    end => end,
                }
            }
            other => other,
        };
        match due {
            Due::End(ending) => return Some(ending),
            Due::Nothing(next) => {
                let next = next.min(self.stalled_at());
                if is_timer_outdated || now >= self.tick_at() || next < self.tick_at() {
                    self.set_timer(next);
                }
            }
            Due::Ping => {}
        }
        None
    }

    fn due(
        &self,
        now: Millis,
        due: fn(&KeepAlive, Millis, &SocketSettings, Millis, Reading) -> Due,
    ) -> Due {
        // While bytes for the upstream are held, the client is not read: a pong could not be seen.
        let limits = self.extras.limits.as_ref();
        let reading = if limits.is_some_and(|limits| limits.is_paused()) {
            Reading::Paused
        } else if self.to_upstream.is_holding() {
            Reading::Blocked
        } else {
            Reading::Yes
        };
        let settings = &self.handle.route().settings;
        let blocked_since = self.to_client.blocked_since();
        due(&self.keepalive, now, settings, blocked_since, reading)
    }

    /// Returns when the upstream has taken nothing for too long.
    fn stalled_at(&self) -> Millis {
        after(self.to_upstream.blocked_since(), self.stall_timeout)
    }

    fn write_timeout_at(&self) -> Millis {
        let wait = millis(self.handle.route().settings.write_timeout);
        after(self.to_client.blocked_since(), wait)
    }

    fn tick_at(&self) -> Millis {
        self.timer.map_or(NEVER, TimerKey::at)
    }

    fn set_timer(&mut self, at: Millis) {
        let clock = &self.handle.services().clock;
        let timer = (at < NEVER).then(|| {
            let handle: Weak<dyn Tick> = Arc::downgrade(&(self.handle.clone() as Arc<dyn Tick>));
            clock.wake_at(at, handle)
        });
        if let Some(before) = std::mem::replace(&mut self.timer, timer) {
            clock.cancel(before);
        }
    }
}

/// Waits for the end of a pause; ready without one if there is none.
fn poll_pause(extras: &mut TunnelExtras, cx: &mut Context<'_>) -> Poll<Option<(PauseEnd, Millis)>> {
    match &mut extras.limits {
        Some(limits) => limits.poll_pause(cx),
        None => Poll::Ready(None),
    }
}

impl Drop for Tunnel {
    /// Until the tick, the clock's weak reference keeps the handle's memory allocated, so the tick
    /// is cancelled now.
    fn drop(&mut self) {
        if let Some(timer) = self.timer {
            self.handle.services().clock.cancel(timer);
        }
    }
}

/// Returns the ending of the close frame that a side has sent.
pub(super) fn closed(cause: Cause, frames: &FrameBoundaries) -> Ending {
    let (code, reason) = frames.close().unwrap_or_default();
    let code = match code {
        // The peer that receives an invalid code fails the connection.
        Some(code) => CloseCode::new(code).unwrap_or(CloseCode::PROTOCOL_ERROR),
        None => CloseCode::NO_STATUS,
    };
    Ending::chosen(cause, code, reason)
}

/// Returns when a wait expires; one of zero never does.
fn after(since: Millis, wait: Millis) -> Millis {
    match wait {
        0 => NEVER,
        wait => since.saturating_add(wait),
    }
}

/// Ends a poll that has more to do, after other tasks and their input.
pub(super) fn yield_to_others(cx: &mut Context<'_>) {
    let _ = pin!(tokio::task::yield_now()).poll(cx);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every idle tunnel keeps one, in an allocation of one of jemalloc's size classes.
    #[test]
    fn future_of_an_idle_tunnel_fits_its_size_class() {
        fn size<F>(_: impl FnOnce(Tunnel) -> F) -> usize {
            size_of::<F>()
        }
        assert!(
            size(relay) <= 384,
            "{} {}",
            size(relay),
            size_of::<Direction>()
        );
    }
}

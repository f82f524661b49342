//! Connection timeouts: the phases of an HTTP connection and their deadlines.
//!
//! ```text
//!              head                     no progress
//! FirstHead ─────────> Answering <────────────────────> Blocked
//!                       │     ▲          progress
//!     response flushed  │     │ head
//!                       ▼     │
//!                      Idle ──┴──> Head
//!                         first byte
//!
//! any phase ── our side closed ──> Lingering
//! FirstHead, Idle, Head ── server stops ──> Draining
//! ```
//!
//! | phase | ends the connection after |
//! |---|---|
//! | `FirstHead` | `timeouts.handshake` since it was accepted |
//! | `Head` (HTTP/1.1) | `timeouts.handshake` since the first byte |
//! | `Answering` | never: views have deadlines of their own |
//! | `Blocked` | `timeouts.request`, plus what the bytes taken earn at `limits.min_rate` |
//! | `Idle` | `timeouts.keep_alive` since the last response |
//! | `Lingering` | 5 s |
//! | `Draining` | `timeouts.handshake` |
//!
//! The phase is not stored but derived from instants. Each event writes its instant with one
//! relaxed store. The clock wakes the connection's task at the deadline of the last poll; if the
//! deadline has moved since, the task goes back to sleep. So a request sets no timer.
//!
//! All writes but two come from the connection's own task, which reads and writes the stream and
//! parses heads. The exceptions are a task that drops a response, which ends its request
//! ([`InFlight`]), and the clock, which wakes from its own task. Neither needs an ordering: a stale
//! instant causes one extra wake-up at worst.

mod phase;

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::task::AtomicWaker;
use metrics::counter;

use super::sent_files::SentFiles;
use crate::clock::{Clock, Millis, NEVER, Tick, TimerKey};
use crate::config::ServerConfig;
use crate::http::ClientEnd;
use crate::net::Stream;

/// How long to read from a client after closing our side, in milliseconds.
const LINGERING: Millis = 5_000;

/// Values of [`ConnectionTimeouts::parsed`].
const NOTHING_PARSED: u8 = 0;
const PARSED: u8 = 1;
const PARSED_WITH_BODY: u8 = 2;

/// The state of one connection, from which its phase is derived.
pub(super) struct ConnectionTimeouts {
    clock: Clock,
    durations: Durations,
    /// The number of requests whose response hyper has not taken completely; over HTTP/2 there may
    /// be several.
    in_flight: AtomicU32,
    /// Whether hyper may still buffer the end of a response. Its next flush clears this.
    is_unflushed: AtomicBool,
    /// Whether a request was parsed.
    has_served: AtomicBool,
    is_http2: AtomicBool,
    /// When the connection was accepted, or the last response was taken and then flushed.
    idle_since: AtomicU64,
    /// When the first byte of an incomplete head arrived; `NEVER` if no head is incomplete.
    head_since: AtomicU64,
    /// How many bytes have arrived since then.
    head_bytes: AtomicUsize,
    /// When writes last stopped making progress; `NEVER` while they make progress.
    blocked_since: AtomicU64,
    /// How long earlier writes of this response made no progress, and the number of bytes written
    /// after the first of them.
    blocked: AtomicU64,
    written: AtomicU64,
    /// When the server began to stop; `NEVER` before.
    draining_since: AtomicU64,
    /// When our side was closed; `NEVER` before.
    lingering_since: AtomicU64,
    /// Whether the client had its time to close its own.
    has_lingered: AtomicBool,
    /// Whether the target of the last head has a fragment, which hyper drops.
    has_fragment: AtomicBool,
    /// The last request parsed since the last read, for the head scanner.
    parsed: AtomicU8,
    /// The connection's task.
    task: AtomicWaker,
    client: ClientEnd,
    /// Copies of two facts about the client, which most requests ask for: its own state is in
    /// another place in memory.
    client_has_ended: AtomicBool,
    /// Whether a request had a body.
    has_had_body: AtomicBool,
    /// hyper's read, which stays pending at the end of the client's stream while a response is in
    /// flight.
    hidden_read: AtomicWaker,
    /// Whether HTTP has begun: there may be a handshake before.
    has_begun: AtomicBool,
    /// Whether the client has sent too many frames over HTTP/2.
    has_flooded: AtomicBool,
    /// Whether the kernel can send files to the stream.
    sends_files: AtomicBool,
    sent_files: SentFiles,
}

#[derive(Clone, Copy, Debug)]
struct Durations {
    handshake: Millis,
    keep_alive: Millis,
    write: Millis,
    /// In bytes per second.
    min_rate: u64,
    /// The shortest duration above zero. A keep-alive of zero is not a deadline: hyper then closes
    /// the connection itself.
    shortest: Millis,
}

/// One request on a connection, until hyper has taken its response.
pub(super) struct InFlight(pub(super) Arc<ConnectionTimeouts>);

impl ConnectionTimeouts {
    pub(super) fn new(clock: Clock, server: &ServerConfig) -> Arc<Self> {
        let now = clock.now();
        let configured = &server.timeouts;
        let [handshake, keep_alive, write] = [
            configured.handshake,
            configured.keep_alive,
            configured.request,
        ]
        .map(millis);
        let lasting = [handshake, keep_alive, write]
            .into_iter()
            .filter(|timeout| *timeout > 0);
        Arc::new(Self {
            clock,
            durations: Durations {
                handshake,
                keep_alive,
                write,
                min_rate: server.limits.min_rate.0,
                shortest: lasting.min().unwrap_or(handshake),
            },
            in_flight: AtomicU32::new(0),
            is_unflushed: AtomicBool::new(false),
            has_served: AtomicBool::new(false),
            is_http2: AtomicBool::new(false),
            idle_since: AtomicU64::new(now),
            head_since: AtomicU64::new(NEVER),
            head_bytes: AtomicUsize::new(0),
            blocked_since: AtomicU64::new(NEVER),
            blocked: AtomicU64::new(0),
            written: AtomicU64::new(0),
            draining_since: AtomicU64::new(NEVER),
            lingering_since: AtomicU64::new(NEVER),
            has_lingered: AtomicBool::new(false),
            has_fragment: AtomicBool::new(false),
            parsed: AtomicU8::new(NOTHING_PARSED),
            task: AtomicWaker::new(),
            client: ClientEnd::default(),
            client_has_ended: AtomicBool::new(false),
            has_had_body: AtomicBool::new(false),
            hidden_read: AtomicWaker::new(),
            has_begun: AtomicBool::new(false),
            has_flooded: AtomicBool::new(false),
            sends_files: AtomicBool::new(false),
            sent_files: SentFiles::default(),
        })
    }

    /// Records that hyper has parsed a head.
    pub(super) fn start_request(
        self: &Arc<Self>,
        version: http::Version,
        has_body: bool,
    ) -> InFlight {
        if version >= http::Version::HTTP_2 {
            self.is_http2.store(true, Ordering::Relaxed);
        }
        self.has_served.store(true, Ordering::Relaxed);
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        self.head_since.store(NEVER, Ordering::Relaxed);
        self.blocked.store(0, Ordering::Relaxed);
        self.written.store(0, Ordering::Relaxed);
        if self.client.is_awaited() && !self.client_has_ended() {
            self.client.resume();
        }
        if has_body {
            self.has_had_body.store(true, Ordering::Relaxed);
        }
        let parsed = if has_body { PARSED_WITH_BODY } else { PARSED };
        self.parsed.store(parsed, Ordering::Relaxed);
        InFlight(self.clone())
    }

    /// Returns once whether the last parsed request has a body.
    pub(super) fn take_parsed(&self) -> Option<bool> {
        // Needs no swap, because only the connection's task reads and parses.
        let parsed = self.parsed.load(Ordering::Relaxed);
        self.parsed.store(NOTHING_PARSED, Ordering::Relaxed);
        match parsed {
            PARSED => Some(false),
            PARSED_WITH_BODY => Some(true),
            _ => None,
        }
    }

    pub(super) fn note_fragment(&self) {
        self.has_fragment.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_http2(&self) -> bool {
        self.is_http2.load(Ordering::Relaxed)
    }

    /// Records over which stream HTTP begins.
    pub(super) fn record_stream(&self, stream: &Stream) {
        self.has_begun.store(true, Ordering::Relaxed);
        self.sends_files
            .store(stream.sends_files(), Ordering::Relaxed);
    }

    /// Returns the files that the kernel sends; `None` if it cannot, because their bytes need a
    /// frame (HTTP/2) or encryption.
    pub(super) fn sent_files(&self) -> Option<&SentFiles> {
        let sends_files = self.sends_files.load(Ordering::Relaxed) && !self.is_http2();
        sends_files.then_some(&self.sent_files)
    }

    /// Returns the clock that the deadlines are kept by.
    pub(super) fn clock(&self) -> &Clock {
        &self.clock
    }

    /// Records that the client has sent too many frames over HTTP/2.
    pub(super) fn record_flood(&self) {
        self.has_flooded.store(true, Ordering::Relaxed);
    }

    /// Returns whether the client has sent too many frames over HTTP/2.
    pub(super) fn has_flooded(&self) -> bool {
        self.has_flooded.load(Ordering::Relaxed)
    }

    /// Returns the client's end of the connection.
    pub(super) fn client(&self) -> &ClientEnd {
        &self.client
    }

    /// Records that the client has closed its sending side.
    pub(super) fn end_client(&self) {
        self.client_has_ended.store(true, Ordering::Relaxed);
        self.client.end();
    }

    /// Returns whether the client has closed its sending side.
    pub(super) fn client_has_ended(&self) -> bool {
        self.client_has_ended.load(Ordering::Relaxed)
    }

    /// Returns the client's end of the connection if a request had a body: only a body can be
    /// unread, or broken off.
    pub(super) fn client_with_body(&self) -> Option<&ClientEnd> {
        self.has_had_body
            .load(Ordering::Relaxed)
            .then_some(&self.client)
    }

    /// Returns once whether the target of the last request has a fragment.
    pub(super) fn take_fragment(&self) -> bool {
        // Loaded first, because most targets have none and then need no read-modify-write.
        self.has_fragment.load(Ordering::Relaxed)
            && self.has_fragment.swap(false, Ordering::Relaxed)
    }

    /// Completes at the deadline of the current phase. Cancel-safe.
    pub(super) async fn expired(self: &Arc<Self>) {
        let mut woken_at = 0;
        let mut timer = ScheduledTick {
            clock: self.clock.clone(),
            key: None,
        };
        std::future::poll_fn(|cx| {
            self.task.register(cx.waker());
            let now = self.clock.now();
            let deadline = self.deadline();
            if now >= deadline {
                if self.is_blocked() {
                    counter!("oneport_slow_clients_total", "direction" => "response").increment(1);
                }
                return Poll::Ready(());
            }
            if now >= woken_at || deadline < woken_at {
                // A later phase may have an earlier deadline, but none sooner than the shortest
                // duration from now.
                woken_at = deadline.min(now + self.durations.shortest);
                let timeouts: Weak<dyn Tick> = Arc::downgrade(&(self.clone() as Arc<dyn Tick>));
                timer.replace(woken_at, timeouts);
            }
            Poll::Pending
        })
        .await;
    }

    /// Returns whether the client takes nothing of what is to be written.
    pub(super) fn is_blocked(&self) -> bool {
        load(&self.blocked_since) != NEVER
    }

    /// Returns the minimum rate at which a client must send and receive, in bytes per second.
    pub(super) fn min_rate(&self) -> u64 {
        self.durations.min_rate
    }

    /// Returns whether an HTTP/1.1 connection has no request in flight.
    pub(super) fn is_idle(&self) -> bool {
        !self.is_http2()
            && !self.is_answering()
            && self.lingering_since.load(Ordering::Relaxed) == NEVER
    }

    /// Returns whether a head has begun and is not whole, while nothing else ends the connection.
    pub(super) fn awaits_head(&self) -> bool {
        let is_open = load(&self.lingering_since) == NEVER && load(&self.draining_since) == NEVER;
        is_open && self.is_idle() && load(&self.head_since) != NEVER
    }

    /// Returns whether to hide the end of the client's stream from hyper, which would drop the
    /// request: the client may have closed only its sending side (RFC 9112 §9.6). The reader of a
    /// body detects its truncation.
    pub(super) fn hides_end(&self) -> bool {
        self.is_answering() && !self.is_http2()
    }

    /// Leaves a read pending at the hidden end of the stream.
    pub(super) fn hide(&self, cx: &Context<'_>) {
        self.hidden_read.register(cx.waker());
    }

    /// Returns whether a request is in flight or hyper buffers the end of its response.
    fn is_answering(&self) -> bool {
        self.in_flight.load(Ordering::Relaxed) > 0 || self.is_unflushed.load(Ordering::Relaxed)
    }

    /// Records that hyper has flushed its buffer.
    pub(super) fn record_flushed(&self) {
        if self.is_unflushed.load(Ordering::Relaxed) {
            self.is_unflushed.store(false, Ordering::Relaxed);
            // The client may have taken its time for what hyper had buffered.
            self.idle_since.store(self.clock.now(), Ordering::Relaxed);
            if self.client_has_ended() {
                self.hidden_read.wake(); // the end is no longer hidden
            }
        }
    }

    /// Records that our side is closed. Returns whether to wait for the client to close its own: if
    /// the connection was idle when the server began to stop, a reset can destroy no response.
    pub(super) fn start_linger(&self) -> bool {
        if self.has_lingered.load(Ordering::Relaxed) {
            return false;
        }
        let draining = load(&self.draining_since);
        let was_idle = draining != NEVER && load(&self.idle_since) < draining;
        if was_idle && load(&self.head_since) == NEVER {
            return false;
        }
        // Only the first call may wake the task, because the task itself calls this.
        if load(&self.lingering_since) == NEVER {
            self.lingering_since
                .store(self.clock.now(), Ordering::Relaxed);
            self.tick(); // schedules the new deadline
        }
        true
    }

    /// Records that the client need not be waited for any more. Returns whether it was.
    pub(super) fn end_linger(&self) -> bool {
        self.has_lingered.store(true, Ordering::Relaxed);
        load(&self.lingering_since) != NEVER
    }

    /// Records that the server begins to stop.
    pub(super) fn start_drain(&self) {
        self.draining_since
            .store(self.clock.now(), Ordering::Relaxed);
    }

    /// Records that bytes were read.
    pub(super) fn record_read(&self, bytes: usize) {
        if self.in_flight.load(Ordering::Relaxed) > 0 {
            return;
        }
        // Needs no read-modify-write, because only the connection's task reads.
        let mut before = 0;
        if self.head_since.load(Ordering::Relaxed) == NEVER {
            self.head_since.store(self.clock.now(), Ordering::Relaxed);
        } else {
            before = self.head_bytes.load(Ordering::Relaxed);
        }
        self.head_bytes
            .store(before.saturating_add(bytes), Ordering::Relaxed);
    }

    /// Returns how many bytes of a head that was not parsed have arrived, without those that
    /// arrived during the request before.
    pub(super) fn head_bytes(&self) -> usize {
        self.head_bytes.load(Ordering::Relaxed)
    }

    /// Records that bytes were written.
    pub(super) fn record_written(&self, bytes: usize) {
        let since = self.blocked_since.load(Ordering::Relaxed);
        if since != NEVER {
            self.blocked_since.store(NEVER, Ordering::Relaxed);
            let blocked = self.clock.now().saturating_sub(since);
            self.blocked.fetch_add(blocked.max(1), Ordering::Relaxed);
        }
        // Bytes written before the first wait only filled the kernel's buffers. Later ones measure
        // how fast the client reads.
        if self.blocked.load(Ordering::Relaxed) > 0 {
            self.written.fetch_add(bytes as u64, Ordering::Relaxed);
        }
    }

    /// Records that a write has to wait.
    pub(super) fn record_blocked(&self) {
        if self.blocked_since.load(Ordering::Relaxed) == NEVER {
            let now = self.clock.now();
            self.blocked_since.store(now, Ordering::Relaxed);
            // Earlier waits of this response may have left less than the clock looks ahead.
            if self.deadline() < now.saturating_add(self.durations.shortest) {
                self.tick();
            }
        }
    }
}

/// A timer of the clock, cancelled when the connection ends.
struct ScheduledTick {
    clock: Clock,
    key: Option<TimerKey>,
}

impl ScheduledTick {
    fn replace(&mut self, at: Millis, timeouts: Weak<dyn Tick>) {
        if let Some(before) = self.key.replace(self.clock.wake_at(at, timeouts)) {
            self.clock.cancel(before);
        }
    }
}

impl Drop for ScheduledTick {
    fn drop(&mut self) {
        if let Some(key) = self.key {
            self.clock.cancel(key);
        }
    }
}

impl Tick for ConnectionTimeouts {
    fn tick(&self) {
        self.task.wake();
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        // A body that was still being read while the response was sent: hyper waits for its reader.
        drop(self.0.client_with_body().and_then(ClientEnd::take_unread));
        self.0
            .idle_since
            .store(self.0.clock.now(), Ordering::Relaxed);
        // hyper has taken the last frame and writes it with its next flush. Over HTTP/1.1 this runs
        // in the connection's own task, before `in_flight` is decremented, so the connection is
        // never idle in between.
        self.0.is_unflushed.store(true, Ordering::Relaxed);
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

fn load(instant: &AtomicU64) -> Millis {
    instant.load(Ordering::Relaxed)
}

pub(super) fn millis(duration: Duration) -> Millis {
    Millis::try_from(duration.as_millis()).unwrap_or(NEVER)
}

#[cfg(test)]
mod tests;

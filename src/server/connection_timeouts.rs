//! ConnectionTimeouts: when something last happened on a connection that speaks HTTP, and when that is too long ago.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use futures_util::task::AtomicWaker;
use metrics::counter;

use super::stall_timeout::StallTimeout;
use crate::clock::{Clock, Millis, NEVER, Tick, TimerKey};
use crate::config::ServerConfig;
use crate::http::Client;
use crate::http::pace::earned;

/// How long, in milliseconds, a client is read after our side is closed.
const LINGERING: Millis = 5_000;

/// What [`ConnectionTimeouts::take_parsed`] has to tell.
const NOTHING_PARSED: u8 = 0;
const PARSED: u8 = 1;
const PARSED_WITH_BODY: u8 = 2;

/// What is known of a connection's progress.
pub(super) struct ConnectionTimeouts {
    clock: Clock,
    durations: Durations,
    /// Requests whose answer hyper has not taken whole.
    in_flight: AtomicU32,
    /// Whether hyper may still hold a part of an answer that it has taken.
    is_unflushed: AtomicBool,
    has_served: AtomicBool,
    is_http2: AtomicBool,
    /// When the connection was accepted, or the last answer was written.
    idle_since: AtomicU64,
    /// When the first byte of a head came that is not whole yet.
    head_since: AtomicU64,
    /// Since when a write makes no progress.
    blocked_since: AtomicU64,
    /// How long writes of the answer made no progress before that, and how many bytes followed.
    blocked: AtomicU64,
    written: AtomicU64,
    /// Since when the server stops.
    draining_since: AtomicU64,
    /// Since when our side is closed and the client's is waited for.
    lingering_since: AtomicU64,
    /// Whether the target of the head that is read has a fragment.
    has_fragment: AtomicBool,
    /// The last request that was parsed since the last read.
    parsed: AtomicU8,
    task: AtomicWaker,
    client: Client,
    /// The read that was left pending at the client's end of stream.
    hidden: AtomicWaker,
}

#[derive(Clone, Copy, Debug)]
struct Durations {
    handshake: Millis,
    keep_alive: Millis,
    write: Millis,
    /// Bytes a second, below which a client is too slow.
    min_rate: u64,
    /// The shortest of them that is not zero: without keep-alive, hyper closes the connection itself.
    shortest: Millis,
}

/// One request on a connection, until its answer is written.
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
            blocked_since: AtomicU64::new(NEVER),
            blocked: AtomicU64::new(0),
            written: AtomicU64::new(0),
            draining_since: AtomicU64::new(NEVER),
            lingering_since: AtomicU64::new(NEVER),
            has_fragment: AtomicBool::new(false),
            parsed: AtomicU8::new(NOTHING_PARSED),
            task: AtomicWaker::new(),
            client: Client::default(),
            hidden: AtomicWaker::new(),
        })
    }

    /// A request's head is whole.
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
        let parsed = if has_body { PARSED_WITH_BODY } else { PARSED };
        self.parsed.store(parsed, Ordering::Relaxed);
        InFlight(self.clone())
    }

    /// Tells, once, of the last request that was parsed whether it has a body.
    pub(super) fn take_parsed(&self) -> Option<bool> {
        let parsed = self.parsed.load(Ordering::Relaxed); // one task reads and parses
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

    /// Watches an answer over HTTP/2, whose stream may be without window.
    pub(super) fn watch_stalls(&self) -> Option<Arc<StallTimeout>> {
        self.is_http2()
            .then(|| StallTimeout::watch(&self.clock, self.durations.write))?
    }

    pub(super) fn is_http2(&self) -> bool {
        self.is_http2.load(Ordering::Relaxed)
    }

    /// Returns the client's end of the connection.
    pub(super) fn client(&self) -> &Client {
        &self.client
    }

    /// Tells, once, whether the target of the request that was just read had a fragment.
    pub(super) fn take_fragment(&self) -> bool {
        // Without a read-modify-write for the many that have none.
        self.has_fragment.load(Ordering::Relaxed)
            && self.has_fragment.swap(false, Ordering::Relaxed)
    }

    /// Completes when nothing has happened for too long.
    pub(super) async fn expired(self: &Arc<Self>) {
        let mut called_at = 0;
        let mut call = ScheduledTick {
            clock: self.clock.clone(),
            call: None,
        };
        std::future::poll_fn(|cx| {
            self.task.register(cx.waker());
            let now = self.clock.now();
            let deadline = self.deadline();
            if now >= deadline {
                if self.blocked_since.load(Ordering::Relaxed) != NEVER {
                    counter!("oneport_slow_clients_total", "direction" => "response").increment(1);
                }
                return Poll::Ready(());
            }
            if now >= called_at || deadline < called_at {
                // Without a deadline now there may be one later; it is at least as long as the shortest of them.
                let at = deadline.min(now + self.durations.shortest);
                called_at = at;
                let waiting: std::sync::Weak<dyn Tick> =
                    Arc::downgrade(&(self.clone() as Arc<dyn Tick>));
                call.replace(at, waiting);
            }
            Poll::Pending
        })
        .await;
    }

    /// How many bytes a second a client has to send and to take.
    pub(super) fn min_rate(&self) -> u64 {
        self.durations.min_rate
    }

    /// Tells whether no request is under way on a connection that carries one at a time.
    pub(super) fn is_idle(&self) -> bool {
        !self.is_http2()
            && !self.is_answering()
            && self.lingering_since.load(Ordering::Relaxed) == NEVER
    }

    /// The end of the client's stream is kept from hyper while a request is under way: hyper would drop the request, but the
    /// client may only have closed its sending side. A body that is cut off is noticed by who reads it.
    pub(super) fn hides_end(&self) -> bool {
        self.is_answering() && !self.is_http2()
    }

    /// Leaves a read pending at the hidden end of the stream.
    pub(super) fn hide(&self, cx: &Context<'_>) {
        self.hidden.register(cx.waker());
    }

    /// A request is under way, or hyper holds the end of its answer.
    fn is_answering(&self) -> bool {
        self.in_flight.load(Ordering::Relaxed) > 0 || self.is_unflushed.load(Ordering::Relaxed)
    }

    /// All that hyper had to write is written.
    pub(super) fn record_flushed(&self) {
        if self.is_unflushed.load(Ordering::Relaxed) {
            self.is_unflushed.store(false, Ordering::Relaxed);
            if self.client.has_ended() {
                self.hidden.wake(); // hyper may see the end of the stream now
            }
        }
    }

    /// Our side is closed. Tells whether the client's is waited for: one that was idle when the server stopped has nothing to
    /// lose.
    pub(super) fn start_linger(&self) -> bool {
        let load = |cell: &AtomicU64| cell.load(Ordering::Relaxed);
        let draining = load(&self.draining_since);
        let was_idle = draining != NEVER && load(&self.idle_since) < draining;
        if was_idle && load(&self.head_since) == NEVER {
            return false;
        }
        // Once: it wakes the task that asks.
        if load(&self.lingering_since) == NEVER {
            self.lingering_since
                .store(self.clock.now(), Ordering::Relaxed);
            self.tick(); // there is a deadline now
        }
        true
    }

    /// The server stops: what is idle has no more time than a handshake.
    pub(super) fn start_drain(&self) {
        self.draining_since
            .store(self.clock.now(), Ordering::Relaxed);
    }

    fn deadline(&self) -> Millis {
        let load = |cell: &AtomicU64| cell.load(Ordering::Relaxed);
        let lingering = load(&self.lingering_since);
        if lingering != NEVER {
            return lingering.saturating_add(LINGERING);
        }
        let blocked = load(&self.blocked_since);
        if blocked != NEVER {
            let earned = earned(load(&self.written), self.durations.min_rate);
            let left = self.durations.write.saturating_add(earned);
            let left = left.saturating_sub(load(&self.blocked));
            return blocked.saturating_add(left.min(self.durations.write));
        }
        if self.in_flight.load(Ordering::Relaxed) > 0 {
            return NEVER;
        }
        let idle = load(&self.idle_since);
        let draining = load(&self.draining_since);
        if draining != NEVER {
            // HTTP/2 takes leave in two steps, and a client that is gone answers neither.
            return idle.max(draining).saturating_add(self.durations.handshake);
        }
        if !self.has_served.load(Ordering::Relaxed) {
            return idle.saturating_add(self.durations.handshake);
        }
        let head = load(&self.head_since);
        if head != NEVER && !self.is_http2.load(Ordering::Relaxed) {
            head.saturating_add(self.durations.handshake)
        } else {
            idle.saturating_add(self.durations.keep_alive)
        }
    }

    pub(super) fn record_read(&self) {
        if self.in_flight.load(Ordering::Relaxed) == 0
            && self.head_since.load(Ordering::Relaxed) == NEVER
        {
            self.head_since.store(self.clock.now(), Ordering::Relaxed);
        }
    }

    pub(super) fn record_written(&self, bytes: usize) {
        let since = self.blocked_since.load(Ordering::Relaxed);
        if since != NEVER {
            self.blocked_since.store(NEVER, Ordering::Relaxed);
            let blocked = self.clock.now().saturating_sub(since);
            self.blocked.fetch_add(blocked.max(1), Ordering::Relaxed);
        }
        // Once a write has waited, there is room for as much as the client takes. What was written before only filled the
        // system's buffers.
        if self.blocked.load(Ordering::Relaxed) > 0 {
            self.written.fetch_add(bytes as u64, Ordering::Relaxed);
        }
    }

    pub(super) fn record_blocked(&self) {
        if self.blocked_since.load(Ordering::Relaxed) == NEVER {
            self.blocked_since
                .store(self.clock.now(), Ordering::Relaxed);
        }
    }
}

/// The clock's promise to a connection; it is called off when the connection ends.
struct ScheduledTick {
    clock: Clock,
    call: Option<TimerKey>,
}

impl ScheduledTick {
    fn replace(&mut self, at: Millis, waiting: std::sync::Weak<dyn Tick>) {
        if let Some(before) = self.call.replace(self.clock.wake_at(at, waiting)) {
            self.clock.cancel(before);
        }
    }
}

impl Drop for ScheduledTick {
    fn drop(&mut self) {
        if let Some(call) = self.call {
            self.clock.cancel(call);
        }
    }
}

impl Tick for ConnectionTimeouts {
    fn tick(&self) {
        self.task
            .take()
            .as_ref()
            .map(Waker::wake_by_ref)
            .unwrap_or_default();
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0
            .idle_since
            .store(self.0.clock.now(), Ordering::Relaxed);
        // hyper has taken the last piece, and writes it with its next flush.
        self.0.is_unflushed.store(true, Ordering::Relaxed);
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

fn millis(duration: Duration) -> Millis {
    Millis::try_from(duration.as_millis()).unwrap_or(NEVER)
}

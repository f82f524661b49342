//! Pulse: when something last happened on a connection that speaks HTTP, and when that is too long ago.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use futures_util::task::AtomicWaker;
use http_body::{Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::clock::{Call, Clock, Millis, NEVER, Tick};
use crate::config::TimeoutsConfig;
use crate::http::{Body, Client};

/// How long, in milliseconds, and for how many bytes a client is read after our side is closed.
pub(super) const LINGERING: Millis = 5_000;
const LINGERING_BYTES_MAX: usize = 16 * 1024 * 1024;

/// What is known of a connection's progress.
pub(super) struct Pulse {
    clock: Clock,
    timeouts: Timeouts,
    /// Requests whose answer is not written whole.
    in_flight: AtomicU32,
    has_served: AtomicBool,
    is_http2: AtomicBool,
    /// When the connection was accepted, or the last answer was written.
    idle_since: AtomicU64,
    /// When the first byte of a head came that is not whole yet.
    head_since: AtomicU64,
    /// Since when a write makes no progress.
    blocked_since: AtomicU64,
    /// Since when the server stops.
    draining_since: AtomicU64,
    /// Since when our side is closed and the client's is waited for.
    lingering_since: AtomicU64,
    /// Whether the target of the head that is read has a fragment.
    has_fragment: AtomicBool,
    task: AtomicWaker,
    client: Client,
    /// The read that was left pending at the client's end of stream.
    hidden: AtomicWaker,
}

#[derive(Clone, Copy, Debug)]
struct Timeouts {
    handshake: Millis,
    keep_alive: Millis,
    write: Millis,
}

/// One request on a connection, until its answer is written.
pub(super) struct InFlight(Arc<Pulse>);

impl Pulse {
    pub(super) fn new(clock: Clock, timeouts: &TimeoutsConfig) -> Arc<Self> {
        let now = clock.now();
        Arc::new(Self {
            clock,
            timeouts: Timeouts {
                handshake: millis(timeouts.handshake),
                keep_alive: millis(timeouts.keep_alive),
                write: millis(timeouts.request),
            },
            in_flight: AtomicU32::new(0),
            has_served: AtomicBool::new(false),
            is_http2: AtomicBool::new(false),
            idle_since: AtomicU64::new(now),
            head_since: AtomicU64::new(NEVER),
            blocked_since: AtomicU64::new(NEVER),
            draining_since: AtomicU64::new(NEVER),
            lingering_since: AtomicU64::new(NEVER),
            has_fragment: AtomicBool::new(false),
            task: AtomicWaker::new(),
            client: Client::default(),
            hidden: AtomicWaker::new(),
        })
    }

    /// A request's head is whole.
    pub(super) fn request(self: &Arc<Self>, version: http::Version) -> InFlight {
        if version >= http::Version::HTTP_2 {
            self.is_http2.store(true, Ordering::Relaxed);
        }
        self.has_served.store(true, Ordering::Relaxed);
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        self.head_since.store(NEVER, Ordering::Relaxed);
        InFlight(self.clone())
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
        let mut call = Promised {
            clock: self.clock.clone(),
            call: None,
        };
        std::future::poll_fn(|cx| {
            self.task.register(cx.waker());
            let now = self.clock.now();
            let deadline = self.deadline();
            if now >= deadline {
                return Poll::Ready(());
            }
            if now >= called_at || deadline < called_at {
                // Without a deadline now there may be one later; it is at least as long as the shortest of them.
                let at = deadline.min(
                    now + self
                        .timeouts
                        .handshake
                        .min(self.timeouts.keep_alive)
                        .min(self.timeouts.write),
                );
                called_at = at;
                let waiting: std::sync::Weak<dyn Tick> =
                    Arc::downgrade(&(self.clone() as Arc<dyn Tick>));
                call.replace(at, waiting);
            }
            Poll::Pending
        })
        .await;
    }

    /// Tells whether no request is under way on a connection that carries one at a time.
    pub(super) fn is_idle(&self) -> bool {
        self.in_flight.load(Ordering::Relaxed) == 0
            && !self.is_http2.load(Ordering::Relaxed)
            && self.lingering_since.load(Ordering::Relaxed) == NEVER
    }

    /// The end of the client's stream is kept from hyper while a request is under way: hyper would drop the request, but the
    /// client may only have closed its sending side. A body that is cut off is noticed by who reads it.
    fn hides_end(&self) -> bool {
        self.in_flight.load(Ordering::Relaxed) > 0 && !self.is_http2.load(Ordering::Relaxed)
    }

    /// Our side is closed. Tells whether the client's is waited for: one that is idle at the end has nothing to lose.
    fn linger(&self) -> bool {
        let is_draining = self.draining_since.load(Ordering::Relaxed) != NEVER;
        let has_begun = self.head_since.load(Ordering::Relaxed) != NEVER;
        if is_draining && !has_begun {
            return false;
        }
        let since = &self.lingering_since;
        let _ = since.compare_exchange(
            NEVER,
            self.clock.now(),
            Ordering::Relaxed,
            Ordering::Relaxed,
        );
        true
    }

    /// The server stops: what is idle has no more time than a handshake.
    pub(super) fn drain(&self) {
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
            return blocked.saturating_add(self.timeouts.write);
        }
        if self.in_flight.load(Ordering::Relaxed) > 0 {
            return NEVER;
        }
        let idle = load(&self.idle_since);
        let draining = load(&self.draining_since);
        if draining != NEVER {
            // HTTP/2 takes leave in two steps, and a client that is gone answers neither.
            return idle.max(draining).saturating_add(self.timeouts.handshake);
        }
        if !self.has_served.load(Ordering::Relaxed) {
            return idle.saturating_add(self.timeouts.handshake);
        }
        let head = load(&self.head_since);
        if head != NEVER && !self.is_http2.load(Ordering::Relaxed) {
            head.saturating_add(self.timeouts.handshake)
        } else {
            idle.saturating_add(self.timeouts.keep_alive)
        }
    }

    /// Tells whether these were the first bytes of a head.
    fn has_read(&self) -> bool {
        let is_first = self.in_flight.load(Ordering::Relaxed) == 0
            && self.head_since.load(Ordering::Relaxed) == NEVER;
        if is_first {
            self.head_since.store(self.clock.now(), Ordering::Relaxed);
        }
        is_first
    }

    fn has_written(&self) {
        if self.blocked_since.load(Ordering::Relaxed) != NEVER {
            self.blocked_since.store(NEVER, Ordering::Relaxed);
        }
    }

    fn is_blocked(&self) {
        if self.blocked_since.load(Ordering::Relaxed) == NEVER {
            self.blocked_since
                .store(self.clock.now(), Ordering::Relaxed);
        }
    }
}

/// The clock's promise to a connection; it is called off when the connection ends.
struct Promised {
    clock: Clock,
    call: Option<Call>,
}

impl Promised {
    fn replace(&mut self, at: Millis, waiting: std::sync::Weak<dyn Tick>) {
        if let Some(before) = self.call.replace(self.clock.wake_at(at, waiting)) {
            self.clock.call_off(before);
        }
    }
}

impl Drop for Promised {
    fn drop(&mut self) {
        if let Some(call) = self.call {
            self.clock.call_off(call);
        }
    }
}

impl Tick for Pulse {
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
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
        if self.0.client.has_ended() {
            self.0.hidden.wake(); // hyper may see the end of the stream now
        }
    }
}

fn millis(duration: Duration) -> Millis {
    Millis::try_from(duration.as_millis()).unwrap_or(NEVER)
}

/// Makes the largest lengths of a body smaller by one or two. hyper keeps these two numbers for itself and would answer 431 to
/// them; a byte less is refused as too long by everybody.
fn lower_largest_length(head: &mut [u8]) {
    const DIGITS: &[u8] = b"1844674407370955161";
    let Some(at) = memchr::memmem::find(head, DIGITS) else {
        return;
    };
    let last = at + DIGITS.len();
    let (before, behind) = (head[..at].trim_ascii_end(), &head[last..]);
    let name = b"content-length:";
    let is_length = before.len() > name.len()
        && before[before.len() - name.len()..].eq_ignore_ascii_case(name)
        && before[before.len() - name.len() - 1] == b'\n'
        && memchr::memmem::find(before, b"\r\n\r\n").is_none();
    if is_length && matches!(behind, [b'4' | b'5', b'\r', ..]) {
        head[last] = b'3';
    }
}

/// A stream whose progress is noted.
pub(super) struct Observed<S> {
    pub(super) stream: S,
    pulse: Arc<Pulse>,
    is_in_request_line: bool,
    is_shut_down: bool,
    drained: usize,
}

impl<S> Observed<S> {
    pub(super) fn new(stream: S, pulse: Arc<Pulse>) -> Self {
        Self {
            stream,
            pulse,
            is_in_request_line: false,
            is_shut_down: false,
            drained: 0,
        }
    }

    /// Looks for a fragment in the request line, which the parser of targets drops. Only where a head begins with a read: of one
    /// that comes in the same read as the request before it, the fragment stays unseen.
    fn look_at(&mut self, read: &mut [u8]) {
        let is_first = self.pulse.has_read();
        if self.pulse.is_http2.load(Ordering::Relaxed) {
            return;
        }
        if self.pulse.in_flight.load(Ordering::Relaxed) == 0 {
            lower_largest_length(read);
        }
        if !(is_first || self.is_in_request_line) {
            return;
        }
        let end = read.iter().position(|byte| matches!(byte, b'\n' | b'#'));
        self.is_in_request_line = end.is_none();
        if end.is_some_and(|end| read[end] == b'#') {
            self.pulse.has_fragment.store(true, Ordering::Relaxed);
        }
    }

    fn note(&self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        match &written {
            Poll::Pending => self.pulse.is_blocked(),
            Poll::Ready(_) => self.pulse.has_written(),
        }
        written
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Observed<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        if self.pulse.client.has_ended() && self.pulse.hides_end() {
            self.pulse.hidden.register(cx.waker());
            return Poll::Pending;
        }
        let read = Pin::new(&mut self.stream).poll_read(cx, buffer);
        match read {
            Poll::Ready(Ok(())) if buffer.filled().len() > before => {
                self.look_at(&mut buffer.filled_mut()[before..]);
            }
            Poll::Ready(Ok(())) if buffer.remaining() > 0 => {
                self.pulse.client.end();
                if self.pulse.hides_end() {
                    self.pulse.hidden.register(cx.waker());
                    return Poll::Pending;
                }
            }
            Poll::Ready(Err(_)) => self.pulse.client.end(),
            _ => {}
        }
        read
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Observed<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.note(written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    /// Closes our side, then reads what the client still sends, until it closes its own (RFC 9112 §9.6). Closing a socket with
    /// unread bytes resets it, and a reset can destroy an answer that the client has not read yet.
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if !this.is_shut_down {
            ready!(Pin::new(&mut this.stream).poll_shutdown(cx))?;
            this.is_shut_down = true;
        }
        if this.pulse.client.has_ended() || !this.pulse.linger() {
            return Poll::Ready(Ok(()));
        }
        let mut scratch = [0; 8192];
        while this.drained < LINGERING_BYTES_MAX {
            let mut buffer = ReadBuf::new(&mut scratch);
            match ready!(Pin::new(&mut this.stream).poll_read(cx, &mut buffer)) {
                Ok(()) if !buffer.filled().is_empty() => this.drained += buffer.filled().len(),
                _ => break,
            }
        }
        Poll::Ready(Ok(()))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.note(written)
    }
}

/// A body whose end is the end of its request.
pub(super) struct Answered {
    body: Body,
    _in_flight: Option<InFlight>,
}

impl Answered {
    pub(super) fn new(body: Body, in_flight: Option<InFlight>) -> Self {
        Self {
            body,
            _in_flight: in_flight,
        }
    }
}

impl http_body::Body for Answered {
    type Data = bytes::Bytes;
    type Error = crate::http::body::BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<bytes::Bytes>, Self::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_two_largest_lengths_of_a_head_are_lowered() {
        let check = |head: &str, expected: Option<&str>| {
            let mut bytes = head.as_bytes().to_vec();
            lower_largest_length(&mut bytes);
            let found = String::from_utf8(bytes).unwrap();
            assert_eq!(found, expected.unwrap_or(head));
        };
        check(
            "POST / HTTP/1.1\r\nContent-Length: 18446744073709551615\r\n\r\n",
            Some("POST / HTTP/1.1\r\nContent-Length: 18446744073709551613\r\n\r\n"),
        );
        check(
            "POST / HTTP/1.1\r\ncontent-length:18446744073709551614\r\n\r\n",
            Some("POST / HTTP/1.1\r\ncontent-length:18446744073709551613\r\n\r\n"),
        );
        check(
            "POST / HTTP/1.1\r\nContent-Length: 18446744073709551613\r\n\r\n",
            None,
        );
        check(
            "POST / HTTP/1.1\r\nContent-Length: 184467440737095516150\r\n\r\n",
            None,
        );
        check(
            "POST / HTTP/1.1\r\nX-Content-Length: 18446744073709551615\r\n\r\n",
            None,
        );
        check(
            "POST / HTTP/1.1\r\n\r\nContent-Length: 18446744073709551615\r\n\r\n",
            None,
        );
        check("1844674407370955161", None);
    }
}

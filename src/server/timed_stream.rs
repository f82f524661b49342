//! Timed stream: the stream of an HTTP connection. Records progress, hides the client's end of
//! stream, has the kernel send files, counts the frames of HTTP/2, and lingers at close.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::connection_ends::NotHttp;
use super::connection_timeouts::ConnectionTimeouts;
use super::head_scanner::{Found, HeadScanner, PREFACE};
use super::http2_frames::Http2Frames;
use super::sent_files::is_placeholder;
use super::unread_end::UnreadEnd;
use crate::net::{AgreedProtocol, Stream};

/// The maximum bytes to read from a client after our side is closed.
const LINGERING_BYTES_MAX: usize = 16 * 1024 * 1024;

/// The same for a client that has flooded the server.
const FLOOD_LINGERING_BYTES_MAX: usize = 1024 * 1024;

/// The maximum bytes of several slices that are copied into one: the kernel takes a short response
/// faster in one piece.
const JOINED_BYTES_MAX: usize = 1024;

/// A stream that records its progress in [`ConnectionTimeouts`].
pub(super) struct TimedStream {
    stream: Stream,
    timeouts: Arc<ConnectionTimeouts>,
    heads: HeadScanner,
    protocol: Protocol,
    /// Whether the client speaks another protocol and gets no response.
    is_refused: bool,
    is_shut_down: bool,
    /// Whether hyper waits for more bytes, and will see the end.
    is_reading: bool,
    unread_end: Option<Box<UnreadEnd>>,
    drained: usize,
    /// The ciphertext that the stream had taken at the last look.
    ciphertext: u64,
}

/// The version of HTTP that the client speaks.
enum Protocol {
    /// So many bytes of the preface of HTTP/2 were read.
    Unknown(usize),
    Http1,
    Http2(Box<Http2Frames>),
}

impl TimedStream {
    pub(super) fn new(
        stream: Stream,
        timeouts: Arc<ConnectionTimeouts>,
        protocol: AgreedProtocol,
    ) -> Self {
        timeouts.record_stream(&stream);
        Self {
            ciphertext: stream.taken_ciphertext(),
            stream,
            timeouts,
            heads: HeadScanner::new(protocol),
            protocol: Protocol::Unknown(0),
            is_refused: false,
            is_shut_down: false,
            is_reading: false,
            unread_end: None,
            drained: 0,
        }
    }

    /// Returns the bare stream.
    pub(super) fn into_inner(self) -> Stream {
        self.stream
    }

    /// Looks at the bytes of a read. Returns how many of them hyper may have.
    fn look_at(&mut self, read: &mut [u8]) -> io::Result<usize> {
        self.timeouts.record_read(read.len());
        if !self.timeouts.is_http2() {
            self.scan_heads(read)?;
        }
        match &mut self.protocol {
            Protocol::Http1 => Ok(read.len()),
            Protocol::Http2(frames) => {
                let allowed = frames.receive(read);
                if frames.has_flooded() {
                    self.timeouts.record_flood();
                }
                Ok(allowed)
            }
            Protocol::Unknown(matched) => {
                let expected = &PREFACE[*matched..];
                let compared = expected.len().min(read.len());
                if expected[..compared] != read[..compared] {
                    self.protocol = Protocol::Http1;
                } else if compared < expected.len() {
                    *matched += compared;
                } else {
                    let mut frames = Box::new(Http2Frames::new(self.timeouts.clock().clone()));
                    let allowed = compared + frames.receive(&read[compared..]);
                    self.protocol = Protocol::Http2(frames);
                    return Ok(allowed);
                }
                Ok(read.len())
            }
        }
    }

    fn scan_heads(&mut self, read: &mut [u8]) -> io::Result<()> {
        if let Some(has_body) = self.timeouts.take_parsed() {
            self.heads.parsed(has_body);
        }
        match self.heads.scan(read) {
            Found::Nothing => Ok(()),
            Found::Fragment => {
                self.timeouts.note_fragment();
                Ok(())
            }
            Found::NotHttp => {
                self.is_refused = true;
                Err(other_protocol())
            }
        }
    }

    /// Looks at the first `count` bytes of slices, which were written.
    fn look_at_written(&mut self, slices: &[io::IoSlice<'_>], mut count: usize) {
        let Protocol::Http2(frames) = &mut self.protocol else {
            return;
        };
        for slice in slices {
            let part = &slice[..count.min(slice.len())];
            frames.send(part);
            count -= part.len();
        }
    }

    fn note(&mut self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        let is_tls = self.note_ciphertext();
        match &written {
            Poll::Pending => self.timeouts.record_blocked(),
            // What is encrypted may still wait: the ciphertext that is taken counts instead.
            Poll::Ready(_) if is_tls => {}
            Poll::Ready(written) => self
                .timeouts
                .record_written(*written.as_ref().unwrap_or(&0)),
        }
        written
    }

    /// Looks for the client's end where hyper does not, for a response that waits for it. While a
    /// view reads a body, the rest of that body may be before the end.
    fn watch_end(&mut self, cx: &mut Context<'_>) {
        let (client, has_ended) = (self.timeouts.client(), self.timeouts.client_has_ended());
        let is_seen = self.is_reading || has_ended;
        let is_awaited = client.is_awaited() && !client.is_reading_body();
        if self.timeouts.hides_end() && is_awaited && !is_seen {
            let unread_end = self.unread_end.get_or_insert_with(Box::default);
            unread_end.poll(&self.stream, client, cx);
        } else if let Some(unread_end) = self.unread_end.take()
            && unread_end.is_found()
            && !has_ended
        {
            client.resume(); // the response is over
        }
    }

    /// Records the ciphertext that the stream has taken since the last look: the client reads,
    /// although nothing more is written. Returns whether the stream speaks TLS.
    fn note_ciphertext(&mut self) -> bool {
        let ciphertext = self.stream.taken_ciphertext();
        let count = ciphertext.wrapping_sub(self.ciphertext);
        if count > 0 {
            self.ciphertext = ciphertext;
            let count = usize::try_from(count).unwrap_or(usize::MAX);
            self.timeouts.record_written(count);
        }
        ciphertext > 0
    }
}

fn other_protocol() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, NotHttp)
}

impl AsyncRead for TimedStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        if let Protocol::Http2(frames) = &mut self.protocol
            && frames.is_ending()
        {
            return Poll::Ready(frames.end(buffer));
        }
        if self.timeouts.client_has_ended() && self.timeouts.hides_end() {
            self.timeouts.hide(cx);
            return Poll::Pending;
        }
        let read = Pin::new(&mut self.stream).poll_read(cx, buffer);
        self.is_reading = read.is_pending();
        match read {
            Poll::Ready(Ok(())) if buffer.filled().len() > before => {
                let allowed = before + self.look_at(&mut buffer.filled_mut()[before..])?;
                if allowed < buffer.filled().len() {
                    buffer.set_filled(allowed);
                }
                if let Protocol::Http2(frames) = &mut self.protocol
                    && frames.is_ending()
                {
                    frames.end(buffer)?; // an empty read would be the end of the stream
                }
            }
            Poll::Ready(Ok(())) if buffer.remaining() > 0 => {
                self.timeouts.end_client();
                if self.timeouts.hides_end() {
                    self.timeouts.hide(cx);
                    return Poll::Pending;
                }
            }
            Poll::Ready(Err(_)) => self.timeouts.end_client(),
            _ => {}
        }
        read
    }
}

impl AsyncWrite for TimedStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.is_refused {
            return Poll::Ready(Err(other_protocol())); // hyper would respond in HTTP/1.1
        }
        if is_placeholder(bytes) {
            return self.poll_write_vectored(cx, &[io::IoSlice::new(bytes)]);
        }
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        if let Poll::Ready(Ok(count)) = written {
            self.look_at_written(&[io::IoSlice::new(bytes)], count);
        }
        self.note(written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(cx);
        self.note_ciphertext();
        match flushed {
            // hyper flushes the stream only when its own buffer is empty.
            Poll::Ready(Ok(())) => {
                self.timeouts.record_written(0);
                self.timeouts.record_flushed();
                self.watch_end(cx);
            }
            Poll::Ready(Err(_)) => {}
            // Ciphertext waits in the stream.
            Poll::Pending => self.timeouts.record_blocked(),
        }
        flushed
    }

    /// Closes our side, then reads until the client closes its own (RFC 9112 §9.6). Closing a
    /// socket with unread bytes resets the connection, and a reset can destroy a response that the
    /// client has not read yet.
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if !this.is_shut_down {
            let Poll::Ready(closed) = Pin::new(&mut this.stream).poll_shutdown(cx) else {
                this.note_ciphertext();
                this.timeouts.record_blocked(); // ciphertext waits in the stream
                return Poll::Pending;
            };
            closed?;
            this.is_shut_down = true;
            this.timeouts.record_written(0); // the client has taken all of it
        }
        if this.timeouts.client_has_ended() || !this.timeouts.start_linger() {
            return Poll::Ready(Ok(()));
        }
        let drained_max = match this.timeouts.has_flooded() {
            true => FLOOD_LINGERING_BYTES_MAX,
            false => LINGERING_BYTES_MAX,
        };
        let mut scratch = [0; 8192];
        while this.drained < drained_max {
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
        let this = &mut *self;
        if this.is_refused {
            return Poll::Ready(Err(other_protocol()));
        }
        let written = match this.timeouts.sent_files() {
            Some(files) if slices.iter().any(|slice| is_placeholder(slice)) => {
                files.poll_write(cx, &this.stream, slices)
            }
            _ if bytes_of(slices) <= JOINED_BYTES_MAX => {
                let mut buffer = [0; JOINED_BYTES_MAX];
                let bytes = joined(slices, &mut buffer);
                Pin::new(&mut this.stream).poll_write(cx, bytes)
            }
            _ => Pin::new(&mut this.stream).poll_write_vectored(cx, slices),
        };
        if let Poll::Ready(Ok(count)) = written {
            this.look_at_written(slices, count);
        }
        this.note(written)
    }
}

fn bytes_of(slices: &[io::IoSlice<'_>]) -> usize {
    slices.iter().map(|slice| slice.len()).sum()
}

/// Copies slices into one. Together they are at most as long as the buffer.
fn joined<'b>(slices: &[io::IoSlice<'_>], buffer: &'b mut [u8; JOINED_BYTES_MAX]) -> &'b [u8] {
    let mut end = 0;
    for slice in slices {
        let start = end;
        end += slice.len();
        buffer[start..end].copy_from_slice(slice);
    }
    &buffer[..end]
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::time::Duration;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::clock::Clock;
    use crate::config::ServerConfig;
    use crate::net::secure_pair::secure_pair;
    use crate::tasks::Tasks;

    /// A stream that takes everything and whose flush and end wait, as those of TLS do while the
    /// kernel takes no ciphertext. The second call of its end has waited long enough.
    #[derive(Default)]
    struct Unflushed(bool);

    impl AsyncRead for Unflushed {
        fn poll_read(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
            _: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            Poll::Pending
        }
    }

    impl AsyncWrite for Unflushed {
        fn poll_write(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            Poll::Ready(Ok(bytes.len()))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Pending
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            match self.0 {
                true => Poll::Ready(Ok(())),
                false => {
                    self.get_mut().0 = true;
                    Poll::Pending
                }
            }
        }
    }

    /// Returns once the connection has expired, which only a blocked write does this soon.
    async fn expires(act: impl Fn(Pin<&mut TimedStream>, &mut Context<'_>) -> bool) {
        let mut server = ServerConfig::default();
        server.timeouts.request = Duration::from_millis(1);
        server.timeouts.handshake = Duration::from_secs(3600);
        let clock = Clock::default();
        let timeouts = ConnectionTimeouts::new(clock.clone(), &server);
        let mut stream = TimedStream::new(
            Stream::boxed(Unflushed::default()),
            timeouts.clone(),
            AgreedProtocol::Any,
        );
        let is_ready = poll_fn(|cx| Poll::Ready(act(Pin::new(&mut stream), cx))).await;
        assert!(!is_ready);
        let expired = async {
            tokio::select! {
                () = clock.run(Tasks::default()) => panic!("the clock stopped"),
                () = timeouts.expired() => {}
            }
        };
        let limit = Duration::from_secs(10);
        tokio::time::timeout(limit, expired).await.unwrap();
    }

    #[tokio::test]
    async fn reader_that_takes_ciphertext_slowly_is_not_cut_off() {
        let mut server = ServerConfig::default();
        server.timeouts.request = Duration::from_millis(500);
        server.timeouts.handshake = Duration::from_secs(3600);
        let clock = Clock::default();
        let timeouts = ConnectionTimeouts::new(clock.clone(), &server);
        let (stream, mut client) = secure_pair(1024).await;
        let mut stream = TimedStream::new(stream, timeouts.clone(), AgreedProtocol::Any);
        // All of it is encrypted by the first write, in four records, and flushed for a second.
        let write = async {
            stream.write_all(&[7; 65_536]).await.unwrap();
            stream.flush().await.unwrap();
        };
        let read = async {
            let mut interval = tokio::time::interval(Duration::from_millis(20));
            for _ in 0..64 {
                interval.tick().await;
                client.read_exact(&mut [0; 1024]).await.unwrap();
            }
        };
        tokio::select! {
            _ = async { tokio::join!(write, read) } => {}
            () = timeouts.expired() => panic!("the reader was cut off"),
            () = clock.run(Tasks::default()) => panic!("the clock stopped"),
        }
    }

    #[test]
    fn slices_are_joined_if_they_fit() {
        for (lengths, fits) in [
            (&[0][..], true),
            (&[200, 100], true),
            (&[24, 0, 1000], true),
            (&[24, 1001], false),
            (&[1025], false),
        ] {
            let bytes: Vec<Vec<u8>> = (1..)
                .zip(lengths)
                .map(|(byte, length)| vec![byte; *length])
                .collect();
            let slices: Vec<_> = bytes.iter().map(|one| io::IoSlice::new(one)).collect();
            assert_eq!(bytes_of(&slices) <= JOINED_BYTES_MAX, fits);
            if fits {
                let mut buffer = [0; JOINED_BYTES_MAX];
                assert_eq!(joined(&slices, &mut buffer), bytes.concat());
            }
        }
    }

    #[tokio::test]
    async fn flush_that_waits_has_the_deadline_of_a_write() {
        expires(|stream, cx| stream.poll_flush(cx).is_ready()).await;
    }

    #[tokio::test]
    async fn client_that_lingers_after_a_shutdown_that_waited_is_not_slow() {
        let timeouts = ConnectionTimeouts::new(Clock::default(), &ServerConfig::default());
        let mut stream = TimedStream::new(
            Stream::boxed(Unflushed::default()),
            timeouts.clone(),
            AgreedProtocol::Any,
        );
        let mut shut_down =
            async || poll_fn(|cx| Poll::Ready(Pin::new(&mut stream).poll_shutdown(cx))).await;
        assert!(shut_down().await.is_pending());
        assert!(timeouts.is_blocked());
        assert!(shut_down().await.is_pending(), "the client has not closed");
        assert!(!timeouts.is_blocked());
    }

    #[tokio::test]
    async fn shutdown_that_waits_has_the_deadline_of_a_write() {
        expires(|stream, cx| stream.poll_shutdown(cx).is_ready()).await;
    }
}

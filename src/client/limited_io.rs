//! LimitedIo: a connection that limits the bytes read for each request, and yields to other tasks.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// The bytes read before the task yields while there is no head. hyper skips interim responses (RFC
/// 9110 §15.2) in a loop while there are any. Without yielding, a peer that sends nothing else would
/// keep the thread busy.
const YIELD_BYTES: usize = 64 * 1024;

/// The bytes of a body read before the task yields: the client may take them as fast as they come.
const YIELD_BODY_BYTES: usize = 1024 * 1024;

/// The bytes that may arrive before the head of a response is complete: interim responses, and the
/// head itself.
const HEAD_BYTES_MAX: usize = 256 * 1024;

/// A stream that fails when more than `max` bytes arrive for one request, or too many before the
/// head of its response.
///
/// A write starts a new request: HTTP/1.1 sends the next one only after the response to the last.
#[derive(Debug)]
pub(super) struct LimitedIo<S> {
    stream: S,
    progress: Arc<Progress>,
    max: usize,
    /// The bytes read since the last write.
    read: usize,
    /// The bytes read since the task last yielded.
    read_since_yield: usize,
}

/// How far the response to the current request has come.
#[derive(Debug, Default)]
pub(super) struct Progress {
    has_bytes: AtomicBool,
    has_head: AtomicBool,
}

impl Progress {
    /// A request begins.
    pub(super) fn restart(&self) {
        self.has_bytes.store(false, Ordering::Relaxed);
        self.has_head.store(false, Ordering::Relaxed);
    }

    /// The head of the response is complete.
    pub(super) fn head_received(&self) {
        self.has_head.store(true, Ordering::Relaxed);
    }

    /// Returns whether a byte has arrived since the last call.
    pub(super) fn take_bytes(&self) -> bool {
        self.has_bytes.swap(false, Ordering::Relaxed)
    }

    /// Returns whether a byte has arrived since the request began.
    pub(super) fn has_bytes(&self) -> bool {
        self.has_bytes.load(Ordering::Relaxed)
    }
}

/// The limit is exceeded.
#[derive(Debug, thiserror::Error)]
#[error("expected an answer that takes at most {0} bytes with all that is around it, found more")]
pub(super) struct LimitExceeded(usize);

impl<S> LimitedIo<S> {
    pub(super) fn new(stream: S, max: usize, progress: Arc<Progress>) -> Self {
        Self {
            stream,
            progress,
            max,
            read: 0,
            read_since_yield: 0,
        }
    }

    pub(super) fn into_inner(self) -> S {
        self.stream
    }
}

fn exceeded(max: usize) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, LimitExceeded(max))
}

impl<S: AsyncRead + Unpin> AsyncRead for LimitedIo<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let has_head = self.progress.has_head.load(Ordering::Relaxed);
        let yield_bytes = match has_head {
            true => YIELD_BODY_BYTES,
            false => YIELD_BYTES,
        };
        if self.read_since_yield >= yield_bytes {
            self.read_since_yield = 0;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        // Checked before a read, because a read may end far behind the head.
        if self.read >= HEAD_BYTES_MAX && !has_head {
            return Poll::Ready(Err(exceeded(HEAD_BYTES_MAX)));
        }
        let before = buffer.filled().len();
        let result = Pin::new(&mut self.stream).poll_read(cx, buffer);
        if result.is_pending() {
            self.read_since_yield = 0;
        }
        ready!(result)?;
        let bytes = buffer.filled().len() - before;
        self.read_since_yield += bytes;
        self.read = self.read.saturating_add(bytes);
        if bytes > 0 && !self.progress.has_bytes() {
            self.progress.has_bytes.store(true, Ordering::Relaxed);
        }
        if self.read > self.max {
            return Poll::Ready(Err(exceeded(self.max)));
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for LimitedIo<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.read = 0;
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.read = 0;
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn the_limit_starts_anew_with_each_request() {
        let (near, mut far) = tokio::io::duplex(1 << 20);
        let progress = Arc::new(Progress::default());
        progress.head_received();
        let mut near = LimitedIo::new(near, 200_000, progress);
        let mut read = vec![0; 150_000];
        for _ in 0..3 {
            far.write_all(&read).await.unwrap();
            near.read_exact(&mut read).await.unwrap();
            near.write_all(b"next").await.unwrap();
        }
        far.write_all(&vec![0; 250_000]).await.unwrap();
        let error = near.read_exact(&mut vec![0; 250_000]).await.unwrap_err();
        assert!(error.get_ref().unwrap().is::<LimitExceeded>());
    }
}

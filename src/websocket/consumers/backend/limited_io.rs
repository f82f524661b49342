//! LimitedIo: a connection to a backend that brings only so much for each request, and lets others have the worker.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// How many bytes may come before other tasks have their turn. Interim responses (RFC 9110 §15.2) are passed over in one
/// go as long as there are any.
const TURN_BYTES: usize = 64 * 1024;

/// A connection that fails when more comes for one request than an answer can need.
pub(super) struct LimitedIo<S> {
    stream: S,
    max: usize,
    /// What came since something was written.
    come: usize,
    /// What came in this turn.
    turn: usize,
}

/// More came than an answer can need.
#[derive(Debug, thiserror::Error)]
#[error("expected an answer that takes at most {0} bytes with all that is around it, found more")]
pub(super) struct LimitExceeded(usize);

impl<S> LimitedIo<S> {
    pub(super) fn new(stream: S, max: usize) -> Self {
        Self {
            stream,
            max,
            come: 0,
            turn: 0,
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for LimitedIo<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.turn >= TURN_BYTES {
            self.turn = 0;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buffer);
        if read.is_pending() {
            self.turn = 0;
        }
        ready!(read)?;
        let come = buffer.filled().len() - before;
        self.turn += come;
        self.come += come;
        if self.come > self.max {
            let max = self.max;
            return Poll::Ready(Err(io::Error::new(
                io::ErrorKind::InvalidData,
                LimitExceeded(max),
            )));
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
        self.come = 0;
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
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.come = 0;
        Pin::new(&mut self.stream).poll_write_vectored(cx, pieces)
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
    async fn so_much_comes_for_each_request() {
        let (near, mut far) = tokio::io::duplex(1 << 20);
        let mut near = LimitedIo::new(near, 200_000);
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

//! Stream: the bytes of one connection, over TCP, a unix socket, or any other protocol below.
//!
//! Its owner reads and writes it through [`AsyncRead`] and [`AsyncWrite`]. A WebSocket shares it:
//! the connection's task reads, and every sender of an event writes. The methods that end in
//! `_shared` take `&self` for that.
//!
//! ```text
//!            poll_read_shared   owner only: it is the task that is woken
//! try_write_shared              anyone; a boxed stream is written with the owner's waker
//!           poll_write_shared   owner only
//! ```
//!
//! A TCP or unix socket has its own readiness in the runtime, so any thread may write to it
//! without a lock. A boxed stream (TLS, an HTTP/2 stream, memory) is behind a mutex, which its
//! owner bypasses through `&mut self`.

use std::fmt;
use std::io::{self, IoSlice, Read};
use std::net::Shutdown;
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};

use parking_lot::Mutex;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

/// A type that is read and written, for [`Stream::boxed`].
pub trait ReadWrite: AsyncRead + AsyncWrite + Send + Unpin + 'static {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin + 'static> ReadWrite for S {}

/// A connection's stream.
pub enum Stream {
    /// TCP.
    Tcp(TcpStream),
    /// A unix socket.
    Unix(UnixStream),
    /// Any other stream: TLS, an HTTP/2 stream, memory.
    Boxed(Mutex<Box<dyn ReadWrite>>),
}

impl Stream {
    /// Wraps any other stream.
    pub fn boxed(stream: impl ReadWrite) -> Self {
        Self::Boxed(Mutex::new(Box::new(stream)))
    }

    /// Returns whether the stream needs its owner's waker to write.
    pub(crate) fn is_boxed(&self) -> bool {
        matches!(self, Self::Boxed(_))
    }

    /// Reads once for the owner; 0 is the end of the stream.
    pub(crate) fn poll_read_shared(
        &self,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        match self {
            Self::Tcp(stream) => loop {
                let read = |read: &mut dyn FnMut() -> io::Result<()>| {
                    stream.try_io(Interest::READABLE, read)
                };
                match read_once(read, &SockRef::from(stream), buffer) {
                    Some(done) => return Poll::Ready(done),
                    None => ready!(stream.poll_read_ready(cx))?,
                }
            },
            Self::Unix(stream) => loop {
                let read = |read: &mut dyn FnMut() -> io::Result<()>| {
                    stream.try_io(Interest::READABLE, read)
                };
                match read_once(read, &SockRef::from(stream), buffer) {
                    Some(done) => return Poll::Ready(done),
                    None => ready!(stream.poll_read_ready(cx))?,
                }
            },
            Self::Boxed(stream) => {
                let mut buffer = ReadBuf::new(buffer);
                ready!(Pin::new(&mut *stream.lock()).poll_read(cx, &mut buffer))?;
                Poll::Ready(Ok(buffer.filled().len()))
            }
        }
    }

    /// Writes as much as fits without waiting; `WouldBlock` if nothing fits. May be called from any
    /// thread.
    ///
    /// A boxed stream is written with `owner`, the waker of the task that is woken when there is
    /// room again. Without it, nothing is written.
    pub(crate) fn try_write_shared(
        &self,
        bytes: &[u8],
        owner: Option<&Waker>,
    ) -> io::Result<usize> {
        match (self, owner) {
            (Self::Tcp(stream), _) => stream.try_write(bytes),
            (Self::Unix(stream), _) => stream.try_write(bytes),
            (Self::Boxed(stream), Some(owner)) => {
                let mut stream = stream.lock();
                let mut cx = Context::from_waker(owner);
                match Pin::new(&mut *stream).poll_write(&mut cx, bytes) {
                    Poll::Ready(Ok(written)) => {
                        // Bytes that cannot be flushed now go out with the owner's next flush.
                        let _: Poll<io::Result<()>> = Pin::new(&mut *stream).poll_flush(&mut cx);
                        Ok(written)
                    }
                    Poll::Ready(Err(error)) => Err(error),
                    Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
                }
            }
            (Self::Boxed(_), None) => Err(io::ErrorKind::WouldBlock.into()),
        }
    }

    /// Writes for the owner, which is woken when there is room again.
    pub(crate) fn poll_write_shared(
        &self,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        loop {
            let written = match self {
                Self::Tcp(stream) => stream.try_write_vectored(slices),
                Self::Unix(stream) => stream.try_write_vectored(slices),
                Self::Boxed(stream) => {
                    return Pin::new(&mut *stream.lock()).poll_write_vectored(cx, slices);
                }
            };
            match written {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => match self {
                    Self::Tcp(stream) => ready!(stream.poll_write_ready(cx))?,
                    Self::Unix(stream) => ready!(stream.poll_write_ready(cx))?,
                    Self::Boxed(_) => {}
                },
                result => return Poll::Ready(result),
            }
        }
    }

    /// Flushes the buffer of a boxed stream.
    pub(crate) fn poll_flush_shared(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(_) | Self::Unix(_) => Poll::Ready(Ok(())),
            Self::Boxed(stream) => Pin::new(&mut *stream.lock()).poll_flush(cx),
        }
    }

    /// Closes our side.
    pub(crate) fn poll_shutdown_shared(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(stream) => Poll::Ready(SockRef::from(stream).shutdown(Shutdown::Write)),
            Self::Unix(stream) => Poll::Ready(SockRef::from(stream).shutdown(Shutdown::Write)),
            Self::Boxed(stream) => Pin::new(&mut *stream.lock()).poll_shutdown(cx),
        }
    }
}

impl From<TcpStream> for Stream {
    fn from(stream: TcpStream) -> Self {
        Self::Tcp(stream)
    }
}

impl From<UnixStream> for Stream {
    fn from(stream: UnixStream) -> Self {
        Self::Unix(stream)
    }
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp(_) => "Stream::Tcp",
            Self::Unix(_) => "Stream::Unix",
            Self::Boxed(_) => "Stream::Boxed",
        })
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_read(cx, buffer),
            Self::Unix(stream) => Pin::new(stream).poll_read(cx, buffer),
            Self::Boxed(stream) => Pin::new(stream.get_mut()).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Unix(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Boxed(stream) => Pin::new(stream.get_mut()).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Self::Unix(stream) => Pin::new(stream).poll_flush(cx),
            Self::Boxed(stream) => Pin::new(stream.get_mut()).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Boxed(stream) => Pin::new(stream.get_mut()).poll_shutdown(cx),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Tcp(stream) => stream.is_write_vectored(),
            Self::Unix(stream) => stream.is_write_vectored(),
            Self::Boxed(stream) => stream.lock().is_write_vectored(),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
            Self::Unix(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
            Self::Boxed(stream) => Pin::new(stream.get_mut()).poll_write_vectored(cx, slices),
        }
    }
}

/// Reads once; `None` if there is nothing to read.
///
/// A read that does not fill the buffer has emptied the kernel's. The closure then returns
/// `WouldBlock` although it has read, which clears the runtime's readiness: the next wake-up
/// announces more, which saves a second read that returns `WouldBlock`.
fn read_once(
    try_io: impl FnOnce(&mut dyn FnMut() -> io::Result<()>) -> io::Result<()>,
    mut stream: &socket2::Socket,
    buffer: &mut [u8],
) -> Option<io::Result<usize>> {
    let mut count = 0;
    let read = &mut || {
        count = loop {
            match stream.read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => break other?,
            }
        };
        if (1..buffer.len()).contains(&count) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        Ok(())
    };
    match try_io(read) {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock && count == 0 => None,
        Err(error) if error.kind() != io::ErrorKind::WouldBlock => Some(Err(error)),
        _ => Some(Ok(count)),
    }
}

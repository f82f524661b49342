//! Stream: the bytes of one connection, over TCP, a unix socket, TLS, or any other protocol below.
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
//! without a lock. TLS is written under the lock of its session. Ciphertext that the kernel does
//! not take waits in the stream: [`Stream::is_unflushed`] then tells the sender to wake the owner.
//! A boxed stream (an HTTP/2 stream, memory) is behind a mutex. The owner bypasses both locks
//! through `&mut self`.

use std::fmt;
use std::future::poll_fn;
use std::io::{self, IoSlice, Read};
use std::net::Shutdown;
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use parking_lot::Mutex;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

use super::tls::TlsStream;

/// A readiness that contains the end of the other side without bytes that can be read.
#[cfg(any(target_os = "linux", target_os = "android"))]
const CLOSED: Interest = Interest::PRIORITY;
#[cfg(not(any(target_os = "linux", target_os = "android")))]
const CLOSED: Interest = Interest::ERROR;

/// How often a boxed stream is asked whether it was reset.
const RESET_INTERVAL: Duration = Duration::from_secs(1);

/// A type that is read and written, for [`Stream::boxed`].
pub trait ReadWrite: AsyncRead + AsyncWrite + Send + Unpin + 'static {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin + 'static> ReadWrite for S {}

/// A connection's stream.
pub enum Stream {
    /// TCP.
    Tcp(TcpStream),
    /// A unix socket.
    Unix(UnixStream),
    /// TLS over another stream. Behind a pointer, so that a bare socket stays small.
    Tls(Box<TlsStream>),
    /// Any other stream: an HTTP/2 stream, memory.
    Boxed(Mutex<Box<dyn ReadWrite>>),
}

impl Stream {
    /// Wraps any other stream.
    pub fn boxed(stream: impl ReadWrite) -> Self {
        Self::Boxed(Mutex::new(Box::new(stream)))
    }

    /// Returns whether the stream needs its owner's waker to write.
    pub(crate) fn is_boxed(&self) -> bool {
        match self {
            Self::Tcp(_) | Self::Unix(_) => false,
            Self::Tls(stream) => stream.stream().is_boxed(),
            Self::Boxed(_) => true,
        }
    }

    /// Returns whether ciphertext waits for room in the kernel: the owner must flush it.
    pub(crate) fn is_unflushed(&self) -> bool {
        match self {
            Self::Tls(stream) => stream.is_unflushed(),
            Self::Tcp(_) | Self::Unix(_) | Self::Boxed(_) => false,
        }
    }

    /// Returns how much ciphertext the stream below has taken; 0 without TLS.
    pub(crate) fn taken_ciphertext(&self) -> u64 {
        match self {
            Self::Tls(stream) => stream.taken_ciphertext(),
            Self::Tcp(_) | Self::Unix(_) | Self::Boxed(_) => 0,
        }
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
            Self::Tls(stream) => stream.poll_read_shared(cx, buffer),
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
            (Self::Tls(stream), owner) => stream.try_write_shared(bytes, owner),
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
            // A vectored write of one slice costs more than a plain one.
            let written = match (self, slices) {
                (Self::Tcp(stream), [one]) => stream.try_write(one),
                (Self::Unix(stream), [one]) => stream.try_write(one),
                (Self::Tcp(stream), _) => stream.try_write_vectored(slices),
                (Self::Unix(stream), _) => stream.try_write_vectored(slices),
                (Self::Tls(stream), _) => return stream.poll_write_shared(cx, slices),
                (Self::Boxed(stream), _) => {
                    return Pin::new(&mut *stream.lock()).poll_write_vectored(cx, slices);
                }
            };
            match written {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => match self {
                    Self::Tcp(stream) => ready!(stream.poll_write_ready(cx))?,
                    Self::Unix(stream) => ready!(stream.poll_write_ready(cx))?,
                    Self::Tls(_) | Self::Boxed(_) => {}
                },
                result => return Poll::Ready(result),
            }
        }
    }

    /// Flushes the ciphertext of TLS, or the buffer of a boxed stream.
    pub(crate) fn poll_flush_shared(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(_) | Self::Unix(_) => Poll::Ready(Ok(())),
            Self::Tls(stream) => stream.poll_flush_shared(cx),
            Self::Boxed(stream) => Pin::new(&mut *stream.lock()).poll_flush(cx),
        }
    }

    /// Completes once the other end has closed its side or reset the connection, even if it has sent
    /// bytes before that are unread. Of a boxed stream only a reset is seen, up to a second later.
    pub(crate) async fn closed(&self) {
        let mut stream = self;
        while let Self::Tls(tls) = stream {
            stream = tls.stream();
        }
        match stream {
            Self::Tcp(stream) => drop(stream.ready(CLOSED).await),
            Self::Unix(stream) => drop(stream.ready(CLOSED).await),
            Self::Tls(_) | Self::Boxed(_) => {
                let flush = |cx: &mut Context<'_>| Poll::Ready(stream.poll_flush_shared(cx));
                while !matches!(poll_fn(flush).await, Poll::Ready(Err(_))) {
                    tokio::time::sleep(RESET_INTERVAL).await;
                }
            }
        }
    }

    /// Closes our side.
    pub(crate) fn poll_shutdown_shared(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(stream) => Poll::Ready(SockRef::from(stream).shutdown(Shutdown::Write)),
            Self::Unix(stream) => Poll::Ready(SockRef::from(stream).shutdown(Shutdown::Write)),
            Self::Tls(stream) => stream.poll_shutdown_shared(cx),
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

impl From<TlsStream> for Stream {
    fn from(stream: TlsStream) -> Self {
        Self::Tls(Box::new(stream))
    }
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp(_) => "Stream::Tcp",
            Self::Unix(_) => "Stream::Unix",
            Self::Tls(_) => "Stream::Tls",
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
            Self::Tls(stream) => stream.poll_read(cx, buffer),
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
            Self::Tls(stream) => stream.poll_write(cx, &[IoSlice::new(bytes)]),
            Self::Boxed(stream) => Pin::new(stream.get_mut()).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Self::Unix(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => stream.poll_flush(cx),
            Self::Boxed(stream) => Pin::new(stream.get_mut()).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => stream.poll_shutdown(cx),
            Self::Boxed(stream) => Pin::new(stream.get_mut()).poll_shutdown(cx),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Tcp(stream) => stream.is_write_vectored(),
            Self::Unix(stream) => stream.is_write_vectored(),
            Self::Tls(_) => true,
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
            Self::Tls(stream) => stream.poll_write(cx, slices),
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

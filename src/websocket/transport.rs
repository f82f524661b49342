//! Transport: the bare stream under a socket, read by its owner and written by everybody.

use std::io::{self, IoSlice, Read};
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};

use parking_lot::Mutex;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

/// Any other stream: TLS, HTTP/2, memory.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin + 'static {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin + 'static> Stream for S {}

/// The stream under a socket.
pub enum Transport {
    /// TCP: anybody may write at once.
    Tcp(TcpStream),
    /// A unix socket: the same.
    Unix(UnixStream),
    /// Anybody may write with the owner's waker.
    Stream(Mutex<Box<dyn Stream>>),
}

impl Transport {
    /// Any other stream.
    pub fn stream(stream: impl Stream) -> Self {
        Self::Stream(Mutex::new(Box::new(stream)))
    }

    /// Tells whether it is one of several on a connection, or wrapped by another protocol.
    pub(super) fn is_stream(&self) -> bool {
        matches!(self, Self::Stream(_))
    }

    /// Reads what is there, for the owner; 0 is the end.
    pub(super) fn poll_read(
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
            Self::Stream(stream) => {
                let mut buffer = ReadBuf::new(buffer);
                ready!(Pin::new(&mut *stream.lock()).poll_read(cx, &mut buffer))?;
                Poll::Ready(Ok(buffer.filled().len()))
            }
        }
    }

    /// Writes what fits, without waiting. A stream needs the waker of the owner, who is woken when there is room again.
    pub(super) fn try_write(&self, bytes: &[u8], owner: Option<&Waker>) -> io::Result<usize> {
        match (self, owner) {
            (Self::Tcp(stream), _) => stream.try_write(bytes),
            (Self::Unix(stream), _) => stream.try_write(bytes),
            (Self::Stream(stream), Some(owner)) => {
                let mut stream = stream.lock();
                let mut cx = Context::from_waker(owner);
                match Pin::new(&mut *stream).poll_write(&mut cx, bytes) {
                    Poll::Ready(Ok(written)) => {
                        // What it holds back goes with the owner's next flush, if it cannot go now.
                        let _: Poll<io::Result<()>> = Pin::new(&mut *stream).poll_flush(&mut cx);
                        Ok(written)
                    }
                    Poll::Ready(Err(error)) => Err(error),
                    Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
                }
            }
            (Self::Stream(_), None) => Err(io::ErrorKind::WouldBlock.into()),
        }
    }

    /// Writes for the owner, which is woken when there is room again.
    pub(super) fn poll_write(
        &self,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        loop {
            let written = match self {
                Self::Tcp(stream) => stream.try_write_vectored(slices),
                Self::Unix(stream) => stream.try_write_vectored(slices),
                Self::Stream(stream) => {
                    return Pin::new(&mut *stream.lock()).poll_write_vectored(cx, slices);
                }
            };
            match written {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    ready!(self.poll_write_ready(cx))?;
                }
                result => return Poll::Ready(result),
            }
        }
    }

    /// Passes on what a stream with a buffer of its own (TLS) holds back.
    pub(super) fn poll_flush(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(_) | Self::Unix(_) => Poll::Ready(Ok(())),
            Self::Stream(stream) => Pin::new(&mut *stream.lock()).poll_flush(cx),
        }
    }

    /// Says to the peer that nothing more comes.
    pub(super) fn poll_shutdown(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let shutdown = |stream: SockRef<'_>| stream.shutdown(std::net::Shutdown::Write);
        match self {
            Self::Tcp(stream) => Poll::Ready(shutdown(SockRef::from(stream))),
            Self::Unix(stream) => Poll::Ready(shutdown(SockRef::from(stream))),
            Self::Stream(stream) => Pin::new(&mut *stream.lock()).poll_shutdown(cx),
        }
    }

    fn poll_write_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(stream) => stream.poll_write_ready(cx),
            Self::Unix(stream) => stream.poll_write_ready(cx),
            Self::Stream(_) => Poll::Ready(Ok(())),
        }
    }
}

/// Reads once. `None`: nothing is there.
///
/// A read that does not fill the buffer has emptied the kernel's, so the stream is taken for not readable: the next wake-up tells of
/// more, and no second read has to find out.
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

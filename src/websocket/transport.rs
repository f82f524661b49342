//! Transport: the bare stream under a socket, its reading half for the owner and its writing half for everybody.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::{Mutex, PoisonError};
use std::task::{Context, Poll, Waker, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf, ReadHalf, WriteHalf};
use tokio::net::{TcpStream, UnixStream, tcp, unix};

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
    Stream(Box<dyn Stream>),
}

/// The half that the socket's own task reads.
pub(super) enum Reader {
    Tcp(tcp::OwnedReadHalf),
    Unix(unix::OwnedReadHalf),
    Stream(ReadHalf<Box<dyn Stream>>),
}

/// The half that anybody writes, one at a time.
pub(super) enum Writer {
    Tcp(tcp::OwnedWriteHalf),
    Unix(unix::OwnedWriteHalf),
    Stream(Mutex<WriteHalf<Box<dyn Stream>>>),
}

impl Transport {
    pub(super) fn split(self) -> (Reader, Writer) {
        match self {
            Self::Tcp(stream) => {
                let (reader, writer) = stream.into_split();
                (Reader::Tcp(reader), Writer::Tcp(writer))
            }
            Self::Unix(stream) => {
                let (reader, writer) = stream.into_split();
                (Reader::Unix(reader), Writer::Unix(writer))
            }
            Self::Stream(stream) => {
                let (reader, writer) = tokio::io::split(stream);
                (Reader::Stream(reader), Writer::Stream(Mutex::new(writer)))
            }
        }
    }
}

impl Reader {
    /// Tells whether it is one of several on a connection, or wrapped by another protocol.
    pub(super) fn is_stream(&self) -> bool {
        matches!(self, Self::Stream(_))
    }

    /// Reads what is there; 0 is the end.
    pub(super) fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let mut buffer = ReadBuf::new(buffer);
        ready!(match self {
            Self::Tcp(reader) => Pin::new(reader).poll_read(cx, &mut buffer),
            Self::Unix(reader) => Pin::new(reader).poll_read(cx, &mut buffer),
            Self::Stream(reader) => Pin::new(reader).poll_read(cx, &mut buffer),
        })?;
        Poll::Ready(Ok(buffer.filled().len()))
    }
}

impl Writer {
    /// Writes what fits, without waiting. What has no readiness of its own needs the waker of the owner, who is woken when there is room again.
    pub(super) fn try_write(&self, bytes: &[u8], owner: Option<&Waker>) -> io::Result<usize> {
        match (self, owner) {
            (Self::Tcp(writer), _) => writer.try_write(bytes),
            (Self::Unix(writer), _) => writer.try_write(bytes),
            (Self::Stream(writer), Some(owner)) => {
                let mut writer = writer.lock().unwrap_or_else(PoisonError::into_inner);
                let mut cx = Context::from_waker(owner);
                match Pin::new(&mut *writer).poll_write(&mut cx, bytes) {
                    Poll::Ready(Ok(written)) => {
                        // What it holds back goes with the owner's next flush, if it cannot go now.
                        let _: Poll<io::Result<()>> = Pin::new(&mut *writer).poll_flush(&mut cx);
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
            let (written, stream) = match self {
                Self::Tcp(writer) => (writer.try_write_vectored(slices), None),
                Self::Unix(writer) => (writer.try_write_vectored(slices), None),
                Self::Stream(writer) => (Err(io::ErrorKind::WouldBlock.into()), Some(writer)),
            };
            match (written, stream) {
                (Err(error), None) if error.kind() == io::ErrorKind::WouldBlock => {
                    ready!(self.poll_ready(cx))?;
                }
                (result, None) => return Poll::Ready(result),
                (_, Some(writer)) => {
                    let mut writer = writer.lock().unwrap_or_else(PoisonError::into_inner);
                    return Pin::new(&mut *writer).poll_write_vectored(cx, slices);
                }
            }
        }
    }

    /// Passes on what a stream with a buffer of its own (TLS) holds back.
    pub(super) fn poll_flush(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(_) | Self::Unix(_) => Poll::Ready(Ok(())),
            Self::Stream(writer) => {
                Pin::new(&mut *writer.lock().unwrap_or_else(PoisonError::into_inner)).poll_flush(cx)
            }
        }
    }

    /// Says to the peer that nothing more comes.
    pub(super) fn poll_shutdown(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let shutdown =
            |stream: socket2::SockRef<'_>| Poll::Ready(stream.shutdown(std::net::Shutdown::Write));
        match self {
            Self::Tcp(writer) => shutdown(socket2::SockRef::from(writer.as_ref())),
            Self::Unix(writer) => shutdown(socket2::SockRef::from(writer.as_ref())),
            Self::Stream(writer) => {
                Pin::new(&mut *writer.lock().unwrap_or_else(PoisonError::into_inner))
                    .poll_shutdown(cx)
            }
        }
    }

    fn poll_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(writer) => writer.as_ref().poll_write_ready(cx),
            Self::Unix(writer) => writer.as_ref().poll_write_ready(cx),
            Self::Stream(_) => Poll::Ready(Ok(())),
        }
    }
}

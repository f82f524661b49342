//! Peek: looks at the first bytes of a connection without taking them.

use std::io;
use std::os::fd::AsRawFd;

use nix::sys::socket::{MsgFlags, recv};
use tokio::io::Interest;

use super::stream::Stream;

/// The first byte of a TLS connection: a record with a handshake (RFC 8446 §5.1).
const TLS_HANDSHAKE: u8 = 0x16;

/// What a connection begins with.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum FirstByte {
    /// TLS.
    Tls,
    /// Another protocol.
    Other,
    /// Nothing: the client has left.
    End,
}

impl Stream {
    /// Waits for the first byte, which stays unread. Cancel-safe.
    pub(crate) async fn first_byte(&self) -> FirstByte {
        let mut first = [0];
        match self.peek(&mut first).await {
            Ok(1..) if first == [TLS_HANDSHAKE] => FirstByte::Tls,
            Ok(1..) => FirstByte::Other,
            Ok(_) | Err(_) => FirstByte::End,
        }
    }

    /// Waits for bytes and copies them without taking them; returns 0 at the end of the stream.
    /// Cancel-safe.
    pub(super) async fn peek(&self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.peek(buffer).await,
            Self::Unix(stream) => {
                let peek = || Ok(recv(stream.as_raw_fd(), buffer, MsgFlags::MSG_PEEK)?);
                stream.async_io(Interest::READABLE, peek).await
            }
            Self::Tls(_) | Self::Boxed(_) => Err(io::ErrorKind::Unsupported.into()),
        }
    }
}

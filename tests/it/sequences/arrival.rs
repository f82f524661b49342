//! Arrival: the ways in which a sequence's bytes may reach the server, and a stream that delivers
//! them so.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Up to how many bytes a sequence is cut at every position.
const CUT_EVERYWHERE: usize = 300;

/// How near to a frame's border a longer one is cut.
const NEAR: usize = 20;

/// How many cuts of a longer one are spread over it.
const SPREAD: usize = 16;

/// Up to this many bytes a sequence arrives byte by byte; a longer one only near its frames'
/// borders.
const BYTE_BY_BYTE: usize = 4 * 1024;

/// How long the pieces are between those borders.
const PIECE: usize = 997;

/// How many bytes a slow reader takes at a time.
const SLOW_BYTES: usize = 61;

/// How often the stream returns pending, without a write in between, before it reports the client's
/// end.
const PAUSES_AT_END: usize = 2;

/// How the bytes of a sequence arrive.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Way {
    /// All at once.
    Whole,
    /// All at once, from a client that takes a few bytes at a time.
    WholeFromSlowReader,
    /// All at once, with compression negotiated.
    WholeWithDeflate,
    /// All in the same read as the handshake.
    BehindHandshake,
    /// One by one.
    ByteByByte,
    /// One by one, with compression negotiated.
    ByteByByteWithDeflate,
    /// In two pieces.
    CutAt(usize),
    /// In two pieces, the first in the same read as the handshake.
    BehindHandshakeCutAt(usize),
}

impl Way {
    /// All the ways to run a sequence of frames.
    pub(super) fn all(frames: &[Vec<u8>]) -> Vec<Self> {
        let length = frames.iter().map(Vec::len).sum();
        let mut ways = vec![
            Self::Whole,
            Self::WholeFromSlowReader,
            Self::WholeWithDeflate,
            Self::BehindHandshake,
            Self::ByteByByte,
            Self::ByteByByteWithDeflate,
            Self::BehindHandshakeCutAt(length / 2),
        ];
        ways.extend(
            (1..length)
                .filter(|at| {
                    length <= CUT_EVERYWHERE
                        || is_near_border(frames, *at)
                        || at % (length / SPREAD) == length / SPREAD / 2
                })
                .map(Self::CutAt),
        );
        ways
    }

    /// Tells whether the client offers compression.
    pub(super) fn has_deflate(self) -> bool {
        matches!(self, Self::WholeWithDeflate | Self::ByteByByteWithDeflate)
    }

    /// How many bytes arrive in the same read as the handshake.
    pub(super) fn behind_handshake(self, length: usize) -> usize {
        match self {
            Self::BehindHandshake => length,
            Self::BehindHandshakeCutAt(at) => at,
            _ => 0,
        }
    }

    /// Where the pieces end.
    fn ends(self, frames: &[Vec<u8>]) -> Vec<usize> {
        let length = frames.iter().map(Vec::len).sum();
        match self {
            Self::CutAt(at) => vec![at, length],
            Self::ByteByByte | Self::ByteByByteWithDeflate => (1..=length)
                .filter(|at| {
                    length <= BYTE_BY_BYTE || is_near_border(frames, *at) || at % PIECE == 0
                })
                .collect(),
            _ => vec![length],
        }
    }
}

fn is_near_border(frames: &[Vec<u8>], at: usize) -> bool {
    let mut border = 0;
    frames.iter().map(Vec::len).any(|length| {
        let is_near = at.abs_diff(border) <= NEAR;
        border += length;
        is_near || at.abs_diff(border) <= NEAR
    })
}

/// A stream whose reader gets one piece after the other, pending between them, then the client's
/// end.
pub(super) struct Pieces {
    bytes: Bytes,
    at: usize,
    /// Where the pieces end.
    ends: std::vec::IntoIter<usize>,
    end: usize,
    pauses: usize,
    slow: Option<Slow>,
    received: Arc<Mutex<Received>>,
}

/// Whether a slow reader accepts bytes at the next write.
#[derive(Clone, Copy)]
enum Slow {
    Takes,
    Waits,
}

/// The output that the client received.
#[derive(Debug, Default)]
pub(super) struct Received {
    /// While its own half was open.
    pub(super) in_time: Vec<u8>,
    /// Later.
    pub(super) late: Vec<u8>,
    /// The server ended its half while the client's was open.
    pub(super) ended_first: bool,
    client_has_ended: bool,
    server_has_ended: bool,
}

impl Pieces {
    /// The bytes of a sequence without those that arrived with the handshake.
    pub(super) fn new(
        way: Way,
        frames: &[Vec<u8>],
        bytes: Bytes,
        at: usize,
    ) -> (Self, Arc<Mutex<Received>>) {
        let received = Arc::<Mutex<Received>>::default();
        let pieces = Self {
            bytes,
            at,
            ends: way.ends(frames).into_iter(),
            end: at,
            pauses: 0,
            slow: (way == Way::WholeFromSlowReader).then_some(Slow::Waits),
            received: received.clone(),
        };
        (pieces, received)
    }
}

impl AsyncRead for Pieces {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.at < self.end {
            let count = buffer.remaining().min(self.end - self.at);
            buffer.put_slice(&self.bytes[self.at..self.at + count]);
            self.at += count;
            return Poll::Ready(Ok(()));
        }
        // The next piece, at the next poll.
        let at = self.at;
        if let Some(end) = self.ends.find(|end| *end > at) {
            self.end = end;
        } else if self.pauses < PAUSES_AT_END {
            self.pauses += 1;
        } else {
            self.received.lock().unwrap().client_has_ended = true;
            return Poll::Ready(Ok(()));
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

impl AsyncWrite for Pieces {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.pauses = 0;
        match self.slow {
            None => {}
            Some(Slow::Waits) => {
                self.slow = Some(Slow::Takes);
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            Some(Slow::Takes) => {
                self.slow = Some(Slow::Waits);
                bytes = &bytes[..bytes.len().min(SLOW_BYTES)];
            }
        }
        let mut received = self.received.lock().unwrap();
        if received.client_has_ended || received.server_has_ended {
            received.late.extend_from_slice(bytes);
        } else {
            received.in_time.extend_from_slice(bytes);
        }
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut received = self.received.lock().unwrap();
        received.server_has_ended = true;
        received.ended_first |= !received.client_has_ended;
        Poll::Ready(Ok(()))
    }
}

//! Content: the bytes of a file, or of some of its parts, as a body.

use std::io;
use std::ops::Range;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use tokio::task::JoinHandle;

use super::file::Handle;
use crate::http::body::BodyError;

/// The bytes read in one step. A body has one step in flight, so a slow client occupies this much.
const STEP_BYTES: u64 = 128 * 1024;

/// The same for a file that is opened for each step: hyper polls for a step before there is window,
/// and a client may have many stalled streams.
const LATE_STEP_BYTES: u64 = 16 * 1024;

/// One part of a body: bytes in memory, or a range of the file.
#[derive(Clone, Debug)]
enum BodyPart {
    Bytes(Bytes),
    File(Range<u64>),
}

/// A body of several parts. If the file shrinks while it is sent, the body fails and the connection
/// is aborted.
#[derive(Debug)]
pub(super) struct Content {
    file: Handle,
    pieces: std::vec::IntoIter<BodyPart>,
    current: Range<u64>,
    reading: Option<JoinHandle<io::Result<Bytes>>>,
    step: u64,
    left: u64,
}

impl Content {
    /// Creates a body of one range of a file.
    pub(super) fn part(file: Handle, part: Range<u64>) -> Self {
        Self::new(file, vec![BodyPart::File(part)])
    }

    /// Creates a body of several ranges as `multipart/byteranges` (RFC 9110 §14.6). Returns it with
    /// its `Content-Type`.
    pub(super) fn parts(
        file: Handle,
        parts: Vec<Range<u64>>,
        len: u64,
        media_type: &str,
    ) -> (Self, String) {
        let boundary = format!("{:032x}", fastrand::u128(..));
        let mut pieces = Vec::with_capacity(parts.len() * 2 + 1);
        for part in parts {
            let (first, last) = (part.start, part.end - 1); // no part is empty
            let head = format!(
                "\r\n--{boundary}\r\nContent-Type: {media_type}\r\nContent-Range: bytes {first}-{last}/{len}\r\n\r\n"
            );
            pieces.push(BodyPart::Bytes(head.into()));
            pieces.push(BodyPart::File(part));
        }
        pieces.push(BodyPart::Bytes(format!("\r\n--{boundary}--\r\n").into()));
        let content_type = format!("multipart/byteranges; boundary={boundary}");
        (Self::new(file, pieces), content_type)
    }

    fn new(file: Handle, pieces: Vec<BodyPart>) -> Self {
        let len = |piece: &BodyPart| match piece {
            BodyPart::Bytes(bytes) => bytes.len() as u64,
            BodyPart::File(range) => range.end - range.start,
        };
        Self {
            step: match file {
                Handle::Open(..) => STEP_BYTES,
                Handle::Path(..) => LATE_STEP_BYTES,
            },
            file,
            left: pieces.iter().map(len).sum(),
            pieces: pieces.into_iter(),
            current: 0..0,
            reading: None,
        }
    }

    fn deliver(&mut self, bytes: Bytes) -> Frame<Bytes> {
        self.left = self.left.saturating_sub(bytes.len() as u64);
        Frame::data(bytes)
    }
}

impl http_body::Body for Content {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = &mut *self;
        loop {
            if let Some(reading) = &mut this.reading {
                let read = ready!(Pin::new(reading).poll(cx));
                this.reading = None;
                return Poll::Ready(Some(match read {
                    Ok(Ok(bytes)) => Ok(this.deliver(bytes)),
                    Ok(Err(error)) => Err(error.into()),
                    Err(error) => Err(error.into()),
                }));
            }
            if !this.current.is_empty() {
                let from = this.current.start;
                let count = (this.current.end - from).min(this.step);
                this.current.start += count;
                let file = this.file.clone();
                this.reading = Some(tokio::task::spawn_blocking(move || file.read(from, count)));
                continue;
            }
            match this.pieces.next() {
                Some(BodyPart::File(range)) => this.current = range,
                Some(BodyPart::Bytes(bytes)) => return Poll::Ready(Some(Ok(this.deliver(bytes)))),
                None => return Poll::Ready(None),
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0 && self.reading.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

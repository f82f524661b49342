//! Content: the bytes of a file that is not open, or of several parts of a file, as a body.

use std::ops::Range;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Frame, SizeHint};

use super::representation::{Representation, Stored};
use super::root::NamedFile;
use crate::http::body::BodyError;
use crate::http::file_threads::FileWork;
use crate::http::open_file::OpenFile;

/// The bytes read in one step. A body has one step in flight, so a slow client occupies this much.
/// It is small because hyper polls for a step before there is window, and a client may have many
/// stalled streams.
const STEP_BYTES: u64 = 16 * 1024;

/// One part of a body: bytes in memory, or a range of the file.
#[derive(Clone, Debug)]
enum BodyPart {
    Bytes(Bytes),
    File(Range<u64>),
}

/// A body of several parts. It keeps no file open between two steps. If the file shrinks while it
/// is sent, the body fails and the connection is aborted.
#[derive(Debug)]
pub(super) struct Content {
    named: Arc<NamedFile>,
    /// The open file, as long as others need it.
    open: Weak<OpenFile>,
    parts: std::vec::IntoIter<BodyPart>,
    current: Range<u64>,
    reading: Option<FileWork<Bytes>>,
    left: u64,
}

impl Content {
    /// Creates a body of one range of a file.
    pub(super) fn part(file: &Representation, part: Range<u64>) -> Self {
        Self::new(file, vec![BodyPart::File(part)])
    }

    /// Creates a body of several ranges as `multipart/byteranges` (RFC 9110 §14.6). Returns it with
    /// its `Content-Type`.
    pub(super) fn parts(file: &Representation, ranges: Vec<Range<u64>>) -> (Self, String) {
        let boundary = format!("{:032x}", fastrand::u128(..));
        let (media_type, len) = (file.content_type(), file.len);
        let mut parts = Vec::with_capacity(ranges.len() * 2 + 1);
        for range in ranges {
            let (first, last) = (range.start, range.end - 1); // no range is empty
            let head = format!(
                "\r\n--{boundary}\r\nContent-Type: {media_type}\r\nContent-Range: bytes {first}-{last}/{len}\r\n\r\n"
            );
            parts.push(BodyPart::Bytes(head.into()));
            parts.push(match &file.content {
                Stored::Memory(bytes) => BodyPart::Bytes(slice(bytes, &range)),
                Stored::Open(_) | Stored::Closed => BodyPart::File(range),
            });
        }
        parts.push(BodyPart::Bytes(format!("\r\n--{boundary}--\r\n").into()));
        let content_type = format!("multipart/byteranges; boundary={boundary}");
        (Self::new(file, parts), content_type)
    }

    fn new(file: &Representation, parts: Vec<BodyPart>) -> Self {
        let len = |part: &BodyPart| match part {
            BodyPart::Bytes(bytes) => bytes.len() as u64,
            BodyPart::File(range) => range.end - range.start,
        };
        Self {
            named: file.named.clone(),
            open: match &file.content {
                Stored::Open(open) => Arc::downgrade(open),
                Stored::Memory(_) | Stored::Closed => Weak::new(),
            },
            left: parts.iter().map(len).sum(),
            parts: parts.into_iter(),
            current: 0..0,
            reading: None,
        }
    }

    fn deliver(&mut self, bytes: Bytes) -> Frame<Bytes> {
        self.left = self.left.saturating_sub(bytes.len() as u64);
        Frame::data(bytes)
    }

    /// Begins to read on a thread.
    fn start_reading(&self, range: Range<u64>) -> FileWork<Bytes> {
        if let Some(open) = self.open.upgrade() {
            return open.start(move |file| file.read(&range));
        }
        let named = self.named.clone();
        let threads = self.named.root.threads();
        threads.read(move || named.read(&range))
    }

    /// Reads what is in memory of a file that others keep open.
    fn read_now(&self, from: u64, count: u64) -> Option<Bytes> {
        let open = self.open.upgrade()?;
        let mut buffer = vec![0; usize::try_from(count).ok()?];
        match open.read_now(&mut buffer, from) {
            Ok(Some(read)) if read > 0 => {
                buffer.truncate(read);
                Some(buffer.into())
            }
            _ => None, // the thread finds out why
        }
    }
}

/// Returns a range of bytes that are known to be that long.
pub(super) fn slice(bytes: &Bytes, range: &Range<u64>) -> Bytes {
    let end = usize::try_from(range.end).map_or(bytes.len(), |end| end.min(bytes.len()));
    let start = usize::try_from(range.start).map_or(end, |start| start.min(end));
    bytes.slice(start..end)
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
                let read = ready!(reading.poll(cx));
                this.reading = None;
                return Poll::Ready(Some(match read {
                    Ok(bytes) => {
                        this.current.start += bytes.len() as u64;
                        Ok(this.deliver(bytes))
                    }
                    Err(error) => Err(error.into()),
                }));
            }
            if !this.current.is_empty() {
                let from = this.current.start;
                let count = (this.current.end - from).min(STEP_BYTES);
                if let Some(bytes) = this.read_now(from, count) {
                    this.current.start += bytes.len() as u64;
                    return Poll::Ready(Some(Ok(this.deliver(bytes))));
                }
                this.reading = Some(this.start_reading(from..from + count));
                continue;
            }
            match this.parts.next() {
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

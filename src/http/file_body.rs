//! File body: a range of an open file as the bytes of a body.
//!
//! A connection that the kernel can send files to takes the range out ([`FileBody::into_range`]).
//! Everything else polls: TLS, HTTP/2, middleware that changes the bytes.

use std::io;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};

use super::body::BodyError;
use super::file_threads::FileWork;
use super::open_file::FileRange;

/// A body that reads in steps. What is in memory is read at once, the rest on a thread that may
/// wait.
#[derive(Debug)]
pub(super) struct FileBody {
    rest: FileRange,
    step: u32,
    /// Its allocation is used again once hyper has dropped the bytes of the step before.
    buffer: BytesMut,
    reading: Option<FileWork<Bytes>>,
}

impl FileBody {
    /// `step` is the number of bytes read at once.
    pub(super) fn new(range: FileRange, step: u32) -> Self {
        Self {
            rest: range,
            step,
            buffer: BytesMut::new(),
            reading: None,
        }
    }

    /// Returns whether the kernel can send the range without waiting for a network.
    pub(super) fn can_be_sent(&self) -> bool {
        self.rest.file.tells_waits() && self.reading.is_none()
    }

    pub(super) fn into_range(self) -> FileRange {
        self.rest
    }

    pub(super) fn left(&self) -> u64 {
        self.rest.len()
    }

    /// Reads the next step. A file that has become shorter is an error, because the length is
    /// already sent.
    pub(super) fn poll_step(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, BodyError>>> {
        loop {
            if let Some(reading) = &mut self.reading {
                let read = ready!(reading.poll(cx));
                self.reading = None;
                let bytes = match read {
                    Ok(bytes) => bytes,
                    Err(error) => return Poll::Ready(Some(Err(error.into()))),
                };
                self.rest.range.start += bytes.len() as u64;
                return Poll::Ready(Some(Ok(bytes)));
            }
            if self.rest.len() == 0 {
                return Poll::Ready(None);
            }
            let count = self.rest.len().min(self.step.into());
            let count = usize::try_from(count).unwrap_or(usize::MAX);
            self.buffer.resize(count, 0);
            let file = &self.rest.file;
            match file.read_now(&mut self.buffer, self.rest.range.start) {
                Ok(Some(0)) => {
                    let error = io::Error::from(io::ErrorKind::UnexpectedEof);
                    return Poll::Ready(Some(Err(error.into())));
                }
                Ok(Some(count)) => {
                    self.rest.range.start += count as u64;
                    return Poll::Ready(Some(Ok(self.buffer.split_to(count).freeze())));
                }
                Ok(None) => {
                    let part = self.rest.clone().split_off_first(self.step.into());
                    let range = part.range;
                    self.reading = Some(part.file.start(move |file| file.read(&range)));
                }
                Err(error) => return Poll::Ready(Some(Err(error.into()))),
            }
        }
    }
}

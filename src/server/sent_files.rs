//! Sent files: ranges of files that the kernel sends beneath hyper.
//!
//! hyper writes bytes and knows no files. So the body of a file gives it slices of a region of
//! zeros as placeholders, and leaves the range that they represent in the connection's queue:
//!
//! ```text
//! SendingFile ── placeholder ──> hyper ── [head, placeholder] ──> TimedStream
//!      │                                                              │ head: written
//!      └────── range of the file ──> SentFiles ──────────────────────>┴ placeholder: sendfile
//! ```
//!
//! A placeholder is recognized by its address, which no other bytes have. hyper passes the slices
//! of bodies on as they are, because the stream writes several at once (`is_write_vectored`), and
//! the length of the body is known, so that nothing is added to it.
//!
//! The queue has the order of the placeholders: over HTTP/1.1 hyper takes one response after the
//! other.
//!
//! `sendfile` would read a file that is not in memory from its disk, in the thread of all
//! connections. [`SendingFile`] therefore gives out a placeholder only for a range that is in
//! memory; it has a thread read the others first.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use parking_lot::Mutex;

use super::connection_timeouts::ConnectionTimeouts;
use crate::http::body::BodyError;
use crate::http::file_threads::FileWork;
use crate::http::open_file::FileRange;
use crate::net::Stream;

/// The most bytes in one placeholder: what the kernel may send, or read from the disk, at once.
const PLACEHOLDER_BYTES: usize = 512 * 1024;

/// Never read, so it occupies addresses, but no memory.
static PLACEHOLDER: [u8; PLACEHOLDER_BYTES] = [0; PLACEHOLDER_BYTES];

/// The ranges behind the placeholders that a connection's hyper has and has not written.
#[derive(Debug, Default)]
pub(super) struct SentFiles(Mutex<VecDeque<FileRange>>);

/// A body whose bytes hyper does not see.
pub(super) struct SendingFile {
    /// Has the queue.
    connection: Arc<ConnectionTimeouts>,
    rest: FileRange,
    /// The thread that reads the next range into memory.
    loading: Option<FileWork<()>>,
    /// Whether the next range was read into memory a moment ago.
    is_loaded: bool,
}

/// Returns whether bytes are a placeholder.
pub(super) fn is_placeholder(bytes: &[u8]) -> bool {
    PLACEHOLDER.as_ptr_range().contains(&bytes.as_ptr())
}

impl SentFiles {
    /// Writes slices of which at least one is a placeholder.
    pub(super) fn poll_write(
        &self,
        cx: &mut Context<'_>,
        stream: &Stream,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let before = slices.iter().take_while(|slice| !is_placeholder(slice));
        match before.count() {
            0 => {}
            count => return stream.poll_write_before_file(cx, &slices[..count]),
        }
        let mut files = self.0.lock();
        let Some(first) = files.front_mut() else {
            return Poll::Ready(Err(io::Error::other("a placeholder without a file")));
        };
        let count = slices.first().map_or(0, |slice| slice.len());
        let count = count.min(usize::try_from(first.len()).unwrap_or(usize::MAX));
        let from = first.range.start;
        let sent = ready!(stream.poll_send_file(cx, first.file.file(), from, count))?;
        if sent == 0 && count > 0 {
            let error = "the file became shorter while it was sent";
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::UnexpectedEof, error)));
        }
        first.range.start += sent as u64;
        if first.len() == 0 {
            files.pop_front();
        }
        Poll::Ready(Ok(sent))
    }
}

impl SendingFile {
    pub(super) fn new(range: FileRange, connection: &Arc<ConnectionTimeouts>) -> Self {
        Self {
            connection: connection.clone(),
            rest: range,
            loading: None,
            is_loaded: false,
        }
    }

    pub(super) fn left(&self) -> u64 {
        self.rest.len()
    }

    /// Returns the next placeholder, once its range is in memory.
    pub(super) fn poll_placeholder(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, BodyError>>> {
        loop {
            if let Some(loading) = &mut self.loading {
                let loaded = ready!(loading.poll(cx));
                self.loading = None;
                self.is_loaded = true;
                if let Err(error) = loaded {
                    return Poll::Ready(Some(Err(error.into())));
                }
            }
            if self.rest.len() == 0 {
                return Poll::Ready(None);
            }
            let next = self.rest.clone().split_off_first(PLACEHOLDER_BYTES as u64);
            if !self.is_loaded && !next.file.is_in_memory(&next.range) {
                let range = next.range;
                self.loading = Some(next.file.start(move |file| file.load(&range)));
                continue;
            }
            self.is_loaded = false;
            self.rest.range.start = next.range.end;
            let len = usize::try_from(next.len()).unwrap_or(PLACEHOLDER_BYTES);
            if let Some(files) = self.connection.sent_files() {
                files.0.lock().push_back(next);
            }
            return Poll::Ready(Some(Ok(Bytes::from_static(&PLACEHOLDER[..len]))));
        }
    }
}

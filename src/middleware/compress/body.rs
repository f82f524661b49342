//! Body: compresses a streamed body as it comes.
//!
//! ```text
//! Flowing ── frame ──> written, in slices ── output? ──> frame
//!    │ pending, something unflushed: flushed ───────────> frame
//!    └ end: finished ──> frame ──> trailers ──> Ended
//! ```
//!
//! Nothing is held back: when the source has no more for now, the encoder completes a block. A
//! source that always has more is compressed in slices, between which other tasks run.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use http_body::{Body as HttpBody, Frame, SizeHint};

use super::encoder::Encoder;
use crate::http::Body;
use crate::http::body::BodyError;

/// The most bytes compressed in one poll.
const SLICE_BYTES: usize = 16 * 1024;

/// Output below this waits for more, unless the source pauses.
const OUTPUT_BYTES_MIN: usize = 4096;

/// A body that compresses another one.
pub(super) struct CompressedBody {
    source: Body,
    /// `None` after the end.
    encoder: Option<Encoder>,
    /// The rest of a frame.
    pending: Bytes,
    /// Output that is not sent yet.
    output: Vec<u8>,
    /// Whether the encoder may hold bytes back.
    is_unflushed: bool,
    trailers: Option<http::HeaderMap>,
}

impl CompressedBody {
    pub(super) fn new(source: Body, encoder: Encoder) -> Self {
        Self {
            source,
            encoder: Some(encoder),
            pending: Bytes::new(),
            output: Vec::new(),
            is_unflushed: false,
            trailers: None,
        }
    }

    fn take_output(&mut self) -> Frame<Bytes> {
        Frame::data(std::mem::take(&mut self.output).into())
    }
}

impl HttpBody for CompressedBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = &mut *self;
        let mut budget = SLICE_BYTES;
        loop {
            let Some(encoder) = &mut this.encoder else {
                if !this.output.is_empty() {
                    return Poll::Ready(Some(Ok(this.take_output())));
                }
                let trailers = this.trailers.take();
                return Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers))));
            };
            if !this.pending.is_empty() {
                let count = this.pending.len().min(budget);
                encoder.write(&this.pending[..count])?;
                this.pending.advance(count);
                this.is_unflushed = true;
                this.output.append(&mut encoder.take());
                budget -= count;
                if this.output.len() >= OUTPUT_BYTES_MIN {
                    return Poll::Ready(Some(Ok(this.take_output())));
                }
                if budget == 0 {
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
                continue;
            }
            match Pin::new(&mut this.source).poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                    Ok(bytes) => this.pending = bytes,
                    Err(frame) => this.trailers = frame.into_trailers().ok(),
                },
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Some(Err(error))),
                Poll::Ready(None) => {
                    if let Some(encoder) = this.encoder.take() {
                        this.output.append(&mut encoder.finish()?);
                    }
                }
                Poll::Pending => {
                    if std::mem::take(&mut this.is_unflushed) {
                        encoder.flush()?;
                        this.output.append(&mut encoder.take());
                    }
                    if this.output.is_empty() {
                        return Poll::Pending;
                    }
                    return Poll::Ready(Some(Ok(this.take_output())));
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.encoder.is_none() && self.output.is_empty() && self.trailers.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}

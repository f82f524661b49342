//! Body: the bytes of a request or a response, at once or as they come.

use std::pin::Pin;
use std::sync::{Mutex, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;

/// Any error of a body's source.
pub type BodyError = Box<dyn std::error::Error + Send + Sync>;

/// The bytes of a request or a response.
///
/// ```
/// use oneport::http::Body;
/// let body = Body::full("hello");
/// assert_eq!(http_body::Body::size_hint(&body).exact(), Some(5));
/// ```
#[derive(Debug)]
pub struct Body(Source);

#[derive(Debug)]
enum Source {
    Full(Full<Bytes>),
    Incoming(Incoming),
    /// In a lock only so that a request can be shared between threads by reference; it is never waited for.
    Stream(Mutex<UnsyncBoxBody<Bytes, BodyError>>),
}

impl Body {
    /// A body of no bytes.
    #[must_use]
    pub fn empty() -> Self {
        Self(Source::Full(Full::default()))
    }

    /// A body that is there at once.
    pub fn full(bytes: impl Into<Bytes>) -> Self {
        Self(Source::Full(Full::new(bytes.into())))
    }

    /// A body that comes in pieces; an error in it cuts the connection, so that the client sees that something is missing.
    pub fn stream<B>(body: B) -> Self
    where
        B: HttpBody<Data = Bytes> + Send + 'static,
        B::Error: Into<BodyError>,
    {
        Self(Source::Stream(Mutex::new(
            body.map_err(Into::into).boxed_unsync(),
        )))
    }
}

impl Default for Body {
    fn default() -> Self {
        Self::empty()
    }
}

impl From<Incoming> for Body {
    fn from(body: Incoming) -> Self {
        Self(Source::Incoming(body))
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match &mut self.0 {
            Source::Full(body) => Pin::new(body)
                .poll_frame(cx)
                .map_err(|never| match never {}),
            Source::Incoming(body) => Pin::new(body).poll_frame(cx).map_err(Into::into),
            Source::Stream(body) => {
                Pin::new(body.get_mut().unwrap_or_else(PoisonError::into_inner)).poll_frame(cx)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Source::Full(body) => body.is_end_stream(),
            Source::Incoming(body) => body.is_end_stream(),
            Source::Stream(body) => body
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Source::Full(body) => body.size_hint(),
            Source::Incoming(body) => body.size_hint(),
            Source::Stream(body) => body
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .size_hint(),
        }
    }
}

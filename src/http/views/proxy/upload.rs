//! Upload: the body of a request on its way to the upstream.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures_util::task::AtomicWaker;
use http::StatusCode;
use http_body::{Body as HttpBody, Frame, SizeHint};
use parking_lot::Mutex;
use tokio::time::Sleep;

use super::header_rules::HeaderRules;
use super::trailers;
use crate::http::body::{BodyError, TooSlow};
use crate::http::request::too_large;
use crate::http::{Body, Failure};

/// How long to wait for `100 Continue` before the body is sent without it: the upstream may not
/// know the expectation (RFC 9110 §10.1.1).
const CONTINUE_TIMEOUT: Duration = Duration::from_secs(1);

/// The body of a request on its way to the upstream, frame by frame.
pub(super) struct Upload {
    body: Body,
    limit: u64,
    left: u64,
    /// `None` once the body may be sent.
    waiting: Option<Waiting>,
    failed: UploadFailure,
    /// The rules of the request's fields, which hold for its trailers too.
    rules: HeaderRules,
}

/// A body that waits for the upstream's decision.
struct Waiting {
    expectation: Arc<Expectation>,
    /// Starts when the body is first asked for: before, the request waits for a connection.
    timer: Option<Pin<Box<Sleep>>>,
}

/// The upstream's decision whether it wants the body, for a client that waits for it
/// (`Expect: 100-continue`).
#[derive(Debug)]
pub(super) struct Expectation {
    is_met: AtomicBool,
    waiting: AtomicWaker,
    /// Whether the body waits for the upstream.
    pub(super) is_held: Arc<AtomicBool>,
}

impl Default for Expectation {
    fn default() -> Self {
        Self {
            is_met: AtomicBool::new(false),
            waiting: AtomicWaker::new(),
            is_held: Arc::new(AtomicBool::new(true)),
        }
    }
}

/// The failure of a body, if it has failed: the client's fault, which the error of the upstream's
/// connection does not tell (cheap to clone).
#[derive(Clone, Debug, Default)]
pub(super) struct UploadFailure(Arc<Mutex<Option<Failure>>>);

impl Expectation {
    /// The upstream has sent `100 Continue`.
    pub(super) fn meet(&self) {
        self.is_met.store(true, Ordering::Release);
        self.waiting.wake();
    }

    fn poll_met(&self, cx: &Context<'_>) -> Poll<()> {
        self.waiting.register(cx.waker());
        match self.is_met.load(Ordering::Acquire) {
            true => Poll::Ready(()),
            false => Poll::Pending,
        }
    }
}

impl UploadFailure {
    /// Takes the failure.
    pub(super) fn take(&self) -> Option<Failure> {
        self.0.lock().take()
    }

    fn set(&self, failure: Failure) -> BodyError {
        let error = failure.to_string().into();
        *self.0.lock() = Some(failure);
        error
    }
}

impl Upload {
    /// Takes a body of at most `limit` bytes. Fails at once if its announced length is longer.
    pub(super) fn new(
        body: Body,
        limit: u64,
        expectation: Option<Arc<Expectation>>,
        failed: UploadFailure,
        rules: HeaderRules,
    ) -> Result<Self, Failure> {
        if HttpBody::size_hint(&body).lower() > limit {
            return Err(too_large(limit));
        }
        Ok(Self {
            body,
            limit,
            left: limit,
            waiting: expectation.map(|expectation| Waiting {
                expectation,
                timer: None,
            }),
            failed,
            rules,
        })
    }

    fn received(&mut self, mut frame: Frame<Bytes>) -> Result<Frame<Bytes>, BodyError> {
        if let Some(trailers) = frame.trailers_mut() {
            trailers::clean(trailers, &self.rules);
        }
        let bytes = frame.data_ref().map_or(0, Bytes::len) as u64;
        match self.left.checked_sub(bytes) {
            Some(left) => self.left = left,
            None => return Err(self.failed.set(too_large(self.limit))),
        }
        Ok(frame)
    }
}

impl HttpBody for Upload {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        if let Some(waiting) = &mut this.waiting {
            if waiting.expectation.poll_met(cx).is_pending() {
                let start = || Box::pin(tokio::time::sleep(CONTINUE_TIMEOUT));
                let timer = waiting.timer.get_or_insert_with(start);
                ready!(timer.as_mut().poll(cx));
            }
            waiting.expectation.is_held.store(false, Ordering::Relaxed);
            // The first poll of the client's body sends it `100 Continue`.
            this.waiting = None;
        }
        let frame = ready!(Pin::new(&mut this.body).poll_frame(cx));
        Poll::Ready(frame.map(|frame| match frame {
            Ok(frame) => this.received(frame),
            Err(error) => Err(this.failed.set(broken(error))),
        }))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

fn broken(error: BodyError) -> Failure {
    let failure = match error.is::<TooSlow>() {
        true => Failure::new(StatusCode::REQUEST_TIMEOUT, "the body came too slowly"),
        false => Failure::bad_request("the body broke off"),
    };
    failure.because(error)
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use http::{HeaderMap, HeaderValue};
    use http_body_util::{BodyExt, StreamBody};

    use super::*;

    fn body(frames: Vec<Result<Frame<Bytes>, BodyError>>) -> Body {
        Body::stream(StreamBody::new(futures_util::stream::iter(frames)))
    }

    fn data(text: &'static str) -> Result<Frame<Bytes>, BodyError> {
        Ok(Frame::data(Bytes::from_static(text.as_bytes())))
    }

    async fn upload(body: Body, limit: u64) -> Result<String, u16> {
        let failed = UploadFailure::default();
        let upload = Upload::new(body, limit, None, failed.clone(), HeaderRules::default());
        let upload = upload.map_err(|failure| failure.status().as_u16())?;
        match upload.collect().await {
            Ok(collected) => Ok(String::from_utf8(collected.to_bytes().into()).unwrap()),
            Err(_) => Err(failed.take().unwrap().status().as_u16()),
        }
    }

    #[tokio::test]
    async fn a_body_over_the_limit_fails_where_it_is_crossed() {
        let parts = || body(vec![data("abc"), data("def")]);
        assert_eq!(upload(parts(), 6).await, Ok("abcdef".to_owned()));
        assert_eq!(upload(parts(), 5).await, Err(413));
        assert_eq!(upload(Body::full("abcdef"), 5).await, Err(413));
        assert_eq!(upload(Body::empty(), 0).await, Ok(String::new()));
    }

    #[tokio::test]
    async fn the_failure_of_the_client_is_told() {
        let broken = body(vec![data("abc"), Err("reset".into())]);
        assert_eq!(upload(broken, 10).await, Err(400));
        let slow = body(vec![data("abc"), Err(TooSlow.into())]);
        assert_eq!(upload(slow, 10).await, Err(408));
    }

    #[tokio::test]
    async fn trailers_that_frame_a_message_are_removed() {
        let mut trailers = HeaderMap::new();
        trailers.insert("content-length", HeaderValue::from_static("5"));
        trailers.insert("x-sum", HeaderValue::from_static("1"));
        let body = body(vec![data("abc"), Ok(Frame::trailers(trailers))]);
        let (failed, rules) = (UploadFailure::default(), HeaderRules::default());
        let upload = Upload::new(body, 10, None, failed, rules);
        let collected = upload.ok().unwrap().collect().await.unwrap();
        assert_eq!(collected.trailers().unwrap().len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn the_body_waits_for_the_upstream_or_for_a_second() {
        let waiting = |expectation: &Arc<Expectation>| {
            let (failed, rules) = (UploadFailure::default(), HeaderRules::default());
            let body = Body::full("a");
            Upload::new(body, 1, Some(expectation.clone()), failed, rules)
                .ok()
                .unwrap()
        };
        let expectation = Arc::new(Expectation::default());
        let mut upload = waiting(&expectation);
        let first = poll_fn(|cx| Poll::Ready(Pin::new(&mut upload).poll_frame(cx))).await;
        assert!(first.is_pending());
        assert!(expectation.is_held.load(Ordering::Relaxed));
        expectation.meet();
        let started = tokio::time::Instant::now();
        assert!(upload.frame().await.unwrap().is_ok());
        assert_eq!(started.elapsed(), Duration::ZERO);
        assert!(!expectation.is_held.load(Ordering::Relaxed));
        // The second counts from the first poll, not from the request.
        let mut upload = waiting(&Arc::default());
        tokio::time::advance(CONTINUE_TIMEOUT).await;
        let asked = tokio::time::Instant::now();
        assert!(upload.frame().await.unwrap().is_ok());
        assert!(asked.elapsed() >= CONTINUE_TIMEOUT);
    }
}

//! EarlyAnswer: the end of an HTTP/2 response whose request has not ended.
//!
//! hyper resets a stream as soon as its response has ended and its request is not being read (RFC
//! 9113 §8.1). Some clients then lose the response, and what is wrong with the rest of the request goes
//! unnoticed. So the end of the response, its trailers if it has some, waits for the rest of a short
//! request, which is discarded:
//!
//! ```text
//! last data ───► Waiting ──┬── the request has ended ──────► end of the response
//!                          ├── it is too long ─────────────► end, reset
//!                          └── END_TIMEOUT ────────────────► end; the rest is discarded in a task
//!                                                                 │
//!                                    ended, or DISCARD_TIMEOUT ◄──┘  then a reset
//! ```

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::Frame;
use tokio::time::{Sleep, sleep, timeout};

use super::unread_body::Discard;
use crate::http::ClientEnd;
use crate::tasks::Tasks;

/// How long the end of a response waits. A client may wait for it before it sends more.
const END_TIMEOUT: Duration = Duration::from_millis(200);

/// How long the rest of a request is discarded behind its response.
const DISCARD_TIMEOUT: Duration = Duration::from_secs(2);

/// The end of a response whose request had not been read to its end when the response began.
pub(super) struct EarlyAnswer {
    /// Keeps the request's body once the view has dropped it.
    request: ClientEnd,
    tasks: Tasks,
    /// The frame with which the response ends, if it has trailers.
    trailers: Option<Frame<Bytes>>,
    waiting: Option<(Discard, Pin<Box<Sleep>>)>,
}

impl EarlyAnswer {
    /// Returns `None` if the request has been read to its end.
    pub(super) fn of(request: ClientEnd, tasks: &Tasks) -> Option<Box<Self>> {
        (!request.has_read_body()).then(|| {
            Box::new(Self {
                request,
                tasks: tasks.clone(),
                trailers: None,
                waiting: None,
            })
        })
    }

    /// Takes the frame with which the response ends.
    pub(super) fn hold(&mut self, trailers: Frame<Bytes>) {
        self.trailers = Some(trailers);
    }

    /// Completes when the response may end, with its trailers. Polled once all data has been sent.
    pub(super) fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<Option<Frame<Bytes>>> {
        ready!(self.poll_request(cx));
        Poll::Ready(self.trailers.take())
    }

    fn poll_request(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let (discard, timer) = match &mut self.waiting {
            Some(waiting) => waiting,
            None => {
                let Some(unread) = self.request.take_unread() else {
                    return Poll::Ready(());
                };
                self.waiting
                    .insert((Discard::new(unread), Box::pin(sleep(END_TIMEOUT))))
            }
        };
        if discard.poll(cx).is_ready() {
            return Poll::Ready(());
        }
        ready!(timer.as_mut().poll(cx));
        if let Some((mut discard, _)) = self.waiting.take() {
            self.tasks.spawn("unread request", async move {
                let discarding = poll_fn(|cx| discard.poll(cx));
                let _ = timeout(DISCARD_TIMEOUT, discarding).await;
            });
        }
        Poll::Ready(())
    }
}

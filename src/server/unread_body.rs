//! Unread body: handles a response that is ready before the request's body is read. Over HTTP/2 see
//! `early_answer.rs`.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use http::{HeaderValue, StatusCode, header};
use http_body::Body as _;
use hyper::body::Incoming;

use crate::http::{Body, ClientEnd, Response};

/// The maximum bytes of an unread body to read and discard, so that the connection can be reused.
const DRAINED_BYTES_MAX: u64 = 64 * 1024;

/// The number of polls without progress after which the client counts as slow.
const POLLS_MAX: u32 = 3;

/// The rest of an unread body.
pub(super) enum Rest {
    /// Nothing: the connection can carry another request.
    Nothing,
    /// Too much to wait for.
    More,
    /// The framing is broken.
    Broken,
}

/// Finishes a request whose body was not read to its end. Discards the rest if it is short and has
/// arrived; otherwise announces that the connection closes. Broken framing replaces the response
/// with 400.
pub(super) async fn finish_request(
    response: &mut Response,
    unread: Incoming,
    waits_for_continue: bool,
    client: &ClientEnd,
) {
    // Polling the body would send 100 Continue, which asks the client for the body.
    let rest = match waits_for_continue {
        true => Rest::More,
        false => drain(unread, client).await,
    };
    if let Rest::Broken = rest {
        *response = Response::new(Body::full(
            "400 expected a body in chunks or of the announced length\n",
        ));
        *response.status_mut() = StatusCode::BAD_REQUEST;
        response.headers_mut().insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("text/plain; charset=utf-8"),
        );
    }
    if !matches!(rest, Rest::Nothing) {
        announce_close(response);
    }
}

/// Announces that the connection carries no further request (RFC 9112 §9.6).
pub(super) fn announce_close(response: &mut Response) {
    let close = HeaderValue::from_static("close");
    response.headers_mut().insert(header::CONNECTION, close);
}

/// Discards an unread body of at most [`DRAINED_BYTES_MAX`].
pub(super) struct Discard {
    unread: Incoming,
    left: u64,
}

impl Discard {
    pub(super) fn new(unread: Incoming) -> Self {
        Self {
            unread,
            left: DRAINED_BYTES_MAX,
        }
    }

    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Rest> {
        loop {
            if self.unread.size_hint().lower() > self.left {
                return Poll::Ready(Rest::More);
            }
            match ready!(Pin::new(&mut self.unread).poll_frame(cx)) {
                None => return Poll::Ready(Rest::Nothing),
                Some(Err(_)) => return Poll::Ready(Rest::Broken),
                Some(Ok(frame)) => {
                    let count = frame.data_ref().map_or(0, bytes::Bytes::len) as u64;
                    match self.left.checked_sub(count) {
                        Some(left) => self.left = left,
                        None => return Poll::Ready(Rest::More),
                    }
                }
            }
        }
    }
}

async fn drain(unread: Incoming, client: &ClientEnd) -> Rest {
    let mut discard = Discard::new(unread);
    let (mut polls, mut left) = (0, discard.left);
    poll_fn(|cx| {
        if let Poll::Ready(rest) = discard.poll(cx) {
            return Poll::Ready(rest);
        }
        if discard.left < left {
            (polls, left) = (0, discard.left);
        }
        // Between two polls, hyper reads the bytes that have arrived.
        polls += 1;
        if polls > POLLS_MAX {
            return Poll::Ready(match client.has_ended() {
                true => Rest::Broken, // the rest never arrives
                false => Rest::More,
            });
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await
}

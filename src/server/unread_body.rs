//! Unread body: handles a response that is ready before the request's body is read.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::Poll;

use http::{HeaderValue, StatusCode, header};
use http_body::Body as _;
use hyper::body::Incoming;

use crate::http::{Body, ClientEnd, Response};

/// The maximum bytes of an unread body to read and discard, so that the connection can be reused.
const DRAINED_BYTES_MAX: u64 = 64 * 1024;

/// The number of polls without progress after which the client counts as slow.
const POLLS_MAX: u32 = 3;

/// The rest of an unread body.
enum Rest {
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
    mut unread: Incoming,
    waits_for_continue: bool,
    client: &ClientEnd,
) {
    // Polling the body would send 100 Continue, which asks the client for the body.
    let rest = match waits_for_continue {
        true => Rest::More,
        false => drain(&mut unread, client).await,
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

async fn drain(unread: &mut Incoming, client: &ClientEnd) -> Rest {
    let mut left = DRAINED_BYTES_MAX;
    let mut polls = 0;
    poll_fn(|cx| {
        loop {
            if unread.size_hint().lower() > left {
                return Poll::Ready(Rest::More);
            }
            match Pin::new(&mut *unread).poll_frame(cx) {
                Poll::Ready(None) => return Poll::Ready(Rest::Nothing),
                Poll::Ready(Some(Err(_))) => return Poll::Ready(Rest::Broken),
                Poll::Ready(Some(Ok(frame))) => {
                    let count = frame.data_ref().map_or(0, bytes::Bytes::len) as u64;
                    match left.checked_sub(count) {
                        Some(rest) => left = rest,
                        None => return Poll::Ready(Rest::More),
                    }
                    polls = 0;
                }
                Poll::Pending => {
                    // Between two polls, hyper reads the bytes that have arrived.
                    polls += 1;
                    if polls > POLLS_MAX {
                        return Poll::Ready(match client.has_ended() {
                            true => Rest::Broken, // the rest never arrives
                            false => Rest::More,
                        });
                    }
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
            }
        }
    })
    .await
}

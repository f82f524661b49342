//! Exchange: one request over HTTP/2 and its response, polled by the task of the request.
//!
//! The request's body is sent while the response is awaited, and then while the response's body is
//! read. Dropping either side before its end resets the stream (`CANCEL`).

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use h2::{Reason, RecvStream, SendStream};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, HeaderValue, Request, Response, Uri, Version, header};
use http_body::{Body, Frame, SizeHint};
use tokio::time::Instant;

use super::classify;
use super::connections::Place;
use crate::client::body::RequestBody;
use crate::client::connection::SendError;
use crate::client::error::ClientError;
use crate::client::hop_by_hop::remove_hop_by_hop;
use crate::client::informational;

/// The most interim responses to a request: an endpoint may send them faster than they are read.
const INTERIM_MAX: usize = 100;

/// How soon the end of a connection arrives that the endpoint has closed while it was idle. What
/// ends later was under way.
pub(super) const CLOSED_WITHIN: Duration = Duration::from_secs(1);

/// The body of a response. Anything but the end that the endpoint has sent is an error: a stream
/// that is reset never looks complete.
#[derive(Debug)]
pub(in crate::client) struct Incoming {
    body: RecvStream,
    /// What is left to come, if the endpoint has announced it.
    left: Option<u64>,
    has_data: bool,
    upload: Upload,
    _place: Place,
}

/// Sends a request in a place, and waits for the head of the response.
pub(in crate::client) async fn send(
    place: Place,
    request: Request<RequestBody>,
    is_tls: bool,
) -> Result<Response<Incoming>, SendError> {
    let head = head(&request, is_tls);
    let (parts, body) = request.into_parts();
    let is_complete = body.is_end_stream();
    let mut sender = place.sender.clone();
    let sent_at = Instant::now();
    let (mut response, stream) = match sender.send_request(head, is_complete) {
        Ok(sent) => sent,
        // The connection takes no more requests.
        Err(error) => {
            place.leave_connection();
            let unsent = Request::from_parts(parts, body);
            return Err(SendError::unsent(classify(&error), unsent));
        }
    };
    let again = body.try_clone();
    let mut upload = Upload::new(stream, body, is_complete);
    let mut interims = 0;
    let received = poll_fn(|cx| {
        if let Poll::Ready(Err(error)) = upload.poll(cx) {
            return Poll::Ready(Err(Failure::Other(error)));
        }
        while let Poll::Ready(Some(Ok(interim))) = response.poll_informational(cx) {
            interims += 1;
            if interims > INTERIM_MAX {
                let sentence = "expected a response, found too many interim ones";
                let error = ClientError::Invalid(sentence.to_owned());
                return Poll::Ready(Err(Failure::Other(error)));
            }
            informational::received(&parts.extensions, &interim);
        }
        Pin::new(&mut response).poll(cx).map_err(Failure::Stream)
    });
    match received.await {
        Ok(response) => {
            let length = length(response.headers());
            Ok(response.map(|body| Incoming::new(body, length, upload, place)))
        }
        Err(Failure::Other(error)) => Err(error.into()),
        Err(Failure::Stream(error)) => {
            let is_unprocessed = is_unprocessed(&error);
            if is_unprocessed {
                place.leave_connection();
            }
            let body = again.or_else(|| upload.into_unsent());
            let unsent = body.filter(|_| is_unprocessed);
            let was_closed = place.was_idle && interims == 0 && sent_at.elapsed() < CLOSED_WITHIN;
            Err(SendError {
                is_stale: error.is_io() && was_closed,
                error: classify(&error),
                request: unsent.map(|body| Request::from_parts(parts, body)),
            })
        }
    }
}

enum Failure {
    Stream(h2::Error),
    /// Of the request's body, or of a limit.
    Other(ClientError),
}

/// Returns whether the endpoint has not processed the request (RFC 9113 §8.7): the stream is one
/// that `GOAWAY` excludes, or it was refused.
fn is_unprocessed(error: &h2::Error) -> bool {
    error.is_remote() && (error.is_go_away() || error.reason() == Some(Reason::REFUSED_STREAM))
}

/// Returns the head in the form of HTTP/2: an absolute URI, whose authority is the `Host` field, and
/// none of the fields of a connection but `TE: trailers` (RFC 9113 §8.2.2).
fn head(request: &Request<RequestBody>, is_tls: bool) -> Request<()> {
    let mut headers = request.headers().clone();
    let host = headers.remove(header::HOST);
    let takes_trailers = headers
        .get(header::TE)
        .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"trailers"));
    if headers.contains_key(header::CONNECTION) || takes_trailers {
        remove_hop_by_hop(&mut headers);
    }
    if takes_trailers {
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
    }
    if let Some(length) = request
        .body()
        .size_hint()
        .exact()
        .filter(|length| *length > 0)
    {
        let field = headers.entry(header::CONTENT_LENGTH);
        field.or_insert_with(|| length.into());
    }
    let mut parts = request.uri().clone().into_parts();
    parts.scheme = Some(if is_tls { Scheme::HTTPS } else { Scheme::HTTP });
    if parts.authority.is_none() {
        let host = host.and_then(|host| Authority::try_from(host.as_bytes()).ok());
        parts.authority = Some(host.unwrap_or_else(|| Authority::from_static("localhost")));
    }
    if parts.path_and_query.is_none() {
        parts.path_and_query = Some(PathAndQuery::from_static("/"));
    }
    let mut head = Request::new(());
    *head.method_mut() = request.method().clone();
    *head.uri_mut() = Uri::from_parts(parts).unwrap_or_default();
    *head.version_mut() = Version::HTTP_2;
    *head.headers_mut() = headers;
    head
}

/// The body of a request on its way.
#[derive(Debug)]
enum Upload {
    Sending {
        stream: SendStream<Bytes>,
        body: RequestBody,
        /// A part for which there is no window.
        part: Bytes,
        /// Whether a part was taken from the body.
        has_begun: bool,
    },
    /// Everything was sent, or the endpoint wants no more.
    Over,
}

impl Upload {
    fn new(stream: SendStream<Bytes>, body: RequestBody, is_complete: bool) -> Self {
        if is_complete {
            return Self::Over;
        }
        Self::Sending {
            stream,
            body,
            part: Bytes::new(),
            has_begun: false,
        }
    }

    /// Sends what can be sent. Fails if the body fails; what happens to the stream is left to the
    /// response.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ClientError>> {
        let Self::Sending {
            stream,
            body,
            part,
            has_begun,
        } = self
        else {
            return Poll::Ready(Ok(()));
        };
        loop {
            if !part.is_empty() {
                stream.reserve_capacity(part.len());
                if stream.capacity() == 0 {
                    match ready!(stream.poll_capacity(cx)) {
                        Some(Ok(_)) => continue,
                        Some(Err(_)) | None => break, // reset
                    }
                }
                let bytes = part.split_to(part.len().min(stream.capacity()));
                let is_last = part.is_empty() && body.is_end_stream();
                if stream.send_data(bytes, is_last).is_err() || is_last {
                    break;
                }
                continue;
            }
            // Registers for a reset, which may come while the body is awaited.
            if stream.poll_reset(cx).is_ready() {
                if *has_begun {
                    break;
                }
                return Poll::Ready(Ok(())); // the request may be sent again
            }
            match ready!(Pin::new(&mut *body).poll_frame(cx)) {
                Some(Ok(frame)) => {
                    *has_begun = true;
                    match frame.into_data() {
                        Ok(data) => *part = data,
                        Err(frame) => {
                            let trailers = frame.into_trailers().unwrap_or_default();
                            let _ = stream.send_trailers(trailers);
                            break;
                        }
                    }
                }
                Some(Err(error)) => {
                    let error = ClientError::classify(&*error);
                    *self = Self::Over; // resets the stream
                    return Poll::Ready(Err(error));
                }
                None => {
                    let _ = stream.send_data(Bytes::new(), true);
                    break;
                }
            }
        }
        *self = Self::Over;
        Poll::Ready(Ok(()))
    }

    /// Returns the body, if no part of it was taken.
    fn into_unsent(self) -> Option<RequestBody> {
        match self {
            Self::Sending {
                body,
                has_begun: false,
                ..
            } => Some(body),
            _ => None,
        }
    }
}

impl Incoming {
    fn new(body: RecvStream, length: Option<u64>, upload: Upload, place: Place) -> Self {
        Self {
            left: if body.is_end_stream() {
                Some(0)
            } else {
                length
            },
            body,
            has_data: true,
            upload,
            _place: place,
        }
    }

    /// Polls the next part of the body. The request's own body goes on meanwhile.
    pub(in crate::client) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ClientError>>> {
        if let Poll::Ready(Err(error)) = self.upload.poll(cx) {
            return Poll::Ready(Some(Err(error)));
        }
        while self.has_data {
            match ready!(self.body.poll_data(cx)) {
                Some(Ok(data)) if data.is_empty() => {}
                Some(Ok(data)) => {
                    self.left = self.left.map(|left| left.saturating_sub(data.len() as u64));
                    // The reader has it: the endpoint may send as much again.
                    let _ = self.body.flow_control().release_capacity(data.len());
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                Some(Err(error)) => return Poll::Ready(Some(Err(classify(&error)))),
                None => self.has_data = false,
            }
        }
        let trailers = ready!(self.body.poll_trailers(cx));
        Poll::Ready(match trailers {
            Ok(trailers) => trailers.map(|trailers| Ok(Frame::trailers(trailers))),
            Err(error) => Some(Err(classify(&error))),
        })
    }

    pub(in crate::client) fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    pub(in crate::client) fn size_hint(&self) -> SizeHint {
        self.left
            .map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

/// Returns the length that a head announces. h2 ends a body of another length with an error.
fn length(head: &HeaderMap) -> Option<u64> {
    head.get(header::CONTENT_LENGTH)?
        .to_str()
        .ok()?
        .parse()
        .ok()
}

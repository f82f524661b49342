//! Download: the body of an upstream's response on its way to the client.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use metrics::counter;
use tokio::time::Sleep;

use super::header_rules::HeaderRules;
use super::trailers;
use crate::http::ClientEnd;
use crate::http::body::BodyError;
use crate::scope::RequestId;
use crate::upstream::UpstreamBody;

/// How long the upstream may be silent once the client has closed its sending side.
///
/// A client that waits for the rest of a response may do that (RFC 9112 §9.6), and one that has
/// left does the same; only a write shows the difference.
const ABANDONED_TIMEOUT: Duration = Duration::from_secs(5);

/// Completes when the client is presumed gone: when it has closed its sending side, and has not
/// been sent anything for [`ABANDONED_TIMEOUT`].
#[derive(Debug)]
pub(super) struct Abandoned {
    client: ClientEnd,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Abandoned {
    pub(super) fn new(client: ClientEnd) -> Self {
        let timer = None;
        Self { client, timer }
    }

    /// Records that the client is sent something.
    fn restart(&mut self) {
        self.timer = None;
    }

    /// Polls while there is nothing to send. Only the last task that polled is woken.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.client.poll_gone(cx).is_pending() {
            return Poll::Pending;
        }
        let timer = || Box::pin(tokio::time::sleep(ABANDONED_TIMEOUT));
        self.timer.get_or_insert_with(timer).as_mut().poll(cx)
    }
}

/// The client has left before the end of the response.
#[derive(Debug, thiserror::Error)]
#[error("the client has closed the connection")]
struct ClientLeft;

/// The body of an upstream's response on its way to the client, frame by frame.
///
/// An error ends the client's connection, or its stream, without the end of the body, so that the
/// client does not take the part for the whole.
pub(super) struct Download {
    body: UpstreamBody,
    /// The end of a body that has broken off, once the client has been sent what came before it:
    /// hyper drops what it has not written when a body fails.
    broken: Option<BodyError>,
    abandoned: Abandoned,
    request_id: RequestId,
    /// The rules of the response's fields, which hold for its trailers too.
    rules: HeaderRules,
}

impl Download {
    pub(super) fn new(
        body: UpstreamBody,
        client: ClientEnd,
        request_id: RequestId,
        rules: &HeaderRules,
    ) -> Self {
        Self {
            body,
            broken: None,
            abandoned: Abandoned::new(client),
            request_id,
            rules: rules.clone(),
        }
    }
}

impl HttpBody for Download {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        if let Some(error) = this.broken.take() {
            return Poll::Ready(Some(Err(error)));
        }
        match Pin::new(&mut this.body).poll_frame(cx) {
            Poll::Ready(Some(Ok(mut frame))) => {
                this.abandoned.restart();
                if let Some(trailers) = frame.trailers_mut() {
                    trailers::clean(trailers, &this.rules);
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(error))) => {
                counter!("oneport_proxy_aborts_total", "cause" => "upstream").increment(1);
                tracing::warn!(id = %this.request_id, %error, "the upstream broke off its response; so is the client's");
                this.broken = Some(error.into());
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            Poll::Ready(None) => Poll::Ready(None),
            Poll::Pending => this.abandoned.poll(cx).map(|()| {
                counter!("oneport_proxy_aborts_total", "cause" => "client").increment(1);
                Some(Err(ClientLeft.into()))
            }),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.broken.is_none() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

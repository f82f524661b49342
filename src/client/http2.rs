//! Http2: a connection that speaks HTTP/2, which all requests to an endpoint share.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use http::uri::{Authority, PathAndQuery, Scheme};
use http::{Request, Uri, header};
use hyper::client::conn::http2;
use hyper::rt::Executor;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::time::Instant;

use super::body::RequestBody;
use super::error::ClientError;
use crate::net::Stream;
use crate::tasks::Tasks;

/// How often a silent connection is probed, and how long the answer may take.
const PING_INTERVAL: Duration = Duration::from_secs(25);
const PING_TIMEOUT: Duration = Duration::from_secs(10);

/// The longest head of a response.
const HEAD_BYTES_MAX: u32 = 64 * 1024;

pub(super) type Sender = http2::SendRequest<RequestBody>;

/// The shared connection, under a lock that is held while it is opened.
#[derive(Debug, Default)]
pub(super) enum Shared {
    /// None, or it has ended.
    #[default]
    Closed,
    Open(Sender),
    /// The last attempt has failed. Those who waited for it get its error.
    Failed {
        at: Instant,
        error: ClientError,
    },
}

/// Runs hyper's tasks as tasks of the server.
#[derive(Clone)]
struct Http2Tasks(Tasks);

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for Http2Tasks {
    fn execute(&self, future: F) {
        self.0.spawn("http/2 request", future);
    }
}

/// Begins HTTP/2 on a stream. A task of the server drives the connection until it ends.
pub(super) async fn begin(stream: Stream, tasks: &Tasks) -> Result<Sender, ClientError> {
    let begun = http2::Builder::new(Http2Tasks(tasks.clone()))
        .timer(TokioTimer::new())
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT)
        .keep_alive_while_idle(true)
        .max_header_list_size(HEAD_BYTES_MAX)
        .adaptive_window(true)
        .handshake(TokioIo::new(stream))
        .await;
    let (sender, connection) = begun.map_err(|error| {
        let source = Arc::new(error);
        ClientError::Connect { source }
    })?;
    let stopping = tasks.clone();
    tasks.spawn("http/2 connection", async move {
        tokio::select! {
            ended = connection => if let Err(error) = ended {
                tracing::debug!(%error, "an outgoing connection ended");
            },
            () = stopping.stopping() => {}
        }
    });
    Ok(sender)
}

/// Gives a request the form of HTTP/2: an absolute URI, whose authority is the `Host` field.
pub(super) fn into_absolute_form(request: &mut Request<RequestBody>, is_tls: bool) {
    if request.uri().authority().is_some() {
        return;
    }
    let host = request.headers_mut().remove(header::HOST);
    let authority = host.and_then(|host| Authority::try_from(host.as_bytes()).ok());
    let mut parts = std::mem::take(request.uri_mut()).into_parts();
    parts.scheme = Some(if is_tls { Scheme::HTTPS } else { Scheme::HTTP });
    parts.authority = Some(authority.unwrap_or_else(|| Authority::from_static("localhost")));
    if parts.path_and_query.is_none() {
        parts.path_and_query = Some(PathAndQuery::from_static("/"));
    }
    *request.uri_mut() = Uri::from_parts(parts).unwrap_or_default();
}

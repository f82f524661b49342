//! Pool: the idle connections to one endpoint.

use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, Uri, header};
use http_body::Frame;
use hyper::body::Incoming;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::body::RequestBody;
use super::connection::{Connection, SendError};
use super::connector::Connector;

/// How long an idle connection stays in the pool.
const IDLE_TIMEOUT: Duration = Duration::from_secs(20);

/// The idle connections to one endpoint. The one that was used last is used first, so that those
/// that are not needed expire.
#[derive(Debug)]
pub(super) struct Pool {
    connector: Connector,
    settings: PoolSettings,
    /// The one that was used last is at the end.
    idle: Mutex<Vec<Idle>>,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct PoolSettings {
    /// The most idle connections.
    pub(super) idle_max: usize,
    /// See `ClientSettings`.
    pub(super) wire_bytes_max: usize,
    pub(super) head_bytes_max: Option<usize>,
}

#[derive(Debug)]
struct Idle {
    connection: Connection,
    since: Instant,
}

/// A connection on loan. Dropping it closes the connection.
#[derive(Debug)]
pub(super) struct Lease {
    connection: Connection,
    pool: Arc<Pool>,
}

impl Pool {
    pub(super) fn new(connector: Connector, settings: PoolSettings) -> Self {
        Self {
            connector,
            settings,
            idle: Mutex::default(),
        }
    }

    /// Sends a request over an idle connection or a new one, and waits for the response's head.
    ///
    /// An idle connection that turns out to be closed before the request is written is replaced.
    pub(super) async fn send(
        self: &Arc<Self>,
        mut request: Request<RequestBody>,
    ) -> Result<(Response<Incoming>, Lease), SendError> {
        into_origin_form(&mut request);
        let lease = |(response, connection)| {
            let pool = self.clone();
            (response, Lease { connection, pool })
        };
        while let Some(connection) = self.take() {
            match connection.send(request).await {
                Ok(sent) => return Ok(lease(sent)),
                Err(SendError {
                    request: Some(unsent),
                    ..
                }) => request = unsent,
                Err(failed) => return Err(failed),
            }
        }
        let connection = self.connect().await?;
        connection.send(request).await.map(lease)
    }

    /// Sends a request over a connection that no request was sent on before.
    pub(super) async fn send_over_new_connection(
        self: &Arc<Self>,
        mut request: Request<RequestBody>,
    ) -> Result<(Response<Incoming>, Lease), SendError> {
        into_origin_form(&mut request);
        let (response, connection) = self.connect().await?.send(request).await?;
        let pool = self.clone();
        Ok((response, Lease { connection, pool }))
    }

    async fn connect(&self) -> Result<Connection, SendError> {
        let stream = self.connector.connect().await?;
        let PoolSettings {
            wire_bytes_max,
            head_bytes_max,
            ..
        } = self.settings;
        Ok(Connection::begin(stream, wire_bytes_max, head_bytes_max).await?)
    }

    /// Takes the connection that was used last; drops those that were idle for too long.
    fn take(&self) -> Option<Connection> {
        let now = Instant::now();
        let (taken, _expired) = {
            let mut idle = self.idle.lock();
            let taken = idle.pop()?;
            if now - taken.since < IDLE_TIMEOUT {
                return Some(taken.connection);
            }
            (taken, std::mem::take(&mut *idle)) // the others are older
        };
        drop(taken);
        None
    }

    fn put(&self, connection: Connection) {
        connection.park();
        let since = Instant::now();
        let mut idle = self.idle.lock();
        if idle.len() < self.settings.idle_max {
            idle.push(Idle { connection, since });
        }
    }
}

impl Lease {
    /// Puts a connection whose response has been received as a whole back at once. Its body is in
    /// memory then.
    pub(super) fn unless_idle(self) -> Option<Self> {
        if self.connection.is_idle() {
            self.release();
            return None;
        }
        Some(self)
    }

    /// Puts the connection into the pool, if it can take another request.
    pub(super) fn release(self) {
        if self.connection.is_idle() {
            self.pool.put(self.connection);
        }
    }

    /// Polls the next part of the response's body.
    pub(super) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
        body: &mut Incoming,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        self.connection.poll_frame(cx, body)
    }

    pub(super) fn into_connection(self) -> Connection {
        self.connection
    }
}

/// Sets `Host`, if the request has none, and reduces the URI to its path and query, the form that a
/// server expects (RFC 9112 §3.2.1).
fn into_origin_form(request: &mut Request<RequestBody>) {
    if !request.headers().contains_key(header::HOST)
        && let Some(authority) = request.uri().authority()
        && let Ok(host) = authority.as_str().parse()
    {
        request.headers_mut().insert(header::HOST, host);
    }
    let uri = request.uri_mut();
    if uri.authority().is_some() {
        *uri = match uri.path_and_query() {
            Some(path) => Uri::from(path.clone()),
            None => Uri::from_static("/"),
        };
    }
}

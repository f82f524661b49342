//! Pool: the idle connections to one endpoint.

use std::future::Future;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, Weak};
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
use super::connector::{Connector, Protocol};
use super::error::ClientError;
use super::http2;
use crate::clock::{Clock, Millis, Tick};
use crate::net::Stream;
use crate::tasks::Tasks;

/// How long an idle connection stays in the pool.
const IDLE_TIMEOUT: Duration = Duration::from_secs(20);

/// The idle connections to one endpoint. The one that was used last is used first, so that those
/// that are not needed expire. Over HTTP/2 there is one connection, which all requests share.
#[derive(Debug)]
pub(super) struct Pool {
    connector: Connector,
    settings: PoolSettings,
    /// The one that was used last is at the end.
    idle: Mutex<Vec<Idle>>,
    /// Whether the endpoint may speak HTTP/2: false once it has chosen HTTP/1.1.
    may_speak_http2: AtomicBool,
    http2: tokio::sync::Mutex<http2::Shared>,
    runtime: OnceLock<Runtime>,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct PoolSettings {
    /// The most idle connections.
    pub(super) idle_max: usize,
    /// See `ClientSettings`.
    pub(super) wire_bytes_max: usize,
    pub(super) head_bytes_max: Option<usize>,
}

/// The parts of the server that a pool uses.
#[derive(Debug)]
struct Runtime {
    tasks: Tasks,
    clock: Clock,
    /// The pool, as the target of its timer.
    pool: Weak<Pool>,
    /// Whether a timer is set that drops expired connections.
    is_sweeping: AtomicBool,
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

/// A connection that was chosen between HTTP/1.1 and HTTP/2.
enum Http {
    One(Stream),
    Two { sender: http2::Sender, is_new: bool },
}

/// A response, and its connection if that speaks HTTP/1.1.
type Received = (Response<Incoming>, Option<Lease>);

impl Pool {
    pub(super) fn new(connector: Connector, settings: PoolSettings) -> Self {
        let may_speak_http2 = match &connector.protocol {
            Protocol::Http1 => false,
            Protocol::Http2 => true,
            Protocol::Tls(tls) => tls.offers_http2(),
        };
        Self {
            connector,
            settings,
            idle: Mutex::default(),
            may_speak_http2: AtomicBool::new(may_speak_http2),
            http2: tokio::sync::Mutex::default(),
            runtime: OnceLock::new(),
        }
    }

    /// Sets the owner of the tasks that HTTP/2 needs, and the clock that drops idle connections.
    pub(super) fn attach(self: &Arc<Self>, tasks: &Tasks, clock: &Clock) {
        self.runtime.get_or_init(|| Runtime {
            tasks: tasks.clone(),
            clock: clock.clone(),
            pool: Arc::downgrade(self),
            is_sweeping: AtomicBool::new(false),
        });
    }

    /// Sends a request over an idle connection or a new one, and waits for the response's head.
    ///
    /// An idle connection that turns out to be closed before the request is written is replaced.
    #[expect(
        clippy::manual_async_fn,
        reason = "the future of an async fn would hold the request twice"
    )]
    pub(super) fn send(
        self: &Arc<Self>,
        request: Request<RequestBody>,
    ) -> impl Future<Output = Result<Received, SendError>> + Send {
        async move {
            if self.may_speak_http2.load(Ordering::Relaxed) {
                return Box::pin(self.send_http2(request)).await;
            }
            let unsent = match self.take() {
                None => request,
                Some(connection) => match connection.send(in_origin_form(request)).await {
                    Ok(sent) => return Ok(self.lend(sent)),
                    Err(failed) => match failed.request {
                        Some(unsent) => unsent,
                        None => return Err(failed),
                    },
                },
            };
            // Boxed, because most requests find an idle connection: their futures stay small.
            Box::pin(self.send_otherwise(unsent)).await
        }
    }

    /// Sends a request over another idle connection, or a new one.
    async fn send_otherwise(
        self: &Arc<Self>,
        request: Request<RequestBody>,
    ) -> Result<Received, SendError> {
        let mut request = in_origin_form(request);
        while let Some(connection) = self.take() {
            match connection.send(request).await {
                Ok(sent) => return Ok(self.lend(sent)),
                Err(SendError {
                    request: Some(unsent),
                    ..
                }) => request = unsent,
                Err(failed) => return Err(failed),
            }
        }
        self.connect_and_send(request).await
    }

    async fn connect_and_send(
        self: &Arc<Self>,
        request: Request<RequestBody>,
    ) -> Result<Received, SendError> {
        match self.connector.connect_http1().await {
            Ok(stream) => self.send_over(stream, request).await,
            Err(error) => Err(SendError::unsent(not_connected(error), request)),
        }
    }

    /// Sends a request over a connection that no request was sent on before, which speaks HTTP/1.1.
    pub(super) async fn send_over_new_connection(
        self: &Arc<Self>,
        request: Request<RequestBody>,
    ) -> Result<Received, SendError> {
        self.connect_and_send(in_origin_form(request)).await
    }

    async fn send_over(
        self: &Arc<Self>,
        stream: Stream,
        request: Request<RequestBody>,
    ) -> Result<Received, SendError> {
        let PoolSettings {
            wire_bytes_max,
            head_bytes_max,
            ..
        } = self.settings;
        match Connection::begin(stream, wire_bytes_max, head_bytes_max).await {
            Ok(connection) => Ok(self.lend(connection.send(request).await?)),
            Err(error) => Err(SendError::unsent(error, request)),
        }
    }

    fn lend(
        self: &Arc<Self>,
        (response, connection): (Response<Incoming>, Connection),
    ) -> Received {
        let pool = self.clone();
        (response, Some(Lease { connection, pool }))
    }

    /// Sends a request over the shared connection; over HTTP/1.1 if the endpoint chooses that.
    async fn send_http2(
        self: &Arc<Self>,
        mut request: Request<RequestBody>,
    ) -> Result<Received, SendError> {
        let is_tls = matches!(self.connector.protocol, Protocol::Tls(_));
        loop {
            let (mut sender, is_new) = match self.http2_sender().await {
                Ok(Http::Two { sender, is_new }) => (sender, is_new),
                Ok(Http::One(stream)) => {
                    return self.send_over(stream, in_origin_form(request)).await;
                }
                Err(error) => return Err(SendError::unsent(error, request)),
            };
            http2::into_absolute_form(&mut request, is_tls);
            match sender.try_send_request(request).await {
                Ok(response) => return Ok((response, None)),
                Err(mut failed) => match failed.take_message() {
                    // The connection had ended.
                    Some(unsent) if !is_new => request = unsent,
                    unsent => {
                        return Err(SendError {
                            error: ClientError::classify(failed.error()),
                            request: unsent,
                            is_stale: false,
                        });
                    }
                },
            }
        }
    }

    /// Returns the shared connection, which is opened if there is none.
    async fn http2_sender(&self) -> Result<Http, ClientError> {
        let began = Instant::now();
        let mut shared = self.http2.lock().await;
        match &*shared {
            http2::Shared::Open(sender) if !sender.is_closed() => {
                let sender = sender.clone();
                let is_new = false;
                return Ok(Http::Two { sender, is_new });
            }
            http2::Shared::Failed { at, error } if *at > began => return Err(error.clone()),
            _ => {}
        }
        let opened = self.open_http2().await;
        *shared = match &opened {
            Ok(Http::Two { sender, .. }) => http2::Shared::Open(sender.clone()),
            Ok(Http::One(_)) => {
                self.may_speak_http2.store(false, Ordering::Relaxed);
                http2::Shared::Closed
            }
            Err(error) => http2::Shared::Failed {
                at: Instant::now(),
                error: error.clone(),
            },
        };
        opened
    }

    async fn open_http2(&self) -> Result<Http, ClientError> {
        let (stream, is_http2) = self.connector.connect().await.map_err(not_connected)?;
        if !is_http2 {
            return Ok(Http::One(stream));
        }
        let Some(runtime) = self.runtime.get() else {
            return Err(not_connected(io::Error::other("HTTP/2 needs a server")));
        };
        let sender = http2::begin(stream, &runtime.tasks).await?;
        let is_new = true;
        Ok(Http::Two { sender, is_new })
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

    pub(super) fn drop_idle(&self) {
        let idle = std::mem::take(&mut *self.idle.lock());
        drop(idle); // without the lock
    }

    fn put(&self, connection: Connection) {
        connection.park();
        let since = Instant::now();
        let mut idle = self.idle.lock();
        if idle.len() < self.settings.idle_max {
            idle.push(Idle { connection, since });
            drop(idle);
            self.sweep_later();
        }
    }

    /// Sets a timer that drops expired connections, if there is none yet.
    fn sweep_later(&self) {
        if let Some(runtime) = self.runtime.get()
            && !runtime.is_sweeping.swap(true, Ordering::SeqCst)
        {
            let at = runtime.clock.now() + IDLE_TIMEOUT.as_millis() as Millis;
            let target: Weak<dyn Tick> = runtime.pool.clone();
            runtime.clock.wake_at(at, target);
        }
    }
}

/// Drops the connections that were idle for too long.
impl Tick for Pool {
    fn tick(&self) {
        // Before the look at the connections: one that comes later sets the next timer itself.
        if let Some(runtime) = self.runtime.get() {
            runtime.is_sweeping.store(false, Ordering::SeqCst);
        }
        let now = Instant::now();
        let (expired, is_empty) = {
            let mut idle = self.idle.lock();
            let young = idle.iter().position(|one| now - one.since < IDLE_TIMEOUT);
            let young = young.unwrap_or(idle.len());
            let expired: Vec<Idle> = idle.drain(..young).collect();
            (expired, idle.is_empty())
        };
        drop(expired); // without the lock
        if !is_empty {
            self.sweep_later();
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

fn not_connected(error: io::Error) -> ClientError {
    let source = Arc::new(error);
    ClientError::Connect { source }
}

/// Sets `Host`, if the request has none, and reduces the URI to its path and query, the form that a
/// server expects (RFC 9112 §3.2.1).
fn in_origin_form(mut request: Request<RequestBody>) -> Request<RequestBody> {
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
    request
}

//! Pool: the idle connections to one endpoint.

use std::future::Future;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, Uri, header};
use http_body::Frame;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::body::{Incoming, RequestBody};
use super::connection::{Connection, SendError};
use super::connector::{Connector, Protocol};
use super::deadlines::HeadTimer;
use super::endpoint_url::Address;
use super::error::ClientError;
use super::http2;
use crate::clock::{Clock, Millis, Tick};
use crate::net::Stream;
use crate::tasks::Tasks;

/// How long an idle connection stays in the pool.
const IDLE_TIMEOUT: Duration = Duration::from_secs(20);

/// How long an endpoint that has chosen HTTP/1.1 is not offered HTTP/2 again.
const OFFER_AGAIN: Duration = Duration::from_secs(60);

/// The idle connections to one endpoint, and those that speak HTTP/2. The idle one that was used
/// last is used first, so that those that are not needed expire.
#[derive(Debug)]
pub(super) struct Pool {
    connector: Connector,
    settings: PoolSettings,
    /// The one that was used last is at the end.
    idle: Mutex<Vec<Idle>>,
    /// Counts [`Pool::retire`]: connections that are older are not used again.
    generation: AtomicU64,
    /// Whether the endpoint speaks HTTP/2, or has not chosen yet.
    may_speak_http2: AtomicBool,
    /// When an endpoint that has chosen HTTP/1.1 is offered HTTP/2 again.
    offer_http2_at: Mutex<Option<Instant>>,
    http2: Arc<http2::Connections>,
    runtime: OnceLock<Runtime>,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct PoolSettings {
    /// See `ClientSettings`.
    pub(super) queue_timeout: Duration,
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
    generation: u64,
    since: Instant,
}

/// A connection on loan. Dropping it closes the connection.
#[derive(Debug)]
pub(super) struct Lease {
    connection: Connection,
    generation: u64,
    pool: Arc<Pool>,
}

/// A response over HTTP/1.1, and its connection.
type Received = (Response<hyper::body::Incoming>, Lease);

/// The way of a request to an endpoint that may speak HTTP/2.
enum Way {
    /// A place on a shared connection.
    Http2(http2::Place),
    /// A new connection: the endpoint has just chosen HTTP/1.1.
    Http1(Stream),
    /// Any connection: the endpoint has chosen HTTP/1.1 for another request.
    AnyHttp1,
}

/// How many times a request is sent again over HTTP/2 that the endpoint has not processed.
const UNPROCESSED_MAX: usize = 3;

impl Pool {
    pub(super) fn new(connector: Connector, settings: PoolSettings) -> Self {
        let may_speak_http2 = connector.protocol.offers_http2();
        Self {
            connector,
            settings,
            idle: Mutex::default(),
            generation: AtomicU64::new(0),
            may_speak_http2: AtomicBool::new(may_speak_http2),
            offer_http2_at: Mutex::new(None),
            http2: Arc::default(),
            runtime: OnceLock::new(),
        }
    }

    pub(super) fn address(&self) -> &Address {
        &self.connector.address
    }

    pub(super) fn is_tls(&self) -> bool {
        matches!(self.connector.protocol, Protocol::Tls(_))
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

    /// Sends a request over an idle or shared connection, or a new one, and waits for the
    /// response's head. A connection that turns out to take no request is replaced.
    #[expect(
        clippy::manual_async_fn,
        reason = "the future of an async fn would hold the request twice"
    )]
    pub(super) fn send(
        self: &Arc<Self>,
        request: Request<RequestBody>,
        timer: &HeadTimer,
    ) -> impl Future<Output = Result<Response<Incoming>, SendError>> + Send {
        async move {
            let idle = match self.may_speak_http2.load(Ordering::Relaxed) {
                true => None,
                false => self.take(),
            };
            let unsent = match idle {
                None => request,
                Some((connection, generation)) => {
                    match connection.send(in_origin_form(request)).await {
                        Ok(sent) => return Ok(incoming(self.lend(sent, generation))),
                        Err(failed) => match failed.request {
                            Some(unsent) => unsent,
                            None => return Err(failed),
                        },
                    }
                }
            };
            // Boxed, because most requests find an idle connection: their futures stay small.
            Box::pin(self.send_otherwise(unsent, timer)).await
        }
    }

    /// Sends a request over a shared connection, another idle one, or a new one.
    async fn send_otherwise(
        self: &Arc<Self>,
        mut request: Request<RequestBody>,
        timer: &HeadTimer,
    ) -> Result<Response<Incoming>, SendError> {
        loop {
            if self.may_speak_http2.load(Ordering::Relaxed) {
                match self.send_http2(request, timer).await? {
                    Ok(response) => return Ok(response),
                    Err(unsent) => request = unsent,
                }
            }
            request = in_origin_form(request);
            while let Some((connection, generation)) = self.take() {
                match connection.send(request).await {
                    Ok(sent) => return Ok(incoming(self.lend(sent, generation))),
                    Err(SendError {
                        request: Some(unsent),
                        ..
                    }) => request = unsent,
                    Err(failed) => return Err(failed),
                }
            }
            let generation = self.generation.load(Ordering::Relaxed);
            let opened = if self.is_offer_due() {
                let opening = self.http2.open();
                self.open_place(&opening).await
            } else {
                let stream = self.connector.connect_http1().await;
                stream.map(Way::Http1).map_err(not_connected)
            };
            return match opened {
                Ok(Way::Http1(stream)) => {
                    let sent = self.send_over(stream, generation, request).await;
                    sent.map(incoming)
                }
                Ok(Way::Http2(_) | Way::AnyHttp1) => continue,
                Err(error) => Err(SendError::unsent(error, request)),
            };
        }
    }

    /// Sends a request over a connection that no request was sent on before, which speaks HTTP/1.1.
    pub(super) async fn send_over_new_connection(
        self: &Arc<Self>,
        request: Request<RequestBody>,
    ) -> Result<Received, SendError> {
        let request = in_origin_form(request);
        let generation = self.generation.load(Ordering::Relaxed);
        match self.connector.connect_http1().await {
            Ok(stream) => self.send_over(stream, generation, request).await,
            Err(error) => Err(SendError::unsent(not_connected(error), request)),
        }
    }

    async fn send_over(
        self: &Arc<Self>,
        stream: Stream,
        generation: u64,
        request: Request<RequestBody>,
    ) -> Result<Received, SendError> {
        let PoolSettings {
            wire_bytes_max,
            head_bytes_max,
            ..
        } = self.settings;
        match Connection::begin(stream, wire_bytes_max, head_bytes_max).await {
            Ok(connection) => Ok(self.lend(connection.send(request).await?, generation)),
            Err(error) => Err(SendError::unsent(error, request)),
        }
    }

    fn lend(
        self: &Arc<Self>,
        (response, connection): (Response<hyper::body::Incoming>, Connection),
        generation: u64,
    ) -> Received {
        let lease = Lease {
            connection,
            generation,
            pool: self.clone(),
        };
        (response, lease)
    }

    /// Sends a request over a shared connection. Returns the request if the endpoint has chosen
    /// HTTP/1.1.
    async fn send_http2(
        self: &Arc<Self>,
        mut request: Request<RequestBody>,
        timer: &HeadTimer,
    ) -> Result<Result<Response<Incoming>, Request<RequestBody>>, SendError> {
        let is_tls = self.is_tls();
        let mut left = UNPROCESSED_MAX;
        loop {
            let generation = self.generation.load(Ordering::Relaxed);
            let place = match self.way(timer).await {
                Ok(Way::Http2(place)) => place,
                Ok(Way::Http1(stream)) => {
                    let request = in_origin_form(request);
                    let sent = self.send_over(stream, generation, request).await?;
                    return Ok(Ok(incoming(sent)));
                }
                Ok(Way::AnyHttp1) => return Ok(Err(request)),
                Err(error) => return Err(SendError::unsent(error, request)),
            };
            match http2::send(place, request, is_tls).await {
                Ok(response) => {
                    return Ok(Ok(response.map(|body| Incoming::Http2(Box::new(body)))));
                }
                Err(SendError {
                    request: Some(unsent),
                    ..
                }) if left > 0 => {
                    left -= 1;
                    request = unsent;
                }
                Err(failed) => return Err(failed),
            }
        }
    }

    /// Waits for a place on a shared connection, or opens one.
    async fn way(&self, timer: &HeadTimer) -> Result<Way, ClientError> {
        let began = Instant::now();
        loop {
            let mut changed = std::pin::pin!(self.http2.changed());
            changed.as_mut().enable(); // before the look at the connections
            let waiting = match self.http2.next(began) {
                http2::Next::Send(place) => {
                    timer.restart();
                    return Ok(Way::Http2(place));
                }
                http2::Next::Fail(error) => return Err(error),
                http2::Next::Wait(waiting) => waiting,
                http2::Next::Open(opening) => {
                    timer.restart();
                    match self.open_place(&opening).await {
                        Ok(way) => return Ok(way),
                        Err(error) if !opening.failed(&error) => return Err(error),
                        Err(_) => continue,
                    }
                }
            };
            timer.pause();
            // A connection may take its time to open; a place on one that is open has its own.
            let opening = match waiting.is_opening {
                true => self.connector.timeout,
                false => Duration::ZERO,
            };
            let until = began + self.settings.queue_timeout + opening;
            if tokio::time::timeout_at(until, changed).await.is_err() {
                let waited = began.elapsed();
                return Err(ClientError::Busy { waited });
            }
            if !self.may_speak_http2.load(Ordering::Relaxed) {
                timer.restart();
                return Ok(Way::AnyHttp1);
            }
        }
    }

    async fn open_place(&self, opening: &http2::Opening) -> Result<Way, ClientError> {
        let (stream, is_http2) = self.connector.connect().await.map_err(not_connected)?;
        if !is_http2 {
            *self.offer_http2_at.lock() = Some(Instant::now() + OFFER_AGAIN);
            self.may_speak_http2.store(false, Ordering::Relaxed);
            return Ok(Way::Http1(stream));
        }
        let Some(runtime) = self.runtime.get() else {
            return Err(not_connected(io::Error::other("HTTP/2 needs a server")));
        };
        let place = http2::begin(stream, opening, &runtime.tasks).await?;
        self.may_speak_http2.store(true, Ordering::Relaxed);
        Ok(Way::Http2(place))
    }

    /// Returns whether this request offers HTTP/2 to an endpoint that has chosen HTTP/1.1 before.
    fn is_offer_due(&self) -> bool {
        if !self.connector.protocol.offers_http2() {
            return false;
        }
        let now = Instant::now();
        let mut offer_at = self.offer_http2_at.lock();
        let is_due = offer_at.is_some_and(|at| at <= now);
        if is_due {
            *offer_at = Some(now + OFFER_AGAIN);
        }
        is_due
    }

    /// Takes the connection that was used last; drops those that were idle for too long.
    fn take(&self) -> Option<(Connection, u64)> {
        let now = Instant::now();
        let (taken, _expired) = {
            let mut idle = self.idle.lock();
            let taken = idle.pop()?;
            if now - taken.since < IDLE_TIMEOUT {
                return Some((taken.connection, taken.generation));
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

    /// Sends no more requests over the connections that are open.
    pub(super) fn retire(&self) {
        self.generation.fetch_add(1, Ordering::Relaxed);
        self.drop_idle();
        self.http2.retire();
    }

    fn put(&self, connection: Connection, generation: u64) {
        connection.park();
        let since = Instant::now();
        let mut idle = self.idle.lock();
        // Race: compared under the lock, because `retire` counts first and then drops the idle
        // ones.
        let is_current = generation == self.generation.load(Ordering::Relaxed);
        if is_current && idle.len() < self.settings.idle_max {
            idle.push(Idle {
                connection,
                generation,
                since,
            });
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
            self.pool.put(self.connection, self.generation);
        }
    }

    /// Polls the next part of the response's body.
    pub(super) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
        body: &mut hyper::body::Incoming,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        self.connection.poll_frame(cx, body)
    }

    pub(super) fn into_connection(self) -> Connection {
        self.connection
    }
}

fn incoming((response, lease): Received) -> Response<Incoming> {
    response.map(|body| Incoming::http1(body, lease))
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

//! Connection: one client's stream, as long as it speaks HTTP.

use std::any::Any;
use std::cell::Cell;
use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, SystemTime};

use futures_util::task::AtomicWaker;
use hyper::body::Incoming;
use hyper::rt::Executor;
use hyper::service::service_fn;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto::{self, upgrade};
use metrics::{Gauge, gauge};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::sync::CancellationToken;

use super::connection_timeouts::{ConnectionTimeouts, InFlight, ResponseBody};
use super::date;
use super::stall_timeout::resettable;
use super::timed_stream::TimedStream;
use super::unread_body::{announce_close, finish_request};
use crate::config::ServerConfig;
use crate::gateway::{ConnectionInfo, Fragment, Gateway, Reply, Upgrade};
use crate::http::upgrade::ConnectProtocol;
use crate::http::{Body, Response};
use crate::net::Admission;
use crate::tasks::Tasks;
use crate::websocket::{ConnectionTask, Transport};

/// hyper's buffer cannot be smaller.
const BUFFER_BYTES_MIN: usize = 8192;

/// What a client may send over HTTP/2 before it is read: by one request or WebSocket, and by all of a connection. A WebSocket whose consumer is
/// busy fills only its own share.
const STREAM_WINDOW_BYTES: u32 = 128 * 1024;
const CONNECTION_WINDOW_BYTES: u32 = 2 * 1024 * 1024;

/// A client that has vanished is noticed by a ping that it does not answer (RFC 9113 §6.7): streams and sockets of an HTTP/2 connection
/// may be silent for long.
const PING_INTERVAL: Duration = Duration::from_secs(25);
const PING_TIMEOUT: Duration = Duration::from_secs(10);

/// How all connections of a listener are served.
pub(super) struct HttpServer {
    builder: auto::Builder<TaskExecutor>,
    gateway: Gateway,
    server: ServerConfig,
    admission: Admission,
    open: Gauge,
}

thread_local! {
    /// What cuts the writer of the WebSocket whose answer was just given. hyper starts the writer in the same poll, and the writer of a client
    /// that gives no window would wait for ever, with its stream and what it was to write.
    static UPGRADING: Cell<Option<CancellationToken>> = const { Cell::new(None) };
}

/// hyper's tasks are the server's too.
#[derive(Clone)]
struct TaskExecutor(Tasks);

impl<F> Executor<F> for TaskExecutor
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, future: F) {
        let cut = UPGRADING.take();
        // hyper has no other word for what it starts. Should the name change, a stuck stream is reset with its connection only, and a test fails.
        let is_writer = std::any::type_name::<F>().contains("UpgradedSendStreamTask");
        match cut.filter(|_| is_writer) {
            None => self.0.spawn("http/2 stream", resettable(future)),
            Some(cut) => self.0.spawn("http/2 websocket's writer", async move {
                tokio::select! {
                    () = future => {}
                    () = cut.cancelled() => {} // the stream is reset
                }
            }),
        }
    }
}

/// A connection that speaks HTTP, for the gauge.
struct OpenGuard<'g>(&'g Gauge);

impl<'g> OpenGuard<'g> {
    fn new(gauge: &'g Gauge) -> Self {
        gauge.increment(1.0);
        Self(gauge)
    }
}

impl Drop for OpenGuard<'_> {
    fn drop(&mut self) {
        self.0.decrement(1.0);
    }
}

/// What all requests of a connection share.
type Shared = (
    Gateway,
    ConnectionInfo,
    Arc<PendingUpgrade>,
    Arc<ConnectionTimeouts>,
    Admission,
);

/// A WebSocket that waits for its 101 to be sent.
type PendingUpgrade = Mutex<Option<(Box<Upgrade>, OnUpgrade)>>;

impl HttpServer {
    /// `websocket_over_http2`: clients may open WebSockets over HTTP/2 (RFC 8441).
    pub(super) fn new(
        gateway: Gateway,
        server: ServerConfig,
        admission: Admission,
        websocket_over_http2: bool,
    ) -> Arc<Self> {
        let mut builder = auto::Builder::new(TaskExecutor(gateway.services().tasks.clone()));
        let header_size = server.limits.header_size.as_usize();
        builder
            .http1()
            .timer(TokioTimer::new())
            .header_read_timeout(None) // `ConnectionTimeouts` keeps this deadline and the others
            .keep_alive(!server.timeouts.keep_alive.is_zero())
            .max_buf_size(header_size.max(BUFFER_BYTES_MIN));
        builder
            .http2()
            .timer(TokioTimer::new())
            .max_header_list_size(u32::try_from(header_size).unwrap_or(u32::MAX))
            .max_concurrent_streams(250)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .keep_alive_interval(PING_INTERVAL)
            .keep_alive_timeout(PING_TIMEOUT);
        if websocket_over_http2 {
            builder.http2().enable_connect_protocol();
        }
        Arc::new(Self {
            builder,
            gateway,
            server,
            admission,
            open: gauge!("oneport_connections"),
        })
    }

    /// Serves one connection until it ends, also as the WebSocket that it may become. `held` is let go then.
    pub(super) fn serve<S>(
        self: Arc<Self>,
        stream: S,
        info: ConnectionInfo,
        held: Box<dyn Any + Send>,
        into_transport: fn(S) -> Transport,
    ) -> ConnectionTask
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        ConnectionTask::new(self.serve_until_upgrade(stream, info, held, into_transport))
    }

    /// Speaks HTTP until the connection ends or becomes the WebSocket that is returned.
    async fn serve_until_upgrade<S>(
        self: Arc<Self>,
        stream: S,
        info: ConnectionInfo,
        held: Box<dyn Any + Send>,
        into_transport: fn(S) -> Transport,
    ) -> Option<ConnectionTask>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let pending_upgrade: Arc<PendingUpgrade> = Arc::default();
        let open = OpenGuard::new(&self.open);
        self.serve_http(stream, info, &pending_upgrade).await;
        drop(open);
        let taken = pending_upgrade.lock().take();
        let (upgrade, on_upgrade) = taken?;
        let upgraded = on_upgrade
            .await
            .ok()
            .and_then(|upgraded| upgrade::downcast::<TokioIo<TimedStream<S>>>(upgraded).ok());
        Some(match upgraded {
            Some(parts) => upgrade.run(
                Some(into_transport(parts.io.into_inner().stream)),
                parts.read_buf,
                held,
            ),
            None => upgrade.run(None, bytes::Bytes::new(), held),
        })
    }

    async fn serve_http<S>(
        &self,
        stream: S,
        info: ConnectionInfo,
        pending_upgrade: &Arc<PendingUpgrade>,
    ) where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let services = self.gateway.services();
        let timeouts = ConnectionTimeouts::new(services.clock.clone(), &self.server);
        let info = ConnectionInfo {
            client: timeouts.client().clone(),
            ..info
        };
        let io = TokioIo::new(TimedStream::new(stream, timeouts.clone()));
        let shared = Arc::new((
            self.gateway.clone(),
            info,
            pending_upgrade.clone(),
            timeouts.clone(),
            self.admission.clone(),
        ));
        let service = service_fn(move |mut request: http::Request<Incoming>| {
            // Before the future is polled: hyper reads on in between, and may find the end of the client's stream.
            let timeouts = &shared.3;
            let has_body = !http_body::Body::is_end_stream(request.body());
            let in_flight = timeouts.start_request(request.version(), has_body);
            if timeouts.take_fragment() {
                request.extensions_mut().insert(Fragment);
            }
            // A body that outlived its own request is not this one's.
            drop(timeouts.client().take_unread());
            respond(shared.clone(), request, in_flight)
        });
        let mut connection = pin!(self.builder.serve_connection_with_upgrades(io, service));
        let draining = services.tasks.draining_token();
        let mut draining = pin!(draining.cancelled());
        let mut expired = pin!(timeouts.expired());
        let side_waker = Arc::new(SideWaker::default());
        let waker = Waker::from(side_waker.clone());
        let mut is_draining = false;
        let outcome = poll_fn(|cx| {
            if side_waker.was_called(cx) {
                let mut side_cx = Context::from_waker(&waker);
                if !is_draining && draining.as_mut().poll(&mut side_cx).is_ready() {
                    is_draining = true;
                    timeouts.start_drain();
                    connection.as_mut().graceful_shutdown();
                }
                if expired.as_mut().poll(&mut side_cx).is_ready() {
                    return Poll::Ready(None);
                }
            }
            let polled = connection.as_mut().poll(cx).map(Some);
            // Half a request is not waited for once the server stops.
            let is_upgrading = || pending_upgrade.lock().is_some();
            if polled.is_pending() && is_draining && timeouts.is_idle() && !is_upgrading() {
                return Poll::Ready(None);
            }
            polled
        });
        match outcome.await {
            Some(Ok(())) => {}
            Some(Err(error)) => tracing::debug!(%error, "the connection ended"),
            None => tracing::debug!("the connection was silent for too long, or idle at the end"),
        }
    }
}

/// Wakes a task for the sake of futures beside its main one, and remembers that it did.
///
/// Without it each request would poll them too, and the wait for the drain has a lock that all connections share.
#[derive(Default)]
struct SideWaker {
    is_idle: AtomicBool,
    task: AtomicWaker,
}

impl SideWaker {
    /// Tells whether the futures beside the main one have to be polled; the first time they have.
    fn was_called(&self, cx: &Context<'_>) -> bool {
        if self.is_idle.load(Ordering::Acquire) {
            return false;
        }
        self.task.register(cx.waker());
        self.is_idle.store(true, Ordering::Release);
        true
    }
}

impl Wake for SideWaker {
    fn wake(self: Arc<Self>) {
        self.is_idle.store(false, Ordering::Release);
        self.task.wake();
    }
}

async fn respond(
    shared: Arc<Shared>,
    mut request: http::Request<Incoming>,
    in_flight: InFlight,
) -> Result<http::Response<ResponseBody>, Infallible> {
    let (gateway, info, pending_upgrade, timeouts, admission) = &*shared;
    let clock = &gateway.services().clock;
    let connect_protocol = request.extensions_mut().remove::<hyper::ext::Protocol>();
    let is_http2 = connect_protocol.is_some();
    let mut admitted = None;
    if let Some(protocol) = connect_protocol {
        // A socket counts as a connection, also where several share one.
        admitted = admission.admit(None); // the gateway counts by address
        if admitted.is_none() {
            return Ok(ResponseBody::new(overloaded(), Some(in_flight)));
        }
        let protocol = ConnectProtocol(protocol.as_str().into());
        request.extensions_mut().insert(protocol);
    }
    let is_http1 = request.version() < http::Version::HTTP_2;
    let waits_for_continue = request.headers().contains_key(http::header::EXPECT);
    let on_upgrade = (is_http2 || request.headers().contains_key(http::header::UPGRADE))
        .then(|| hyper::upgrade::on(&mut request));
    let request = match is_http1 {
        true => request.map(|body| Body::watched(body, &info.client, clock, timeouts.min_rate())),
        false => request.map(|body| Body::paced(body, clock, timeouts.min_rate())),
    };
    let response = match gateway.serve(request, info).await {
        Reply::Response(mut response) => {
            if let Some(unread) = info.client.take_unread() {
                finish_request(&mut response, unread, waits_for_continue, &info.client).await;
            } else if info.client.has_broken() {
                announce_close(&mut response);
            }
            if let Some(date) = date::correction(SystemTime::now()) {
                response.headers_mut().insert(http::header::DATE, date);
            }
            response
        }
        Reply::Upgrade(response, upgrade) => {
            match on_upgrade {
                Some(on_upgrade) if is_http2 => {
                    // The connection goes on; its socket counts as a request until it ends.
                    let cut = CancellationToken::new();
                    UPGRADING.set(Some(cut.clone()));
                    let held = (in_flight, cut.drop_guard(), admitted);
                    let opening = open_on_stream(upgrade, on_upgrade, Box::new(held));
                    gateway.services().tasks.spawn("http/2 websocket", opening);
                    return Ok(ResponseBody::new(response, None));
                }
                Some(on_upgrade) => {
                    *pending_upgrade.lock() = Some((upgrade, on_upgrade));
                }
                None => {}
            }
            response
        }
    };
    Ok(ResponseBody::new(response, Some(in_flight)))
}

/// The answer to a WebSocket over the limits.
fn overloaded() -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = http::StatusCode::SERVICE_UNAVAILABLE;
    let seconds = http::HeaderValue::from_static("1");
    response
        .headers_mut()
        .insert(http::header::RETRY_AFTER, seconds);
    response
}

/// Starts a WebSocket on its stream once the answer to its handshake is sent.
async fn open_on_stream(upgrade: Box<Upgrade>, on_upgrade: OnUpgrade, held: Box<dyn Any + Send>) {
    let transport = on_upgrade
        .await
        .ok()
        .map(|upgraded| Transport::stream(TokioIo::new(upgraded)));
    upgrade.start(transport, bytes::Bytes::new(), held);
}

//! Connection: a client's HTTP connection, and the WebSocket that it may become.
//!
//! ```text
//! Acceptor ──> start ──> HTTP ──┬── request ──> respond ──> response ──> HTTP
//!                         │     └── upgrade ──> respond ──> 101
//!                         │                                  └── written: hyper gives the stream
//!                         │                                      back, and the same task becomes
//!                         │                                      the WebSocket
//!                         └── ends, expires, or is idle in a drain: closed
//! ```
//!
//! A drain goes in two steps, of which a server that stops takes both at once:
//!
//! ```text
//! Serving ── another process serves ──> HandingOver ── the server drains ──> Draining
//! ```
//!
//! `HandingOver` closes no connection over HTTP/1.1 that waits for a request: the client may have
//! sent one already. It gets its response, with `Connection: close`. Over HTTP/2, GOAWAY says which
//! streams are still served.
//!
//! An upgrade over HTTP/2 does not end the connection: the request's stream becomes the WebSocket,
//! in its own task (`respond.rs`).

use std::future::{Future, poll_fn};
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use futures_util::task::AtomicWaker;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto::{self, upgrade};

use super::connection_ends::ConnectionEnds;
use super::connection_phases::ConnectionPhases;
use super::connection_start::{ConnectionStart, Started};
use super::connection_timeouts::{ConnectionTimeouts, millis};
use super::hyper_tasks::HyperTasks;
use super::open_connections::OpenConnections;
use super::respond::{PendingUpgrade, Shared, respond};
use super::timed_stream::TimedStream;
use crate::config::{Config, Listen, ServerConfig};
use crate::gateway::{ConnectionInfo, Fragment, Gateway};
use crate::http::ClientEnd;
use crate::net::{
    Admission, Connection, ConnectionCause, ConnectionPermit, Listener, Scheme, Serve, ServerTls,
};
use crate::websocket::ConnectionTask;

/// The minimum size of hyper's buffer.
pub(super) const BUFFER_BYTES_MIN: usize = 8192;

/// The flow-control windows of HTTP/2: of one stream, and of a connection. A WebSocket whose
/// consumer is busy fills only its own window.
const STREAM_WINDOW_BYTES: u32 = 128 * 1024;
const CONNECTION_WINDOW_BYTES: u32 = 2 * 1024 * 1024;

/// How much of the response of one stream h2 takes beyond what it has written. A client may give
/// window and read nothing, on many streams.
const SEND_BUFFER_BYTES: usize = 64 * 1024;

/// How many streams of an HTTP/2 connection the client may have reset before the server has looked
/// at them (rapid reset), and how many the server may have reset because of the client's errors
/// (made-you-reset). One more ends the connection with ENHANCE_YOUR_CALM.
const RESET_STREAMS_MAX: usize = 20;
const ERROR_STREAMS_MAX: usize = 1024;

/// How many header fields hyper allows by itself.
const HYPER_HEADERS_MAX: usize = 100;

/// The interval of pings, which detect a dead client (RFC 9113 §6.7): the streams of an HTTP/2
/// connection may be silent for a long time.
const PING_INTERVAL: Duration = Duration::from_secs(25);
const PING_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a client may acknowledge nothing; twice `timeouts.request` if that is longer.
const UNACKNOWLEDGED_MIN: Duration = Duration::from_secs(60);

/// Serves HTTP on all connections of one listener.
pub(super) struct HttpServer {
    builder: auto::Builder<HyperTasks>,
    tasks: HyperTasks,
    gateway: Gateway,
    server: ServerConfig,
    admission: Admission,
    open: Arc<OpenConnections>,
    phases: Arc<ConnectionPhases>,
    /// The TLS that connections may begin with.
    tls: Option<Arc<ServerTls>>,
}

/// How far the end of the server is, as a connection knows it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Phase {
    Serving,
    /// Another process serves.
    HandingOver,
    /// The same, and the HTTP/2 client has got GOAWAY.
    GoingAway,
    Draining,
}

impl HttpServer {
    /// Returns what makes the service of each listener from a configuration.
    pub(super) fn of<'c>(
        gateway: &'c Gateway,
        config: &'c Config,
        admission: &'c Admission,
    ) -> impl Fn(&Listen, &Listener) -> Arc<Self> + 'c {
        // Exceeds the longest wait of a write, because a slow reader with a full buffer acknowledges
        // nothing.
        let unacknowledged_max = UNACKNOWLEDGED_MIN.max(config.server.timeouts.request * 2);
        move |listen, listener| {
            // Optional: without it, timeouts close these connections.
            let _ = listener.detect_dead_peers(unacknowledged_max);
            let _ = listener.bound_unsent();
            let tls = gateway.services().tls.load_full();
            let tls = tls.filter(|_| listen.tls && listener.is_tcp());
            Self::new(gateway, &config.server, admission, listen, tls)
        }
    }

    fn new(
        gateway: &Gateway,
        server: &ServerConfig,
        admission: &Admission,
        listen: &Listen,
        tls: Option<Arc<ServerTls>>,
    ) -> Arc<Self> {
        let services = gateway.services();
        let write = millis(server.timeouts.request);
        let tasks = HyperTasks::new(services.tasks.clone(), services.clock.clone(), write);
        let mut builder = auto::Builder::new(tasks.clone());
        let limits = &server.limits;
        let header_size = limits.header_size.as_usize();
        builder
            .http1()
            .timer(TokioTimer::new())
            .header_read_timeout(None) // `ConnectionTimeouts` keeps this deadline and the others
            .keep_alive(!server.timeouts.keep_alive.is_zero())
            .max_buf_size(header_size.max(BUFFER_BYTES_MIN));
        // The gateway refuses more than `header_count`, and hyper more than it takes. hyper's own
        // limit is that many by default, and another one costs an allocation for each head.
        if limits.header_count > HYPER_HEADERS_MAX {
            builder.http1().max_headers(limits.header_count);
        }
        builder
            .http2()
            .timer(TokioTimer::new())
            .max_header_list_size(u32::try_from(header_size).unwrap_or(u32::MAX))
            .max_concurrent_streams(u32::try_from(limits.http2_streams).unwrap_or(u32::MAX))
            .max_pending_accept_reset_streams(RESET_STREAMS_MAX)
            .max_local_error_reset_streams(ERROR_STREAMS_MAX)
            .max_send_buf_size(SEND_BUFFER_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .keep_alive_interval(PING_INTERVAL)
            .keep_alive_timeout(PING_TIMEOUT);
        if listen.websocket_over_http2 {
            builder.http2().enable_connect_protocol();
        }
        Arc::new(Self {
            builder,
            tasks,
            gateway: gateway.clone(),
            server: server.clone(),
            admission: admission.clone(),
            open: OpenConnections::new(),
            phases: ConnectionPhases::of(services),
            tls,
        })
    }

    /// Serves HTTP until the connection ends or is upgraded. Returns the WebSocket of an upgrade.
    async fn serve_until_upgrade(
        self: Arc<Self>,
        connection: Connection,
        mut permit: Option<ConnectionPermit>,
    ) -> Option<ConnectionTask> {
        let clock = self.gateway.services().clock.clone();
        let timeouts = ConnectionTimeouts::new(clock, &self.server);
        let listed = self.phases.list(&timeouts);
        let started = {
            let start = ConnectionStart {
                gateway: &self.gateway,
                tls: self.tls.as_deref(),
                overloaded: Self::OVERLOADED,
                ends: self.ends(),
            };
            start.run(connection, &mut permit, &timeouts).await?
        };
        let pending_upgrade: Arc<PendingUpgrade> = Arc::default();
        self.serve_http(started, timeouts, &pending_upgrade).await;
        drop(listed);
        let taken = pending_upgrade.lock().take();
        let (upgrade, on_upgrade) = taken?;
        let upgraded = on_upgrade
            .await
            .ok()
            .and_then(|upgraded| upgrade::downcast::<TokioIo<TimedStream>>(upgraded).ok());
        let permit = Box::new(permit?);
        Some(match upgraded {
            Some(parts) => {
                let stream = parts.io.into_inner().into_inner();
                upgrade.run(Some(stream), parts.read_buf, permit)
            }
            None => upgrade.run(None, bytes::Bytes::new(), permit),
        })
    }

    /// Returns where the ends of connections are kept.
    fn ends(&self) -> ConnectionEnds<'_> {
        ConnectionEnds {
            services: self.gateway.services(),
            server: &self.server,
            admission: &self.admission,
        }
    }

    async fn serve_http(
        &self,
        started: Started,
        timeouts: Arc<ConnectionTimeouts>,
        pending_upgrade: &Arc<PendingUpgrade>,
    ) {
        let Started {
            connection,
            plaintext,
            hsts,
            protocol,
        } = started;
        let services = self.gateway.services();
        let peer = connection.peer;
        let info = ConnectionInfo {
            peer,
            server: connection.server,
            security: connection.scheme,
            user: None,
            client: timeouts.client().clone(),
            plaintext,
        };
        let io = TokioIo::new(TimedStream::new(
            connection.stream,
            timeouts.clone(),
            protocol,
        ));
        let open = self.open.open(connection.scheme == Scheme::Secure);
        let shared = Arc::new(Shared {
            open,
            gateway: self.gateway.fork(),
            info,
            pending_upgrade: pending_upgrade.clone(),
            timeouts: timeouts.clone(),
            admission: self.admission.clone(),
            hsts,
        });
        let service = service_fn(move |request: http::Request<Incoming>| {
            // All of this runs before the future is first polled: in between, hyper continues to
            // read and may reach the end of the stream.
            let timeouts = &shared.timeouts;
            let (mut parts, body) = request.into_parts();
            let has_body = !http_body::Body::is_end_stream(&body);
            let in_flight = timeouts.start_request(parts.version, has_body);
            shared.open.record_request(parts.version);
            if timeouts.take_fragment() {
                parts.extensions.insert(Fragment);
            }
            // An unread body of the previous request does not belong to this one.
            drop(timeouts.client_with_body().and_then(ClientEnd::take_unread));
            respond(shared.clone(), &mut parts, body, has_body, in_flight)
        });
        let mut http = pin!(self.builder.serve_connection_with_upgrades(io, service));
        let tasks = &services.tasks;
        let mut next_phase = pin!(tasks.handing_over_token().cancelled_owned());
        let mut phase = Phase::Serving;
        let mut expired = pin!(timeouts.expired());
        let side_waker = Arc::new(SideWaker::default());
        let waker = Waker::from(side_waker.clone());
        let outcome = poll_fn(|cx| {
            if side_waker.take_woken(cx) {
                let mut side_cx = Context::from_waker(&waker);
                if phase == Phase::Serving && next_phase.as_mut().poll(&mut side_cx).is_ready() {
                    phase = Phase::HandingOver;
                    next_phase.set(tasks.draining_token().cancelled_owned());
                }
                let is_handing_over = matches!(phase, Phase::HandingOver | Phase::GoingAway);
                if is_handing_over && next_phase.as_mut().poll(&mut side_cx).is_ready() {
                    phase = Phase::Draining;
                    timeouts.start_drain();
                    http.as_mut().graceful_shutdown();
                }
                if expired.as_mut().poll(&mut side_cx).is_ready() {
                    // hyper has an error for what it closed the connection for.
                    return Poll::Ready(match timeouts.end_linger() {
                        true => match http.as_mut().poll(cx) {
                            Poll::Ready(ended) => Some(ended),
                            Poll::Pending => None,
                        },
                        false => None,
                    });
                }
            }
            if phase == Phase::HandingOver && timeouts.is_http2() {
                phase = Phase::GoingAway;
                http.as_mut().graceful_shutdown();
            }
            let polled = http.as_mut().poll(cx).map(Some);
            self.tasks.poll_done(); // wakes this task to send the responses
            // hyper would wait for the rest of a head; a drain does not. An upgrade no longer
            // counts as a request, but its 101 may still be unwritten.
            let is_upgrading = || pending_upgrade.lock().is_some();
            let is_draining = phase == Phase::Draining;
            if polled.is_pending() && is_draining && timeouts.is_idle() && !is_upgrading() {
                return Poll::Ready(None);
            }
            polled
        });
        match outcome.await {
            Some(Ok(())) => {}
            Some(Err(error)) => {
                self.ends().keep_error(peer, &*error, &timeouts);
                tracing::debug!(%error, "connection failed");
            }
            None => {
                if timeouts.awaits_head() {
                    let reason = "the head was not whole in time";
                    self.ends()
                        .keep(peer, ConnectionCause::HeadTimedOut, reason);
                }
                tracing::debug!("connection closed: timed out, or idle in a drain");
            }
        }
    }
}

impl Serve for HttpServer {
    const OVERLOADED: &'static [u8] = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\nretry-after: 1\r\nconnection: close\r\n\r\n";

    fn counted_ip(&self, peer: Option<SocketAddr>) -> Option<IpAddr> {
        self.gateway.counted(peer)
    }

    fn speaks_tls(&self) -> bool {
        self.tls.is_some()
    }

    fn refused(&self, peer: Option<SocketAddr>, cause: ConnectionCause) {
        self.ends().keep(peer, cause, "");
    }

    fn serve(
        self: Arc<Self>,
        connection: Connection,
        permit: ConnectionPermit,
    ) -> impl Future<Output = ()> + Send + 'static {
        ConnectionTask::new(self.serve_until_upgrade(connection, Some(permit)))
    }
}

/// Wakes a task for its side futures (drain and timeouts) and records that they must be polled.
///
/// With the task's own waker they would be polled on every request, and polling the drain takes a
/// lock that all connections share.
#[derive(Default)]
struct SideWaker {
    /// Whether the side futures need no poll. Set when they are polled, cleared when they wake.
    is_idle: AtomicBool,
    task: AtomicWaker,
}

impl SideWaker {
    /// Returns whether the side futures must be polled; `true` on the first call.
    ///
    /// The task's waker is registered before the flag is set. A wake-up in between clears a flag
    /// that is already clear; a later one finds the waker. In both cases the side futures are
    /// polled next and see the event that woke them.
    fn take_woken(&self, cx: &Context<'_>) -> bool {
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

//! Metrics listeners: `/metrics`, `/health/` and `/health/live/` at the addresses of `metrics.bind`.
//!
//! ```text
//! open ──> accept ──> reloads: open_missing, apply ──> the others drain ──> close
//! ```
//!
//! They serve HTTP/1.1, one request a connection, and know no routes. Their connections have a limit
//! and an owner of their own: a scraper is served while the other listeners are full, and until the
//! drain is over.

use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderValue, Method, StatusCode, header};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::time::timeout;

use super::listeners::{Closing, Inherited, Listeners, OpenError, Opened, missing};
use crate::config::{Bind, Config};
use crate::gateway::Gateway;
use crate::http::exposition::exposition;
use crate::http::views::Health;
use crate::http::{Response, respond};
use crate::net::{AccessChange, Admission, Connection, ConnectionPermit, Serve};
use crate::services::Services;
use crate::tasks::Tasks;

/// The most connections at once; a further one gets 503.
const CONNECTIONS_MAX: usize = 16;

/// How long a connection may take, from its first byte to the last one of the response.
const DEADLINE: Duration = Duration::from_secs(30);

/// The largest head of a request.
const HEAD_BYTES_MAX: usize = 16 * 1024;

/// How long connections may take to end when the listeners are closed.
const CLOSE_DEADLINE: Duration = Duration::from_secs(1);

/// The listeners of `metrics.bind`.
pub(super) struct MetricsListeners {
    listeners: Listeners<MetricsServer>,
    server: Arc<MetricsServer>,
    tasks: Tasks,
}

/// Serves the connections of all these listeners.
pub(super) struct MetricsServer {
    services: Services,
}

impl MetricsListeners {
    /// Opens the listeners of a configuration that are not open yet, all or none. Those that
    /// another process has opened are taken out of `inherited`.
    pub(super) async fn open(
        config: &Config,
        open: &[Bind],
        inherited: &mut Vec<Inherited>,
    ) -> Result<Opened, OpenError> {
        let wanted = &config.metrics.bind;
        let is_ours = |one: &mut Inherited| wanted.iter().any(|own| own.address == one.bind);
        let ours = inherited.extract_if(.., is_ours).collect();
        Opened::open(missing(wanted, open), ours).await
    }

    /// Accepts on listeners that were opened.
    pub(super) fn accept(gateway: &Gateway, config: &Config, opened: Opened) -> Self {
        let tasks = Tasks::default();
        let admission = Admission::apart(CONNECTIONS_MAX, "metrics.bind");
        let server = Arc::new(MetricsServer {
            services: gateway.services().clone(),
        });
        let mut listeners = Listeners::new(admission, tasks.clone());
        announce(&opened);
        // None is open yet, so there is nothing to close.
        drop(listeners.apply(&config.metrics.bind, opened, |_, _| server.clone()));
        Self {
            listeners,
            server,
            tasks,
        }
    }

    /// Returns the addresses of the open listeners.
    pub(super) fn addresses(&self) -> Vec<Bind> {
        self.listeners.addresses()
    }

    /// Sets the permissions of the unix sockets that stay and have others now; all or none.
    pub(super) fn set_access(&self, config: &Config) -> Result<Vec<AccessChange>, OpenError> {
        self.listeners.set_access(&config.metrics.bind)
    }

    /// Accepts at exactly the addresses of a new configuration. Returns what closes the others.
    pub(super) fn apply(&mut self, config: &Config, opened: Opened) -> Closing<MetricsServer> {
        announce(&opened);
        let server = &self.server;
        self.listeners
            .apply(&config.metrics.bind, opened, |_, _| server.clone())
    }

    /// Returns a second descriptor of each listener, for a process that takes over.
    pub(super) fn inheritable(&self) -> io::Result<Vec<Inherited>> {
        self.listeners.inheritable()
    }

    /// Makes this process the owner of the listeners that another one has opened.
    pub(super) fn take_over(&self) {
        self.listeners.take_over();
    }

    /// Stops accepting: another process has `taken` the listeners of these addresses.
    pub(super) async fn hand_over(self, taken: &[Bind]) {
        self.listeners.hand_over(taken).await;
        self.tasks.finish(CLOSE_DEADLINE).await;
    }

    /// Ends what is left of them, after the drain.
    pub(super) async fn close(self) {
        drop(self.listeners);
        self.tasks.finish(CLOSE_DEADLINE).await;
    }
}

impl Serve for MetricsServer {
    const OVERLOADED: &'static [u8] = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\nretry-after: 1\r\nconnection: close\r\n\r\n";

    fn speaks_tls(&self) -> bool {
        false
    }

    fn counted_ip(&self, _: Option<SocketAddr>) -> Option<IpAddr> {
        None
    }

    async fn serve(self: Arc<Self>, connection: Connection, permit: ConnectionPermit) {
        let _permit = permit;
        let server = &self;
        let service = service_fn(async |request: http::Request<Incoming>| {
            Ok::<_, Infallible>(server.respond(&request).await)
        });
        let serving = http1::Builder::new()
            .timer(TokioTimer::new())
            .keep_alive(false)
            .max_buf_size(HEAD_BYTES_MAX)
            .serve_connection(TokioIo::new(connection.stream), service);
        if let Ok(Err(error)) = timeout(DEADLINE, serving).await {
            tracing::debug!(%error, "connection of metrics failed");
        }
    }
}

impl MetricsServer {
    async fn respond(&self, request: &http::Request<Incoming>) -> Response {
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            let mut response = refusal(StatusCode::METHOD_NOT_ALLOWED, "use GET");
            let allow = HeaderValue::from_static("GET, HEAD");
            response.headers_mut().insert(header::ALLOW, allow);
            return response;
        }
        match request.uri().path().trim_end_matches('/') {
            "/metrics" => {
                let headers = request.headers().clone().into();
                let exposed = exposition(&self.services, &headers).await;
                exposed.unwrap_or_else(|failure| {
                    refusal(failure.status(), "the metrics cannot be read")
                })
            }
            "/health" => Health::READY.response(&self.services),
            "/health/live" => Health::LIVE.response(&self.services),
            _ => refusal(
                StatusCode::NOT_FOUND,
                "there are only /metrics, /health/ and /health/live/",
            ),
        }
    }
}

fn announce(opened: &Opened) {
    for (_, listener) in opened.iter() {
        tracing::info!(listener = listener.url(false), "listening for metrics");
    }
}

fn refusal(status: StatusCode, sentence: &str) -> Response {
    let line = format!("{} {sentence}\n", status.as_u16());
    respond(status.as_u16(), "text/plain; charset=utf-8", line)
}

//! Server: one of the servers of an upstream.

use std::future::Future;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use http::{HeaderValue, Request, Response, header};
use metrics::{Counter, Histogram, counter, histogram};
use tokio::time::Instant;

use super::health::{Availability, Health, PauseSettings, Transition};
use super::options::UpstreamOptions;
use super::server_url::ServerUrl;
use super::set::Runtime;
use super::{UpstreamBody, UpstreamError};
use crate::client::{
    Address, Client, ClientError, ClientSettings, EndsAt, RequestBody, ResponseBody, SendError,
    Upgraded,
};

/// One server.
#[derive(Debug)]
pub(super) struct Server {
    /// Its URL, and its address if the URL has a name: for the log, and its rank.
    pub(super) name: Arc<str>,
    /// Its URL: for metrics.
    pub(super) url: Arc<str>,
    /// The address that its name was resolved to.
    pub(super) address: Option<IpAddr>,
    /// For requests without `Host`.
    host: HeaderValue,
    pub(super) client: Client,
    /// Opens the tunnels, which have places of their own: they last, and would take those of the
    /// requests one by one.
    tunnels: Client,
    /// Sends the health checks: a server whose connections are all taken still works.
    checker: Client,
    pub(super) health: Health,
    /// Counts the requests that it answered: looking a counter up by its labels is slow.
    answers: OnceLock<Counter>,
    /// How long their heads took.
    durations: OnceLock<Histogram>,
    /// The requests and tunnels that it serves.
    active: AtomicUsize,
    /// Whether the upstream has no other server: then it is never paused.
    is_only: AtomicBool,
}

/// A request or a tunnel that a server serves, until it is dropped.
#[derive(Debug)]
pub(super) struct Active {
    pub(super) server: Arc<Server>,
    /// Whether it finds out if the server is back.
    pub(super) is_trial: bool,
}

impl Drop for Active {
    fn drop(&mut self) {
        self.server.active.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The kinds of places that `max_connections` bounds, each for itself.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Place {
    Request,
    Tunnel,
}

/// A request that got no response.
pub(super) struct Failed {
    pub(super) error: UpstreamError,
    /// The request, if no byte of it was written.
    pub(super) request: Option<Request<RequestBody>>,
    /// Whether the connection was in use before, and the server has closed it.
    pub(super) is_stale: bool,
}

impl Server {
    /// Creates the server of a URL, at one address of its name if there are several.
    pub(super) fn new(url: &ServerUrl, address: Option<IpAddr>, options: &UpstreamOptions) -> Self {
        let settings = ClientSettings {
            protocol: url.protocol.clone(),
            concurrency: options.max_connections,
            queue_max: options.max_queue,
            queue_timeout: options.queue_timeout.0,
            connect_timeout: options.connect_timeout.0,
            head_timeout: Some(options.response_timeout.0),
            idle_timeout: Some(options.idle_timeout.0),
            total_timeout: options.total_timeout.map(|timeout| timeout.0),
            response_bytes_max: u64::MAX,
            ..ClientSettings::default()
        };
        let (target, name) = match (&url.address, address) {
            (Address::Tcp { port, .. }, Some(address)) => {
                let host = address.to_string();
                let name = format!("{} ({address})", url.text);
                (Address::Tcp { host, port: *port }, name.into())
            }
            (written, _) => (written.clone(), url.text.clone()),
        };
        Self {
            name,
            url: url.text.clone(),
            address,
            host: url.host.clone(),
            checker: Client::new(
                &target,
                ClientSettings {
                    concurrency: 1,
                    ..settings.clone()
                },
            ),
            tunnels: Client::new(&target, settings.clone()),
            client: Client::new(&target, settings),
            health: Health::new(PauseSettings {
                max_fails: options.max_fails,
                fail_timeout: options.fail_timeout.0,
            }),
            answers: OnceLock::new(),
            durations: OnceLock::new(),
            active: AtomicUsize::new(0),
            is_only: AtomicBool::new(false),
        }
    }

    pub(super) fn start(&self, runtime: &Runtime) {
        self.client.attach(&runtime.tasks, &runtime.clock);
        self.checker.attach(&runtime.tasks, &runtime.clock);
    }

    /// Sends a health check.
    pub(super) async fn check(
        &self,
        request: Request<RequestBody>,
    ) -> Result<Response<ResponseBody>, ClientError> {
        let permit = self.checker.acquire().await?;
        let response = permit.send(self.addressed(request)).await?;
        Ok(response.map(|body| body.hold(permit)))
    }

    pub(super) fn set_only(&self, is_only: bool) {
        self.is_only.store(is_only, Ordering::Relaxed);
    }

    pub(super) fn active(&self) -> usize {
        self.active.load(Ordering::Relaxed)
    }

    /// Returns whether a request or a tunnel would not have to wait.
    pub(super) fn has_room(&self, place: Place) -> bool {
        let client = match place {
            Place::Request => &self.client,
            Place::Tunnel => &self.tunnels,
        };
        client.free_slots() > 0
    }

    /// The server has another address: no more requests are sent over its connections.
    pub(super) fn retire_connections(&self) {
        self.client.retire_connections();
        self.checker.retire_connections();
    }

    /// Begins a request, unless the server is out.
    pub(super) fn begin(self: &Arc<Self>, now: Instant) -> Option<Active> {
        match self.health.availability(now) {
            Availability::Up => Some(self.begin_anyway(false)),
            Availability::Due if self.health.begin_trial(now) => Some(self.begin_anyway(true)),
            _ => None,
        }
    }

    pub(super) fn begin_anyway(self: &Arc<Self>, is_trial: bool) -> Active {
        self.active.fetch_add(1, Ordering::Relaxed);
        Active {
            server: self.clone(),
            is_trial,
        }
    }

    /// Sets `Host`, if the request has none.
    fn addressed(&self, mut request: Request<RequestBody>) -> Request<RequestBody> {
        let host = request.headers_mut().entry(header::HOST);
        host.or_insert_with(|| self.host.clone());
        request
    }

    pub(super) fn failed(&self, source: ClientError) -> UpstreamError {
        UpstreamError::Server {
            server: self.name.clone(),
            source,
        }
    }

    /// The body of a response has ended early.
    pub(super) fn body_failed(&self, source: ClientError) -> UpstreamError {
        self.count("body").increment(1);
        self.failed(source)
    }

    fn count(&self, outcome: &'static str) -> Counter {
        let upstream = self.url.to_string();
        counter!("oneport_upstream_requests_total", "upstream" => upstream, "outcome" => outcome)
    }

    pub(super) fn log(&self, transition: Option<Transition>, cause: &dyn std::fmt::Display) {
        let server = &*self.name;
        match transition {
            Some(Transition::Out) => {
                tracing::warn!(server, %cause, "upstream server gets no more requests");
            }
            Some(Transition::Back) => tracing::info!(server, "upstream server is back"),
            None => {}
        }
    }

    /// Notes that a request was answered.
    fn answered(&self, started: Instant) {
        let durations = self.durations.get_or_init(|| {
            histogram!("oneport_upstream_request_duration_seconds", "upstream" => self.url.to_string())
        });
        durations.record(started.elapsed().as_secs_f64());
        self.answers.get_or_init(|| self.count("ok")).increment(1);
        self.log(self.health.request_succeeded(), &"");
    }

    /// Notes that a request was not answered.
    fn not_answered(&self, error: &ClientError, is_trial: bool) {
        self.count(outcome(error)).increment(1);
        let is_failure = error.is_endpoint_failure() || matches!(error, ClientError::Invalid(_));
        if is_failure && !self.is_only.load(Ordering::Relaxed) {
            let transition = self.health.request_failed(is_trial, Instant::now());
            self.log(transition, error);
        }
    }
}

impl Active {
    /// Sends a request, and waits for the head of the response.
    #[expect(
        clippy::manual_async_fn,
        reason = "the future of an async fn would hold the request twice"
    )]
    pub(super) fn send(
        self,
        request: Request<RequestBody>,
        ends_at: Option<EndsAt>,
    ) -> impl Future<Output = Result<Response<UpstreamBody>, Failed>> + Send {
        async move {
            let server = &self.server;
            let started = Instant::now();
            let permit = match server.client.acquire_until(ends_at).await {
                Ok(permit) => permit,
                Err(error) => return Err(self.failed(SendError::unsent(error, request))),
            };
            match permit.try_send(server.addressed(request), ends_at).await {
                Ok(response) => {
                    server.answered(started);
                    Ok(response.map(|body| self.body(body.hold(permit))))
                }
                Err(failed) => Err(self.failed(failed)),
            }
        }
    }

    /// Sends a handshake, and waits for the head of the response.
    pub(super) async fn open_tunnel(
        self,
        request: Request<RequestBody>,
        ends_at: Option<EndsAt>,
    ) -> Result<super::Tunnel, Failed> {
        let server = &self.server;
        let started = Instant::now();
        let permit = match server.tunnels.acquire_until(ends_at).await {
            Ok(permit) => permit,
            Err(error) => return Err(self.failed(SendError::unsent(error, request))),
        };
        match permit.try_upgrade(server.addressed(request), ends_at).await {
            Ok(upgraded) => {
                server.answered(started);
                Ok(match upgraded {
                    Upgraded::Switched {
                        response,
                        stream,
                        read,
                    } => super::Tunnel::Open {
                        response,
                        stream,
                        read,
                        slot: super::Slot {
                            _permit: permit,
                            _active: self,
                        },
                    },
                    Upgraded::Refused(response) => {
                        super::Tunnel::Refused(response.map(|body| self.body(body.hold(permit))))
                    }
                })
            }
            Err(failed) => Err(self.failed(failed)),
        }
    }

    fn body(self, body: ResponseBody) -> UpstreamBody {
        UpstreamBody { body, active: self }
    }

    fn failed(self, failed: SendError) -> Failed {
        let SendError {
            error,
            request,
            is_stale,
        } = failed;
        if is_stale {
            // The server closes idle connections earlier than we do; the others are closed too.
            self.server.client.drop_idle();
            self.server.count("stale").increment(1);
        } else {
            self.server.not_answered(&error, self.is_trial);
        }
        Failed {
            error: self.server.failed(error),
            request,
            is_stale,
        }
    }
}

/// Returns the label of an error for metrics.
fn outcome(error: &ClientError) -> &'static str {
    match error {
        ClientError::CircuitOpen { .. } | ClientError::Busy { .. } => "busy",
        ClientError::Connect { .. } => "connect",
        ClientError::Timeout { .. } => "timeout",
        ClientError::Connection { .. } => "connection",
        ClientError::TooLarge(_) => "too_large",
        ClientError::Invalid(_) => "invalid",
        ClientError::RequestBody { .. } | ClientError::UploadTimeout { .. } => "request_body",
    }
}

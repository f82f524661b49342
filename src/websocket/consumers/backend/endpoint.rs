//! Endpoint: one backend behind an HTTP endpoint. Its requests are signed, bounded and counted.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, StatusCode, header};
use http_body_util::{BodyExt, Limited};
use metrics::{Gauge, counter, gauge, histogram};

use super::protocol::{BackendResponse, ResponseLimits, signature};
use crate::client::{
    BreakerSettings, Client, ClientError, ClientSettings, EndpointUrl, Outcome, Permit, Protocol,
    RequestBody, ResponseBody, Transition,
};
use crate::config::ConfigPath;
use crate::services::Services;
use crate::websocket::Backlog;

const SIGNATURE: HeaderName = HeaderName::from_static("oneport-signature");
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// The most bytes read of a refusal's body.
const REFUSAL_BYTES_MAX: usize = 4 * 1024;

/// Bytes that a response may take besides its body. The body itself may take twice its length in
/// chunks.
const OVERHEAD_BYTES_MAX: usize = 128 * 1024;

/// The settings of an endpoint; routes with equal settings share one.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(super) struct EndpointSettings {
    pub(super) url: EndpointUrl,
    pub(super) ca: Option<ConfigPath>,
    /// The secrets that sign every request, the newest first.
    pub(super) secrets: Vec<String>,
    pub(super) timeout: Duration,
    pub(super) connect_timeout: Duration,
    pub(super) concurrency: usize,
    pub(super) max_response: usize,
    pub(super) breaker_failures: u32,
    pub(super) breaker_open: Duration,
    pub(super) disconnect_queue: usize,
    pub(super) disconnect_expiry: Duration,
    pub(super) disconnect_rate: u32,
    pub(super) hold_total: usize,
}

/// One backend.
pub(super) struct Endpoint {
    pub(super) settings: EndpointSettings,
    client: Client,
    /// Bytes of events queued for it, over all connections.
    pub(super) backlog: Arc<Backlog>,
}

/// The sender that waits for the response; it decides whether the breaker counts the outcome.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Priority {
    /// A connection: its outcome counts.
    Connection,
    /// A notification in the background. It is retried for minutes, so its outcome counts only if
    /// it is the probe of a half-open breaker.
    Background,
}

/// Builds the body of a request. `None`: the request is no longer wanted.
pub(super) type BuildBody<'a> = &'a (dyn Fn() -> Option<Bytes> + Sync);

/// The reason why there is no usable response.
#[derive(Debug, thiserror::Error)]
pub(super) enum PostError {
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The request was withdrawn while it waited for a slot.
    #[error("the connection ended before the request was sent")]
    Withdrawn,
    #[error("the backend returned the status {}", .0.status)]
    Refused(Box<Refusal>),
}

/// A response whose status is not 2xx.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

impl PostError {
    /// Returns whether the same request may succeed later.
    pub(super) fn is_transient(&self) -> bool {
        match self {
            Self::Client(error) => error.is_unsent() || error.is_endpoint_failure(),
            Self::Refused(refusal) => matches!(refusal.status.as_u16(), 429 | 502 | 503 | 504),
            Self::Withdrawn => false,
        }
    }

    /// Returns whether the backend may have handled the request despite the error: it was sent, and
    /// not refused with 4xx.
    pub(super) fn may_have_been_handled(&self) -> bool {
        match self {
            Self::Client(error) => !error.is_unsent(),
            Self::Refused(refusal) => !refusal.status.is_client_error(),
            Self::Withdrawn => false,
        }
    }

    /// Returns whether the backend is down or overloaded, rather than the request wrong.
    fn outcome(&self) -> Outcome {
        Outcome::from_failure(match self {
            Self::Client(error) => error.is_endpoint_failure(),
            Self::Refused(refusal) => matches!(refusal.status.as_u16(), 502..=504),
            Self::Withdrawn => false,
        })
    }

    /// Returns the value of the metric's label `outcome`.
    fn label(&self) -> &'static str {
        match self {
            Self::Client(ClientError::CircuitOpen { .. } | ClientError::Busy { .. }) => {
                "circuit_open"
            }
            Self::Client(ClientError::Timeout { .. }) => "timeout",
            Self::Client(ClientError::Connect { .. } | ClientError::Connection { .. }) => {
                "connection"
            }
            Self::Client(ClientError::TooLarge(_)) => "too_large",
            Self::Client(
                ClientError::Invalid(_)
                | ClientError::RequestBody { .. }
                | ClientError::UploadTimeout { .. },
            )
            | Self::Withdrawn => "invalid",
            Self::Refused(refusal) if refusal.status.is_client_error() => "denied",
            Self::Refused(_) => "status",
        }
    }
}

impl Endpoint {
    pub(super) fn new(settings: EndpointSettings, protocol: Protocol, services: &Services) -> Self {
        let client = Client::new(
            &settings.url.address,
            ClientSettings {
                protocol,
                concurrency: settings.concurrency,
                queue_timeout: settings.timeout,
                connect_timeout: settings.connect_timeout,
                head_timeout: None, // `post` has one deadline for the whole exchange
                response_bytes_max: settings.max_response as u64,
                wire_bytes_max: 2 * settings.max_response + OVERHEAD_BYTES_MAX,
                breaker: Some(BreakerSettings {
                    failures: settings.breaker_failures,
                    open: settings.breaker_open,
                }),
                ..ClientSettings::default()
            },
        );
        client.attach(&services.tasks, &services.clock);
        Self {
            client,
            backlog: Arc::new(Backlog::new(settings.hold_total)),
            settings,
        }
    }

    /// Returns the gauge of its circuit, which the routes that use it hold: it ends with them.
    pub(super) fn circuit_gauge(&self) -> Gauge {
        let gauge =
            gauge!("oneport_backend_circuit_open", "endpoint" => self.settings.url.label.clone());
        let is_closed = self.client.is_circuit_closed();
        gauge.set(if is_closed { 0.0 } else { 1.0 });
        gauge
    }

    /// POSTs a body once, for a connection, and reads the response within `limits`.
    ///
    /// The body is built once the request has a slot, so requests in the queue hold no copy of
    /// their events.
    pub(super) async fn post(
        &self,
        key: &str,
        body: BuildBody<'_>,
        limits: ResponseLimits,
    ) -> Result<BackendResponse, PostError> {
        self.post_with(key, body, limits, Priority::Connection)
            .await
    }

    /// POSTs a body once, in the background.
    pub(super) async fn post_in_background(
        &self,
        key: &str,
        body: BuildBody<'_>,
        limits: ResponseLimits,
    ) -> Result<BackendResponse, PostError> {
        self.post_with(key, body, limits, Priority::Background)
            .await
    }

    /// Returns how long the circuit stays open. `None`: requests are sent.
    pub(super) fn open_for(&self) -> Option<Duration> {
        self.client.open_for()
    }

    async fn post_with(
        &self,
        key: &str,
        body: BuildBody<'_>,
        limits: ResponseLimits,
        priority: Priority,
    ) -> Result<BackendResponse, PostError> {
        let started = Instant::now();
        let posted = self.try_post(key, body, priority).await;
        let posted = posted.and_then(|response| match response.check(limits) {
            Ok(()) => Ok(response),
            Err(sentence) => Err(ClientError::TooLarge(sentence).into()),
        });
        let outcome = match &posted {
            Ok(_) => "ok",
            Err(PostError::Withdrawn) => return posted, // nothing was sent
            Err(error) => error.label(),
        };
        let endpoint = self.settings.url.label.clone();
        if outcome != "circuit_open" {
            histogram!("oneport_backend_request_duration_seconds", "endpoint" => endpoint.clone())
                .record(started.elapsed().as_secs_f64());
        }
        counter!("oneport_backend_requests_total", "endpoint" => endpoint, "outcome" => outcome)
            .increment(1);
        posted
    }

    async fn try_post(
        &self,
        key: &str,
        body: BuildBody<'_>,
        priority: Priority,
    ) -> Result<BackendResponse, PostError> {
        let mut permit = self.client.acquire().await?;
        let body = body().ok_or(PostError::Withdrawn)?;
        let timeout = self.settings.timeout;
        let exchange = tokio::time::timeout(timeout, self.exchange(&permit, key, body));
        let posted = match exchange.await {
            Ok(posted) => posted,
            Err(_) => Err(ClientError::Timeout { timeout }.into()),
        };
        if priority == Priority::Connection || permit.is_probe() {
            let outcome = posted
                .as_ref()
                .map_or_else(PostError::outcome, |_| Outcome::Success);
            if let Some(transition) = permit.report(outcome) {
                self.log(transition);
            }
        }
        posted
    }

    async fn exchange(
        &self,
        permit: &Permit,
        key: &str,
        body: Bytes,
    ) -> Result<BackendResponse, PostError> {
        let settings = &self.settings;
        let now = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .map_or(0, |since| since.as_secs());
        let request = Request::post(settings.url.uri.clone())
            .header(header::CONTENT_TYPE, "application/json")
            .header(SIGNATURE, signature(&settings.secrets, now, &body))
            .header(IDEMPOTENCY_KEY, key)
            .header(header::USER_AGENT, HeaderValue::from_static("oneport"))
            .body(RequestBody::full(body))
            .map_err(|error| ClientError::Invalid(error.to_string()))?;
        let response = permit.send(request).await?;
        if !response.status().is_success() {
            let refusal = Refusal::read(response).await;
            return Err(PostError::Refused(Box::new(refusal)));
        }
        let body = response.into_body().collect().await?.to_bytes();
        BackendResponse::parse(&body).map_err(|error| ClientError::Invalid(error).into())
    }

    fn log(&self, transition: Transition) {
        let endpoint = self.settings.url.label.clone();
        let open = gauge!("oneport_backend_circuit_open", "endpoint" => endpoint.clone());
        match transition {
            Transition::Opened => {
                open.set(1.0);
                tracing::error!(%endpoint, "backend unavailable: circuit opened");
            }
            Transition::Closed => {
                open.set(0.0);
                tracing::info!(%endpoint, "backend available: circuit closed");
            }
        }
    }
}

impl Refusal {
    /// Reads a refusal; a body that fails or is too long counts as empty.
    async fn read(response: http::Response<ResponseBody>) -> Self {
        let (head, body) = response.into_parts();
        let body = Limited::new(body, REFUSAL_BYTES_MAX).collect().await;
        Self {
            status: head.status,
            headers: head.headers,
            body: body
                .map(http_body_util::Collected::to_bytes)
                .unwrap_or_default(),
        }
    }
}

/// Sleeps before the next attempt: twice as long with each, and randomly spread so that clients do
/// not retry in step.
pub(super) async fn back_off(attempt: u32, longest: Duration) {
    let pause = Duration::from_millis(50) * 2_u32.saturating_pow(attempt.min(12));
    tokio::time::sleep(pause.min(longest).mul_f64(0.5 + fastrand::f64())).await;
}

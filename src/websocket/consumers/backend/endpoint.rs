//! Endpoint: one backend: its connections, how many requests at once, and whether it is worth handshake.

use std::error::Error;
use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, StatusCode, header};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use metrics::{counter, gauge};
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::Semaphore;

use super::connector::{Connector, EndpointUrl};
use super::limited_io::LimitExceeded;
use super::protocol::{BackendResponse, signature};
use crate::websocket::Backlog;

const SIGNATURE: HeaderName = HeaderName::from_static("oneport-signature");
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// How long a connection is kept for the next request.
const IDLE_TIMEOUT: Duration = Duration::from_secs(20);

/// The most of a refusal's body that is read.
const REFUSAL_BYTES_MAX: usize = 4 * 1024;

/// What may come beside an answer's body, which may also take twice its length in chunks.
const AROUND_BYTES_MAX: usize = 128 * 1024;

/// What an endpoint is made of; two routes with the same share it.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(super) struct EndpointSettings {
    pub(super) url: EndpointUrl,
    /// The newest first; a request is signed with each.
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
    client: Client<Connector, Full<Bytes>>,
    permits: Semaphore,
    breaker: Mutex<Breaker>,
    /// The bytes that wait for it, of all connections.
    pub(super) backlog: Arc<Backlog>,
}

#[derive(Debug, Default)]
struct Breaker {
    failures: u32,
    open_until: Option<Instant>,
    /// One request finds out whether it is back.
    is_probing: bool,
}

/// Who waits for an answer.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Asker {
    Client,
    Nobody,
}

/// Makes the body of a request; none when there is nothing to ask any more.
pub(super) type MakeBody<'a> = &'a (dyn Fn() -> Option<Bytes> + Sync);

/// Why there is no answer that can be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum PostError {
    #[error("the circuit is open for another {} ms", .0.as_millis())]
    CircuitOpen(Duration),
    #[error("no place among the requests to it became free within {0:?}")]
    Busy(Duration),
    #[error("no answer within {0:?}")]
    Timeout(Duration),
    /// What was to be asked was given up before its turn came.
    #[error("the connection ended before its turn came")]
    GivenUp,
    /// It never came to a request.
    #[error("{0}")]
    Connect(String),
    #[error("{0}")]
    Connection(String),
    #[error("expected the status 2xx, found {}", .0.status)]
    Refused(Box<Refusal>),
    #[error("{0}")]
    TooLarge(String),
    #[error("{0}")]
    Invalid(String),
}

/// An answer that is none of 2xx.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

impl PostError {
    /// Tells whether the same request may go well later.
    pub(super) fn is_passing(&self) -> bool {
        match self {
            Self::CircuitOpen(_)
            | Self::Busy(_)
            | Self::Timeout(_)
            | Self::Connect(_)
            | Self::Connection(_) => true,
            Self::Refused(refusal) => matches!(refusal.status.as_u16(), 429 | 502 | 503 | 504),
            Self::TooLarge(_) | Self::Invalid(_) | Self::GivenUp => false,
        }
    }

    /// Tells whether the backend may have done what it was asked, though it did not say so: not when it was never asked, or
    /// said no.
    pub(super) fn is_ambiguous(&self) -> bool {
        match self {
            Self::CircuitOpen(_) | Self::Busy(_) | Self::Connect(_) | Self::GivenUp => false,
            Self::Refused(refusal) => !refusal.status.is_client_error(),
            Self::Timeout(_) | Self::Connection(_) | Self::TooLarge(_) | Self::Invalid(_) => true,
        }
    }

    /// Tells an answer that is none from a connection that failed.
    fn of(error: &(dyn Error + 'static)) -> Self {
        let mut next = Some(error);
        let mut sentence = String::new();
        let mut kind: fn(String) -> Self = Self::Connection;
        while let Some(cause) = next {
            sentence = cause.to_string();
            if let Some(cause) = cause.downcast_ref::<hyper::Error>() {
                if cause.is_parse_too_large() {
                    kind = Self::TooLarge;
                } else if cause.is_parse() {
                    kind = Self::Invalid;
                }
            }
            if let Some(cause) = cause.downcast_ref::<io::Error>() {
                if cause
                    .get_ref()
                    .is_some_and(<dyn Error + Send + Sync>::is::<LimitExceeded>)
                {
                    kind = Self::TooLarge;
                } else if matches!(
                    cause.kind(),
                    ErrorKind::InvalidInput | ErrorKind::InvalidData
                ) {
                    kind = Self::Invalid; // so hyper says of chunks
                }
            }
            next = cause.source();
        }
        kind(sentence)
    }

    fn outcome(&self) -> &'static str {
        match self {
            Self::CircuitOpen(_) | Self::Busy(_) => "circuit_open",
            Self::Timeout(_) => "timeout",
            Self::Connect(_) | Self::Connection(_) => "connection",
            Self::Refused(refusal) if refusal.status.is_client_error() => "denied",
            Self::Refused(_) => "status",
            Self::TooLarge(_) => "too_large",
            Self::Invalid(_) | Self::GivenUp => "invalid",
        }
    }

    /// Tells whether it says that the backend is away, not that it dislikes this request.
    fn is_failure(&self) -> bool {
        self.is_passing()
            && !matches!(self, Self::CircuitOpen(_) | Self::Busy(_))
            && !matches!(self, Self::Refused(refusal) if refusal.status.as_u16() == 429)
    }
}

impl Endpoint {
    pub(super) fn new(settings: EndpointSettings) -> Self {
        let connector = Connector {
            address: settings.url.address.clone(),
            timeout: settings.connect_timeout,
            max: 2 * settings.max_response + AROUND_BYTES_MAX,
        };
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_TIMEOUT)
            .pool_max_idle_per_host(settings.concurrency)
            .build(connector);
        gauge!("oneport_backend_circuit_open", "endpoint" => settings.url.label.clone()).set(0.0);
        Self {
            permits: Semaphore::new(settings.concurrency),
            client,
            backlog: Arc::new(Backlog::new(settings.hold_total)),
            settings,
            breaker: Mutex::default(),
        }
    }

    /// POSTs a body once and reads the answer, which may hold so many actions and so long a state.
    ///
    /// The body is made when its turn has come: what waits for a turn has no copy of its events.
    pub(super) async fn post(
        &self,
        key: &str,
        body: MakeBody<'_>,
        bounds: (usize, usize),
    ) -> Result<BackendResponse, PostError> {
        self.post_as(key, body, bounds, Asker::Client).await
    }

    /// The same for what nobody waits for: it says nothing of whether the backend is worth handshake, unless it is the one that
    /// finds out.
    pub(super) async fn post_aside(
        &self,
        key: &str,
        body: MakeBody<'_>,
        bounds: (usize, usize),
    ) -> Result<BackendResponse, PostError> {
        self.post_as(key, body, bounds, Asker::Nobody).await
    }

    async fn post_as(
        &self,
        key: &str,
        body: MakeBody<'_>,
        bounds: (usize, usize),
        asker: Asker,
    ) -> Result<BackendResponse, PostError> {
        let answered = self.try_post(key, body, asker).await;
        let answered = answered.and_then(|answer| match answer.excess(bounds) {
            None => Ok(answer),
            Some(sentence) => Err(PostError::TooLarge(sentence)),
        });
        let outcome = match &answered {
            Ok(_) => "ok",
            Err(PostError::GivenUp) => return answered, // nothing was asked
            Err(error) => error.outcome(),
        };
        let endpoint = self.settings.url.label.clone();
        counter!("oneport_backend_requests_total", "endpoint" => endpoint, "outcome" => outcome)
            .increment(1);
        answered
    }

    /// Returns how long it is not worth handshake; none when it is.
    pub(super) fn open_for(&self) -> Option<Duration> {
        let until = self.breaker().open_until?;
        until.checked_duration_since(Instant::now())
    }

    async fn try_post(
        &self,
        key: &str,
        body: MakeBody<'_>,
        asker: Asker,
    ) -> Result<BackendResponse, PostError> {
        let probe = self.pass_breaker()?;
        let timeout = self.settings.timeout;
        let turn = tokio::time::timeout(timeout, self.permits.acquire()).await;
        let Ok(_turn) = turn else {
            return Err(PostError::Busy(timeout));
        };
        let body = body().ok_or(PostError::GivenUp)?;
        let exchange = tokio::time::timeout(timeout, self.exchange(key, body));
        let answered = exchange.await.unwrap_or(Err(PostError::Timeout(timeout)));
        if asker == Asker::Client || probe.is_some() {
            self.tell_breaker(answered.as_ref().err().is_some_and(PostError::is_failure));
        }
        drop(probe);
        answered
    }

    async fn exchange(&self, key: &str, body: Bytes) -> Result<BackendResponse, PostError> {
        let settings = &self.settings;
        let now = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .map_or(0, |since| since.as_secs());
        let invalid = |error: http::Error| PostError::Invalid(error.to_string());
        let request = Request::post(settings.url.uri.as_str())
            .header(header::CONTENT_TYPE, "application/json")
            .header(SIGNATURE, signature(&settings.secrets, now, &body))
            .header(IDEMPOTENCY_KEY, key)
            .header(header::USER_AGENT, HeaderValue::from_static("oneport"))
            .body(Full::new(body))
            .map_err(invalid)?;
        let response = self.client.request(request).await;
        let response = response.map_err(|error| match PostError::of(&error) {
            PostError::Connection(sentence) if error.is_connect() => PostError::Connect(sentence),
            other => other,
        })?;
        let (head, body) = response.into_parts();
        if !head.status.is_success() {
            let body = Limited::new(body, REFUSAL_BYTES_MAX).collect().await;
            return Err(PostError::Refused(Box::new(Refusal {
                status: head.status,
                headers: head.headers,
                body: body
                    .map(http_body_util::Collected::to_bytes)
                    .unwrap_or_default(),
            })));
        }
        let max = settings.max_response;
        let body = Limited::new(body, max).collect().await;
        let body = body.map_err(|error| match error.downcast::<LengthLimitError>() {
            Ok(_) => PostError::TooLarge(format!(
                "expected an answer of at most {max} bytes, found more"
            )),
            Err(error) => PostError::of(&*error),
        })?;
        BackendResponse::read(&body.to_bytes()).map_err(PostError::Invalid)
    }

    fn pass_breaker(&self) -> Result<Option<Probe<'_>>, PostError> {
        let mut breaker = self.breaker();
        let Some(until) = breaker.open_until else {
            return Ok(None);
        };
        let left = until.saturating_duration_since(Instant::now());
        if !left.is_zero() {
            return Err(PostError::CircuitOpen(left));
        }
        if breaker.is_probing {
            return Err(PostError::CircuitOpen(Duration::from_millis(50)));
        }
        breaker.is_probing = true;
        Ok(Some(Probe(self)))
    }

    fn tell_breaker(&self, is_failure: bool) {
        let mut breaker = self.breaker();
        let was_open = breaker.open_until.is_some();
        if is_failure {
            breaker.failures = breaker.failures.saturating_add(1);
            if breaker.failures >= self.settings.breaker_failures || breaker.is_probing {
                let jittered = self
                    .settings
                    .breaker_open
                    .mul_f64(0.9 + 0.2 * fastrand::f64());
                breaker.open_until = Some(Instant::now() + jittered);
            }
        } else {
            breaker.failures = 0;
            breaker.open_until = None;
        }
        let is_open = breaker.open_until.is_some();
        drop(breaker);
        if was_open != is_open {
            let endpoint = self.settings.url.label.clone();
            gauge!("oneport_backend_circuit_open", "endpoint" => endpoint.clone())
                .set(f64::from(u8::from(is_open)));
            if is_open {
                tracing::error!(%endpoint, "the backend is away: its circuit is open");
            } else {
                tracing::info!(%endpoint, "the backend is back: its circuit is closed");
            }
        }
    }

    fn breaker(&self) -> MutexGuard<'_, Breaker> {
        self.breaker.lock()
    }
}

/// The request that finds out; when it is dropped another may.
struct Probe<'e>(&'e Endpoint);

impl Drop for Probe<'_> {
    fn drop(&mut self) {
        self.0.breaker().is_probing = false;
    }
}

/// Waits a moment before the next try: longer with each, and never all at once.
pub(super) async fn back_off(attempt: u32, longest: Duration) {
    let pause = Duration::from_millis(50) * 2_u32.saturating_pow(attempt.min(12));
    tokio::time::sleep(pause.min(longest).mul_f64(0.5 + fastrand::f64())).await;
}

//! Client: outbound HTTP to one endpoint, with a pool, deadlines, byte limits and a circuit
//! breaker.
//!
//! `[auth.forward]`, the `backend` consumer and `oneport publish` use it; each has one [`Client`]
//! for each of its endpoints. A request goes through these steps:
//!
//! ```text
//! acquire ── circuit open ──────────────────────────► CircuitOpen   nothing was sent
//!    │   └── no free slot within `queue_timeout` ───► Busy          nothing was sent
//!    ▼
//!  Permit ── send ── idle connection, or a new one ─► Connect       nothing was sent
//!    │        └───── request, then the head ────────► Timeout, Connection, TooLarge, Invalid
//!    ▼
//! ResponseBody ── frames within the limits ─────────► Timeout, Connection, TooLarge, Invalid
//!    ▼
//! report(Outcome): the caller decides whether the endpoint has failed; the breaker counts
//! ```
//!
//! A pool keeps idle connections. It sends a request a second time only if no byte of the request
//! was written, or if an endpoint that speaks HTTP/2 says that it has not processed the request.

mod body;
mod breaker;
mod connection;
mod connector;
mod deadlines;
mod endpoint_url;
mod error;
mod hop_by_hop;
mod http2;
mod informational;
mod limited_io;
mod pool;
mod span;
#[cfg(test)]
mod tests;

use std::future::Future;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::BodyExt;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

pub use crate::net::{ClientTls, ClientTlsError, ClientTlsSettings};
pub use body::{RequestBody, ResponseBody};
pub use breaker::{BreakerSettings, Outcome, Transition};
pub(crate) use connection::{SendError, Upgraded};
pub use connector::Protocol;
pub(crate) use deadlines::EndsAt;
pub use endpoint_url::{Address, EndpointUrl, EndpointUrlError};
pub use error::{BoxError, ClientError};
pub use hop_by_hop::{is_hop_by_hop, remove_hop_by_hop};
pub(crate) use informational::on_informational;

use body::Incoming;
use breaker::Breaker;
use connector::Connector;
use deadlines::{HeadTimer, within};
use pool::{Pool, PoolSettings};

use crate::clock::Clock;
use crate::tasks::Tasks;

/// The limits and deadlines of a client.
#[derive(Clone, Debug)]
pub struct ClientSettings {
    /// The protocol of the endpoint.
    pub protocol: Protocol,
    /// Requests in flight at the same time. The pool keeps at most as many idle connections.
    pub concurrency: usize,
    /// The most requests that wait for one of these slots. One more is refused at once.
    pub queue_max: usize,
    /// The longest wait for a slot.
    pub queue_timeout: Duration,
    /// The longest wait for a connection, over all addresses of a name.
    pub connect_timeout: Duration,
    /// The longest wait for the response's head, from the start of the request or from the last
    /// part of its body that was sent. `None`: the caller has its own deadline.
    pub head_timeout: Option<Duration>,
    /// The longest wait between two parts of the response's body.
    pub idle_timeout: Option<Duration>,
    /// The longest time from the start of the request to the end of the response's body.
    pub total_timeout: Option<Duration>,
    /// The longest body of a request.
    pub request_bytes_max: u64,
    /// The longest body of a response.
    pub response_bytes_max: u64,
    /// The longest head of a response. `None`: hyper's own limit of about 400 KiB.
    pub head_bytes_max: Option<usize>,
    /// The most bytes that a connection may deliver for one request, including interim responses,
    /// heads and the framing of chunks. It stops a peer that sends such bytes endlessly, which no
    /// other limit counts.
    pub wire_bytes_max: usize,
    /// When to stop sending requests to an endpoint that fails. `None`: never.
    pub breaker: Option<BreakerSettings>,
}

impl Default for ClientSettings {
    fn default() -> Self {
        Self {
            protocol: Protocol::Http1,
            concurrency: 64,
            queue_max: usize::MAX,
            queue_timeout: Duration::from_secs(5),
            connect_timeout: Duration::from_secs(5),
            head_timeout: Some(Duration::from_secs(30)),
            idle_timeout: None,
            total_timeout: None,
            request_bytes_max: u64::MAX,
            response_bytes_max: 1 << 20,
            head_bytes_max: None,
            wire_bytes_max: usize::MAX,
            breaker: None,
        }
    }
}

/// An HTTP client of one endpoint (cheap to clone).
///
/// ```no_run
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
/// use oneport::client::{Client, ClientSettings, EndpointUrl, RequestBody};
///
/// let url = EndpointUrl::parse("http://127.0.0.1:9000/hook")?;
/// let client = Client::new(&url.address, ClientSettings::default());
/// let request = http::Request::post(url.uri).body(RequestBody::full("hello"))?;
/// let response = client.exchange(request).await?;
/// println!("{}: {} bytes", response.status(), response.body().len());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # }).unwrap();
/// ```
#[derive(Clone, Debug)]
pub struct Client(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    settings: ClientSettings,
    pool: Arc<Pool>,
    slots: Arc<Semaphore>,
    /// The requests that wait for a slot.
    waiting: AtomicUsize,
    breaker: Option<Breaker>,
}

/// The right to send one request, until it is dropped.
///
/// Keep it until the response's body has ended, or pass it to the body with [`ResponseBody::hold`].
#[derive(Debug)]
#[must_use]
pub struct Permit {
    client: Arc<Shared>,
    _slot: OwnedSemaphorePermit,
    /// How long the request has waited for the slot.
    queued: Duration,
    /// True if the breaker is half open and waits for this request's outcome.
    is_probe: bool,
}

impl Client {
    /// Creates a client. Connects when the first request is sent.
    #[must_use]
    pub fn new(address: &Address, settings: ClientSettings) -> Self {
        let connector = Connector {
            address: address.clone(),
            protocol: settings.protocol.clone(),
            timeout: settings.connect_timeout,
        };
        let pool = PoolSettings {
            queue_timeout: settings.queue_timeout,
            idle_max: settings.concurrency,
            wire_bytes_max: settings.wire_bytes_max,
            head_bytes_max: settings.head_bytes_max,
        };
        Self(Arc::new(Shared {
            pool: Arc::new(Pool::new(connector, pool)),
            slots: Arc::new(Semaphore::new(settings.concurrency)),
            waiting: AtomicUsize::new(0),
            breaker: settings.breaker.clone().map(Breaker::new),
            settings,
        }))
    }

    /// Sets the owner of the tasks that HTTP/2 needs, and the clock that closes idle connections.
    /// Without a clock, they are closed when the next request comes.
    pub(crate) fn attach(&self, tasks: &Tasks, clock: &Clock) {
        self.0.pool.attach(tasks, clock);
    }

    /// Waits for a free slot, unless the circuit is open.
    ///
    /// Fails with [`ClientError::CircuitOpen`] at once, or with [`ClientError::Busy`] after
    /// `queue_timeout`. Cancel-safe.
    pub async fn acquire(&self) -> Result<Permit, ClientError> {
        self.acquire_until(None).await
    }

    /// Waits for a free slot like [`Self::acquire`], but not longer than the request may take.
    pub(crate) async fn acquire_until(
        &self,
        ends_at: Option<EndsAt>,
    ) -> Result<Permit, ClientError> {
        // The breaker is checked first: while it is open, requests must not queue for slots.
        let admission = match &self.0.breaker {
            Some(breaker) => Some(breaker.admit(Instant::now())?),
            None => None,
        };
        // From this point on, the probe has an owner that frees it, even if this future is dropped
        // while it waits.
        let probe = ProbeGuard {
            client: &self.0,
            is_probe: admission.is_some_and(breaker::Admission::is_probe),
        };
        let (slot, queued) = match self.0.slots.clone().try_acquire_owned() {
            Ok(slot) => (slot, Duration::ZERO),
            // Boxed, because most requests do not wait.
            Err(_) => Box::pin(self.0.wait_for_slot(ends_at)).await?,
        };
        Ok(Permit {
            client: self.0.clone(),
            _slot: slot,
            queued,
            is_probe: probe.defuse(),
        })
    }

    /// Sends a request and reads the whole response, within all deadlines.
    ///
    /// A breaker counts a failure for an error and for the statuses 502, 503 and 504.
    pub async fn exchange(
        &self,
        request: Request<RequestBody>,
    ) -> Result<Response<Bytes>, ClientError> {
        let ends_at = self.0.settings.total_timeout.map(EndsAt::after);
        let mut permit = self.acquire_until(ends_at).await?;
        let exchanged = async {
            let sent = permit.try_send(request, ends_at).await;
            let (head, body) = sent.map_err(|failed| failed.error)?.into_parts();
            let body = body.collect().await?.to_bytes();
            Ok(Response::from_parts(head, body))
        };
        let exchanged: Result<Response<Bytes>, ClientError> = exchanged.await;
        let has_failed = match &exchanged {
            Ok(response) => matches!(response.status().as_u16(), 502..=504),
            // The caller's own failure tells nothing about the endpoint.
            Err(ClientError::RequestBody { .. } | ClientError::UploadTimeout { .. }) => {
                return exchanged;
            }
            Err(error) => error.is_endpoint_failure(),
        };
        permit.report(Outcome::from_failure(has_failed));
        exchanged
    }

    /// Drops the idle connections: the endpoint has probably closed them all.
    pub(crate) fn drop_idle(&self) {
        self.0.pool.drop_idle();
    }

    /// Sends no more requests over the connections that are open: the endpoint has another address.
    /// Requests under way are finished.
    pub(crate) fn retire_connections(&self) {
        self.0.pool.retire();
    }

    /// Returns how many requests could be sent at once.
    pub(crate) fn free_slots(&self) -> usize {
        self.0.slots.available_permits()
    }

    /// Returns whether the circuit is closed. While a probe is due or in flight, it is not.
    #[must_use]
    pub fn is_circuit_closed(&self) -> bool {
        let breaker = self.0.breaker.as_ref();
        breaker.is_none_or(Breaker::is_closed)
    }

    /// Returns how long the circuit stays open. `None`: requests are sent.
    #[must_use]
    pub fn open_for(&self) -> Option<Duration> {
        self.0.breaker.as_ref()?.open_for(Instant::now())
    }
}

impl Permit {
    /// Sends a request and waits for the response's head.
    ///
    /// The request's URI is absolute; its authority becomes `Host`, unless the request has that
    /// field. Dropping the future, or the body before its end, closes the connection.
    pub async fn send(
        &self,
        request: Request<RequestBody>,
    ) -> Result<Response<ResponseBody>, ClientError> {
        let ends_at = self.client.settings.total_timeout.map(EndsAt::after);
        let sent = self.try_send(request, ends_at).await;
        sent.map_err(|failed| failed.error)
    }

    /// Sends a request like [`Self::send`], with another end than `total_timeout`. If the endpoint
    /// cannot have processed it, the request comes back with the error.
    pub(crate) fn try_send(
        &self,
        mut request: Request<RequestBody>,
        ends_at: Option<EndsAt>,
    ) -> impl Future<Output = Result<Response<ResponseBody>, SendError>> + Send {
        let settings = &self.client.settings;
        let upload = request.body_mut().limit(settings.request_bytes_max);
        let timer = HeadTimer::start(self.queued);
        let pool = &self.client.pool;
        let mut span = span::begin(&mut request, pool.address(), pool.is_tls());
        // Not an async fn, whose future would hold the request twice.
        async move {
            let upload = upload?;
            let head = pin!(self.client.pool.send(request, &timer));
            let head_timeout = settings.head_timeout;
            let response = within(head, &timer, upload.as_deref(), head_timeout, ends_at);
            let response = match response.await.map_err(SendError::from).flatten() {
                Ok(response) => response,
                Err(failed) => {
                    span::failed(&mut span, &failed.error);
                    return Err(failed);
                }
            };
            span::answered(&mut span, response.status());
            if response.status() == StatusCode::SWITCHING_PROTOCOLS {
                let sentence = "expected an answer, found another protocol (101)";
                return Err(ClientError::Invalid(sentence.to_owned()).into());
            }
            Ok(self
                .with_limits(response, ends_at)
                .map(|body| body.within(span)))
        }
    }

    fn with_limits(
        &self,
        response: Response<Incoming>,
        ends_at: Option<EndsAt>,
    ) -> Response<ResponseBody> {
        let settings = &self.client.settings;
        response.map(|incoming| {
            let max = settings.response_bytes_max;
            ResponseBody::new(incoming, max, settings.idle_timeout, ends_at)
        })
    }

    /// Sends a request that asks for another protocol, on a connection of its own, and waits for
    /// the response's head.
    pub(crate) async fn try_upgrade(
        &self,
        mut request: Request<RequestBody>,
        ends_at: Option<EndsAt>,
    ) -> Result<Upgraded, SendError> {
        let settings = &self.client.settings;
        request.body_mut().limit(settings.request_bytes_max)?;
        let timer = HeadTimer::start(self.queued);
        let pool = &self.client.pool;
        let mut span = span::begin(&mut request, pool.address(), pool.is_tls());
        let head = pin!(self.client.pool.send_over_new_connection(request));
        let head = within(head, &timer, None, settings.head_timeout, ends_at);
        let (response, lease) = match head.await.map_err(SendError::from).flatten() {
            Ok(answered) => answered,
            Err(failed) => {
                span::failed(&mut span, &failed.error);
                return Err(failed);
            }
        };
        span::answered(&mut span, response.status());
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            let Some((stream, read)) = lease.into_connection().into_stream() else {
                let source = Arc::new(io::Error::from(io::ErrorKind::UnexpectedEof));
                return Err(ClientError::Connection { source }.into());
            };
            return Ok(Upgraded::Switched {
                response: response.map(drop),
                stream,
                read,
            });
        }
        let response = response.map(|body| Incoming::http1(body, lease));
        let refused = self.with_limits(response, ends_at);
        Ok(Upgraded::Refused(refused.map(|body| body.within(span))))
    }

    /// Returns whether the breaker is half open and this request decides whether it closes.
    #[must_use]
    pub fn is_probe(&self) -> bool {
        self.is_probe
    }

    /// Reports the request's outcome to the breaker; returns the transition that this caused.
    pub fn report(&mut self, outcome: Outcome) -> Option<Transition> {
        let is_probe = std::mem::take(&mut self.is_probe);
        let breaker = self.client.breaker.as_ref()?;
        breaker.record(outcome, is_probe, Instant::now())
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if self.is_probe
            && let Some(breaker) = &self.client.breaker
        {
            breaker.abandon_probe();
        }
    }
}

impl Shared {
    async fn wait_for_slot(
        &self,
        ends_at: Option<EndsAt>,
    ) -> Result<(OwnedSemaphorePermit, Duration), ClientError> {
        let _waiting = self.queue()?;
        let began = Instant::now();
        let until = began + self.settings.queue_timeout;
        let until = ends_at.map_or(until, |ends_at| until.min(ends_at.at));
        let slot = tokio::time::timeout_at(until, self.slots.clone().acquire_owned()).await;
        match slot {
            Ok(Ok(slot)) => Ok((slot, began.elapsed())),
            Ok(Err(_)) | Err(_) => {
                let waited = until - began;
                Err(ClientError::Busy { waited })
            }
        }
    }

    /// Takes a place in the queue for a slot, until it is dropped.
    fn queue(&self) -> Result<Waiting<'_>, ClientError> {
        let waiting = Waiting(&self.waiting);
        if self.waiting.fetch_add(1, Ordering::Relaxed) >= self.settings.queue_max {
            let waited = Duration::ZERO;
            return Err(ClientError::Busy { waited });
        }
        Ok(waiting)
    }
}

/// A place in the queue.
struct Waiting<'c>(&'c AtomicUsize);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Frees the probe if its request is abandoned in the queue.
struct ProbeGuard<'c> {
    client: &'c Shared,
    is_probe: bool,
}

impl ProbeGuard<'_> {
    /// Returns whether there is a probe, which the caller must free from now on.
    fn defuse(mut self) -> bool {
        std::mem::take(&mut self.is_probe)
    }
}

impl Drop for ProbeGuard<'_> {
    fn drop(&mut self) {
        if self.is_probe
            && let Some(breaker) = &self.client.breaker
        {
            breaker.abandon_probe();
        }
    }
}

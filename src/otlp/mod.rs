//! OTLP: sends spans to a collector over HTTP (OpenTelemetry Protocol, `http/protobuf`).
//!
//! ```text
//! SpanQueue ──► batch of at most 512, each 5 s or when it is full ──► POST ──┬─ 2xx: exported
//!     │ full: dropped                                                        ├─ 429, 502, 503, 504, no
//!     │                                                                      │  answer: again, for at
//!     └─ meanwhile spans wait, up to 2,048                                   │  most a minute
//!                                                                            └─ others: failed
//! ```
//!
//! A collector that is away, slow or wrong never delays a request: spans wait in the queue, then
//! they are dropped and counted in `oneport_spans_total`.
//!
//! | file | subject |
//! |---|---|
//! | `encode.rs` | spans as protobuf |
//! | `retry.rs` | when a batch is sent again |

mod encode;
mod retry;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, USER_AGENT};
use http::{HeaderMap, HeaderValue, Method, Request};
use metrics::counter;
use tokio::time::{Instant, timeout};

use crate::client::{
    Client, ClientSettings, ClientTlsError, EndpointUrl, EndpointUrlError, RequestBody,
};
use crate::clock::Clock;
use crate::tasks::Tasks;
use crate::telemetry::trace::{SpanQueue, Tracer, set_tracer};
use crate::telemetry::{LogThrottle, Ratio};

use retry::Retry;

/// How long spans wait for a batch to become full.
const BATCH_DELAY: Duration = Duration::from_secs(5);

/// How long a batch is sent again.
const RETRY_MAX: Duration = Duration::from_secs(60);

/// How long the process waits at its end for the last batches.
const FLUSH_DEADLINE: Duration = Duration::from_secs(5);

/// The longest response that is read.
const RESPONSE_BYTES_MAX: u64 = 64 << 10;

/// The path that a collector takes traces at.
const PATH: &str = "/v1/traces";

/// Where spans go, and who sends them.
#[derive(Clone)]
pub(crate) struct OtlpSettings {
    /// The URL of the collector; `/v1/traces` is added unless its path ends so.
    pub(crate) url: String,
    /// The file of the certificates that are trusted with https; `None`: those of the system.
    pub(crate) ca: Option<std::path::PathBuf>,
    /// Header fields of each request.
    pub(crate) headers: HeaderMap,
    /// The deadline of one request.
    pub(crate) timeout: Duration,
    /// The share of new traces that is recorded.
    pub(crate) sample: Ratio,
    /// `service.name`.
    pub(crate) service_name: String,
    /// `service.instance.id`.
    pub(crate) instance: String,
}

/// Hides the header fields.
impl fmt::Debug for OtlpSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OtlpSettings")
            .field("sample", &self.sample)
            .field("service_name", &self.service_name)
            .finish_non_exhaustive()
    }
}

/// Why spans cannot be sent.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OtlpError {
    /// The URL is not one of an endpoint.
    #[error(transparent)]
    Url(#[from] EndpointUrlError),
    /// The certificates cannot be read.
    #[error(transparent)]
    Tls(#[from] ClientTlsError),
}

/// Sends batches to a collector.
#[derive(Debug)]
pub(crate) struct Exporter {
    client: Client,
    url: EndpointUrl,
    settings: OtlpSettings,
    resource: encode::Resource,
    failures: LogThrottle,
}

/// How one attempt to send a batch ended.
#[derive(Debug)]
enum Attempt {
    /// With the number of spans that the collector did not take.
    Exported {
        rejected: u64,
    },
    /// The collector may take it later, after this time if it named one.
    Later {
        after: Option<Duration>,
        cause: String,
    },
    Failed(String),
}

impl Exporter {
    /// Checks the settings. Connects when the first batch is sent.
    pub(crate) fn new(settings: OtlpSettings) -> Result<Self, OtlpError> {
        let url = EndpointUrl::parse(&with_path(&settings.url))?;
        let client = Client::new(
            &url.address,
            ClientSettings {
                protocol: url.protocol(settings.ca.as_deref())?,
                concurrency: 1,
                connect_timeout: settings.timeout,
                head_timeout: Some(settings.timeout),
                total_timeout: Some(settings.timeout),
                response_bytes_max: RESPONSE_BYTES_MAX,
                wire_bytes_max: 4 * (RESPONSE_BYTES_MAX as usize),
                ..ClientSettings::default()
            },
        );
        Ok(Self {
            client,
            url,
            resource: encode::resource(&settings),
            settings,
            failures: LogThrottle::new(),
        })
    }

    /// Starts tracing, and the task that sends spans until the server has stopped.
    pub(crate) fn start(self, tasks: &Tasks, clock: &Clock) {
        self.client.attach(tasks, clock);
        let queue = Arc::<SpanQueue>::default();
        set_tracer(Some(Tracer {
            sample: self.settings.sample,
            queue: queue.clone(),
        }));
        let owner = tasks.clone();
        tasks.spawn_last("span exporter", async move {
            let late = async {
                owner.ended().await;
                tokio::time::sleep(FLUSH_DEADLINE).await;
            };
            tokio::select! {
                () = self.run(&queue, &owner) => {}
                () = late => tracing::warn!("the last spans were not sent in time"),
            }
            set_tracer(None);
        });
    }

    /// Sends batches until the server has ended, and then what is left.
    async fn run(&self, queue: &SpanQueue, tasks: &Tasks) {
        let mut has_ended = false;
        while !has_ended {
            tokio::select! {
                () = self.wait_for_spans(queue) => {}
                () = tasks.ended() => has_ended = true,
            }
            self.send_all(queue, tasks).await;
        }
    }

    async fn wait_for_spans(&self, queue: &SpanQueue) {
        if !queue.has_batch() {
            let _ = timeout(BATCH_DELAY, queue.batch()).await;
        }
    }

    /// Sends what waits, batch after batch.
    async fn send_all(&self, queue: &SpanQueue, tasks: &Tasks) {
        loop {
            let spans = queue.take();
            if spans.is_empty() {
                return;
            }
            let count = spans.len() as u64;
            let body = Bytes::from(encode::request(&self.resource, spans));
            // Counted as failed if the future is dropped at the end of the process.
            let mut counted = Counted {
                spans: count,
                outcome: "failed",
            };
            if let Some(rejected) = self.send(body, tasks).await {
                let rejected = rejected.min(count);
                counted.spans = count - rejected;
                counted.outcome = "exported";
                count_spans("rejected", rejected);
            }
        }
    }

    /// Sends a batch, and again as long as that is allowed; once more at the server's end. Returns
    /// how many of its spans the collector has rejected; `None` if it did not take the batch.
    async fn send(&self, body: Bytes, tasks: &Tasks) -> Option<u64> {
        let mut retry = Retry::new(Instant::now() + RETRY_MAX);
        let mut is_last = false;
        loop {
            match self.attempt(body.clone()).await {
                Attempt::Exported { rejected } => {
                    if rejected > 0 {
                        self.log(&format!("the collector rejected {rejected} spans"));
                    }
                    return Some(rejected);
                }
                Attempt::Later { after, cause } => {
                    self.log(&cause);
                    let pause = retry.pause(after).filter(|_| !is_last)?;
                    tokio::select! {
                        () = tokio::time::sleep(pause) => {}
                        () = tasks.ended() => is_last = true,
                    }
                }
                Attempt::Failed(cause) => {
                    self.log(&cause);
                    return None;
                }
            }
        }
    }

    async fn attempt(&self, body: Bytes) -> Attempt {
        let mut request = Request::new(RequestBody::full(body));
        *request.method_mut() = Method::POST;
        request.uri_mut().clone_from(&self.url.uri);
        let fields = request.headers_mut();
        fields.extend(self.settings.headers.clone());
        let protobuf = HeaderValue::from_static("application/x-protobuf");
        fields.insert(CONTENT_TYPE, protobuf);
        fields.insert(USER_AGENT, HeaderValue::from_static("oneport"));
        match timeout(self.settings.timeout, self.client.exchange(request)).await {
            Err(_) => Attempt::Later {
                after: None,
                cause: format!("no answer within {:?}", self.settings.timeout),
            },
            Ok(Err(error)) => Attempt::Later {
                after: None,
                cause: error.to_string(),
            },
            Ok(Ok(response)) if response.status().is_success() => Attempt::Exported {
                rejected: encode::rejected(response.body()),
            },
            Ok(Ok(response)) => {
                let status = response.status();
                let cause = format!("the collector answered {status}");
                match status.as_u16() {
                    429 | 502..=504 => Attempt::Later {
                        after: retry::retry_after(response.headers()),
                        cause,
                    },
                    _ => Attempt::Failed(cause),
                }
            }
        }
    }

    /// Logs why spans were not sent, once per interval.
    fn log(&self, cause: &str) {
        if let Some(times) = self.failures.count() {
            let collector = &self.url.label;
            tracing::warn!(collector, cause, times, "spans could not be sent");
        }
    }
}

/// Counts spans when it is dropped.
struct Counted {
    spans: u64,
    outcome: &'static str,
}

impl Drop for Counted {
    fn drop(&mut self) {
        count_spans(self.outcome, self.spans);
    }
}

fn count_spans(outcome: &'static str, spans: u64) {
    if spans > 0 {
        counter!("oneport_spans_total", "outcome" => outcome).increment(spans);
    }
}

/// Adds the path of traces to the URL of a collector.
fn with_path(url: &str) -> String {
    let url = url.trim_end_matches('/');
    match url.ends_with(PATH) {
        true => url.to_owned(),
        false => format!("{url}{PATH}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn path_of_traces_is_added_once() {
        for (url, expected) in [
            ("http://a:4318", "http://a:4318/v1/traces"),
            ("http://a:4318/", "http://a:4318/v1/traces"),
            ("https://a/otlp", "https://a/otlp/v1/traces"),
            ("https://a/otlp/v1/traces", "https://a/otlp/v1/traces"),
        ] {
            assert_eq!(with_path(url), expected);
        }
    }
}

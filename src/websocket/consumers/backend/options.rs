//! Options: the options of `backend`.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use http::HeaderName;

use super::route::Route;
use crate::channels::ChannelName;
use crate::client::{EndpointUrl, EndpointUrlError, Protocol};
use crate::config::{ConfigPath, OptionErrors, Secret, Size, WrittenDuration, hide_url};

/// More descriptors than any machine has, and more disconnects than it sends in a second.
const CONCURRENCY_MAX: usize = 65_536;
const DISCONNECT_RATE_MAX: usize = 1_000_000;

/// The options of `backend`.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Options {
    /// The endpoint: `http://HOST:PORT/PATH`, `https://HOST:PORT/PATH` or
    /// `http+unix://SOCKET:/PATH`.
    #[serde(default)]
    pub(super) url: Option<String>,
    /// The file of the certificates that are trusted with `https://`.
    #[serde(default)]
    pub(super) ca: Option<ConfigPath>,
    /// The secrets that sign each request; several during a rotation.
    #[serde(default, deserialize_with = "one_or_several")]
    pub(super) secret: Vec<Secret>,
    /// The channel whose workers get the events, instead of an endpoint.
    #[serde(default)]
    pub(super) channel: Option<String>,
    /// The request's header fields that are passed on to the backend.
    #[serde(default = "headers")]
    pub(super) headers: Vec<String>,
    /// How long a response may take.
    #[serde(default = "five_seconds")]
    pub(super) timeout: WrittenDuration,
    /// How long opening a connection may take.
    #[serde(default = "a_second")]
    pub(super) connect_timeout: WrittenDuration,
    /// The most concurrent requests.
    #[serde(default = "concurrency")]
    pub(super) concurrency: usize,
    /// How many times a request is retried immediately.
    #[serde(default = "retries")]
    pub(super) retries: u32,
    /// The most events of one request.
    #[serde(default = "batch_events")]
    pub(super) batch_events: usize,
    /// The most bytes of events of one request.
    #[serde(default = "batch_bytes")]
    pub(super) batch_bytes: Size,
    /// The most bytes of one response.
    #[serde(default = "a_mebibyte")]
    pub(super) max_response: Size,
    /// The most events of one response.
    #[serde(default = "max_effects")]
    pub(super) max_effects: usize,
    /// The most bytes of the state.
    #[serde(default = "max_state")]
    pub(super) max_state: Size,
    /// The most bytes queued for the backend, for one connection.
    #[serde(default = "a_mebibyte")]
    pub(super) hold: Size,
    /// How long events may be queued.
    #[serde(default = "hold_time")]
    pub(super) hold_time: WrittenDuration,
    /// The most bytes queued for the backend, over all connections.
    #[serde(default = "hold_total")]
    pub(super) hold_total: Size,
    /// The number of consecutive failures that opens the circuit breaker.
    #[serde(default = "breaker_failures")]
    pub(super) breaker_failures: u32,
    /// How long the circuit breaker stays open.
    #[serde(default = "breaker_open")]
    pub(super) breaker_open: WrittenDuration,
    /// The most queued disconnects.
    #[serde(default = "disconnect_queue")]
    pub(super) disconnect_queue: usize,
    /// How long a disconnect may be queued.
    #[serde(default = "disconnect_expiry")]
    pub(super) disconnect_expiry: WrittenDuration,
    /// The most disconnects sent in a second.
    #[serde(default = "disconnect_rate")]
    pub(super) disconnect_rate: u32,
    /// Whether the backend is notified that this process has started. By default an endpoint is, and
    /// workers are not: a Channels worker without a handler for an event type loses other events.
    #[serde(default)]
    pub(super) node_started: Option<bool>,
    /// `url` or `channel`, parsed.
    #[serde(skip)]
    pub(super) destination: Option<Destination>,
    /// The protocol of `url`.
    #[serde(skip)]
    pub(super) protocol: Protocol,
    /// `headers`, parsed.
    #[serde(skip)]
    pub(super) header_names: Vec<HeaderName>,
    #[serde(skip)]
    pub(super) route: Arc<OnceLock<Route>>,
}

/// The destination of a route's events.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(super) enum Destination {
    Endpoint(EndpointUrl),
    Channel(ChannelName),
}

fn headers() -> Vec<String> {
    ["cookie", "origin", "user-agent", "accept-language"]
        .map(str::to_owned)
        .to_vec()
}
fn five_seconds() -> WrittenDuration {
    WrittenDuration(Duration::from_secs(5))
}
fn a_second() -> WrittenDuration {
    WrittenDuration(Duration::from_secs(1))
}
fn concurrency() -> usize {
    64
}
fn retries() -> u32 {
    2
}
fn batch_events() -> usize {
    100
}
fn batch_bytes() -> Size {
    Size::kib(256)
}
fn a_mebibyte() -> Size {
    Size::kib(1024)
}
fn max_effects() -> usize {
    1000
}
fn max_state() -> Size {
    Size::kib(16)
}
fn hold_time() -> WrittenDuration {
    WrittenDuration(Duration::from_secs(30))
}
fn hold_total() -> Size {
    Size::kib(64 * 1024)
}
fn breaker_failures() -> u32 {
    5
}
fn breaker_open() -> WrittenDuration {
    WrittenDuration(Duration::from_secs(2))
}
fn disconnect_queue() -> usize {
    100_000
}
fn disconnect_expiry() -> WrittenDuration {
    WrittenDuration(Duration::from_secs(600))
}
fn disconnect_rate() -> u32 {
    500
}

/// Reads a string, or a list of strings.
fn one_or_several<'de, D: serde::Deserializer<'de>>(
    deserializer: D,
) -> Result<Vec<Secret>, D::Error> {
    struct OneOrSeveral;

    impl<'de> serde::de::Visitor<'de> for OneOrSeveral {
        type Value = Vec<Secret>;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("a text or an array of texts")
        }

        fn visit_str<E>(self, text: &str) -> Result<Vec<Secret>, E> {
            Ok(vec![Secret(text.to_owned())])
        }

        fn visit_seq<A: serde::de::SeqAccess<'de>>(
            self,
            mut list: A,
        ) -> Result<Vec<Secret>, A::Error> {
            let mut secrets = Vec::new();
            while let Some(secret) = list.next_element()? {
                secrets.push(secret);
            }
            Ok(secrets)
        }
    }

    deserializer.deserialize_any(OneOrSeveral)
}

impl Options {
    /// Parses the options, and rejects values that their types do not rule out.
    pub(super) fn validate(mut self) -> Result<Self, OptionErrors> {
        let mut errors = OptionErrors::default();
        match (&self.url, &self.channel) {
            (Some(url), None) => {
                match EndpointUrl::parse(url) {
                    Ok(url) => {
                        let ca = self.ca.as_ref().map(AsRef::as_ref);
                        match url.protocol(ca) {
                            Ok(protocol) => self.protocol = protocol,
                            Err(error) => errors.error("ca", error.to_string()),
                        }
                        self.destination = Some(Destination::Endpoint(url));
                    }
                    Err(error) => errors.error("url", url_error(url, &error)),
                }
                if self.secret.is_empty() || self.secret.iter().any(|one| one.0.is_empty()) {
                    let message = "expected a text to sign the requests with, found none";
                    errors.error("secret", message);
                }
            }
            (None, Some(channel)) => match ChannelName::new(channel) {
                Ok(channel) => self.destination = Some(Destination::Channel(channel)),
                Err(error) => errors.error("channel", error.to_string()),
            },
            (Some(_), Some(_)) => {
                errors.error("url", "expected either \"url\" or \"channel\", found both");
            }
            (None, None) => {
                errors.error(
                    "url",
                    "expected either \"url\" or \"channel\", found neither",
                );
            }
        }
        for name in &self.headers {
            match HeaderName::from_bytes(name.as_bytes()) {
                Ok(name) => self.header_names.push(name),
                Err(_) => errors.error(
                    "headers",
                    format!("expected names of fields, found {name:?}"),
                ),
            }
        }
        for (key, is_zero) in [
            ("timeout", self.timeout.0.is_zero()),
            ("connect_timeout", self.connect_timeout.0.is_zero()),
            ("concurrency", self.concurrency == 0),
            ("batch_events", self.batch_events == 0),
            ("batch_bytes", self.batch_bytes.bytes() == 0),
            ("hold", self.hold.bytes() == 0),
            ("hold_total", self.hold_total.bytes() == 0),
            ("breaker_failures", self.breaker_failures == 0),
            ("disconnect_rate", self.disconnect_rate == 0),
        ] {
            if is_zero {
                errors.error(key, "expected more than zero, found zero");
            }
        }
        let rate = self.disconnect_rate as usize;
        for (key, found, max) in [
            ("concurrency", self.concurrency, CONCURRENCY_MAX),
            ("disconnect_rate", rate, DISCONNECT_RATE_MAX),
        ] {
            if found > max {
                errors.error(key, format!("expected at most {max}, found {found}"));
            }
        }
        errors.into_result(self)
    }
}

fn url_error(url: &str, error: &EndpointUrlError) -> String {
    match error {
        EndpointUrlError::Credentials if url.starts_with("http") => {
            "expected a URL without a user name and a password (the signature authenticates the requests), found one with an @ sign"
                .to_owned()
        }
        EndpointUrlError::Form | EndpointUrlError::Credentials => format!(
            "expected \"http://HOST:PORT/PATH\", \"https://HOST:PORT/PATH\" or \"http+unix://SOCKET:/PATH\", found {:?}",
            hide_url(url)
        ),
        EndpointUrlError::SocketPath(problem) => problem.clone(),
    }
}

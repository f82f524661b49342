//! The `[server]` section: addresses to listen on, trusted proxies, and the limits of connections.

use std::fmt;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use serde::Deserialize;
use serde::de::{self, Deserializer, Visitor};

use crate::config::read::source_location::SourceLocation;
use crate::config::sections::drain::DrainConfig;
use crate::config::sections::tls::TlsConfig;
use crate::config::values::checked::{
    HeaderCount, HostPattern, ListOf, PositiveCount, PositiveDuration, PositiveSize, Prefix, via,
};
use crate::config::values::not_compared::NotCompared;
use crate::config::values::rate::{OptionalRate, Rate};
use crate::config::values::secret::Secret;
use crate::config::values::units::{Size, WrittenDuration};
use crate::net::{Bind, Listen};

/// `[server]`.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(default, deny_unknown_fields)]
pub struct ServerConfig {
    /// The addresses to listen on. Default: `["127.0.0.1:8000"]`.
    pub bind: Vec<Listen>,
    /// The hosts that this server serves: `".example.com"` includes subdomains, `"*"` is every
    /// host. Default: `["localhost", "127.0.0.1", "[::1]"]`.
    #[serde(deserialize_with = "via::<ListOf<HostPattern>, _, _>")]
    pub allowed_hosts: Vec<String>,
    /// The networks (CIDR, or a single address) whose forwarded fields and `X-Request-Id` are
    /// trusted. Default: none.
    #[serde(deserialize_with = "via::<Networks, _, _>")]
    pub trusted_proxies: Vec<IpNet>,
    /// The forwarded fields of a trusted proxy that are used; the others are removed. Default:
    /// `"x-forwarded-for"`.
    pub forwarded: ForwardedFamily,
    /// The number of worker threads. Default: `"auto"`, one per core.
    pub workers: Workers,
    /// The path prefix that a proxy in front strips from each URL, such as `/app`. Default: `""`.
    #[serde(deserialize_with = "via::<Prefix, _, _>")]
    pub root_path: String,
    /// The name of this process to its peers and to backends; empty: its host and the port of its
    /// first address.
    pub name: String,
    /// The file with the number of the process that serves; empty: none. Default: none.
    pub pid_file: PathBuf,
    /// The key that signs cookies, tokens and hashes; with Django's tables its `SECRET_KEY`. Empty:
    /// generated at the first start and stored beside the session database. Default: the variable
    /// `ONEPORT_SECRET_KEY`, or empty.
    pub secret_key: Secret,
    /// Older keys whose signatures are still accepted. Default: none.
    pub secret_key_fallbacks: Vec<Secret>,
    /// `[server.limits]`.
    pub limits: LimitsConfig,
    /// `[server.timeouts]`.
    pub timeouts: TimeoutsConfig,
    /// `[server.drain]`.
    pub drain: DrainConfig,
    /// `[server.tls]`; absent: no listener speaks TLS.
    pub tls: Option<TlsConfig>,
    /// The section's location.
    #[serde(skip)]
    pub location: NotCompared<SourceLocation>,
}

/// The fields in which a proxy reports its client.
///
/// Only one family is trusted: a proxy sets its own fields and passes on the client's in the other.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq)]
pub enum ForwardedFamily {
    /// `X-Forwarded-For`, with `-Proto`, `-Host` and `-Port`.
    #[default]
    #[serde(rename = "x-forwarded-for")]
    X,
    /// `Forwarded` (RFC 7239).
    #[serde(rename = "forwarded")]
    Standard,
}

impl ForwardedFamily {
    /// Returns the value as written in the file.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::X => "x-forwarded-for",
            Self::Standard => "forwarded",
        }
    }
}

/// The number of worker threads.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Workers {
    /// One per core.
    #[default]
    Auto,
    /// A fixed number.
    Count(NonZeroUsize),
}

/// `[server.limits]`.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(default, deny_unknown_fields)]
pub struct LimitsConfig {
    /// The most open connections. Default: 100 000.
    #[serde(deserialize_with = "via::<PositiveCount, _, _>")]
    pub connections: usize,
    /// The most open connections from one IP address. Default: 1000.
    #[serde(deserialize_with = "via::<PositiveCount, _, _>")]
    pub connections_per_ip: usize,
    /// How many connections are accepted in a time; further ones wait in the kernel's queue.
    /// Default: no limit.
    #[serde(deserialize_with = "via::<OptionalRate, _, _>")]
    pub connection_rate: Option<Rate>,
    /// How many connections one IP address may open in a time. Default: no limit.
    #[serde(deserialize_with = "via::<OptionalRate, _, _>")]
    pub connection_rate_per_ip: Option<Rate>,
    /// The most bytes of a request's first line and headers. Default: 16 KiB.
    #[serde(deserialize_with = "via::<PositiveSize, _, _>")]
    pub header_size: Size,
    /// The most bytes of a request's target. Default: 8 KiB.
    #[serde(deserialize_with = "via::<PositiveSize, _, _>")]
    pub uri_size: Size,
    /// The most header fields of a request. Default: 100.
    #[serde(deserialize_with = "via::<HeaderCount, _, _>")]
    pub header_count: usize,
    /// The most streams that a client may have open on an HTTP/2 connection. Default: 250.
    #[serde(deserialize_with = "via::<PositiveCount, _, _>")]
    pub http2_streams: usize,
    /// The largest request body, unless the route overrides it; 0 allows none. Default: 1 MiB.
    pub body_size: Size,
    /// The most bytes queued for all slow WebSocket clients; beyond it, each has only a short
    /// queue. Default: 256 MiB.
    #[serde(deserialize_with = "via::<PositiveSize, _, _>")]
    pub send_queue_total: Size,
    /// The most bytes of small files that the view `static` keeps in memory; 0 keeps none. Default:
    /// 64 MiB.
    pub file_cache: Size,
    /// The bytes per second that a client must send of a body, or receive of a response, while the
    /// server waits for it; 0 is no limit. Default: 240 B.
    pub min_rate: Size,
    /// The most groups that one WebSocket may be in. Default: 1000.
    #[serde(deserialize_with = "via::<PositiveCount, _, _>")]
    pub groups_per_socket: usize,
    /// The most groups that the WebSockets and event streams of one IP address may be in; each
    /// counts its own. Default: 100 000.
    #[serde(deserialize_with = "via::<PositiveCount, _, _>")]
    pub groups_per_ip: usize,
}

/// `[server.timeouts]`.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(default, deny_unknown_fields)]
pub struct TimeoutsConfig {
    /// From accepting the connection to the end of the first request's headers. Default: 10 s.
    #[serde(deserialize_with = "via::<PositiveDuration, _, _>")]
    pub handshake: Duration,
    /// From a request to its response, unless the route overrides it. Default: 30 s.
    #[serde(deserialize_with = "via::<PositiveDuration, _, _>")]
    pub request: Duration,
    /// How long a connection may be idle between requests; 0 closes it after each. Default: 60 s.
    #[serde(deserialize_with = "via::<WrittenDuration, _, _>")]
    pub keep_alive: Duration,
    /// How long a stopping server waits for requests and sockets to finish. Default: 30 s.
    #[serde(deserialize_with = "via::<WrittenDuration, _, _>")]
    pub drain: Duration,
    /// How long the process that replaces this one after SIGUSR2 may take to start. Default: 60 s.
    #[serde(deserialize_with = "via::<PositiveDuration, _, _>")]
    pub restart: Duration,
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            bind: vec![Bind::Tcp("127.0.0.1:8000".to_owned()).into()],
            allowed_hosts: ["localhost", "127.0.0.1", "[::1]"]
                .map(str::to_owned)
                .to_vec(),
            trusted_proxies: Vec::new(),
            forwarded: ForwardedFamily::default(),
            workers: Workers::Auto,
            root_path: String::new(),
            name: String::new(),
            pid_file: PathBuf::new(),
            secret_key: Secret::default(),
            secret_key_fallbacks: Vec::new(),
            limits: LimitsConfig::default(),
            timeouts: TimeoutsConfig::default(),
            drain: DrainConfig::default(),
            tls: None,
            location: NotCompared::default(),
        }
    }
}

impl Default for LimitsConfig {
    fn default() -> Self {
        Self {
            connections: 100_000,
            connections_per_ip: 1_000,
            connection_rate: None,
            connection_rate_per_ip: None,
            header_size: Size::kib(16),
            uri_size: Size::kib(8),
            header_count: 100,
            http2_streams: 250,
            body_size: Size::mib(1),
            send_queue_total: Size::mib(256),
            file_cache: Size::mib(64),
            min_rate: Size(240),
            groups_per_socket: 1_000,
            groups_per_ip: 100_000,
        }
    }
}

impl LimitsConfig {
    /// Returns each limit: its key, its value as written, and as a number; a rate is one per
    /// second. A rate that is not set has no written value, and is 0.
    #[must_use]
    pub fn listed(&self) -> [(&'static str, Option<String>, f64); 14] {
        let Self {
            connections,
            connections_per_ip,
            connection_rate,
            connection_rate_per_ip,
            header_size,
            uri_size,
            header_count,
            http2_streams,
            body_size,
            send_queue_total,
            file_cache,
            min_rate,
            groups_per_socket,
            groups_per_ip,
        } = self;
        let count = |key, count: usize| (key, Some(count.to_string()), count as f64);
        let size = |key, size: Size| (key, Some(size.to_string()), size.bytes() as f64);
        let rate = |key, rate: Option<Rate>| {
            let per_second = rate.map_or(0.0, Rate::per_second);
            (key, rate.map(|rate| rate.to_string()), per_second)
        };
        [
            count("connections", *connections),
            count("connections_per_ip", *connections_per_ip),
            rate("connection_rate", *connection_rate),
            rate("connection_rate_per_ip", *connection_rate_per_ip),
            size("header_size", *header_size),
            size("uri_size", *uri_size),
            count("header_count", *header_count),
            count("http2_streams", *http2_streams),
            size("body_size", *body_size),
            size("send_queue_total", *send_queue_total),
            size("file_cache", *file_cache),
            size("min_rate", *min_rate),
            count("groups_per_socket", *groups_per_socket),
            count("groups_per_ip", *groups_per_ip),
        ]
    }
}

impl Default for TimeoutsConfig {
    fn default() -> Self {
        Self {
            handshake: Duration::from_secs(10),
            request: Duration::from_secs(30),
            keep_alive: Duration::from_secs(60),
            drain: Duration::from_secs(30),
            restart: Duration::from_secs(60),
        }
    }
}

impl<'de> Deserialize<'de> for Workers {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Written;
        impl Visitor<'_> for Written {
            type Value = Workers;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("\"auto\" or a number of threads, 1 or more")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Workers, E> {
                match text {
                    "auto" => Ok(Workers::Auto),
                    other => Err(E::invalid_value(de::Unexpected::Str(other), &self)),
                }
            }

            fn visit_i64<E: de::Error>(self, number: i64) -> Result<Workers, E> {
                let count = usize::try_from(number).ok().and_then(NonZeroUsize::new);
                count
                    .map(Workers::Count)
                    .ok_or_else(|| E::invalid_value(de::Unexpected::Signed(number), &self))
            }
        }
        deserializer.deserialize_any(Written)
    }
}

impl fmt::Display for Workers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Count(count) => count.fmt(f),
        }
    }
}

/// A list of networks as written.
#[derive(Deserialize)]
struct Networks(Vec<Network>);

#[derive(Deserialize)]
#[serde(try_from = "String")]
struct Network(IpNet);

impl TryFrom<String> for Network {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let single = || {
            text.parse()
                .map(|address: std::net::IpAddr| IpNet::from(address))
        };
        text.parse().or_else(|_| single()).map(Self).map_err(|_| {
            format!("expected a network such as \"10.0.0.0/8\" or an address such as \"10.0.0.1\", found {text:?}")
        })
    }
}

impl From<Networks> for Vec<IpNet> {
    fn from(networks: Networks) -> Self {
        networks.0.into_iter().map(|network| network.0).collect()
    }
}

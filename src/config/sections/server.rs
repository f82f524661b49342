//! The `[server]` section: listeners, trusted proxies, and the limits and timeouts of a connection.

use std::fmt;
use std::num::NonZeroUsize;
use std::time::Duration;

use ipnet::IpNet;
use serde::Deserialize;
use serde::de::{self, Deserializer, Visitor};

use crate::config::read::source_location::SourceLocation;
use crate::config::values::checked::{
    HostPattern, ListOf, PositiveCount, PositiveDuration, PositiveSize, Prefix, via,
};
use crate::config::values::not_compared::NotCompared;
use crate::config::values::secret::Secret;
use crate::config::values::units::{Size, WrittenDuration};
use crate::net::{Bind, Listen};

/// `[server]`.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(default, deny_unknown_fields)]
pub struct ServerConfig {
    /// The addresses to listen on. Default: `["127.0.0.1:8000"]`.
    pub bind: Vec<Listen>,
    /// The hosts this server answers for; `".example.com"` takes subdomains, `"*"` takes all.
    /// Default: `["localhost", "127.0.0.1", "[::1]"]`.
    #[serde(deserialize_with = "via::<ListOf<HostPattern>, _, _>")]
    pub allowed_hosts: Vec<String>,
    /// The networks (CIDR, or a single address) whose forwarded fields and `X-Request-Id` are believed.
    /// Default: none.
    #[serde(deserialize_with = "via::<Networks, _, _>")]
    pub trusted_proxies: Vec<IpNet>,
    /// Which fields of a trusted proxy are believed; the others are removed. Default: `"x-forwarded-for"`.
    pub forwarded: ForwardedFamily,
    /// The worker threads. Default: `"auto"`, one for each core.
    pub workers: Workers,
    /// The path that a proxy in front has taken off each URL, such as `/app`. Default: `""`.
    #[serde(deserialize_with = "via::<Prefix, _, _>")]
    pub root_path: String,
    /// What this process is called among others, and by a backend; empty: its host and the port of its first address.
    pub name: String,
    /// What cookies, tokens and hashes are signed with; with Django's tables its `SECRET_KEY`. Empty: made at the first
    /// start and kept beside the session database. Default: the variable `ONEPORT_SECRET_KEY`, or empty.
    pub secret_key: Secret,
    /// Older keys that signatures are still taken from. Default: none.
    pub secret_key_fallbacks: Vec<Secret>,
    /// `[server.limits]`.
    pub limits: LimitsConfig,
    /// `[server.timeouts]`.
    pub timeouts: TimeoutsConfig,
    /// The location of the section.
    #[serde(skip)]
    pub location: NotCompared<SourceLocation>,
}

/// The header fields in which a proxy names its client.
///
/// One family is believed: a proxy sets the fields of its own and passes the client's on in the other.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq)]
pub enum ForwardedFamily {
    /// `X-Forwarded-For`, and beside it `-Proto`, `-Host` and `-Port`.
    #[default]
    #[serde(rename = "x-forwarded-for")]
    X,
    /// `Forwarded` (RFC 7239).
    #[serde(rename = "forwarded")]
    Standard,
}

impl ForwardedFamily {
    /// Returns the word of the file.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::X => "x-forwarded-for",
            Self::Standard => "forwarded",
        }
    }
}

/// How many worker threads run.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Workers {
    /// One for each core.
    #[default]
    Auto,
    /// So many.
    Count(NonZeroUsize),
}

/// `[server.limits]`.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(default, deny_unknown_fields)]
pub struct LimitsConfig {
    /// Connections at the same time. Default: 100 000.
    #[serde(deserialize_with = "via::<PositiveCount, _, _>")]
    pub connections: usize,
    /// Connections at the same time from one IP address. Default: 1000.
    #[serde(deserialize_with = "via::<PositiveCount, _, _>")]
    pub connections_per_ip: usize,
    /// The first line and the headers of a request. Default: 16 KiB.
    #[serde(deserialize_with = "via::<PositiveSize, _, _>")]
    pub header_size: Size,
    /// The body of a request, unless its route sets another; 0 allows no body. Default: 1 MiB.
    pub body_size: Size,
    /// The bytes that may wait for all slow WebSocket clients; beyond, each has a short queue. Default: 256 MiB.
    #[serde(deserialize_with = "via::<PositiveSize, _, _>")]
    pub send_queue_total: Size,
    /// How much a client sends of a body, or takes of an answer, in a second of waiting for it; 0 is no bound. Default: 240 B.
    pub min_rate: Size,
}

/// `[server.timeouts]`.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(default, deny_unknown_fields)]
pub struct TimeoutsConfig {
    /// From the accepted connection to the end of the first request's headers. Default: 10 s.
    #[serde(deserialize_with = "via::<PositiveDuration, _, _>")]
    pub handshake: Duration,
    /// From a request to its answer, unless its route sets another. Default: 30 s.
    #[serde(deserialize_with = "via::<PositiveDuration, _, _>")]
    pub request: Duration,
    /// How long a connection may wait for its next request; 0 waits for none. Default: 60 s.
    #[serde(deserialize_with = "via::<WrittenDuration, _, _>")]
    pub keep_alive: Duration,
    /// How long a stopping server waits for requests and sockets. Default: 30 s.
    #[serde(deserialize_with = "via::<WrittenDuration, _, _>")]
    pub drain: Duration,
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
            secret_key: Secret::default(),
            secret_key_fallbacks: Vec::new(),
            limits: LimitsConfig::default(),
            timeouts: TimeoutsConfig::default(),
            location: NotCompared::default(),
        }
    }
}

impl Default for LimitsConfig {
    fn default() -> Self {
        Self {
            connections: 100_000,
            connections_per_ip: 1_000,
            header_size: Size::kib(16),
            body_size: Size::mib(1),
            send_queue_total: Size::mib(256),
            min_rate: Size(240),
        }
    }
}

impl Default for TimeoutsConfig {
    fn default() -> Self {
        Self {
            handshake: Duration::from_secs(10),
            request: Duration::from_secs(30),
            keep_alive: Duration::from_secs(60),
            drain: Duration::from_secs(30),
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

/// Networks as they are written.
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

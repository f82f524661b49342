//! Options: the part of the options of a view and of a consumer that says which servers answer.

use std::str::FromStr;

use http::uri::PathAndQuery;

use super::balance::Balance;
use crate::config::{ConfigPath, OptionErrors, WrittenDuration};

/// The option `health_check`.
#[derive(Clone, Debug, Eq, Hash, PartialEq, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HealthCheckOptions {
    /// The path that is requested.
    #[serde(default = "defaults::health_path")]
    pub path: String,
    /// The time between two checks.
    #[serde(default = "defaults::health_interval")]
    pub interval: WrittenDuration,
    /// How long a response may take.
    #[serde(default = "defaults::health_timeout")]
    pub timeout: WrittenDuration,
    /// The statuses of a server that works. Empty: 200 to 399.
    #[serde(default)]
    pub status: Vec<u16>,
}

/// The option `tls`.
#[derive(Clone, Debug, Eq, Hash, PartialEq, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TlsOptions {
    /// The file of the certificates that are trusted, instead of the system's.
    #[serde(default)]
    pub ca: Option<ConfigPath>,
    /// The file of our certificate, for a server that asks for one.
    #[serde(default)]
    pub certificate: Option<ConfigPath>,
    /// The file of its key.
    #[serde(default)]
    pub key: Option<ConfigPath>,
    /// The name in the server's certificate, instead of the one in its URL.
    #[serde(default)]
    pub server_name: Option<String>,
    /// Whether the server's certificate is checked.
    #[serde(default = "defaults::yes")]
    pub verify: bool,
}

impl Default for TlsOptions {
    fn default() -> Self {
        Self {
            ca: None,
            certificate: None,
            key: None,
            server_name: None,
            verify: true,
        }
    }
}

/// The defaults of the options.
pub(crate) mod defaults {
    use std::time::Duration;

    use crate::config::WrittenDuration;

    pub(crate) fn yes() -> bool {
        true
    }
    pub(crate) fn balance() -> String {
        "round_robin".to_owned()
    }
    pub(crate) fn max_fails() -> u32 {
        3
    }
    pub(crate) fn ten_seconds() -> WrittenDuration {
        WrittenDuration(Duration::from_secs(10))
    }
    pub(crate) fn five_seconds() -> WrittenDuration {
        WrittenDuration(Duration::from_secs(5))
    }
    pub(crate) fn a_minute() -> WrittenDuration {
        WrittenDuration(Duration::from_secs(60))
    }
    pub(crate) fn half_a_minute() -> WrittenDuration {
        WrittenDuration(Duration::from_secs(30))
    }
    pub(crate) fn max_connections() -> usize {
        65_536
    }
    pub(crate) fn max_queue() -> usize {
        1_000
    }
    pub(crate) fn retries() -> u32 {
        2
    }
    pub(crate) fn health_path() -> String {
        "/".to_owned()
    }
    pub(crate) fn health_interval() -> WrittenDuration {
        five_seconds()
    }
    pub(crate) fn health_timeout() -> WrittenDuration {
        WrittenDuration(Duration::from_secs(2))
    }
}

/// Declares the options of a view or a consumer that has an upstream: its own fields, and those of
/// the upstream, which `upstream_options` returns. serde cannot flatten a struct that rejects unknown
/// keys.
macro_rules! upstream_options {
    ($(#[$meta:meta])* $vis:vis struct $name:ident { $($own:tt)* }) => {
        $(#[$meta])*
        #[derive(Clone, Debug, Eq, Hash, PartialEq, serde::Deserialize)]
        #[serde(deny_unknown_fields)]
        $vis struct $name {
            /// The servers: `http://HOST:PORT`, `https://HOST:PORT`, `h2c://HOST:PORT`, `unix:PATH`.
            pub upstream: Vec<crate::config::ConfigUrl>,
            /// Which of them gets a request: `round_robin`, `least_connections`, `hash:address`,
            /// `hash:header:NAME`, `hash:cookie:NAME`.
            #[serde(default = "crate::upstream::defaults::balance")]
            pub balance: String,
            /// The requests that find out whether a server works.
            #[serde(default)]
            pub health_check: Option<crate::upstream::HealthCheckOptions>,
            /// The failures in a row after which a server gets no requests. 0: never.
            #[serde(default = "crate::upstream::defaults::max_fails")]
            pub max_fails: u32,
            /// For how long, at first.
            #[serde(default = "crate::upstream::defaults::ten_seconds")]
            pub fail_timeout: crate::config::WrittenDuration,
            /// How long opening a connection may take.
            #[serde(default = "crate::upstream::defaults::five_seconds")]
            pub connect_timeout: crate::config::WrittenDuration,
            /// How long a server may take for the head of its response, after the last part of the request.
            #[serde(default = "crate::upstream::defaults::a_minute")]
            pub response_timeout: crate::config::WrittenDuration,
            /// How long it may be silent within the body of its response.
            #[serde(default = "crate::upstream::defaults::a_minute")]
            pub idle_timeout: crate::config::WrittenDuration,
            /// How long a request may take in all, with its wait for a connection and other attempts.
            #[serde(default)]
            pub total_timeout: Option<crate::config::WrittenDuration>,
            /// The most requests of each server at the same time, and the most tunnels.
            #[serde(default = "crate::upstream::defaults::max_connections")]
            pub max_connections: usize,
            /// The most requests of each server that wait for one of these.
            #[serde(default = "crate::upstream::defaults::max_queue")]
            pub max_queue: usize,
            /// How long a request waits for one of these.
            #[serde(default = "crate::upstream::defaults::five_seconds")]
            pub queue_timeout: crate::config::WrittenDuration,
            /// TLS to the servers.
            #[serde(default)]
            pub tls: crate::upstream::TlsOptions,
            /// How many times a request is sent to another server, or again.
            #[serde(default = "crate::upstream::defaults::retries")]
            pub retries: u32,
            /// How often the name of a server is looked up again.
            #[serde(default = "crate::upstream::defaults::half_a_minute")]
            pub resolve_interval: crate::config::WrittenDuration,
            $($own)*
        }

        impl $name {
            /// Returns the options of the upstream alone.
            #[must_use]
            pub fn upstream_options(&self) -> crate::upstream::UpstreamOptions {
                crate::upstream::UpstreamOptions {
                    upstream: self.upstream.clone(),
                    balance: self.balance.clone(),
                    health_check: self.health_check.clone(),
                    max_fails: self.max_fails,
                    fail_timeout: self.fail_timeout,
                    connect_timeout: self.connect_timeout,
                    response_timeout: self.response_timeout,
                    idle_timeout: self.idle_timeout,
                    total_timeout: self.total_timeout,
                    max_connections: self.max_connections,
                    max_queue: self.max_queue,
                    queue_timeout: self.queue_timeout,
                    tls: self.tls.clone(),
                    retries: self.retries,
                    resolve_interval: self.resolve_interval,
                }
            }
        }
    };
}

#[allow(
    unused_imports,
    reason = "the proxy view and the proxy consumer use it"
)]
pub(crate) use upstream_options;

upstream_options! {
    /// The options of an upstream, which the `proxy` view and the `proxy` consumer share.
    pub struct UpstreamOptions {}
}

/// More connections than a process can have.
const CONNECTIONS_MAX: usize = 1 << 20;

impl UpstreamOptions {
    /// Checks what the types of the options do not rule out; returns the balance.
    pub(super) fn validate(&self, errors: &mut OptionErrors) -> Balance {
        if self.upstream.is_empty() {
            errors.error("upstream", "expected the URL of a server, found none");
        }
        for (index, url) in self.upstream.iter().enumerate() {
            if self.upstream[..index].contains(url) {
                errors.error(format!("upstream[{index}]"), "this server is listed twice");
            }
        }
        for (key, timeout) in [
            ("fail_timeout", Some(self.fail_timeout)),
            ("connect_timeout", Some(self.connect_timeout)),
            ("response_timeout", Some(self.response_timeout)),
            ("idle_timeout", Some(self.idle_timeout)),
            ("total_timeout", self.total_timeout),
            ("queue_timeout", Some(self.queue_timeout)),
        ] {
            if timeout.is_some_and(|timeout| timeout.0.is_zero()) {
                errors.error(key, "expected a duration longer than zero, found \"0s\"");
            }
        }
        if !(1..=CONNECTIONS_MAX).contains(&self.max_connections) {
            let found = self.max_connections;
            let message = format!("expected 1 to {CONNECTIONS_MAX}, found {found}");
            errors.error("max_connections", message);
        }
        if let Some(check) = &self.health_check {
            check.validate(errors);
        }
        let is_https = |url: &crate::config::ConfigUrl| url.0.starts_with("https:");
        if self.tls != TlsOptions::default() && !self.upstream.iter().any(is_https) {
            errors.error("tls", "expected a server with an https:// URL, found none");
        }
        Balance::from_str(&self.balance).unwrap_or_else(|message| {
            errors.error("balance", message);
            Balance::RoundRobin
        })
    }
}

impl HealthCheckOptions {
    fn validate(&self, errors: &mut OptionErrors) {
        let path = &self.path;
        if !path.starts_with('/') || PathAndQuery::from_str(path).is_err() {
            let message = format!("expected a path such as \"/health/\", found {path:?}");
            errors.error("health_check.path", message);
        }
        for (key, duration) in [("interval", self.interval), ("timeout", self.timeout)] {
            if duration.0.is_zero() {
                let message = "expected a duration longer than zero, found \"0s\"";
                errors.error(format!("health_check.{key}"), message);
            }
        }
        for (index, status) in self.status.iter().enumerate() {
            if !(200..=599).contains(status) {
                let message = format!("expected a status from 200 to 599, found {status}");
                errors.error(format!("health_check.status[{index}]"), message);
            }
        }
    }
}

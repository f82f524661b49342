//! The `[tracing]` section.

use std::fmt;
use std::time::Duration;

use serde::Deserialize;

use crate::config::read::source_location::SourceLocation;
use crate::config::sections::headers::HeaderFields;
use crate::config::values::checked::{HeaderTable, PositiveDuration, SampleRatio, via};
use crate::config::values::config_path::OptionalPath;
use crate::config::values::not_compared::NotCompared;
use crate::telemetry::Ratio;

/// `[tracing]`.
#[derive(Clone, Deserialize, PartialEq)]
#[serde(default, deny_unknown_fields)]
pub struct TracingConfig {
    /// The URL of a collector that speaks OTLP over HTTP; "": nothing is traced. Default: "".
    pub otlp: String,
    /// The share of new traces that is recorded. Default: 1.
    #[serde(deserialize_with = "via::<SampleRatio, _, _>")]
    pub sample: Ratio,
    /// From whom `traceparent` is believed. Default: `"trusted_proxies"`.
    pub traceparent_from: TraceparentFrom,
    /// Header fields of the requests to the collector. Default: none.
    #[serde(deserialize_with = "via::<HeaderTable, _, _>")]
    pub headers: HeaderFields,
    /// The file of the certificates that are trusted with https; "": those of the system.
    /// Default: "".
    pub ca: OptionalPath,
    /// The deadline of one request to the collector. Default: 10 s.
    #[serde(deserialize_with = "via::<PositiveDuration, _, _>")]
    pub timeout: Duration,
    /// The name of the service in its traces. Default: `"oneport"`.
    pub service_name: String,
    /// The section's location.
    #[serde(skip)]
    pub location: NotCompared<SourceLocation>,
}

/// Whose `traceparent` continues a trace.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "snake_case")]
pub enum TraceparentFrom {
    /// That of `server.trusted_proxies`. The requests of all others begin a new trace.
    #[default]
    TrustedProxies,
    /// That of every client, which can then make the server record its requests.
    All,
}

/// Hides the URL and the header fields, which may hold secrets.
impl fmt::Debug for TracingConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TracingConfig")
            .field("sample", &self.sample)
            .field("service_name", &self.service_name)
            .finish_non_exhaustive()
    }
}

impl Default for TracingConfig {
    fn default() -> Self {
        Self {
            otlp: String::new(),
            sample: Ratio::ALL,
            traceparent_from: TraceparentFrom::TrustedProxies,
            headers: HeaderFields::default(),
            ca: OptionalPath::default(),
            timeout: Duration::from_secs(10),
            service_name: "oneport".to_owned(),
            location: NotCompared::default(),
        }
    }
}

//! Cors: what the middleware `cors` tells browsers, beside the origins.

use std::time::Duration;

use serde::Deserialize;

use crate::config::values::checked::{HeaderNames, via};
use crate::config::values::units::WrittenDuration;

/// The table `cors` of an HTTP route.
#[derive(Clone, Debug, Deserialize, Eq, Hash, PartialEq)]
#[serde(default, deny_unknown_fields)]
pub struct CorsConfig {
    /// Whether a page may send the visitor's cookies, and read the answer. Default: `false`.
    pub credentials: bool,
    /// The request's header fields that a page may set.
    /// Default: `["authorization", "content-type", "last-event-id"]`.
    #[serde(deserialize_with = "via::<HeaderNames, _, _>")]
    pub headers: Vec<String>,
    /// The answer's header fields that a page may read. Default: none but those that browsers always show.
    #[serde(deserialize_with = "via::<HeaderNames, _, _>")]
    pub expose_headers: Vec<String>,
    /// How long a browser may keep the answer to a preflight. Default: 10 min.
    #[serde(deserialize_with = "via::<WrittenDuration, _, _>")]
    pub max_age: Duration,
}

impl Default for CorsConfig {
    fn default() -> Self {
        Self {
            credentials: false,
            headers: ["authorization", "content-type", "last-event-id"]
                .map(str::to_owned)
                .to_vec(),
            expose_headers: Vec::new(),
            max_age: Duration::from_secs(600),
        }
    }
}

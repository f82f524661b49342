//! CORS: the permissions that the middleware `cors` grants, apart from the origins.

use std::time::Duration;

use serde::Deserialize;

use crate::config::values::checked::{HeaderNames, via};
use crate::config::values::units::WrittenDuration;

/// The table `cors` of an HTTP route.
#[derive(Clone, Debug, Deserialize, Eq, Hash, PartialEq)]
#[serde(default, deny_unknown_fields)]
pub struct CorsConfig {
    /// Whether a page may send the visitor's cookies and read the response. Default: `false`.
    pub credentials: bool,
    /// The request header fields that a page may set. Default:
    /// `["authorization", "content-type", "last-event-id"]`.
    #[serde(deserialize_with = "via::<HeaderNames, _, _>")]
    pub headers: Vec<String>,
    /// The response header fields that a page may read, apart from the CORS-safelisted ones.
    /// Default: none.
    #[serde(deserialize_with = "via::<HeaderNames, _, _>")]
    pub expose_headers: Vec<String>,
    /// How long a browser may cache the response to a preflight. Default: 10 min.
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

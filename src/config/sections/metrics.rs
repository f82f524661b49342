//! The `[metrics]` section.

use serde::Deserialize;

use crate::config::read::source_location::SourceLocation;
use crate::config::values::not_compared::NotCompared;
use crate::net::Listen;

/// `[metrics]`.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default, deny_unknown_fields)]
pub struct MetricsConfig {
    /// The addresses at which `/metrics` and `/health/` are served besides the routes, without TLS.
    /// Default: none.
    pub bind: Vec<Listen>,
    /// The section's location.
    #[serde(skip)]
    pub location: NotCompared<SourceLocation>,
}

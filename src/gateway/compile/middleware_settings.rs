//! MiddlewareSettings: the keys of a route that its middleware reads.

use crate::config::{self, CompressConfig, CorsConfig, HeaderFields, RequestLimit, SourceLocation};
use crate::routing::ParamNames;
use crate::scope::ScopeType;

/// The settings of a route, of either table, that its middleware reads.
pub(super) struct MiddlewareSettings<'r> {
    pub(super) table: ScopeType,
    pub(super) middleware: &'r [String],
    pub(super) allowed_origins: &'r [String],
    pub(super) missing_origin: config::MissingOrigin,
    pub(super) headers: &'r HeaderFields,
    pub(super) token_in_query: bool,
    /// The limits of requests or handshakes, with their index in the list of the file.
    pub(super) rate_limits: Vec<(usize, RequestLimit)>,
    /// Whether the route sets `rate_limit` itself.
    pub(super) sets_own_rate_limit: bool,
    /// The parameters of the route.
    pub(super) params: &'r ParamNames,
    /// `None` for a WebSocket.
    pub(super) cors: Option<&'r CorsConfig>,
    /// `None` for a WebSocket.
    pub(super) compress: Option<&'r CompressConfig>,
    /// Whether a key's value is a placeholder for one that could not be read.
    pub(super) is_invalid: &'r dyn Fn(&str) -> bool,
    pub(super) location_of: &'r dyn Fn(&str) -> SourceLocation,
}

impl MiddlewareSettings<'_> {
    pub(super) fn has(&self, name: &str) -> bool {
        self.middleware.iter().any(|known| known == name)
    }

    /// Returns whether a request can have a user; `true` if the list could not be read.
    pub(super) fn gives_user(&self) -> bool {
        self.has("auth") || (self.is_invalid)("middleware")
    }

    /// Returns the index of a name in the list.
    pub(super) fn position(&self, name: &str) -> Option<usize> {
        self.middleware.iter().position(|known| known == name)
    }
}

//! MiddlewareSettings: the keys of a route that its middleware reads.

use crate::config::{self, CorsConfig, HeaderFields, SourceLocation};
use crate::scope::ScopeType;

/// The settings that both kinds of routes have.
pub(super) struct MiddlewareSettings<'r> {
    pub(super) table: ScopeType,
    pub(super) middleware: &'r [String],
    pub(super) allowed_origins: &'r [String],
    pub(super) missing_origin: config::MissingOrigin,
    pub(super) headers: &'r HeaderFields,
    pub(super) token_in_query: bool,
    /// None for a WebSocket.
    pub(super) cors: Option<&'r CorsConfig>,
    /// Whether a key's value is made up, because it is wrong where it is written.
    pub(super) is_invalid: &'r dyn Fn(&str) -> bool,
    pub(super) location_of: &'r dyn Fn(&str) -> SourceLocation,
}

impl MiddlewareSettings<'_> {
    pub(super) fn has(&self, name: &str) -> bool {
        self.middleware.iter().any(|known| known == name)
    }

    /// Tells whether a request can have a user, as far as its list is known.
    pub(super) fn gives_user(&self) -> bool {
        self.has("auth") || (self.is_invalid)("middleware")
    }

    /// Where a step stands in the list.
    pub(super) fn position(&self, name: &str) -> Option<usize> {
        self.middleware.iter().position(|known| known == name)
    }
}

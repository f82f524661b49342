//! Origin: refuses requests from pages of other origins.

use http::header;

use crate::http::Failure;
use crate::http::origin::{AllowedOrigins, MissingOrigin};
use crate::scope::{Scope, ScopeType};

/// `origin`: refuses a page whose origin is not in the list with 403, before any upgrade (Channels'
/// `OriginValidator`).
///
/// `missing_origin` applies to a handshake without the field. An HTTP request with a safe method
/// passes without it, because browsers omit it there.
#[derive(Debug)]
pub struct Origin {
    allowed: AllowedOrigins,
    missing: MissingOrigin,
}

impl Origin {
    /// Creates the step from the allowed origins. `missing` applies to requests without the field.
    #[must_use]
    pub fn new(written: &[String], missing: MissingOrigin) -> Self {
        Self {
            allowed: AllowedOrigins::new(written),
            missing,
        }
    }

    pub(super) fn before(&self, scope: &Scope) -> Result<(), Failure> {
        let mut origins = scope.headers.all(&header::ORIGIN);
        let (origin, another) = (origins.next(), origins.next());
        if another.is_some() {
            return Err(Failure::bad_request(
                "expected one Origin at most, found several",
            ));
        }
        let missing = if scope.scope_type == ScopeType::Http && scope.method.is_safe() {
            MissingOrigin::Allow
        } else {
            self.missing
        };
        self.allowed.check(origin, missing).map_err(|refused| {
            let origin = origin.map(String::from_utf8_lossy).unwrap_or_default();
            tracing::info!(id = %scope.request_id, %origin, path = scope.raw_path(), "origin refused");
            Failure::forbidden("origin not allowed").because(refused)
        })
    }
}

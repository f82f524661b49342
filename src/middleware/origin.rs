//! Origin: refuses pages of other origins.

use http::header;

use crate::http::Failure;
use crate::http::origin::{AllowedOrigins, MissingOrigin};
use crate::scope::{Scope, ScopeType};

/// `origin`: 403 for a page of an origin that is not in the list, before any upgrade (Channels'
/// `OriginValidator`).
///
/// `missing_origin` decides on a handshake without the field. A request to the HTTP table passes
/// without it when its method is safe: browsers omit the field there.
#[derive(Debug)]
pub struct Origin {
    allowed: AllowedOrigins,
    missing: MissingOrigin,
}

impl Origin {
    /// Takes the allowed origins, and whether a missing field passes.
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

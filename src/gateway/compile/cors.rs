//! Cors: checks the settings of the middleware `cors` and creates its step.

use super::compiler::Compiler;
use super::middleware_settings::MiddlewareSettings;
use crate::config::Problem;
use crate::http::origin;
use crate::middleware::{Cors, Step};

impl Compiler<'_> {
    /// Creates the step for this index of the list. `None` if the settings are invalid.
    pub(super) fn cors(&mut self, settings: &MiddlewareSettings<'_>, at: usize) -> Option<Step> {
        let location = (settings.location_of)("middleware").index(at);
        let Some(cors) = settings.cors else {
            let message = "\"cors\" has no effect on a WebSocket: browsers send no preflight";
            self.problems.push(
                Problem::error(location, message)
                    .with_hint("\"origin\" says which pages may open the WebSocket"),
            );
            return None;
        };
        let origins = (settings.location_of)("allowed_origins");
        if settings.allowed_origins.is_empty() {
            let message = "expected allowed_origins for the middleware \"cors\", found none";
            self.problems.push(
                Problem::error(location, message)
                    .with_hint("allowed_origins = [\"https://example.com\"]"),
            );
            return None;
        }
        if cors.credentials && settings.allowed_origins.iter().any(|origin| origin == "*") {
            let message = "expected origins by name for credentials = true, found \"*\": any page could act as its visitor";
            self.problems.push(Problem::error(origins, message));
            return None;
        }
        // The step "origin" reports the same.
        if !settings.middleware.iter().any(|name| name == "origin") {
            for (at, pattern) in settings.allowed_origins.iter().enumerate() {
                if let Some(sentence) = origin::lint(pattern) {
                    self.problems
                        .push(Problem::warning(origins.index(at), sentence));
                }
            }
        }
        Some(Step::Cors(Cors::new(settings.allowed_origins, cors)))
    }
}

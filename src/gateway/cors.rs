//! Cors: what the settings of the middleware `cors` must not say.

use super::compile::Compiler;
use super::guards::Guards;
use crate::config::Problem;
use crate::http::origin;
use crate::middleware::{Cors, Step};

impl Compiler<'_> {
    /// Makes the step at this place of the list; none when its settings contradict it.
    pub(super) fn cors(&mut self, guards: &Guards<'_>, at: usize) -> Option<Step> {
        let place = (guards.place_of)("middleware").index(at);
        let Some(settings) = guards.cors else {
            let message = "expected middleware of a WebSocket, found \"cors\": browsers ask for nothing there";
            self.problems.push(
                Problem::error(place, message)
                    .with_hint("\"origin\" says which pages may open the WebSocket"),
            );
            return None;
        };
        let origins = (guards.place_of)("allowed_origins");
        if guards.allowed_origins.is_empty() {
            let message = "expected allowed_origins for the middleware \"cors\", found none";
            self.problems.push(
                Problem::error(place, message)
                    .with_hint("allowed_origins = [\"https://example.com\"]"),
            );
            return None;
        }
        if settings.credentials && guards.allowed_origins.iter().any(|origin| origin == "*") {
            let message = "expected origins by name for credentials = true, found \"*\": any page could act as its visitor";
            self.problems.push(Problem::error(origins, message));
            return None;
        }
        // The step "origin" tells the same.
        if !guards.middleware.iter().any(|name| name == "origin") {
            for (at, pattern) in guards.allowed_origins.iter().enumerate() {
                if let Some(sentence) = origin::lint(pattern) {
                    self.problems
                        .push(Problem::warning(origins.index(at), sentence));
                }
            }
        }
        Some(Step::Cors(Cors::new(guards.allowed_origins, settings)))
    }
}

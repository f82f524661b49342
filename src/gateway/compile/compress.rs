//! Compress: checks the settings of the middleware `compress` and creates its step.

use super::compiler::Compiler;
use super::middleware_settings::MiddlewareSettings;
use crate::config::Problem;
use crate::middleware::{Compress, Step};

impl Compiler<'_> {
    /// Creates the step for this index of the list. `None` if the settings are invalid.
    pub(super) fn compress(
        &mut self,
        settings: &MiddlewareSettings<'_>,
        at: usize,
    ) -> Option<Step> {
        let location = (settings.location_of)("middleware").index(at);
        let Some(compress) = settings.compress else {
            let message = "\"compress\" has no effect on a WebSocket";
            self.problems.push(
                Problem::error(location, message)
                    .with_hint("compression = \"auto\" compresses its messages"),
            );
            return None;
        };
        if compress.algorithms.is_empty() && !(settings.is_invalid)("compress") {
            let message =
                "expected at least one of \"br\", \"zstd\" and \"gzip\" in algorithms, found none";
            let location = (settings.location_of)("compress");
            self.problems.push(Problem::error(location, message));
            return None;
        }
        Some(Step::Compress(Compress::new(compress)))
    }
}

//! Middleware order: which middleware must come before which, and which origins a list allows.

use super::compiler::Compiler;
use super::middleware_settings::MiddlewareSettings;
use crate::config::{Problem, SourceLocation};

/// Pairs in which the second needs the values that the first puts into the scope.
const ORDER: [(&str, &str); 6] = [
    ("session", "auth"),
    ("session", "csrf"),
    ("session", "login_required"),
    ("session", "staff_required"),
    ("auth", "login_required"),
    ("auth", "staff_required"),
];

/// Pairs in which the first refuses requests without reading a store, and the second reads one.
const EARLY: [(&str, &str); 4] = [
    ("hosts", "session"),
    ("hosts", "auth"),
    ("origin", "session"),
    ("origin", "auth"),
];

/// Steps whose header fields decide whether `compress`, which works on the response after them,
/// compresses it.
const BEFORE_COMPRESSION: [&str; 1] = ["headers"];

impl Compiler<'_> {
    /// Reports steps that are listed before a step that they need. Returns whether there are none.
    pub(super) fn check_order(
        &mut self,
        settings: &MiddlewareSettings<'_>,
        list: &SourceLocation,
    ) -> bool {
        let mut is_sound = true;
        let listed_after = |first: &str, second: &str| {
            let (first, second) = (settings.position(first)?, settings.position(second)?);
            (first > second).then_some(second)
        };
        for (first, second) in ORDER {
            let Some(at) = listed_after(first, second) else {
                continue;
            };
            // With "auth" in the list, one of its two pairs is reported instead.
            let has_auth = second != "auth" && first == "session" && settings.has("auth");
            if has_auth && second != "csrf" {
                continue;
            }
            let message = format!("{first:?} is listed after {second:?}; swap them");
            self.problems.push(Problem::error(list.text(at), message));
            is_sound = false;
        }
        for (first, second) in EARLY {
            if second == "auth" && settings.has("session") {
                continue;
            }
            if let Some(at) = listed_after(first, second) {
                let message = format!(
                    "{first:?} is listed after {second:?}, so the store is read for requests that it refuses"
                );
                let hint = format!("put {first:?} before {second:?}");
                self.problems
                    .push(Problem::warning(list.text(at), message).with_hint(hint));
            }
        }
        is_sound &= self.check_rate_limit_order(settings, list);
        for inner in BEFORE_COMPRESSION {
            if let Some(at) = listed_after("compress", inner) {
                let message = format!(
                    "\"compress\" is listed after {inner:?}, so it compresses before {inner:?} sets its header fields"
                );
                let hint = format!("put \"compress\" before {inner:?}");
                self.problems
                    .push(Problem::warning(list.text(at), message).with_hint(hint));
            }
        }
        for (at, name) in settings.middleware.iter().enumerate() {
            if settings.position(name) != Some(at) {
                let message = format!("{name:?} is listed twice");
                self.problems.push(Problem::warning(list.text(at), message));
            }
        }
        is_sound
    }

    /// Warns about a route that identifies its visitors and accepts requests from pages of any
    /// origin.
    pub(super) fn check_any_origin(&mut self, settings: &MiddlewareSettings<'_>) {
        let asks_the_app = settings.has("auth") && self.config.auth.forward.is_some();
        if !settings.has("session") && !asks_the_app {
            return;
        }
        let own = settings.allowed_origins;
        let hosts = &self.config.server.allowed_hosts;
        let (patterns, location) = match own {
            [] => (
                hosts.as_slice(),
                self.config.server.location.key("allowed_hosts"),
            ),
            own => (own, (settings.location_of)("allowed_origins")),
        };
        let Some(at) = patterns.iter().position(|pattern| pattern == "*") else {
            return;
        };
        let message = "any page can act here with its visitor's session: \"*\" allows every origin";
        self.problems.push(
            Problem::warning(location.text(at), message)
                .with_hint("list the origins of your own pages in allowed_origins"),
        );
    }
}

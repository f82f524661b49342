//! Dashboard checks: that the view and the consumer `dashboard` have the same path, and that only
//! staff reaches them, from their own page.

use super::compiler::Compiler;
use crate::config::{HttpRoute, Problem, WebsocketRoute};

/// The place of a route: where its page and its WebSocket have to be the same.
fn place<'r>(
    prefix: &'r str,
    path: Option<&'r str>,
    host: Option<&'r str>,
) -> [Option<&'r str>; 3] {
    [Some(prefix), path, host]
}

fn http_place(route: &HttpRoute) -> [Option<&str>; 3] {
    place(&route.prefix, route.path.as_deref(), route.host.as_deref())
}

fn websocket_place(route: &WebsocketRoute) -> [Option<&str>; 3] {
    place(&route.prefix, route.path.as_deref(), route.host.as_deref())
}

impl Compiler<'_> {
    /// Warns about a page without its WebSocket.
    pub(super) fn check_dashboard_view(&mut self, written: &HttpRoute) {
        let mut consumers = self.config.websocket_routes.iter();
        let is_there = consumers.any(|route| {
            route.consumer == "dashboard" && websocket_place(route) == http_place(written)
        });
        if !is_there && !self.is_wrong(&written.location, &["path", "host"]) {
            let path = written.path.as_deref().unwrap_or("/dashboard/");
            let message = "the view \"dashboard\" shows nothing: no WebSocket route with the consumer \"dashboard\" has its path";
            self.problems.push(
                Problem::warning(written.location.key("view"), message).with_hint(format!(
                    "add a [[websocket.route]] with path = {path:?} and consumer = \"dashboard\""
                )),
            );
        }
    }

    /// Warns about a WebSocket without its page, or whose users are not checked again; refuses one that
    /// is not for staff alone, or that pages of other sites can open with a user's cookie.
    pub(super) fn check_dashboard_consumer(&mut self, written: &WebsocketRoute) {
        let settings = &written.settings;
        let is_invalid = settings.is_invalid("middleware", self.error_locations);
        let has = |name: &str| settings.middleware.iter().any(|listed| listed == name);
        let asks_the_app = has("auth") && self.config.auth.forward.is_some();
        let has_cookies = has("session") || asks_the_app;
        for (name, is_needed, why) in [
            ("staff_required", true, ""),
            (
                "origin",
                has_cookies,
                ", because a browser sends a user's cookie for pages of other sites too",
            ),
        ] {
            if !is_needed || has(name) || is_invalid {
                continue;
            }
            let location = settings.location_of("middleware");
            let location = match location.is_written() {
                true => location,
                false => written.location.key("consumer"),
            };
            let message =
                format!("the consumer \"dashboard\" needs the middleware \"{name}\"{why}");
            self.problems.push(Problem::error(location, message).with_hint(
                "write middleware = [\"hosts\", \"origin\", \"session\", \"auth\", \"staff_required\"]",
            ));
        }
        if asks_the_app {
            let message = "a user of [auth.forward] is not checked again: one who is no longer staff keeps an open dashboard until its socket ends";
            self.problems
                .warning(written.location.key("consumer"), message);
        }
        let mut views = self.config.http_routes.iter();
        let is_there = views.any(|route| {
            route.view == "dashboard" && http_place(route) == websocket_place(written)
        });
        if !is_there && !self.is_wrong(&written.location, &["path", "host"]) {
            let message = "no HTTP route with the view \"dashboard\" has the path of this consumer, whose page is there";
            self.problems
                .warning(written.location.key("consumer"), message);
        }
    }
}

//! Dashboard checks: that the view and the consumer `dashboard` have the same path, and that only
//! staff reaches them.

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

    /// Warns about a WebSocket without its page; refuses one that is not for staff alone.
    pub(super) fn check_dashboard_consumer(&mut self, written: &WebsocketRoute) {
        let settings = &written.settings;
        let is_invalid = settings.is_invalid("middleware", self.error_locations);
        let is_for_staff = settings
            .middleware
            .iter()
            .any(|name| name == "staff_required");
        if !is_for_staff && !is_invalid {
            let location = settings.location_of("middleware");
            let location = match location.is_written() {
                true => location,
                false => written.location.key("consumer"),
            };
            let message = "the consumer \"dashboard\" needs the middleware \"staff_required\"";
            self.problems.push(Problem::error(location, message).with_hint(
                "write middleware = [\"hosts\", \"origin\", \"session\", \"auth\", \"staff_required\"]",
            ));
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

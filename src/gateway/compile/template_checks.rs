//! Template checks: the templates that routes name, and the routes that templates name.

use std::path::Path;
use std::sync::Arc;

use super::compiler::Compiler;
use crate::config::Problem;
use crate::gateway::table::{HttpEntry, WebsocketEntry};
use crate::routing::ProtocolTypeRouter;
use crate::templates::{HasRoute, Templates, UrlFor};

type Router = ProtocolTypeRouter<HttpEntry, WebsocketEntry>;

impl Compiler<'_> {
    /// Reads each template and checks it against the parameters of its route.
    pub(super) fn check_templates(&mut self, templates: &Templates) {
        if self.is_wrong(&self.config.templates.location, &["dir"]) {
            return;
        }
        for (name, location, params) in std::mem::take(&mut self.templates) {
            if let Err(error) = templates.check(&name) {
                self.problems
                    .push(Problem::error(location, error.to_string()));
                continue;
            }
            let mut used = templates.params(&name);
            if let Some(param) = templates.param_of_get(&name)
                && !params.has("get")
            {
                used.retain(|used| used != "get");
                let message = format!("template {name:?} calls scope.params.get");
                self.problems.push(
                    Problem::warning(location.clone(), message)
                        .with_hint(format!("write scope.params.{param}")),
                );
            }
            for missing in used.iter().filter_map(|param| params.missing(param)) {
                let message = format!("template {name:?} uses scope.params: {missing}");
                self.problems
                    .push(Problem::warning(location.clone(), message));
            }
        }
    }
}

/// Returns the templates of a directory. Without a router they can be checked but not rendered.
pub(super) fn templates_of(directory: &Path, router: Option<&Arc<Router>>) -> Templates {
    match router {
        Some(router) => Templates::new(directory, url_for(router), has_route(router)),
        None => Templates::new(
            directory,
            Arc::new(|_, _| Err("no route".to_owned())),
            Arc::new(|_| false),
        ),
    }
}

/// Returns the function `has_route` of templates.
fn has_route(router: &Arc<Router>) -> HasRoute {
    let router = router.clone();
    Arc::new(move |name| {
        router.http.named(name).is_some() || router.websocket.named(name).is_some()
    })
}

/// Returns the function `url_for` of templates: it looks up the HTTP table, then the WebSocket
/// table.
fn url_for(router: &Arc<Router>) -> UrlFor {
    let router = router.clone();
    Arc::new(move |name, params| {
        let params: Vec<(&str, &str)> = params
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .collect();
        if router.http.named(name).is_some() {
            router
                .http
                .url_for(name, &params)
                .map_err(|error| error.to_string())
        } else {
            router
                .websocket
                .url_for(name, &params)
                .map_err(|error| error.to_string())
        }
    })
}

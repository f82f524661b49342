//! Routes: turns each route of the file into an entry of a table.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use http::Method;

use super::compiler::Compiler;
use super::middleware_settings::MiddlewareSettings;
use super::route_pattern::RouteKeys;
use super::socket_settings::{fingerprint, socket_settings};
use crate::config::{HttpRoute, Problem, SocketRateLimit, SourceLocation, WebsocketRoute};
use crate::gateway::response_metrics::ResponseMetrics;
use crate::gateway::table::{HttpEntry, HttpHandler, WebsocketEntry, WebsocketHandler};
use crate::http::Mapped;
use crate::routing::{Conflict, Route, UrlRouter};
use crate::scope::ScopeType;
use crate::websocket;

impl Compiler<'_> {
    pub(super) fn http_routes(&mut self) -> Option<UrlRouter<HttpEntry>> {
        let config = self.config;
        let routes: Vec<Option<Route<HttpEntry>>> = config
            .http_routes
            .iter()
            .map(|written| self.http_route(written))
            .collect();
        let locations: Vec<&SourceLocation> = config
            .http_routes
            .iter()
            .map(|written| &*written.location)
            .collect();
        self.build(routes, &locations)
    }

    pub(super) fn websocket_routes(&mut self) -> Option<UrlRouter<WebsocketEntry>> {
        let config = self.config;
        let routes: Vec<Option<Route<WebsocketEntry>>> = config
            .websocket_routes
            .iter()
            .map(|written| self.websocket_route(written))
            .collect();
        let locations: Vec<&SourceLocation> = config
            .websocket_routes
            .iter()
            .map(|written| &*written.location)
            .collect();
        self.build(routes, &locations)
    }

    /// Builds a table of the valid routes, so that their conflicts are reported together with the
    /// other Problems. `None` if a route is invalid.
    fn build<T>(
        &mut self,
        routes: Vec<Option<Route<T>>>,
        locations: &[&SourceLocation],
    ) -> Option<UrlRouter<T>> {
        let is_whole = routes.iter().all(Option::is_some);
        let (sound, locations): (Vec<Route<T>>, Vec<&SourceLocation>) = routes
            .into_iter()
            .zip(locations)
            .filter_map(|(route, location)| Some((route?, *location)))
            .unzip();
        match UrlRouter::build(sound) {
            Ok(router) => is_whole.then_some(router),
            Err(conflicts) => {
                for conflict in conflicts {
                    let (Some(location), Some(earlier)) = (
                        locations.get(conflict.route()),
                        locations.get(conflict.earlier()),
                    ) else {
                        continue;
                    };
                    // At a key without an error so far: a second Problem at the same location would
                    // be dropped.
                    let key = match &conflict {
                        Conflict::DuplicateName { .. } => "name",
                        Conflict::NeverMatches { .. } if location.key("regex").is_written() => {
                            "regex"
                        }
                        Conflict::NeverMatches { .. } => "path",
                    };
                    let message = match &conflict {
                        Conflict::NeverMatches { .. } => format!(
                            "can never match: {} comes first and takes all its requests",
                            earlier.path()
                        ),
                        Conflict::DuplicateName { name, .. } => format!(
                            "expected each name once, found {name:?} here and in {}",
                            earlier.path()
                        ),
                    };
                    let hint = earlier.position().map(|at| {
                        format!("the other is at {}:{}", earlier.document().name(), at.line)
                    });
                    self.problems
                        .push(Problem::error(location.key(key), message).with_hint_if(hint));
                }
                None
            }
        }
    }

    fn http_route(&mut self, written: &HttpRoute) -> Option<Route<HttpEntry>> {
        let keys = RouteKeys {
            path: written.path.as_deref(),
            regex: written.regex.as_deref(),
            host: written.host.as_deref(),
            prefix: &written.prefix,
            location: &written.location,
        };
        let error_locations = self.error_locations;
        let pattern = self.pattern(&keys);
        let host = self.host(&keys);
        let (options, location) = (&written.options, &written.location);
        let mut mount = self.mount(pattern.as_ref(), &written.defaults, options, location);
        let params = mount.route.params.clone();
        let rate_limits = written.settings.rate_limit.iter().cloned().enumerate();
        let middleware = MiddlewareSettings {
            table: ScopeType::Http,
            middleware: &written.settings.middleware,
            allowed_origins: &written.settings.allowed_origins,
            missing_origin: written.settings.missing_origin,
            headers: &written.settings.headers,
            token_in_query: written.settings.token_in_query,
            rate_limits: rate_limits.collect(),
            sets_own_rate_limit: written.location.key("rate_limit").is_written(),
            params: &params,
            cors: Some(&written.settings.cors),
            compress: Some(&written.settings.compress),
            location_of: &|key| written.settings.location_of(key),
            is_invalid: &|key| written.settings.is_invalid(key, error_locations),
        };
        let chain = self.chain(&middleware);
        let Some(registered) = self.registry.find_view(&written.view) else {
            self.problems.push(Problem::unknown(
                written.location.key("view"),
                "view",
                &written.view,
                self.registry.view_names(),
            ));
            return None;
        };
        let what = format!("view {:?}", written.view);
        self.check_state(&what, registered.state, &written.location.key("view"));
        mount.route.params = mount.route.params.with_user(middleware.gives_user());
        let made = (registered.make)(options, &mount)
            .map_err(|problems| self.problems.append(problems))
            .ok()?;
        self.templates
            .extend(made.templates.into_iter().map(|name| {
                (
                    name,
                    options.location().key("template"),
                    mount.route.params.clone(),
                )
            }));
        self.check_needs(&middleware, written, made.middleware, made.writes_sessions);
        self.check_view(written, &middleware);
        if self.is_wrong(
            &written.location,
            &["path", "regex", "host", "methods", "defaults"],
        ) {
            return None;
        }
        let methods: Vec<Method> = match written.methods.as_slice() {
            [] => made.methods.to_vec(),
            methods => methods
                .iter()
                .filter_map(|method| Method::from_bytes(method.as_bytes()).ok())
                .collect(),
        };
        let (mut pattern, host, chain) = (pattern?, host?, chain?);
        pattern = match &made.maps_onto {
            Some(Mapped::Directory(_)) => pattern.with_empty_rest(),
            Some(Mapped::Servers { .. }) => pattern.with_optional_end(),
            None => pattern,
        };
        let shown: Arc<str> = pattern.to_string().into();
        let label: Arc<str> = match written.name.as_deref() {
            Some(name) => name.into(),
            None => shown.clone(),
        };
        let value = HttpEntry {
            pattern: shown,
            name: written.name.as_deref().map(Arc::from),
            handler_name: written.view.clone(),
            middleware: written.settings.middleware.clone(),
            handler: HttpHandler {
                view: made.view,
                on_disconnect: made.on_disconnect,
                has_own_deadlines: made.has_own_deadlines,
                responds_now: made.responds_now,
                maps_onto: made.maps_onto,
                body_size: written
                    .settings
                    .body_size
                    .unwrap_or(self.config.server.limits.body_size)
                    .bytes(),
            },
            chain,
            timeout: written
                .settings
                .request_timeout
                .unwrap_or(self.config.server.timeouts.request),
            responses: ResponseMetrics::new(ScopeType::Http, &label),
            access_log: written.settings.access_log,
            has_warned: AtomicBool::new(false),
            label,
        };
        let mut route = Route::new(pattern, value);
        route.methods = methods;
        route.host = host;
        route.name.clone_from(&written.name);
        route.defaults.clone_from(&written.defaults);
        route.append_slash = written.settings.append_slash;
        Some(route)
    }

    fn websocket_route(&mut self, written: &WebsocketRoute) -> Option<Route<WebsocketEntry>> {
        let keys = RouteKeys {
            path: written.path.as_deref(),
            regex: written.regex.as_deref(),
            host: written.host.as_deref(),
            prefix: &written.prefix,
            location: &written.location,
        };
        let error_locations = self.error_locations;
        let pattern = self.pattern(&keys);
        let host = self.host(&keys);
        let (options, location) = (&written.options, &written.location);
        let mut mount = self.mount(pattern.as_ref(), &written.defaults, options, location);
        let params = mount.route.params.clone();
        let rate_limits = written.settings.rate_limit.iter().enumerate();
        let rate_limits = rate_limits.filter_map(|(at, limit)| match limit {
            SocketRateLimit::Handshakes(limit) => Some((at, limit.clone())),
            SocketRateLimit::Messages(_) => None,
        });
        let middleware = MiddlewareSettings {
            table: ScopeType::Websocket,
            middleware: &written.settings.middleware,
            allowed_origins: &written.settings.allowed_origins,
            missing_origin: written.settings.missing_origin,
            headers: &written.settings.headers,
            token_in_query: written.settings.token_in_query,
            rate_limits: rate_limits.collect(),
            sets_own_rate_limit: written.location.key("rate_limit").is_written(),
            params: &params,
            cors: None,
            compress: None,
            location_of: &|key| written.settings.location_of(key),
            is_invalid: &|key| written.settings.is_invalid(key, error_locations),
        };
        let chain = self.chain(&middleware);
        let Some(registered) = self.registry.find_consumer(&written.consumer) else {
            let location = written.location.key("consumer");
            self.problems.push(Problem::unknown(
                location,
                "consumer",
                &written.consumer,
                self.registry.consumer_names(),
            ));
            return None;
        };
        let what = format!("consumer {:?}", written.consumer);
        self.check_state(&what, registered.state, &written.location.key("consumer"));
        mount.route.params = mount.route.params.with_user(middleware.gives_user());
        let consumer = (registered.make)(options, &mount)
            .map_err(|problems| self.problems.append(problems))
            .ok()?;
        self.check_consumer(written);
        let message_limits = self.message_limits(written, &middleware);
        if self.is_wrong(&written.location, &["path", "regex", "host", "defaults"]) {
            return None;
        }
        let (mut pattern, host, chain) = (pattern?, host?, chain?);
        let message_limits = message_limits?;
        let maps_onto = consumer.maps_onto();
        if maps_onto.is_some() {
            pattern = pattern.with_optional_end();
        }
        let shown: Arc<str> = pattern.to_string().into();
        let label: Arc<str> = match written.name.as_deref() {
            Some(name) => name.into(),
            None => shown.clone(),
        };
        let settings = socket_settings(&written.settings, message_limits);
        let value = WebsocketEntry {
            pattern: shown,
            name: written.name.as_deref().map(Arc::from),
            handler_name: written.consumer.clone(),
            middleware: written.settings.middleware.clone(),
            timeout: settings.connect_timeout,
            chain,
            responses: ResponseMetrics::new(ScopeType::Websocket, &label),
            access_log: written.settings.access_log,
            has_warned: AtomicBool::new(false),
            label: label.clone(),
            handler: WebsocketHandler {
                consumer,
                maps_onto,
                subprotocols: written.subprotocols.clone(),
                route: Arc::new(websocket::SocketRoute::new(
                    label,
                    fingerprint(written, &self.config.middleware),
                    settings,
                )),
            },
        };
        let mut route = Route::new(pattern, value);
        route.host = host;
        route.name.clone_from(&written.name);
        route.defaults.clone_from(&written.defaults);
        route.append_slash = false;
        Some(route)
    }
}

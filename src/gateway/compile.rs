//! Compile: what is written becomes what runs, or all Problems.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use http::Method;

use super::guards::{Guards, Sources, missed_headers};
use super::pages_of_routes::templates_of;
use super::paths::Common;
use super::registry::Registry;
use super::socket_route::{fingerprint, socket_settings};
use super::table::{HttpEntry, StatusCounters, Table, WebsocketEntry};
use crate::config::{Config, Draft, HttpRoute, Place, Problem, Problems, WebsocketRoute, Wrong};
use crate::routing::{Conflict, ParamNames, ProtocolTypeRouter, Route, UrlRouter};
use crate::scope::ScopeType;
use crate::telemetry;
use crate::websocket;

/// Looks up every name, reads every option, builds both tables. Returns the table with warnings, or all Problems.
///
/// ```
/// use oneport::{config::Config, gateway::{Registry, compile}};
/// let text = "[[http.route]]\npath = '/'\nview = 'respnd'\n";
/// let (config, _) = Config::parse("oneport.toml", text, ".".as_ref(), &|_| None).unwrap();
/// let problems = compile(&config, &Registry::builtin()).unwrap_err();
/// assert!(problems.to_string().contains("(did you mean \"respond\"?)"));
/// ```
pub fn compile(config: &Config, registry: &Registry) -> Result<(Table, Problems), Problems> {
    let (table, problems) = compile_known(config, registry, &Wrong::default());
    match table {
        Some(table) => problems.into_result(table),
        None => Err(problems.sorted()),
    }
}

/// Compiles a draft, whatever is wrong with it so far, so that the Problems of both stages are reported at once. Returns
/// the table with all warnings, or all Problems.
///
/// ```
/// use oneport::{config::Config, gateway::{Registry, compile_draft}};
/// let text = "[server]\nworkers = 0\n\n[[http.route]]\npath = '/'\nview = 'respnd'\n";
/// let draft = Config::draft_of("oneport.toml", text, ".".as_ref(), &|_| None)?;
/// assert_eq!(compile_draft(&draft, &Registry::builtin()).unwrap_err().len(), 2);
/// # Ok::<(), oneport::config::Problems>(())
/// ```
pub fn compile_draft(draft: &Draft, registry: &Registry) -> Result<(Table, Problems), Problems> {
    let mut problems = draft.problems.clone();
    let (table, more) = compile_known(&draft.config, registry, &draft.wrong);
    problems.append(more);
    match table {
        Some(table) => problems.into_result(table),
        None => Err(problems.sorted()),
    }
}

/// Compiles what could be read. Problems at places that already have an error are dropped.
fn compile_known(config: &Config, registry: &Registry, wrong: &Wrong) -> (Option<Table>, Problems) {
    let mut problems = Problems::default();
    let mut compiler = Compiler {
        config,
        registry,
        wrong,
        sources: Sources::new(config, wrong, &mut problems),
        templates: Vec::new(),
        problems,
    };
    compiler.check_log();
    let http = compiler.http_routes();
    let websocket = compiler.websocket_routes();
    compiler.check_idle();
    let uses_sessions = uses_sessions(config);
    compiler.check_stores(uses_sessions);
    let router = http
        .zip(websocket)
        .map(|(http, websocket)| Arc::new(ProtocolTypeRouter { http, websocket }));
    if let Some(router) = &router {
        compiler.check_directories(&router.http, uses_sessions);
        compiler.check_overlaps(&router.http);
    }
    let templates = templates_of(&config.templates.dir, router.as_ref());
    compiler.check_templates(&templates);
    let problems = compiler.problems.without(wrong);
    let table = router.map(|router| Table {
        router,
        uses_sessions,
        templates,
        root_path: Some(config.server.root_path.as_str())
            .filter(|prefix| !prefix.is_empty())
            .map(Arc::from),
        trusted_proxies: config.server.trusted_proxies.clone(),
        forwarded: config.server.forwarded,
        missed: StatusCounters::new("oneport_requests_total", ""),
        missed_headers: missed_headers(&config.http),
    });
    (table, problems)
}

pub(super) struct Compiler<'c> {
    pub(super) config: &'c Config,
    registry: &'c Registry,
    /// What is wrong already.
    pub(super) wrong: &'c Wrong,
    pub(super) sources: Sources,
    /// The templates that routes name, with their places and the routes' parameters.
    pub(super) templates: Vec<(String, Place, ParamNames)>,
    pub(super) problems: Problems,
}

impl Compiler<'_> {
    fn check_log(&mut self) {
        let log = &self.config.log;
        if let Err(error) = telemetry::check_level(&log.level) {
            let message = format!(
                "expected a level (error, warn, info, debug, trace) or directives such as \"info,oneport::websocket=debug\", found {:?}: {error}",
                log.level
            );
            self.problems
                .push(Problem::error(log.place.key("level"), message));
        }
    }

    fn http_routes(&mut self) -> Option<UrlRouter<HttpEntry>> {
        let config = self.config;
        let routes: Vec<Option<Route<HttpEntry>>> = config
            .http_routes
            .iter()
            .map(|written| self.http_route(written))
            .collect();
        let places: Vec<&Place> = config
            .http_routes
            .iter()
            .map(|written| &written.place)
            .collect();
        self.build(routes, &places)
    }

    fn websocket_routes(&mut self) -> Option<UrlRouter<WebsocketEntry>> {
        let config = self.config;
        let routes: Vec<Option<Route<WebsocketEntry>>> = config
            .websocket_routes
            .iter()
            .map(|written| self.websocket_route(written))
            .collect();
        let places: Vec<&Place> = config
            .websocket_routes
            .iter()
            .map(|written| &written.place)
            .collect();
        self.build(routes, &places)
    }

    /// Builds a table out of the routes that are sound, so that conflicts among them are told at once with the other Problems.
    fn build<T>(
        &mut self,
        routes: Vec<Option<Route<T>>>,
        places: &[&Place],
    ) -> Option<UrlRouter<T>> {
        let is_whole = routes.iter().all(Option::is_some);
        let (sound, places): (Vec<Route<T>>, Vec<&Place>) = routes
            .into_iter()
            .zip(places)
            .filter_map(|(route, place)| Some((route?, *place)))
            .unzip();
        match UrlRouter::build(sound) {
            Ok(router) => is_whole.then_some(router),
            Err(conflicts) => {
                for conflict in conflicts {
                    let (Some(place), Some(earlier)) =
                        (places.get(conflict.route()), places.get(conflict.earlier()))
                    else {
                        continue;
                    };
                    // Beside the other keys of the route, so that an error in one of them does not hide this one.
                    let key = match &conflict {
                        Conflict::DuplicateName { .. } => "name",
                        Conflict::NeverMatches { .. } if place.key("regex").is_written() => "regex",
                        Conflict::NeverMatches { .. } => "path",
                    };
                    let message = match &conflict {
                        Conflict::NeverMatches { .. } => format!(
                            "can never match: {} comes first and leaves it no request",
                            earlier.path()
                        ),
                        Conflict::DuplicateName { name, .. } => format!(
                            "expected each name once, found {name:?} here and in {}",
                            earlier.path()
                        ),
                    };
                    let hint = earlier.position().map(|at| {
                        format!(
                            "the other stands at {}:{}",
                            earlier.document().name(),
                            at.line
                        )
                    });
                    self.problems
                        .push(Problem::error(place.key(key), message).with_hint_if(hint));
                }
                None
            }
        }
    }

    fn http_route(&mut self, written: &HttpRoute) -> Option<Route<HttpEntry>> {
        let common = Common {
            path: written.path.as_deref(),
            regex: written.regex.as_deref(),
            host: written.host.as_deref(),
            prefix: &written.prefix,
            place: &written.place,
        };
        let wrong = self.wrong;
        let pattern = self.pattern(&common);
        let host = self.host(&common);
        let guards = Guards {
            table: ScopeType::Http,
            middleware: &written.settings.middleware,
            allowed_origins: &written.settings.allowed_origins,
            missing_origin: written.settings.missing_origin,
            headers: &written.settings.headers,
            token_in_query: written.settings.token_in_query,
            cors: Some(&written.settings.cors),
            place_of: &|key| written.settings.place_of(key),
            is_made_up: &|key| written.settings.is_made_up(key, wrong),
        };
        let steps = self.steps(&guards);
        let Some(make) = self.registry.find_view(&written.view) else {
            self.problems.push(Problem::unknown(
                written.place.key("view"),
                "view",
                &written.view,
                self.registry.view_names(),
            ));
            return None;
        };
        let (options, place) = (&written.options, &written.place);
        let mut mount = self.mount(pattern.as_ref(), &written.defaults, options, place);
        mount.params = mount.params.with_user(guards.gives_user());
        let made = make(options, &mount)
            .map_err(|problems| self.problems.append(problems))
            .ok()?;
        self.templates.extend(
            made.templates
                .into_iter()
                .map(|name| (name, options.place().key("template"), mount.params.clone())),
        );
        self.check_needs(&guards, written, made.middleware, made.writes_sessions);
        self.check_view(written, &guards);
        if self.is_wrong(
            &written.place,
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
        let (mut pattern, host, steps) = (pattern?, host?, steps?);
        if made.maps_onto.is_some() {
            pattern = pattern.with_empty_rest();
        }
        let label: Arc<str> = written
            .name
            .as_deref()
            .map_or_else(|| pattern.to_string().into(), Arc::from);
        let value = HttpEntry {
            name: written.name.as_deref().map(Arc::from),
            view_name: written.view.clone(),
            middleware: written.settings.middleware.clone(),
            view: made.view,
            on_disconnect: made.on_disconnect,
            maps_onto: made.maps_onto,
            steps,
            body_size: written
                .settings
                .body_size
                .unwrap_or(self.config.server.limits.body_size)
                .bytes(),
            request_timeout: written
                .settings
                .request_timeout
                .unwrap_or(self.config.server.timeouts.request),
            answered: StatusCounters::new("oneport_requests_total", &label),
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
        let common = Common {
            path: written.path.as_deref(),
            regex: written.regex.as_deref(),
            host: written.host.as_deref(),
            prefix: &written.prefix,
            place: &written.place,
        };
        let wrong = self.wrong;
        let pattern = self.pattern(&common);
        let host = self.host(&common);
        let guards = Guards {
            table: ScopeType::Websocket,
            middleware: &written.settings.middleware,
            allowed_origins: &written.settings.allowed_origins,
            missing_origin: written.settings.missing_origin,
            headers: &written.settings.headers,
            token_in_query: written.settings.token_in_query,
            cors: None,
            place_of: &|key| written.settings.place_of(key),
            is_made_up: &|key| written.settings.is_made_up(key, wrong),
        };
        let steps = self.steps(&guards);
        let Some(make) = self.registry.find_consumer(&written.consumer) else {
            let place = written.place.key("consumer");
            self.problems.push(Problem::unknown(
                place,
                "consumer",
                &written.consumer,
                self.registry.consumer_names(),
            ));
            return None;
        };
        let (options, place) = (&written.options, &written.place);
        let mut mount = self.mount(pattern.as_ref(), &written.defaults, options, place);
        mount.params = mount.params.with_user(guards.gives_user());
        let consumer = make(options, &mount)
            .map_err(|problems| self.problems.append(problems))
            .ok()?;
        self.check_consumer(written);
        if self.is_wrong(&written.place, &["path", "regex", "host", "defaults"]) {
            return None;
        }
        let (pattern, host, steps) = (pattern?, host?, steps?);
        let label: Arc<str> = written
            .name
            .as_deref()
            .map_or_else(|| pattern.to_string().into(), Arc::from);
        let settings = socket_settings(&written.settings);
        let value = WebsocketEntry {
            name: written.name.as_deref().map(Arc::from),
            consumer_name: written.consumer.clone(),
            middleware: written.settings.middleware.clone(),
            consumer,
            steps,
            subprotocols: written.subprotocols.clone(),
            answered: StatusCounters::new("oneport_handshakes_total", &label),
            route: Arc::new(websocket::Route::new(
                label,
                fingerprint(written, &settings),
                settings,
            )),
        };
        let mut route = Route::new(pattern, value);
        route.host = host;
        route.name.clone_from(&written.name);
        route.defaults.clone_from(&written.defaults);
        route.append_slash = false;
        Some(route)
    }

    /// Tells whether one of these keys of a table is wrong already.
    pub(super) fn is_wrong(&self, place: &Place, keys: &[&str]) -> bool {
        !self.wrong.is_empty() && keys.iter().any(|key| self.wrong.touches(&place.key(key)))
    }
}

/// Tells whether a route asks the stores of sessions or users.
fn uses_sessions(config: &Config) -> bool {
    let http = config
        .http_routes
        .iter()
        .map(|route| &route.settings.middleware);
    let websocket = config.websocket_routes.iter();
    http.chain(websocket.map(|route| &route.settings.middleware))
        .flatten()
        .any(|name| matches!(name.as_str(), "session" | "auth" | "csrf"))
}

//! Compile: turns a configuration into the table to serve, or reports all its Problems.

mod compiler;
mod compress;
mod cors;
mod custom_middleware;
mod dashboard_checks;
mod exposed_files;
mod identity_providers;
mod log_checks;
mod middleware_list;
mod middleware_order;
mod middleware_settings;
mod rate_limit;
mod route_checks;
mod route_pattern;
mod routes;
mod socket_settings;
mod sqlite_files;
mod store_checks;
mod template_checks;
mod tls;
mod tracing_checks;
mod unused_settings;

pub(crate) use tracing_checks::otlp_settings;

use std::collections::BTreeMap;
use std::sync::Arc;

use self::compiler::Compiler;
use self::identity_providers::IdentityProviders;
use self::middleware_list::unmatched_headers;
use self::template_checks::templates_of;
use super::registry::Registry;
use super::response_metrics::ResponseMetrics;
use super::table::{HeadLimits, Table};
use crate::config::{Config, Draft, ErrorLocations, Problems, TraceparentFrom};
use crate::host::AllowedHosts;
use crate::routing::ProtocolTypeRouter;
use crate::scope::{App, ScopeType};

/// Looks up every name, parses every option and builds both tables. Returns the table with all
/// warnings, or all Problems.
///
/// ```
/// use oneport::{config::Config, gateway::{Registry, compile}};
/// let text = "[[http.route]]\npath = '/'\nview = 'respnd'\n";
/// let (config, _) = Config::parse("oneport.toml", text, ".".as_ref(), &|_| None).unwrap();
/// let problems = compile(&config, &Registry::builtin()).unwrap_err();
/// assert!(problems.to_string().contains("(did you mean \"respond\"?)"));
/// ```
pub fn compile(config: &Config, registry: &Registry) -> Result<(Table, Problems), Problems> {
    let (table, problems) = compile_known(config, registry, &ErrorLocations::default());
    match table {
        Some(table) => problems.into_result(table),
        None => Err(problems.sorted()),
    }
}

/// Compiles a draft even if it has errors, so that the Problems of both stages are reported at
/// once. Returns the table with all warnings, or all Problems.
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
    let (table, more) = compile_known(&draft.config, registry, &draft.error_locations);
    problems.append(more);
    match table {
        Some(table) => problems.into_result(table),
        None => Err(problems.sorted()),
    }
}

/// Compiles the valid part. Drops Problems at locations that already have an error.
fn compile_known(
    config: &Config,
    registry: &Registry,
    error_locations: &ErrorLocations,
) -> (Option<Table>, Problems) {
    let mut problems = Problems::default();
    let mut compiler = Compiler {
        config,
        registry,
        error_locations,
        sources: IdentityProviders::new(config, error_locations, &mut problems),
        custom: BTreeMap::new(),
        templates: Vec::new(),
        problems,
    };
    compiler.check_log();
    compiler.check_tracing();
    let http = compiler.http_routes();
    let websocket = compiler.websocket_routes();
    compiler.check_middleware_sections();
    compiler.check_unused_settings();
    let uses_sessions = uses_sessions(config);
    compiler.check_stores(uses_sessions);
    let router = http
        .zip(websocket)
        .map(|(http, websocket)| Arc::new(ProtocolTypeRouter { http, websocket }));
    if let Some(router) = &router {
        compiler.check_directories(&router.http, uses_sessions);
        compiler.check_overlaps(router);
    }
    let templates = templates_of(&config.templates.dir, router.as_ref());
    compiler.check_templates(&templates);
    let tls = compiler.tls();
    let problems = compiler.problems.without(error_locations);
    let table = router.map(|router| Table {
        router,
        uses_sessions,
        has_upstreams: has_upstreams(config),
        templates,
        app: app(config, registry),
        background_tasks: registry.background_tasks.clone(),
        allowed_hosts: AllowedHosts::new(&config.server.allowed_hosts),
        trusted_proxies: config.server.trusted_proxies.clone(),
        forwarded: config.server.forwarded,
        believes_all_traces: config.tracing.traceparent_from == TraceparentFrom::All,
        head_limits: HeadLimits {
            uri_size: config.server.limits.uri_size.as_usize(),
            header_count: config.server.limits.header_count,
        },
        unmatched: ResponseMetrics::new(ScopeType::Http, &Arc::from("")),
        unmatched_headers: unmatched_headers(&config.http),
        unmatched_access_log: config.http.access_log,
        tls,
    });
    (table, problems)
}

/// Returns the values that all scopes share; `None` if there are none.
fn app(config: &Config, registry: &Registry) -> Option<Arc<App>> {
    let root_path = config.server.root_path.as_str();
    (!root_path.is_empty() || !registry.state.is_empty()).then(|| {
        Arc::new(App {
            root_path: root_path.into(),
            state: registry.state.clone(),
        })
    })
}

/// Returns whether a route passes its requests or WebSockets on to other servers.
fn has_upstreams(config: &Config) -> bool {
    let views = config.http_routes.iter().map(|route| &route.view);
    let consumers = config.websocket_routes.iter().map(|route| &route.consumer);
    views.chain(consumers).any(|name| name == "proxy")
}

/// Returns whether a route reads sessions or users.
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

//! Table: the routes that the server serves; immutable, replaced by a reload.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use http::HeaderValue;
use ipnet::IpNet;

use super::background_task::BackgroundTask;
use super::deadline::Deadline;
use super::middleware_chain::MiddlewareChain;
use super::response_metrics::ResponseMetrics;
use crate::config::Plaintext;
use crate::host::{AllowedHosts, HostHeader};
use crate::http::forwarded::ForwardedFamily;
use crate::http::view::AnyView;
use crate::http::{Mapped, OnDisconnect, Response};
use crate::middleware::{Headers, RateLimit};
use crate::net::{TlsFiles, TlsPaths};
use crate::routing::{
    BadPath, Match, ProtocolTypeRouter, Resolution, Route, RouteSummaries, RouteSummary, Target,
    UrlRouter,
};
use crate::scope::{App, Scope, ScopeType};
use crate::state::State;
use crate::telemetry::AccessRule;
use crate::templates::Templates;
use crate::websocket::{ConsumerFactory, SocketRoute};

/// The routes that the server serves: both tables, their views and consumers, and the templates.
pub struct Table {
    pub(crate) router: Arc<ProtocolTypeRouter<HttpEntry, WebsocketEntry>>,
    pub(crate) uses_sessions: bool,
    /// Whether a route passes its requests or WebSockets on to other servers.
    pub(crate) has_upstreams: bool,
    pub(crate) templates: Templates,
    /// The values that all scopes share; `None` if there are none, which saves each request a
    /// reference count.
    pub(crate) app: Option<Arc<App>>,
    pub(crate) background_tasks: Vec<BackgroundTask>,
    /// The hosts that this server serves; most routes check it by the middleware `hosts`.
    pub(crate) allowed_hosts: AllowedHosts,
    pub(crate) trusted_proxies: Vec<IpNet>,
    pub(crate) head_limits: HeadLimits,
    pub(crate) forwarded: ForwardedFamily,
    /// Whether every client's `traceparent` continues a trace.
    pub(crate) believes_all_traces: bool,
    pub(crate) unmatched: ResponseMetrics,
    pub(crate) unmatched_headers: Option<Headers>,
    pub(crate) unmatched_access_log: AccessRule,
    /// `[server.tls]`; `None` if no listener speaks TLS.
    pub(crate) tls: Option<Arc<TlsSettings>>,
}

/// The limits of a request's head beside its size.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HeadLimits {
    /// The most bytes of the target.
    pub(crate) uri_size: usize,
    /// The most header fields.
    pub(crate) header_count: usize,
}

/// `[server.tls]`, with the files that it names.
#[derive(Debug)]
pub(crate) struct TlsSettings {
    pub(crate) paths: TlsPaths,
    pub(crate) files: TlsFiles,
    pub(crate) plaintext: Plaintext,
    /// The value of `Strict-Transport-Security`.
    pub(crate) hsts: Option<HeaderValue>,
}

/// One route of a table: the facts that both tables share, and its view or consumer.
pub struct RouteEntry<H> {
    /// The route's name, or its path: its label in the log and in metrics.
    pub label: Arc<str>,
    /// The route's pattern: OpenTelemetry's `http.route`.
    pub(crate) pattern: Arc<str>,
    /// The route's name, for `url_route`.
    pub name: Option<Arc<str>>,
    /// The name of the view or consumer in the file.
    pub handler_name: String,
    /// The names of its middleware.
    pub middleware: Vec<String>,
    /// The maximum time from the request to the handler's response.
    pub timeout: Duration,
    /// The view or the consumer.
    pub handler: H,
    pub(crate) chain: MiddlewareChain,
    pub(crate) responses: ResponseMetrics,
    /// Which of its responses get a line in the access log.
    pub(crate) access_log: AccessRule,
    /// Whether the log has warned that responses set fields that only the server sends.
    pub(crate) has_warned: AtomicBool,
}

/// A route of the HTTP table.
pub type HttpEntry = RouteEntry<HttpHandler>;

/// A route of the WebSocket table.
pub type WebsocketEntry = RouteEntry<WebsocketHandler>;

/// The view of an HTTP route.
pub struct HttpHandler {
    pub(crate) view: Arc<dyn AnyView>,
    pub(crate) on_disconnect: OnDisconnect,
    pub(crate) has_own_deadlines: bool,
    pub(crate) responds_now: bool,
    pub(crate) maps_onto: Option<Mapped>,
    pub(crate) body_size: u64,
}

/// The consumer of a WebSocket route.
pub struct WebsocketHandler {
    /// The state that all its sockets share.
    pub route: Arc<SocketRoute>,
    pub(crate) consumer: Arc<dyn ConsumerFactory>,
    pub(crate) maps_onto: Option<Mapped>,
    pub(crate) subprotocols: Vec<String>,
}

/// How much longer than the route's timeout an accepted handshake may take to register its groups,
/// in Redis too.
const REGISTRATION_TIMEOUT: Duration = Duration::from_secs(5);

/// The facts that the pipeline needs about a view or a consumer.
pub(crate) trait Handler {
    /// The sentence of the 504 after the route's timeout.
    const TIMED_OUT: &'static str;
    /// The cause of the 500 after a panic, for the log.
    const PANICKED: &'static str;
    /// Whether success is a response that ends HTTP on the connection.
    const SWITCHES_PROTOCOLS: bool;

    /// Returns the deadline of the handler on a route whose timeout ends at `timeout_at`.
    fn deadline(&self, timeout_at: Instant) -> Deadline;

    /// Returns whether another server gets the path of a request.
    fn passes_paths_on(&self) -> bool;
}

impl Handler for HttpHandler {
    const TIMED_OUT: &'static str = "the answer took too long";
    const PANICKED: &'static str = "the view panicked";
    const SWITCHES_PROTOCOLS: bool = false;

    fn deadline(&self, timeout_at: Instant) -> Deadline {
        match self.has_own_deadlines {
            true => Deadline::Never,
            false => Deadline::At(timeout_at),
        }
    }

    fn passes_paths_on(&self) -> bool {
        matches!(self.maps_onto, Some(Mapped::Servers { .. }))
    }
}

impl Handler for WebsocketHandler {
    const TIMED_OUT: &'static str = "the decision on the handshake took too long";
    const PANICKED: &'static str = "the consumer panicked in connect";
    const SWITCHES_PROTOCOLS: bool = true;

    fn deadline(&self, timeout_at: Instant) -> Deadline {
        Deadline::At(timeout_at + REGISTRATION_TIMEOUT)
    }

    fn passes_paths_on(&self) -> bool {
        matches!(self.maps_onto, Some(Mapped::Servers { .. }))
    }
}

impl Table {
    /// Returns the HTTP table.
    #[must_use]
    pub fn http(&self) -> &UrlRouter<HttpEntry> {
        &self.router.http
    }

    /// Returns the WebSocket table.
    #[must_use]
    pub fn websocket(&self) -> &UrlRouter<WebsocketEntry> {
        &self.router.websocket
    }

    /// Returns the routes as they are shown to operators.
    pub(crate) fn summaries(&self) -> RouteSummaries {
        RouteSummaries {
            http: self.http().routes().iter().map(summary).collect(),
            websocket: self.websocket().routes().iter().map(summary).collect(),
        }
    }

    /// Returns the templates, whose `url_for` looks routes up in this table.
    #[must_use]
    pub fn templates(&self) -> &Templates {
        &self.templates
    }

    /// Returns `server.root_path`, "" for none.
    #[must_use]
    pub fn root_path(&self) -> &str {
        self.app.as_ref().map_or("", |app| &app.root_path)
    }

    /// Returns the application's state.
    pub(crate) fn state(&self) -> State {
        self.app
            .as_ref()
            .map_or_else(State::default, |app| app.state.clone())
    }

    /// Returns the path below the root path, "/" for the root path itself; `None` outside it.
    #[must_use]
    pub fn below_root<'p>(&self, raw_path: &'p str) -> Option<&'p str> {
        match raw_path.strip_prefix(self.root_path())? {
            "" => Some("/"),
            below => below.starts_with('/').then_some(below),
        }
    }

    /// Returns whether a route reads sessions or users.
    #[must_use]
    pub fn uses_sessions(&self) -> bool {
        self.uses_sessions
    }

    /// Returns the key for a lookup in the routers: the path below the root path, the host and the
    /// method. `None` outside the root path.
    pub(crate) fn target<'s>(&self, scope: &'s Scope) -> Option<Target<'s>> {
        Some(Target {
            raw_path: self.below_root(scope.raw_path())?,
            host: scope.host.as_ref().map(HostHeader::name),
            method: (scope.scope_type == ScopeType::Http).then_some(&scope.method),
        })
    }

    /// Looks up the route of a scope. A path that another server gets must be one of the same route
    /// however that server reads it.
    pub(super) fn look_up<'t, H: Handler>(
        &self,
        routes: &'t UrlRouter<RouteEntry<H>>,
        scope: &Scope,
    ) -> Result<Match<'t, RouteEntry<H>>, Resolution<'t, RouteEntry<H>>> {
        let Some(target) = self.target(scope) else {
            return Err(Resolution::NotFound);
        };
        match routes.resolve(&target) {
            Resolution::Found(found)
                if found.route.value.handler.passes_paths_on()
                    && routes.is_ambiguous(&target, found.index) =>
            {
                Err(Resolution::BadPath(BadPath::Ambiguous))
            }
            Resolution::Found(found) => Ok(found),
            missed => Err(missed),
        }
    }

    /// Adds the headers of `[http]` to a response without a route.
    pub(crate) fn add_unmatched_headers(&self, response: &mut Response) {
        if let Some(headers) = &self.unmatched_headers {
            headers.after(response.headers_mut());
        }
    }

    pub(crate) fn is_trusted(&self, peer: Option<IpAddr>) -> bool {
        // A unix socket has no address; the permissions of its file decide who connects.
        !self.trusted_proxies.is_empty()
            && peer
                .is_none_or(|peer| crate::http::forwarded::is_trusted(peer, &self.trusted_proxies))
    }
}

fn summary<H>(route: &Route<RouteEntry<H>>) -> RouteSummary {
    RouteSummary {
        label: route.value.label.clone(),
        path: route.pattern.to_string(),
        host: route.host.as_ref().map(ToString::to_string),
        methods: route.methods.iter().map(ToString::to_string).collect(),
        handler: route.value.handler_name.clone(),
        middleware: route.value.middleware.clone(),
    }
}

impl<H> RouteEntry<H> {
    /// Returns the limits of the middleware `rate_limit` in words.
    pub fn rate_limits(&self) -> impl Iterator<Item = String> {
        self.chain.rate_limits().flat_map(RateLimit::words)
    }
}

impl HttpEntry {
    /// Returns the route's limits in words.
    #[must_use]
    pub fn limits(&self) -> Vec<String> {
        let mut limits = vec![
            format!("body {}", crate::config::Size(self.handler.body_size)),
            format!("{}s", self.timeout.as_secs_f64()),
        ];
        limits.extend(self.rate_limits());
        limits
    }
}

impl WebsocketEntry {
    /// Returns the route's limits in words.
    #[must_use]
    pub fn limits(&self) -> Vec<String> {
        let settings = &self.handler.route.settings;
        let size = |bytes: usize| crate::config::Size(bytes as u64);
        let mut limits = vec![
            format!("message {}", size(settings.limits.message_bytes_max)),
            format!("queue {}", size(settings.send_queue)),
        ];
        limits.extend(self.rate_limits());
        limits.extend(settings.message_limits.words());
        limits
    }
}

impl std::fmt::Debug for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Table")
            .field("http", &self.http().routes().len())
            .field("websocket", &self.websocket().routes().len())
            .finish_non_exhaustive()
    }
}

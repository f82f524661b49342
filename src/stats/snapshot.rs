//! Snapshot: all figures of one process at one instant.

use std::collections::{BTreeMap, HashMap};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::latency::Latency;
use super::process::ProcessStats;
use super::series::Series;
use crate::queued_bytes;
use crate::routing::{RouteSummaries, RouteSummary};
use crate::services::Services;
use crate::telemetry;

/// All figures of one process at one instant: what is open now, and counts since the start.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct Snapshot {
    /// The process's id among all that ever ran.
    pub node: String,
    /// Its name: `server.name`.
    pub name: String,
    /// The version of the program.
    pub version: String,
    /// When the snapshot was taken, in seconds since 1970.
    pub at: f64,
    /// Seconds since the start.
    pub uptime: f64,
    /// Whether the process is stopping.
    pub draining: bool,
    /// What the system knows about the process.
    pub process: ProcessStats,
    /// The runtime.
    pub runtime: RuntimeStats,
    /// Connections, of HTTP and of WebSockets.
    pub connections: ConnectionStats,
    /// WebSockets.
    pub sockets: SocketStats,
    /// Messages of WebSockets.
    pub messages: MessageStats,
    /// HTTP responses, by class of status.
    pub requests: BTreeMap<String, u64>,
    /// How long HTTP responses took.
    pub latency: Latency,
    /// Groups with a member or a history, in this process.
    pub groups: u64,
    /// Open streams of the view `events`.
    pub event_streams: u64,
    /// The channel layer.
    pub layer: LayerStats,
    /// Queries that a store did not answer, by store.
    pub store_errors: BTreeMap<String, u64>,
    /// Upstream servers, by URL.
    pub upstreams: BTreeMap<String, UpstreamStats>,
    /// Backends whose circuit breaker is open (1) or closed (0), by endpoint.
    pub backends: BTreeMap<String, u64>,
    /// Seconds until a certificate expires, by its first name.
    pub certificates: BTreeMap<String, u64>,
    /// Reloads of the configuration, by outcome.
    pub reloads: BTreeMap<String, u64>,
    /// Panics, each of which ended one request or one WebSocket.
    pub panics: u64,
    /// Log lines that were dropped.
    pub log_lines_dropped: u64,
    /// The HTTP table, by the routes' names or paths.
    pub http: BTreeMap<String, HttpRouteStats>,
    /// The WebSocket table, by the routes' names or paths.
    pub websocket: BTreeMap<String, WebsocketRouteStats>,
}

/// The runtime.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct RuntimeStats {
    /// Worker threads.
    pub workers: u64,
    /// Tasks that are alive.
    pub tasks: u64,
    /// Tasks that wait for a worker in the global queue.
    pub queue: u64,
}

/// Connections.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct ConnectionStats {
    /// Open connections: those that speak HTTP, and WebSockets.
    pub open: u64,
    /// Open connections that speak HTTP.
    pub http: u64,
    /// Those that speak HTTP, by protocol: `none` yet, `http1` or `http2`.
    pub protocols: BTreeMap<String, u64>,
    /// Those that speak HTTP, by security: `plain` or `tls`.
    pub security: BTreeMap<String, u64>,
    /// Accepted since the start.
    pub accepted: u64,
    /// Refused since the start, by reason.
    pub refused: BTreeMap<String, u64>,
    /// TLS handshakes since the start, by outcome.
    pub tls: BTreeMap<String, u64>,
}

/// WebSockets.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct SocketStats {
    /// Open now.
    pub open: u64,
    /// Opened since the start.
    pub opened: u64,
    /// Handshakes that were refused since the start.
    pub refused: u64,
    /// Ended since the start.
    pub closed: u64,
    /// Ended since the start, by cause.
    pub causes: BTreeMap<String, u64>,
    /// Bytes in the send queues of all, without group events.
    pub queue_bytes: u64,
}

/// Messages of WebSockets since the start.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct MessageStats {
    /// From clients.
    pub received: u64,
    /// To clients.
    pub sent: u64,
    /// To clients, dropped because they read too slowly.
    pub dropped: u64,
    /// Bytes from clients.
    pub bytes_received: u64,
    /// Bytes to clients.
    pub bytes_sent: u64,
}

/// The channel layer.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct LayerStats {
    /// `memory` or `redis`.
    pub backend: String,
    /// Whether it is connected to Redis; always true without one.
    pub connected: bool,
    /// Events published to other processes since the start.
    pub published: u64,
    /// Events received from other processes since the start.
    pub received: u64,
    /// Events that Redis did not take since the start.
    pub unpublished: u64,
    /// Deliveries of events that were dropped since the start, by reason.
    pub dropped: BTreeMap<String, u64>,
    /// Memory that group histories take.
    pub history_bytes: u64,
}

/// The servers of an upstream's URL.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct UpstreamStats {
    /// Servers: one for each address of the name.
    pub servers: u64,
    /// Servers that get requests.
    pub up: u64,
    /// Requests and tunnels that they serve now.
    pub active: u64,
    /// Requests and handshakes since the start, by outcome.
    pub requests: BTreeMap<String, u64>,
}

/// A route of the HTTP table.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct HttpRouteStats {
    /// Its place in the table.
    pub index: u64,
    /// Its methods, host and path.
    pub path: String,
    /// Its view.
    pub handler: String,
    /// Its middleware.
    pub middleware: Vec<String>,
    /// Responses since the start, by class of status.
    pub responses: BTreeMap<String, u64>,
    /// How long they took.
    pub latency: Latency,
}

/// A route of the WebSocket table.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct WebsocketRouteStats {
    /// Its place in the table.
    pub index: u64,
    /// Its host and path.
    pub path: String,
    /// Its consumer.
    pub handler: String,
    /// Its middleware.
    pub middleware: Vec<String>,
    /// Open sockets.
    pub open: u64,
    /// Handshakes since the start, by class of status.
    pub handshakes: BTreeMap<String, u64>,
    /// Sockets that ended since the start, by cause.
    pub closed: BTreeMap<String, u64>,
    /// Their messages since the start.
    pub messages: MessageStats,
    /// How long handshakes took.
    pub latency: Latency,
}

impl Snapshot {
    /// Takes a snapshot of this process, which has so many open sockets.
    pub(crate) fn take(services: &Services, sockets: usize) -> Self {
        let series = Series::read(services);
        let routes = services.routes.load();
        let http = http_routes(&routes, &series);
        let websocket = websocket_routes(&routes, &series);
        let mut latency = Latency::default();
        http.values().for_each(|route| latency.add(&route.latency));
        let handshakes = series.by("oneport_handshakes_total", "status");
        let count = |class: &str| handshakes.get(class).copied().unwrap_or_default();
        let open = sockets as u64;
        let speaking_http = series.sum("oneport_connections");
        let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        Self {
            node: format!("{:016x}", services.layer.node()),
            name: services.name.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            at: since_1970.unwrap_or_default().as_secs_f64(),
            uptime: services.started.elapsed().as_secs_f64(),
            draining: services.tasks.is_leaving(),
            process: ProcessStats::read(),
            runtime: runtime(services),
            connections: ConnectionStats {
                open: speaking_http + open,
                http: speaking_http,
                protocols: series.by("oneport_connections", "protocol"),
                security: series.by("oneport_connections", "security"),
                accepted: series.sum("oneport_connections_accepted_total"),
                refused: series.by("oneport_connections_refused_total", "reason"),
                tls: series.by("oneport_tls_handshakes_total", "outcome"),
            },
            sockets: SocketStats {
                open,
                // 101 over HTTP/1.1, 200 over HTTP/2.
                opened: count("1xx") + count("2xx"),
                refused: count("4xx") + count("5xx"),
                closed: series.sum("oneport_websockets_closed_total"),
                causes: series.by("oneport_websockets_closed_total", "cause"),
                queue_bytes: queued_bytes::total() as u64,
            },
            messages: MessageStats {
                received: series.sum("oneport_messages_received_total"),
                sent: series.sum("oneport_messages_sent_total"),
                dropped: series.sum("oneport_messages_dropped_total"),
                bytes_received: series.sum("oneport_websocket_received_bytes_total"),
                bytes_sent: series.sum("oneport_websocket_sent_bytes_total"),
            },
            requests: series.by("oneport_requests_total", "status"),
            latency,
            groups: services.layer.groups() as u64,
            event_streams: series.sum("oneport_event_streams"),
            layer: layer(services, &series),
            store_errors: series.by("oneport_store_errors_total", "store"),
            upstreams: upstreams(&series),
            backends: series.by("oneport_backend_circuit_open", "endpoint"),
            certificates: series.by("oneport_tls_certificate_expiry_seconds", "name"),
            reloads: series.by("oneport_reloads_total", "outcome"),
            panics: series.sum("oneport_panics_total"),
            log_lines_dropped: telemetry::log_lines_dropped(),
            http,
            websocket,
        }
    }
}

fn runtime(services: &Services) -> RuntimeStats {
    let metrics = tokio::runtime::Handle::try_current().map(|runtime| runtime.metrics());
    let metrics = metrics.ok();
    let of = |read: fn(&tokio::runtime::RuntimeMetrics) -> usize| {
        metrics.as_ref().map_or(0, |metrics| read(metrics) as u64)
    };
    RuntimeStats {
        workers: of(tokio::runtime::RuntimeMetrics::num_workers),
        tasks: services.tasks.alive() as u64,
        queue: of(tokio::runtime::RuntimeMetrics::global_queue_depth),
    }
}

fn layer(services: &Services, series: &Series) -> LayerStats {
    let remote = services.layer.remote();
    let backend = if remote.is_some() { "redis" } else { "memory" };
    LayerStats {
        backend: backend.to_owned(),
        connected: remote.is_none_or(crate::channels::Remote::is_connected),
        published: series.sum("oneport_layer_published_total"),
        received: series.sum("oneport_layer_received_total"),
        unpublished: series.sum("oneport_layer_unpublished_total"),
        dropped: series.by("oneport_events_dropped_total", "reason"),
        history_bytes: series.sum("oneport_history_bytes"),
    }
}

fn upstreams(series: &Series) -> BTreeMap<String, UpstreamStats> {
    let of = |name| series.by(name, "upstream");
    let (up, active) = (
        of("oneport_upstream_servers_up"),
        of("oneport_upstream_active"),
    );
    let mut requests = series.by_two("oneport_upstream_requests_total", "upstream", "outcome");
    let upstream = |(url, servers): (String, u64)| {
        let stats = UpstreamStats {
            servers,
            up: up.get(&url).copied().unwrap_or_default(),
            active: active.get(&url).copied().unwrap_or_default(),
            requests: requests.remove(&url).unwrap_or_default(),
        };
        (url, stats)
    };
    of("oneport_upstream_servers")
        .into_iter()
        .map(upstream)
        .collect()
}

fn http_routes(routes: &RouteSummaries, series: &Series) -> BTreeMap<String, HttpRouteStats> {
    let mut responses = series.by_two("oneport_requests_total", "route", "status");
    let mut latencies = series.latencies("oneport_request_duration_seconds", "route");
    let mut found: BTreeMap<String, HttpRouteStats> = BTreeMap::new();
    for (index, route) in routes.http.iter().enumerate() {
        let label = &*route.label;
        // Routes with one label share their metrics.
        if let Some(earlier) = found.get_mut(label) {
            earlier.path = format!("{}, {}", earlier.path, shown_path(route));
            continue;
        }
        let stats = HttpRouteStats {
            index: index as u64,
            path: shown_path(route),
            handler: route.handler.clone(),
            middleware: route.middleware.clone(),
            responses: responses.remove(label).unwrap_or_default(),
            latency: latencies.remove(label).unwrap_or_default(),
        };
        found.insert(label.to_owned(), stats);
    }
    found
}

fn websocket_routes(
    routes: &RouteSummaries,
    series: &Series,
) -> BTreeMap<String, WebsocketRouteStats> {
    let mut handshakes = series.by_two("oneport_handshakes_total", "route", "status");
    let mut closed = series.by_two("oneport_websockets_closed_total", "route", "cause");
    let mut latencies = series.latencies("oneport_handshake_duration_seconds", "route");
    let by_route =
        |name| -> HashMap<String, u64> { series.by(name, "route").into_iter().collect() };
    let open = by_route("oneport_websockets");
    let counts = [
        "oneport_messages_received_total",
        "oneport_messages_sent_total",
        "oneport_messages_dropped_total",
        "oneport_websocket_received_bytes_total",
        "oneport_websocket_sent_bytes_total",
    ]
    .map(by_route);
    let mut found: BTreeMap<String, WebsocketRouteStats> = BTreeMap::new();
    for (index, route) in routes.websocket.iter().enumerate() {
        let label = &*route.label;
        if let Some(earlier) = found.get_mut(label) {
            earlier.path = format!("{}, {}", earlier.path, shown_path(route));
            continue;
        }
        let [received, sent, dropped, bytes_received, bytes_sent] = counts
            .each_ref()
            .map(|counts| counts.get(label).copied().unwrap_or_default());
        let stats = WebsocketRouteStats {
            index: index as u64,
            path: shown_path(route),
            handler: route.handler.clone(),
            middleware: route.middleware.clone(),
            open: open.get(label).copied().unwrap_or_default(),
            handshakes: handshakes.remove(label).unwrap_or_default(),
            closed: closed.remove(label).unwrap_or_default(),
            messages: MessageStats {
                received,
                sent,
                dropped,
                bytes_received,
                bytes_sent,
            },
            latency: latencies.remove(label).unwrap_or_default(),
        };
        found.insert(label.to_owned(), stats);
    }
    found
}

/// Returns the methods, the host and the path of a route, as `oneport routes` prints them.
fn shown_path(route: &RouteSummary) -> String {
    let methods = match route.methods.is_empty() {
        true => String::new(),
        false => format!("{} ", route.methods.join(",")),
    };
    format!(
        "{methods}{}{}",
        route.host.as_deref().unwrap_or_default(),
        route.path
    )
}

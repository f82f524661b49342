//! Metrics: the table of all metrics, and the recorder that collects them.
//!
//! Each metric has a row in [`METRICS`] and a row in OPERATING.md; a test compares them. The code
//! that handles the event counts it with `counter!`, `gauge!` or `histogram!`. [`ByRoute`] keeps
//! the metrics with the label `route`, and drops their series with the route.

use std::sync::OnceLock;

use metrics::{counter, describe_counter, describe_gauge, describe_histogram};
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusRecorder};

use super::route_series::{ByRoute, Metrics, RouteSeries};

/// All metrics.
const METRICS: &[Metric] = &[
    counter(
        "oneport_connections_total",
        "Connections accepted by the kernel, refused ones included.",
    ),
    counter(
        "oneport_connections_refused_total",
        "Connections over a limit, by reason.",
    ),
    gauge("oneport_connections", "Open connections that speak HTTP."),
    counter(
        "oneport_tls_handshakes_total",
        "TLS handshakes, by outcome.",
    ),
    gauge(
        "oneport_tls_certificate_expiry_seconds",
        "Seconds until a served certificate expires, by its first name.",
    ),
    counter(
        "oneport_tls_certificate_reloads_total",
        "Changed certificate files, by outcome.",
    ),
    counter(
        "oneport_acme_orders_total",
        "Orders of certificates at the ACME directory, by outcome.",
    ),
    counter(
        "oneport_proxy_headers_total",
        "Headers of the PROXY protocol from trusted proxies, by outcome.",
    ),
    gauge("oneport_event_streams", "Open streams of the view events."),
    counter(
        "oneport_streams_stalled_total",
        "HTTP/2 streams reset because their client gave no window.",
    ),
    counter(
        "oneport_slow_clients_total",
        "Bodies and responses ended because the client was too slow, by direction.",
    ),
    counter(
        "oneport_uncompressed_total",
        "Responses that compress sent as they are, because the encoders of others took all their memory.",
    ),
    counter(
        "oneport_file_cache_hits_total",
        "Requests of the view static whose file was in the cache.",
    ),
    counter(
        "oneport_file_cache_misses_total",
        "Requests of the view static whose file was looked up and read.",
    ),
    gauge(
        "oneport_file_cache_bytes",
        "Bytes of small files in memory.",
    ),
    counter(
        "oneport_file_timeouts_total",
        "Requests and bodies of the view static that a file system kept waiting, by what they waited for.",
    ),
    counter(
        "oneport_requests_abandoned_total",
        "Requests whose client disconnected while their view ran, by outcome.",
    ),
    counter(
        "oneport_ambiguous_paths_total",
        "Paths that an upstream could take for another route's.",
    ),
    counter(
        "oneport_proxy_aborts_total",
        "Proxied responses that ended early, by cause.",
    ),
    counter(
        "oneport_requests_total",
        "HTTP responses, by route and class of status.",
    ),
    counter(
        "oneport_handshakes_total",
        "WebSocket handshakes, by route and class of status.",
    ),
    gauge("oneport_websockets", "Open WebSockets, by route."),
    counter(
        "oneport_websockets_closed_total",
        "Closed WebSockets, by route and cause.",
    ),
    counter(
        "oneport_messages_received_total",
        "Messages from clients, by route.",
    ),
    counter(
        "oneport_messages_dropped_total",
        "Messages to slow clients that were dropped, by route and policy.",
    ),
    counter(
        "oneport_events_dropped_total",
        "Deliveries of channel layer events that were dropped, by reason.",
    ),
    gauge("oneport_history_bytes", "Memory that group histories take."),
    gauge("oneport_history_groups", "Groups with a history."),
    counter(
        "oneport_history_evicted_total",
        "Events evicted from histories for lack of memory.",
    ),
    counter(
        "oneport_rooms_refused_total",
        "Groups that clients could not create because of max_rooms.",
    ),
    counter(
        "oneport_reloads_total",
        "Reloads of the configuration, by outcome.",
    ),
    counter(
        "oneport_panics_total",
        "Panics, each of which ended one request or one WebSocket.",
    ),
    counter("oneport_logins_total", "Login attempts, by outcome."),
    counter(
        "oneport_store_errors_total",
        "Queries that a store did not answer, by store.",
    ),
    counter(
        "oneport_sessions_dropped_total",
        "Sessions that the memory store had no room for.",
    ),
    gauge(
        "oneport_layer_connected",
        "1 while the channel layer is connected to Redis.",
    ),
    counter(
        "oneport_layer_reconnects_total",
        "Reconnections of the channel layer to Redis.",
    ),
    counter(
        "oneport_layer_outage_seconds_total",
        "Seconds without Redis in outages that are over, rounded up.",
    ),
    counter(
        "oneport_layer_published_total",
        "Events published to Redis for other processes.",
    ),
    counter(
        "oneport_layer_unpublished_total",
        "Events that Redis did not receive, did not confirm or refused.",
    ),
    counter(
        "oneport_layer_received_total",
        "Events received from other processes.",
    ),
    counter(
        "oneport_backend_requests_total",
        "Requests to backends, by endpoint and outcome.",
    ),
    gauge(
        "oneport_backend_circuit_open",
        "1 while the circuit breaker of the endpoint is open.",
    ),
    gauge(
        "oneport_backend_disconnects_waiting",
        "Disconnects waiting to be delivered to their backend.",
    ),
    counter(
        "oneport_backend_disconnects_lost_total",
        "Disconnects that were never delivered to their backend.",
    ),
    counter(
        "oneport_upstream_requests_total",
        "Requests and handshakes sent to upstream servers, by URL and outcome.",
    ),
    counter(
        "oneport_upstream_retries_total",
        "Requests that were sent again after a server could not be reached.",
    ),
    counter(
        "oneport_upstream_checks_total",
        "Health checks of upstream servers, by URL and outcome.",
    ),
    counter(
        "oneport_upstream_lookups_total",
        "Look-ups of the names of upstream servers, by URL and outcome.",
    ),
    gauge(
        "oneport_upstream_servers",
        "Servers of an upstream's URL: one for each address of its name.",
    ),
    gauge(
        "oneport_upstream_servers_up",
        "Servers of an upstream's URL that get requests.",
    ),
    gauge(
        "oneport_upstream_active",
        "Requests and tunnels that the servers of an upstream's URL serve.",
    ),
    counter(
        "oneport_log_lines_dropped_total",
        "Log lines dropped because the log could not be written, or not fast enough.",
    ),
    gauge(
        "oneport_send_queue_bytes",
        "Bytes queued for WebSocket clients, without group events.",
    ),
    gauge("oneport_tasks", "Tasks that are alive."),
];

/// One metric.
struct Metric {
    name: &'static str,
    kind: Kind,
    /// The text of `# HELP`.
    help: &'static str,
}

#[derive(Clone, Copy)]
enum Kind {
    Counter,
    Gauge,
    /// The upper bounds of its buckets, ascending.
    Histogram(&'static [f64]),
}

const fn counter(name: &'static str, help: &'static str) -> Metric {
    let kind = Kind::Counter;
    Metric { name, kind, help }
}

const fn gauge(name: &'static str, help: &'static str) -> Metric {
    let kind = Kind::Gauge;
    Metric { name, kind, help }
}

#[cfg_attr(not(test), expect(dead_code, reason = "no metric is a histogram yet"))]
const fn histogram(name: &'static str, buckets: &'static [f64], help: &'static str) -> Metric {
    let kind = Kind::Histogram(buckets);
    Metric { name, kind, help }
}

/// Starts collecting metrics for the whole process and returns the handle that prints them. Later
/// calls return the same handle.
///
/// Call this before compiling a table, because routes look up their metrics at that point. Returns
/// `None` if the program has installed its own recorder.
pub fn start_metrics() -> Option<Metrics> {
    static METRICS_HANDLE: OnceLock<Option<Metrics>> = OnceLock::new();
    let start = || {
        let process = recorder(METRICS).ok()?;
        let metrics = Metrics {
            process: process.handle(),
            routes: RouteSeries::default(),
        };
        let routes = metrics.routes.clone();
        metrics::set_global_recorder(ByRoute { process, routes }).ok()?;
        describe(METRICS);
        Some(metrics)
    };
    METRICS_HANDLE.get_or_init(start).clone()
}

/// Counts one dropped delivery of an event.
pub fn event_dropped(reason: &'static str) {
    events_dropped(reason, 1);
}

/// Counts dropped deliveries of events.
pub fn events_dropped(reason: &'static str, events: u64) {
    counter!("oneport_events_dropped_total", "reason" => reason).increment(events);
}

fn recorder(metrics: &[Metric]) -> Result<PrometheusRecorder, BuildError> {
    let mut builder = PrometheusBuilder::new();
    for metric in metrics {
        if let Kind::Histogram(buckets) = metric.kind {
            let name = Matcher::Full(metric.name.to_owned());
            builder = builder.set_buckets_for_metric(name, buckets)?;
        }
    }
    Ok(builder.build_recorder())
}

fn describe(metrics: &[Metric]) {
    for metric in metrics {
        match metric.kind {
            Kind::Counter => describe_counter!(metric.name, metric.help),
            Kind::Gauge => describe_gauge!(metric.name, metric.help),
            Kind::Histogram(_) => describe_histogram!(metric.name, metric.help),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_is_printed_as_its_row_says() {
        let metrics = [
            counter("a_total", "Counts."),
            gauge("b", "Measures."),
            histogram("c_seconds", &[0.1, 1.0], "Times."),
        ];
        let recorder = recorder(&metrics).unwrap();
        let handle = recorder.handle();
        metrics::with_local_recorder(&recorder, || {
            describe(&metrics);
            metrics::counter!("a_total").increment(2);
            metrics::gauge!("b").set(3.0);
            metrics::histogram!("c_seconds").record(0.5);
        });
        let text = handle.render();
        for line in [
            "# HELP a_total Counts.",
            "# TYPE a_total counter",
            "a_total 2",
            "# TYPE b gauge",
            "b 3",
            "# TYPE c_seconds histogram",
            "c_seconds_bucket{le=\"0.1\"} 0",
            "c_seconds_bucket{le=\"1\"} 1",
            "c_seconds_bucket{le=\"+Inf\"} 1",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
    }

    #[test]
    fn names_follow_the_conventions_and_are_unique() {
        let mut names: Vec<&str> = METRICS.iter().map(|metric| metric.name).collect();
        for metric in METRICS {
            let is_counter = matches!(metric.kind, Kind::Counter);
            assert_eq!(
                metric.name.ends_with("_total"),
                is_counter,
                "{}",
                metric.name
            );
            assert!(metric.help.ends_with('.'), "{}", metric.name);
        }
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), METRICS.len());
    }
}

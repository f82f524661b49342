//! Telemetry: the log, and the names of all metrics.

mod log_format;
mod log_queue;
mod recurring;
mod route_series;

use std::fs::File;
use std::io::IsTerminal;
use std::os::fd::AsFd;
use std::sync::OnceLock;

use metrics::{counter, describe_counter, describe_gauge};
use metrics_exporter_prometheus::PrometheusBuilder;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

use log_format::{JsonLines, TextLines};
pub use log_queue::log_lines_dropped;
pub(crate) use log_queue::{Flush, LogQueue};
pub(crate) use recurring::{LOG_INTERVAL, Recurring};
pub use route_series::Metrics;
use route_series::{ByRoute, RouteSeries};

/// The most bytes of events that wait in one mailbox.
pub const MAILBOX_BYTES_MAX: usize = 1 << 20;

/// The target of the access log's lines.
pub const ACCESS: &str = "access";

/// How log lines are written.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Format {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// The log, while it is written. Dropping it waits for the last lines, for a second at most.
#[must_use = "dropping it ends the wait for the last lines"]
#[derive(Default)]
pub struct Log(#[expect(dead_code, reason = "held for its drop")] Flush);

/// Starts the log on standard error. `level` is a level or a filter in `tracing`'s words (`info,oneport::websocket=debug`).
///
/// A thread of its own writes the lines. When whoever reads them stalls, or a disk is full, lines are dropped and counted
/// ([`log_lines_dropped`]); a request never waits for the log. A second call, in tests or embedders with a log of their own,
/// changes nothing.
///
/// ```
/// use oneport::telemetry::{Format, start_log};
///
/// let _log = start_log(Format::Text, "info", true);
/// tracing::info!("the log has begun");
/// ```
pub fn start_log(format: Format, level: &str, access: bool) -> Log {
    let filter = EnvFilter::try_new(level).unwrap_or_else(|_| EnvFilter::new("info"));
    let mut directives = vec![if access { "access=info" } else { "access=off" }];
    if !level.contains("sqlx") {
        directives.push("sqlx=off"); // what it has to say is said once, by the store
    }
    let filter = directives
        .into_iter()
        .filter_map(|directive| directive.parse().ok())
        .fold(filter, EnvFilter::add_directive);
    // A descriptor of its own: a write that blocks must not hold the lock of `std::io::stderr`.
    let Ok((queue, flush)) = std::io::stderr()
        .as_fd()
        .try_clone_to_owned()
        .and_then(|stderr| LogQueue::start(File::from(stderr), say_dropped))
    else {
        return Log::default();
    };
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(move || queue.clone());
    let started = match format {
        Format::Text => builder
            .event_format(TextLines {
                is_colored: std::io::stderr().is_terminal(),
            })
            .try_init(),
        Format::Json => builder.event_format(JsonLines).try_init(),
    };
    started.map_or_else(|_| Log::default(), |()| Log(flush))
}

fn say_dropped(lines: u64) {
    tracing::warn!(
        lines,
        "log lines were dropped: the log could not be written, or not fast enough"
    );
}

/// Says what is wrong with a level or a filter.
pub fn check_level(level: &str) -> Result<(), String> {
    // A filter takes any word for the name of a module; a word alone is meant as a level.
    for word in level.split(',').map(str::trim) {
        let is_word = word.chars().all(char::is_alphanumeric);
        if word.is_empty() || (is_word && word.parse::<LevelFilter>().is_err()) {
            return Err(format!("{word:?} is no level"));
        }
    }
    EnvFilter::try_new(level)
        .map(drop)
        .map_err(|error| error.to_string())
}

/// Starts collecting metrics for the whole process and returns what prints them; later calls return the same.
///
/// Called before a table is compiled, because routes look their metrics up then. `None` when an embedder collects them in a way
/// of its own.
pub fn start_metrics() -> Option<Metrics> {
    static METRICS: OnceLock<Option<Metrics>> = OnceLock::new();
    let start = || {
        let process = PrometheusBuilder::new().build_recorder();
        let metrics = Metrics {
            process: process.handle(),
            routes: RouteSeries::default(),
        };
        let routes = metrics.routes.clone();
        metrics::set_global_recorder(ByRoute { process, routes }).ok()?;
        describe();
        Some(metrics)
    };
    METRICS.get_or_init(start).clone()
}

/// Counts an event that reached nobody, or one member less.
pub fn event_dropped(reason: &'static str) {
    events_dropped(reason, 1);
}

/// Counts events that reached nobody, or one member less each.
pub fn events_dropped(reason: &'static str, events: u64) {
    counter!("oneport_events_dropped_total", "reason" => reason).increment(events);
}

fn describe() {
    describe_counter!("oneport_connections_total", "Connections accepted.");
    describe_counter!(
        "oneport_connections_refused_total",
        "Connections refused at accept, by reason."
    );
    describe_gauge!(
        "oneport_connections",
        "Connections that are open and still speak HTTP."
    );
    describe_gauge!("oneport_event_streams", "Open streams of the view events.");
    describe_counter!(
        "oneport_streams_stalled_total",
        "HTTP/2 streams reset because their client gave no window."
    );
    describe_counter!(
        "oneport_slow_clients_total",
        "Bodies and answers that were ended because the client was too slow, by direction."
    );
    describe_counter!(
        "oneport_requests_abandoned_total",
        "Requests whose client disconnected while their view ran, by outcome."
    );
    describe_counter!(
        "oneport_requests_total",
        "HTTP requests answered, by route and status."
    );
    describe_counter!(
        "oneport_handshakes_total",
        "WebSocket handshakes, by route and status."
    );
    describe_gauge!("oneport_websockets", "Open WebSockets, by route.");
    describe_counter!(
        "oneport_websockets_closed_total",
        "WebSockets that ended, by route and cause."
    );
    describe_counter!(
        "oneport_messages_received_total",
        "Messages from clients, by route."
    );
    describe_counter!(
        "oneport_messages_dropped_total",
        "Messages to slow clients that were dropped, by route and the policy that did it."
    );
    describe_counter!(
        "oneport_events_dropped_total",
        "Events of the channel layer that were dropped, by reason."
    );
    describe_gauge!(
        "oneport_history_bytes",
        "Memory that the histories of groups take."
    );
    describe_gauge!("oneport_history_groups", "Groups with a history.");
    describe_counter!(
        "oneport_history_evicted_total",
        "Events that were evicted from histories for want of memory."
    );
    describe_counter!(
        "oneport_rooms_refused_total",
        "Groups that clients could not begin because of max_rooms."
    );
    describe_counter!(
        "oneport_reloads_total",
        "Reloads of the configuration, by outcome."
    );
    describe_counter!(
        "oneport_panics_total",
        "Panics that ended one request or one WebSocket."
    );
    describe_counter!("oneport_logins_total", "Attempts to log in, by outcome.");
    describe_counter!(
        "oneport_store_errors_total",
        "Queries that a store did not answer, by store."
    );
    describe_counter!(
        "oneport_sessions_dropped_total",
        "Sessions that the memory store had no room for."
    );
    describe_gauge!(
        "oneport_layer_connected",
        "1 while the channel layer has Redis."
    );
    describe_counter!(
        "oneport_layer_reconnects_total",
        "How often the channel layer got Redis back."
    );
    describe_counter!(
        "oneport_layer_outage_seconds_total",
        "Seconds without Redis, of the outages that are over, rounded up."
    );
    describe_counter!(
        "oneport_layer_published_total",
        "Events given to Redis for other processes."
    );
    describe_counter!(
        "oneport_layer_received_total",
        "Events that came from other processes."
    );
    describe_counter!(
        "oneport_backend_requests_total",
        "Requests to backends, by endpoint and outcome."
    );
    describe_gauge!(
        "oneport_backend_circuit_open",
        "1 while nothing is sent to the endpoint."
    );
    describe_gauge!(
        "oneport_backend_disconnects_waiting",
        "Disconnects that backends have not heard of yet."
    );
    describe_counter!(
        "oneport_backend_disconnects_lost_total",
        "Disconnects that no backend heard of."
    );
    describe_counter!(
        "oneport_log_lines_dropped_total",
        "Log lines that could not be written, or not fast enough."
    );
    describe_gauge!(
        "oneport_send_queue_bytes",
        "Bytes that wait for WebSocket clients, without events of groups."
    );
    describe_gauge!("oneport_tasks", "Tasks of the server that are alive.");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn misspelt_level_is_no_level() {
        for good in [
            "info",
            "debug,hyper=warn",
            "info,oneport::websocket=debug",
            "off",
        ] {
            assert_eq!(check_level(good), Ok(()), "{good}");
        }
        for bad in ["inof", "", "info,debgu", "info,hyper=inof"] {
            assert!(check_level(bad).is_err(), "{bad}");
        }
    }
}

//! Outbound: backends and upstream servers.

use super::super::metric::{Metric, counter, gauge, histogram, named, words};
use super::SECONDS;

/// How a request to a backend ended.
const BACKEND_OUTCOMES: &[&str] = &[
    "ok",
    "denied",
    "status",
    "timeout",
    "connection",
    "invalid",
    "too_large",
    "circuit_open",
];

/// How a request to an upstream server ended.
const UPSTREAM_OUTCOMES: &[&str] = &[
    "ok",
    "connect",
    "timeout",
    "connection",
    "invalid",
    "too_large",
    "busy",
    "request_body",
    "stale",
    "body",
];

pub(super) const METRICS: &[Metric] = &[
    counter(
        "oneport_backend_requests_total",
        "Requests to backends, by endpoint and outcome.",
    )
    .by(&[named("endpoint"), words("outcome", BACKEND_OUTCOMES)]),
    gauge(
        "oneport_backend_circuit_open",
        "1 while the circuit breaker of the endpoint is open.",
    )
    .by(&[named("endpoint")]),
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
    )
    .by(&[named("upstream"), words("outcome", UPSTREAM_OUTCOMES)]),
    counter(
        "oneport_upstream_retries_total",
        "Requests that were sent again after a server could not be reached.",
    )
    .by(&[named("upstream")]),
    counter(
        "oneport_upstream_checks_total",
        "Health checks of upstream servers, by URL and outcome.",
    )
    .by(&[named("upstream"), words("outcome", &["ok", "failed"])]),
    counter(
        "oneport_upstream_lookups_total",
        "Look-ups of the names of upstream servers, by URL and outcome.",
    )
    .by(&[named("upstream"), words("outcome", &["ok", "failed"])]),
    gauge(
        "oneport_upstream_servers",
        "Servers of an upstream's URL: one for each address of its name.",
    )
    .by(&[named("upstream")]),
    gauge(
        "oneport_upstream_servers_up",
        "Servers of an upstream's URL that get requests.",
    )
    .by(&[named("upstream")]),
    gauge(
        "oneport_upstream_active",
        "Requests and tunnels that the servers of an upstream's URL serve.",
    )
    .by(&[named("upstream")]),
    histogram(
        "oneport_backend_request_duration_seconds",
        SECONDS,
        "Time of requests to backends, by endpoint.",
    )
    .by(&[named("endpoint")]),
    histogram(
        "oneport_upstream_request_duration_seconds",
        SECONDS,
        "Time to the head of the response of an upstream server, by URL.",
    )
    .by(&[named("upstream")]),
];

//! WebSockets: sockets, their messages and their ends.

use super::super::metric::{Metric, counter, gauge, histogram, named, words};
use super::ROUTE;

/// Buckets for the life of a socket, from a second to a day.
const SOCKET_SECONDS: &[f64] = &[1.0, 10.0, 60.0, 300.0, 900.0, 3_600.0, 14_400.0, 86_400.0];

pub(super) const METRICS: &[Metric] = &[
    gauge("oneport_websockets", "Open WebSockets, by route.").by(&[ROUTE]),
    counter(
        "oneport_websockets_closed_total",
        "Closed WebSockets, by route and cause.",
    )
    .by(&[ROUTE, named("cause")]),
    counter(
        "oneport_messages_received_total",
        "Messages from clients, by route.",
    )
    .by(&[ROUTE]),
    counter(
        "oneport_messages_dropped_total",
        "Messages to slow clients that were dropped, by route and policy.",
    )
    .by(&[
        ROUTE,
        words(
            "reason",
            &["close", "drop_newest", "drop_oldest", "conflate"],
        ),
    ]),
    gauge(
        "oneport_send_queue_bytes",
        "Bytes queued for WebSocket clients, without group events.",
    ),
    counter(
        "oneport_messages_sent_total",
        "Messages to clients, by route.",
    )
    .by(&[ROUTE]),
    counter(
        "oneport_websocket_received_bytes_total",
        "Bytes from the clients of WebSockets, by route.",
    )
    .by(&[ROUTE]),
    counter(
        "oneport_websocket_sent_bytes_total",
        "Bytes to the clients of WebSockets, by route.",
    )
    .by(&[ROUTE]),
    gauge(
        "oneport_websocket_queued_bytes",
        "Bytes queued for the clients of WebSockets, by route.",
    )
    .by(&[ROUTE]),
    gauge(
        "oneport_websocket_queued_bytes_max",
        "The most bytes that were queued for one client, by route.",
    )
    .by(&[ROUTE]),
    histogram(
        "oneport_websocket_duration_seconds",
        SOCKET_SECONDS,
        "Time from a WebSocket's opening to its end, by route.",
    )
    .by(&[ROUTE]),
];

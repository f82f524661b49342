//! WebSockets: sockets, their messages and their ends.

use super::super::metric::{Metric, counter, gauge, named, words};
use super::ROUTE;

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
];

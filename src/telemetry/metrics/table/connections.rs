//! Connections: what happens below HTTP.

use super::super::metric::{Metric, counter, gauge, histogram, named, words};
use super::SECONDS;

pub(super) const METRICS: &[Metric] = &[
    counter(
        "oneport_connections_accepted_total",
        "Connections accepted by the kernel, refused ones included.",
    ),
    counter(
        "oneport_connections_refused_total",
        "Connections over a limit, by reason.",
    )
    .by(&[words(
        "reason",
        &[
            "connections",
            "connections_per_ip",
            "connection_rate_per_ip",
        ],
    )]),
    counter(
        "oneport_accept_pauses_total",
        "Pauses of accepting because of connection_rate.",
    ),
    counter(
        "oneport_heads_refused_total",
        "Requests whose head exceeds a limit, by limit.",
    )
    .by(&[words("limit", &["uri_size", "header_count", "header_size"])]),
    counter(
        "oneport_http2_goaways_total",
        "HTTP/2 connections that were ended because of their client, by reason.",
    )
    .by(&[words(
        "reason",
        &[
            "enhance_your_calm",
            "protocol_error",
            "flow_control_error",
            "frame_size_error",
            "compression_error",
            "other",
        ],
    )]),
    counter(
        "oneport_http2_floods_total",
        "HTTP/2 connections that were ended because of too many frames without content, by type.",
    )
    .by(&[words(
        "frame",
        &[
            "data",
            "priority",
            "rst_stream",
            "settings",
            "ping",
            "window_update",
            "other",
        ],
    )]),
    counter(
        "oneport_http2_resets_total",
        "HTTP/2 streams that were reset, by direction and reason.",
    )
    .by(&[
        words("direction", &["received", "sent"]),
        words(
            "reason",
            &[
                "no_error",
                "protocol_error",
                "internal_error",
                "flow_control_error",
                "stream_closed",
                "refused_stream",
                "cancel",
                "enhance_your_calm",
                "other",
            ],
        ),
    ]),
    gauge(
        "oneport_http2_streams",
        "Open streams over HTTP/2 whose response is not complete.",
    ),
    gauge(
        "oneport_connection_phases",
        "Open connections that speak HTTP, by phase.",
    )
    .by(&[words(
        "phase",
        &["handshake", "head", "body", "response", "idle", "closing"],
    )]),
    gauge("oneport_limit", "Limits of the server, by their key.").by(&[words(
        "limit",
        &[
            "connections",
            "connections_per_ip",
            "connection_rate",
            "connection_rate_per_ip",
            "header_size",
            "uri_size",
            "header_count",
            "http2_streams",
            "body_size",
            "send_queue_total",
            "file_cache",
            "min_rate",
            "groups_per_socket",
            "groups_per_ip",
        ],
    )]),
    gauge(
        "oneport_connections",
        "Open connections that speak HTTP, by protocol and security.",
    )
    .by(&[
        words("protocol", &["none", "http1", "http2"]),
        words("security", &["plain", "tls"]),
    ]),
    counter(
        "oneport_tls_handshakes_total",
        "TLS handshakes, by outcome and version.",
    )
    .by(&[
        words(
            "outcome",
            &[
                "full",
                "resumed",
                "challenge",
                "failed",
                "gone",
                "timed_out",
            ],
        ),
        words("version", &["TLSv1.2", "TLSv1.3", "TLS", "none"]),
    ]),
    gauge(
        "oneport_tls_certificate_expiry_seconds",
        "Seconds until a served certificate expires, by its first name.",
    )
    .by(&[named("name")]),
    counter(
        "oneport_tls_certificate_reloads_total",
        "Changed certificate files, by outcome.",
    )
    .by(&[words("outcome", &["replaced", "refused"])]),
    counter(
        "oneport_acme_orders_total",
        "Orders of certificates at the ACME directory, by outcome.",
    )
    .by(&[words("outcome", &["issued", "failed", "not_stored"])]),
    counter(
        "oneport_proxy_headers_total",
        "Headers of the PROXY protocol from trusted proxies, by outcome.",
    )
    .by(&[words("outcome", &["client", "local", "refused"])]),
    counter(
        "oneport_streams_stalled_total",
        "HTTP/2 streams reset because their client gave no window.",
    ),
    counter(
        "oneport_slow_clients_total",
        "Bodies and responses ended because the client was too slow, by direction.",
    )
    .by(&[words("direction", &["request", "response"])]),
    histogram(
        "oneport_tls_handshake_duration_seconds",
        SECONDS,
        "Time of successful TLS handshakes, by outcome.",
    )
    .by(&[words("outcome", &["full", "resumed"])]),
];

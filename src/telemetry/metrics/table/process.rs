//! Process: the server itself.

use super::super::metric::{Metric, counter, gauge, words};

pub(super) const METRICS: &[Metric] = &[
    counter(
        "oneport_reloads_total",
        "Reloads of the configuration, by outcome.",
    )
    .by(&[words("outcome", &["replaced", "refused"])]),
    gauge(
        "oneport_config_last_reload_successful",
        "Whether the last reload was applied.",
    ),
    gauge(
        "oneport_config_last_reload_success_timestamp_seconds",
        "When the configuration in effect was applied.",
    ),
    gauge(
        "oneport_config_hash",
        "48 bits of the SHA-256 of the configuration in effect.",
    ),
    gauge(
        "oneport_config_restart_needed",
        "Changed keys that take effect at the next start.",
    ),
    counter(
        "oneport_panics_total",
        "Panics, each of which ended one request or one WebSocket.",
    ),
    counter(
        "oneport_log_lines_dropped_total",
        "Log lines dropped because the log could not be written, or not fast enough.",
    ),
    gauge("oneport_tasks", "Tasks that are alive."),
];

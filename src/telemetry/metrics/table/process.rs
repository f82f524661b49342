//! Process: the server itself.

use super::super::metric::{Metric, counter, gauge, words};

pub(super) const METRICS: &[Metric] = &[
    counter(
        "oneport_reloads_total",
        "Reloads of the configuration, by outcome.",
    )
    .by(&[words("outcome", &["replaced", "refused"])]),
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

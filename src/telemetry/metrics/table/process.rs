//! Process: the server itself.

use super::super::metric::{Metric, counter, gauge, histogram, named, words};

/// Buckets for how late a tick is.
const LAG_SECONDS: &[f64] = &[
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
];

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
        "oneport_restarts_failed_total",
        "Restarts whose new process did not start.",
    ),
    counter(
        "oneport_panics_total",
        "Panics, each of which ended one request or one WebSocket.",
    ),
    counter(
        "oneport_log_lines_dropped_total",
        "Log lines dropped because the log could not be written, or not fast enough.",
    ),
    counter("oneport_spans_total", "Spans of traces, by outcome.").by(&[words(
        "outcome",
        &["exported", "dropped", "failed", "rejected"],
    )]),
    gauge("oneport_tasks", "Tasks that are alive."),
    gauge(
        "oneport_build_info",
        "1, by the version of the source and the compiler, and the target of the build.",
    )
    .by(&[
        named("version"),
        named("revision"),
        named("rustc"),
        named("target"),
    ]),
    gauge("oneport_runtime_workers", "Threads that run tasks."),
    gauge(
        "oneport_runtime_tasks",
        "Tasks of the runtime that are alive.",
    ),
    gauge(
        "oneport_runtime_queue_depth",
        "Tasks that wait for any worker.",
    ),
    counter(
        "oneport_runtime_busy_seconds_total",
        "Seconds in which a worker was not idle.",
    )
    .by(&[named("worker")]),
    counter(
        "oneport_runtime_parks_total",
        "Times that a worker had nothing to do.",
    )
    .by(&[named("worker")]),
    counter(
        "process_cpu_seconds_total",
        "Seconds of CPU time in user and system mode.",
    ),
    gauge("process_threads", "Threads of the process."),
    gauge(
        "process_start_time_seconds",
        "When the process started, in seconds since 1970.",
    ),
    gauge("process_virtual_memory_bytes", "Virtual memory."),
    gauge(
        "process_virtual_memory_max_bytes",
        "The limit of virtual memory.",
    ),
    gauge("process_resident_memory_bytes", "Resident memory."),
    gauge("process_open_fds", "Open file descriptors."),
    gauge("process_max_fds", "The limit of open file descriptors."),
    counter(
        "process_network_receive_bytes_total",
        "Bytes that the network namespace of the process received over IP.",
    ),
    counter(
        "process_network_transmit_bytes_total",
        "Bytes that the network namespace of the process sent over IP.",
    ),
    histogram(
        "oneport_clock_lag_seconds",
        LAG_SECONDS,
        "How late the ticks of the clock are, every 100 ms.",
    ),
];

//! Channels: groups, histories and Redis.

use super::super::metric::{Metric, counter, gauge, histogram, words};
use super::SECONDS;

/// Why a delivery was dropped.
const EVENT_DROPS: &[&str] = &[
    "mailbox_full",
    "group_full",
    "expired",
    "redis_away",
    "redis_queue_full",
    "redis_refused",
    "channel_full",
    "malformed",
    "undecryptable",
    "oversized",
    "no_reader",
];

pub(super) const METRICS: &[Metric] = &[
    counter(
        "oneport_events_dropped_total",
        "Deliveries of channel layer events that were dropped, by reason.",
    )
    .by(&[words("reason", EVENT_DROPS)]),
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
        "oneport_groups_refused_total",
        "Groups that sockets and event streams could not join, by limit.",
    )
    .by(&[words("limit", &["groups_per_socket", "groups_per_ip"])]),
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
    histogram(
        "oneport_group_delivery_duration_seconds",
        SECONDS,
        "Time from the sending of an event to the last member of its group in this process.",
    ),
    histogram(
        "oneport_layer_delivery_duration_seconds",
        SECONDS,
        "Time of an event through Redis and back to the process that sent it, of one event at a time.",
    ),
    histogram(
        "oneport_layer_round_trip_duration_seconds",
        SECONDS,
        "Time of a pipeline of commands to Redis.",
    ),
    gauge(
        "oneport_layer_queue_bytes",
        "Bytes of commands that Redis has not answered yet.",
    ),
];

//! Channels: groups, histories and Redis.

use super::super::metric::{Metric, counter, gauge, words};

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
];

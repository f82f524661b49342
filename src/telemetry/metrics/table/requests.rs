//! Requests: HTTP, handshakes, and what views and middleware need for them.

use super::super::metric::{Metric, counter, gauge, histogram, words};
use super::{METHOD, ROUTE, SECONDS, STATUS, STORE};

/// Buckets for the time in which a client takes a body, to half an hour.
const BODY_SECONDS: &[f64] = &[0.005, 0.025, 0.1, 0.5, 1.0, 5.0, 10.0, 60.0, 300.0, 1_800.0];

pub(super) const METRICS: &[Metric] = &[
    gauge("oneport_event_streams", "Open streams of the view events."),
    counter("oneport_uncompressed_total", "Responses that compress sent as they are, because the encoders of others took all their memory."),
    counter("oneport_file_cache_hits_total", "Requests of the view static whose file was in the cache."),
    counter("oneport_file_cache_misses_total", "Requests of the view static whose file was looked up and read."),
    gauge("oneport_file_cache_bytes", "Bytes of small files in memory."),
    counter("oneport_file_timeouts_total", "Requests and bodies of the view static that a file system kept waiting, by what they waited for.").by(&[words("waited_for", &["thread", "read"])]),
    counter("oneport_requests_abandoned_total", "Requests whose client disconnected while their view ran, by outcome.").by(&[words("outcome", &["finished", "dropped"])]),
    counter("oneport_ambiguous_paths_total", "Paths that an upstream could take for another route's."),
    counter("oneport_proxy_aborts_total", "Proxied responses that ended early, by cause.").by(&[words("cause", &["upstream", "client"])]),
    counter("oneport_requests_total", "HTTP responses, by route and class of status.").by(&[ROUTE, METHOD, STATUS]),
    counter("oneport_handshakes_total", "WebSocket handshakes, by route and class of status.").by(&[ROUTE, STATUS]),
    counter("oneport_rate_limited_total", "Requests, handshakes and messages over a rate_limit, by route and kind of key.").by(&[ROUTE, words("by", &["address", "user", "header", "param", "connection"])]),
    counter("oneport_rate_limit_evictions_total", "Counters of a rate_limit that were in use and made room for others, by route and kind of key.").by(&[ROUTE, words("by", &["address", "user", "header", "param"])]),
    counter("oneport_logins_total", "Login attempts, by outcome.").by(&[words("outcome", &["ok", "wrong", "limited"])]),
    counter("oneport_store_errors_total", "Queries that a store did not answer, by store.").by(&[STORE]),
    counter("oneport_sessions_dropped_total", "Sessions that the memory store had no room for."),
    histogram("oneport_request_duration_seconds", SECONDS, "Time from a request's complete head to the head of its response, by route.").by(&[ROUTE]),
    histogram("oneport_handshake_duration_seconds", SECONDS, "Time from a WebSocket handshake's complete head to its response, by route.").by(&[ROUTE]),
    gauge("oneport_requests_active", "HTTP requests whose response has not ended, without those answered at once, by route.").by(&[ROUTE]),
    counter("oneport_request_body_bytes_total", "Bytes of request bodies, by route.").by(&[ROUTE]),
    counter("oneport_response_body_bytes_total", "Bytes of response bodies, by route.").by(&[ROUTE]),
    histogram("oneport_response_body_duration_seconds", BODY_SECONDS, "Time from the head of a streamed response to the end of its body, by route.").by(&[ROUTE]),
    gauge("oneport_store_queries_active", "Queries to a store that are under way, by store.").by(&[STORE]),
    histogram("oneport_store_query_duration_seconds", SECONDS, "Time of queries to a store, by store and outcome.").by(&[STORE, words("outcome", &["ok", "failed"])]),
];

//! Access log: the line of a socket, and its place among the last ends.

use http::Version;

use super::close::{Cause, Ending};
use super::inspection::rule;
use super::socket_handle::SocketHandle;
use crate::telemetry::access_log::{self, AccessKind, SocketEnd};
use crate::telemetry::recent_ends::{End, EndKind};
use crate::telemetry::trace::{ScopeSpan, Span};
use crate::timestamp::Timestamp;

/// The counts of a socket's line.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counts {
    pub(super) messages: u64,
    pub(super) bytes_in: u64,
    pub(super) bytes_out: u64,
    /// `None` for a tunnel.
    pub(super) dropped: Option<u64>,
    /// The codes in the close frames of a tunnel's sides.
    pub(super) client_code: Option<u16>,
    pub(super) upstream_code: Option<u16>,
}

/// Counts the end of a socket, keeps it among the last ones, and writes its line.
pub(super) fn log_end(handle: &SocketHandle, ending: &Ending, counts: &Counts) {
    let (scope, route) = (handle.scope(), handle.route());
    route.count_end(handle, ending.cause);
    let recent_ends = &handle.services().recent_ends;
    if recent_ends.are_kept() {
        recent_ends.push(recent_end(handle, ending, counts.messages));
    }
    if let Some(span) = ScopeSpan::of(&scope.extensions).and_then(ScopeSpan::take) {
        end_span(span, ending, counts);
    }
    let rule = route.settings.access_log;
    let has_failed = ending.cause.is_failure();
    if !access_log::is_on() || !rule.includes(|| scope.request_id.random(), has_failed) {
        return;
    }
    let mut record = scope.access_record(AccessKind::Websocket, &route.label);
    record.status = match scope.http_version {
        Version::HTTP_2 => 200, // RFC 8441 §5
        _ => 101,
    };
    record.bytes = Some(counts.bytes_out);
    record.seconds = Some(handle.age().as_secs_f64());
    record.end = Some(SocketEnd {
        code: ending.code.get(),
        client_code: counts.client_code,
        upstream_code: counts.upstream_code,
        cause: ending.cause.as_str(),
        reason: &ending.reason,
        messages: counts.messages,
        bytes_in: counts.bytes_in,
        bytes_out: counts.bytes_out,
        dropped: counts.dropped,
    });
    access_log::write(&record);
}

#[cold]
fn recent_end(handle: &SocketHandle, ending: &Ending, messages: u64) -> End {
    let scope = handle.scope();
    End {
        number: 0,
        at: Timestamp::now().to_string(),
        kind: match ending.cause {
            Cause::ClientClose
            | Cause::ClientGone
            | Cause::ConsumerClose
            | Cause::UpstreamClose
            | Cause::Lifetime
            | Cause::ServerDrain
            | Cause::Reload
            | Cause::Restart
            | Cause::SessionEnded
            | Cause::Disconnected => EndKind::Closed,
            _ => EndKind::Failed,
        },
        table: "websocket".to_owned(),
        route: handle.route().label.to_string(),
        path: scope.path().into_owned(),
        client: scope.client.map(|client| client.to_string()),
        user: scope.user.as_ref().map(|user| user.name.clone()),
        code: ending.code.get(),
        cause: ending.cause.as_str().to_owned(),
        reason: ending.reason.to_string(),
        rule: rule(
            ending.cause,
            &handle.route().settings,
            &handle.services().group_limits,
        ),
        id: handle.connection_id(),
        seconds: Some(handle.age().as_secs_f64()),
        messages: Some(messages),
        process: String::new(),
    }
}

/// Sets how a socket has ended, and ends its span.
#[cold]
fn end_span(mut span: Span, ending: &Ending, counts: &Counts) {
    span.set("oneport.websocket.close_code", ending.code.get());
    span.set("oneport.websocket.cause", ending.cause.as_str());
    if !ending.reason.is_empty() {
        span.set("oneport.websocket.reason", &*ending.reason);
    }
    span.set("oneport.websocket.messages_received", counts.messages);
    span.set("oneport.websocket.bytes_received", counts.bytes_in);
    span.set("oneport.websocket.bytes_sent", counts.bytes_out);
    span.set_some("oneport.websocket.messages_dropped", counts.dropped);
    if ending.cause.is_failure() {
        span.fail(ending.cause.as_str());
    }
}

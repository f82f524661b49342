//! Inspection: everything about one socket, as it is shown to operators.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value, json};

use super::close::Cause;
use super::settings::SocketSettings;
use super::socket_handle::SocketHandle;
use crate::channels::{ConnectionInfo, GroupLimit, GroupLimits};
use crate::scope::Scope;

/// How long a socket's task may take to report. A task that is not busy takes microseconds.
const REPORT_MAX: Duration = Duration::from_millis(250);

/// The longest value of a header field that is shown, and the most fields.
const VALUE_BYTES_MAX: usize = 512;
const FIELDS_MAX: usize = 64;

/// The header fields whose values are shown. The values of all others are hidden: they may hold a
/// secret, such as a cookie, a token, or a subprotocol that carries one.
const SHOWN_FIELDS: [&str; 30] = [
    "accept",
    "accept-encoding",
    "accept-language",
    "cache-control",
    "connection",
    "dnt",
    "forwarded",
    "host",
    "origin",
    "pragma",
    "sec-ch-ua",
    "sec-ch-ua-mobile",
    "sec-ch-ua-platform",
    "sec-fetch-dest",
    "sec-fetch-mode",
    "sec-fetch-site",
    "sec-websocket-extensions",
    "sec-websocket-version",
    "traceparent",
    "tracestate",
    "upgrade",
    "user-agent",
    "via",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-port",
    "x-forwarded-prefix",
    "x-forwarded-proto",
    "x-real-ip",
    "x-request-id",
];

/// The facts that only a socket's own task knows.
#[derive(Clone, Copy, Debug)]
pub(super) struct SocketReport {
    /// The number of messages that the client sent.
    pub(super) messages: u64,
    pub(super) bytes_received: u64,
    /// How long no byte has arrived.
    pub(super) silent: Duration,
    /// How long a ping has been waiting for its reply.
    pub(super) pinged: Option<Duration>,
    /// Whether input is read, or waits for the consumer.
    pub(super) is_reading: bool,
}

/// Returns everything about a socket. What its task does not report in time is null.
pub(super) async fn inspect(handle: &Arc<SocketHandle>, info: ConnectionInfo) -> Value {
    let asked = handle.request_report();
    let report = tokio::time::timeout(REPORT_MAX, asked).await;
    let report = report.ok().and_then(Result::ok).map(|report| {
        json!({
            "messages": report.messages,
            "bytes_received": report.bytes_received,
            "silent": report.silent.as_secs_f64(),
            "pinged": report.pinged.map(|since| since.as_secs_f64()),
            "reading": report.is_reading,
        })
    });
    let scope = handle.scope();
    let settings = &handle.route().settings;
    let mut shown = match serde_json::to_value(info) {
        Ok(Value::Object(shown)) => shown,
        _ => Map::new(),
    };
    let more = json!({
        "report": report,
        "age": handle.age().as_secs_f64(),
        "scheme": scope.scheme(),
        "http_version": format!("{:?}", scope.http_version),
        "tls": scope.tls().map(|tls| json!({
            "version": tls.version(),
            "server_name": tls.server_name,
            "client_certificate": tls.client_certificate.as_ref().map(|found| &found.subject),
        })),
        "query": query_names(scope),
        "params": scope.url_route.params.iter().collect::<Vec<_>>(),
        "headers": fields(scope),
        "request_id": scope.request_id.to_string(),
        "staff": scope.user.as_ref().is_some_and(|user| user.is_staff),
        "compression": handle.deflate().is_some(),
        "send_queue": settings.send_queue,
        "slow_client": settings.slow_client.as_str(),
    });
    if let Value::Object(more) = more {
        shown.extend(more);
    }
    Value::Object(shown)
}

/// Returns the names of the query's parameters. Their values may be tokens.
fn query_names(scope: &Scope) -> Vec<String> {
    let names = scope.query_pairs().map(|(name, _)| name);
    names.take(FIELDS_MAX).collect()
}

/// Returns the header fields; the value of one that may be secret is null.
fn fields(scope: &Scope) -> Vec<(String, Option<String>)> {
    let shown = |name: &str, value: &[u8]| {
        let value = &value[..value.len().min(VALUE_BYTES_MAX)];
        let is_shown = SHOWN_FIELDS.contains(&name);
        is_shown.then(|| String::from_utf8_lossy(value).into_owned())
    };
    let fields = scope.headers.iter();
    let fields = fields.map(|(name, value)| (name.to_owned(), shown(name, value)));
    fields.take(FIELDS_MAX).collect()
}

/// Returns the key of the timer or limit behind a cause, with its value on the route.
pub(super) fn rule(
    cause: Cause,
    settings: &SocketSettings,
    group_limits: &GroupLimits,
) -> Option<String> {
    let groups = |limit: GroupLimit| Some(format!("{} = {}", limit.key(), group_limits.max(limit)));
    let seconds = |key: &str, value: Duration| Some(format!("{key} = {}s", value.as_secs_f64()));
    let bytes = |key: &str, value: usize| Some(format!("{key} = {value} B"));
    match cause {
        Cause::TooBig => bytes("max_message", settings.limits.message_bytes_max),
        Cause::TooManyFragments => {
            Some(format!("max_fragments = {}", settings.limits.fragments_max))
        }
        Cause::TooManyGroups => groups(GroupLimit::PerSocket),
        Cause::TooManyGroupsOfAddress => groups(GroupLimit::PerIp),
        Cause::SlowClient => bytes("send_queue", settings.send_queue),
        Cause::WriteTimeout => seconds("write_timeout", settings.write_timeout),
        Cause::PingTimeout => seconds("pong_timeout", settings.pong_timeout),
        Cause::IdleTimeout => seconds("idle_timeout", settings.idle_timeout),
        Cause::FirstMessageTimeout => {
            seconds("first_message_timeout", settings.first_message_timeout)
        }
        Cause::Lifetime => seconds("max_lifetime", settings.max_lifetime),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::LimitsConfig;
    use crate::net::ClientLimit;
    use crate::scope::ScopeType;

    #[test]
    fn values_that_may_be_secret_are_hidden() {
        let target = "/ws/?access_token=abc&x=1".parse().unwrap();
        let mut scope = Scope::new(ScopeType::Websocket, http::Method::GET, target);
        let headers = scope.headers.map_mut();
        for (name, value) in [
            ("cookie", "sessionid=abc"),
            ("authorization", "Bearer abc"),
            ("sec-websocket-protocol", "bearer, abc"),
            ("x-api-key", "abc"),
            ("referer", "https://a/?token=abc"),
            ("user-agent", "<script>"),
        ] {
            headers.append(name, value.parse().unwrap());
        }
        let shown = fields(&scope);
        assert_eq!(shown.len(), 6);
        let values: Vec<&String> = shown
            .iter()
            .filter_map(|(_, value)| value.as_ref())
            .collect();
        assert_eq!(values, ["<script>"]);
        assert_eq!(query_names(&scope), ["access_token", "x"]);
    }

    #[test]
    fn shown_fields_are_sorted_and_in_lower_case() {
        assert!(SHOWN_FIELDS.is_sorted());
        let is_lower = |name: &&str| name.bytes().all(|byte| !byte.is_ascii_uppercase());
        assert!(SHOWN_FIELDS.iter().all(is_lower));
    }

    #[test]
    fn causes_of_timers_name_their_keys() {
        let settings = SocketSettings::default();
        let group_limits = GroupLimits::new(&LimitsConfig::default(), ClientLimit::new(1));
        let rule = |cause| rule(cause, &settings, &group_limits);
        assert_eq!(
            rule(Cause::TooManyGroups).as_deref(),
            Some("groups_per_socket = 1000")
        );
        assert_eq!(
            rule(Cause::WriteTimeout).as_deref(),
            Some("write_timeout = 5s")
        );
        assert_eq!(
            rule(Cause::SlowClient).as_deref(),
            Some("send_queue = 1048576 B")
        );
        assert_eq!(rule(Cause::ClientClose), None);
    }
}

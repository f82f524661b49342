//! Unknown words: the message for an unknown key or value, and its probable meaning.

use crate::config::problems::problem::Problem;
use crate::config::problems::suggest::nearest;
use crate::config::read::source_location::SourceLocation;
use crate::config::read::value::Value;

/// Longer lists of known words are cut to this length.
const KNOWN_SHOWN_MAX: usize = 12;

/// Words from the configuration of other servers, with Oneport's. The first that the table knows is
/// suggested.
const SYNONYMS: [(&[&str], &[&str]); 29] = [
    (&["room", "channel", "topic", "name"], &["group", "groups"]),
    (
        &[
            "database", "db", "url", "dsn", "backend", "engine", "redis", "store", "storage",
            "host",
        ],
        &["store", "users", "backend"],
    ),
    (
        &[
            "port",
            "ports",
            "host",
            "hostname",
            "listen",
            "listener",
            "address",
            "addr",
            "addresses",
            "interface",
            "ip",
            "socket",
        ],
        &["bind"],
    ),
    (
        &[
            "hosts",
            "server_name",
            "domain",
            "domains",
            "hostname",
            "virtual_host",
            "vhost",
        ],
        &["host", "allowed_hosts"],
    ),
    (
        &["proxies", "forwarded_allow_ips", "real_ip_from"],
        &["trusted_proxies"],
    ),
    (&["threads", "processes", "worker_processes"], &["workers"]),
    (
        &["prefix", "base_path", "base_url", "script_name", "mount"],
        &["root_path"],
    ),
    (&["secret", "signing_key"], &["secret_key", "secret"]),
    (&["max_connections", "connection_limit"], &["connections"]),
    (
        &[
            "body",
            "max_body",
            "max_body_size",
            "client_max_body_size",
            "body_limit",
        ],
        &["body_size"],
    ),
    (
        &["header", "max_headers", "max_header_size"],
        &["header_size", "headers"],
    ),
    (
        &[
            "url", "uri", "route", "pattern", "location", "match", "rule", "endpoint",
        ],
        &["path", "url"],
    ),
    (&["re_path", "regexp", "re"], &["regex"]),
    (
        &[
            "handler",
            "target",
            "controller",
            "action",
            "to",
            "service",
            "app",
            "upstream",
            "proxy_pass",
            "type",
        ],
        &["view", "consumer"],
    ),
    (&["verb", "verbs", "method"], &["methods"]),
    (&["protocol", "protocols", "subprotocol"], &["subprotocols"]),
    (
        &["config", "settings", "args", "kwargs", "params"],
        &["options", "defaults", "context"],
    ),
    (
        &["middlewares", "guards", "filters", "plugins"],
        &["middleware"],
    ),
    (
        &["origins", "allow_origin", "allow_origins", "cors_origins"],
        &["allowed_origins"],
    ),
    (
        &["timeout", "read_timeout", "deadline"],
        &["request_timeout", "request", "idle_timeout"],
    ),
    (
        &["ping", "heartbeat", "keepalive", "keep_alive_interval"],
        &["ping_interval", "heartbeat"],
    ),
    (
        &[
            "max_size",
            "max_message_size",
            "message_size",
            "max_payload",
            "max_frame_size",
        ],
        &["max_message"],
    ),
    (
        &["permessage_deflate", "deflate", "compress", "gzip"],
        &["compression"],
    ),
    (
        &[
            "root",
            "alias",
            "directory",
            "folder",
            "path",
            "document_root",
        ],
        &["dir"],
    ),
    (
        &[
            "url",
            "location",
            "target",
            "redirect",
            "destination",
            "href",
        ],
        &["to", "redirect", "url"],
    ),
    (&["code", "status_code"], &["status"]),
    (&["text", "content", "html", "message"], &["body"]),
    (&["file", "name", "page", "filename"], &["template"]),
    (
        &["ttl", "lifetime", "age", "expires", "timeout", "cookie_age"],
        &["max_age", "expiry"],
    ),
];

/// Words that mean TLS.
const TLS: [&str; 10] = [
    "tls",
    "ssl",
    "https",
    "certificate",
    "certificates",
    "cert",
    "certfile",
    "ssl_certificate",
    "keyfile",
    "acme",
];

/// Keys that belong in the other table, with advice.
const OTHER_TABLE: [(&str, &str, &str); 3] = [
    ("view", "consumer", "a WebSocket route has a \"consumer\""),
    ("consumer", "view", "an HTTP route has a \"view\""),
    ("methods", "consumer", "a WebSocket route has no methods"),
];

/// Keys that belong in a route's `options`.
const OPTIONS: [&str; 14] = [
    "group",
    "groups",
    "history",
    "history_expiry",
    "recover",
    "presence",
    "include_sender",
    "template",
    "context",
    "dir",
    "status",
    "body",
    "tokens",
    "keep_query",
];

/// Keys of a section that are often written outside of it.
const SECTIONS: [(&str, &[&str]); 8] = [
    (
        "[server]",
        &[
            "bind",
            "allowed_hosts",
            "trusted_proxies",
            "workers",
            "root_path",
            "secret_key",
            "limits",
            "timeouts",
        ],
    ),
    (
        "[session]",
        &["store", "cookie", "max_age", "secure", "same_site"],
    ),
    ("[auth]", &["users", "login_url", "bearer", "forward"]),
    ("[channel_layer]", &["backend", "capacity", "expiry"]),
    ("[log]", &["level", "access", "format"]),
    ("[tracing]", &["otlp", "sample", "service_name"]),
    ("[templates]", &["dir"]),
    ("[http] or [websocket]", &["middleware", "allowed_origins"]),
];

/// Returns the message `unknown key "x"` with advice.
pub(in crate::config) fn unknown_key(
    table: &SourceLocation,
    key: &str,
    known: &[&'static str],
) -> Problem {
    let location = table.key(key).of_key();
    let nearest = nearest(key, known.iter().copied());
    let elsewhere = match nearest {
        Some(_) => None,
        None => elsewhere(table, key, known),
    };
    let meant = nearest.or_else(|| synonym(key, known));
    let message = format!("unknown key {key:?}");
    let problem = match (elsewhere, meant) {
        (Some(hint), _) => Problem::error(location, message)
            .with_hint(hint)
            .with_meant(meant_elsewhere(table, key, known)),
        (None, None) => Problem::error(location, format!("{message}; {}", list(known))),
        (None, Some("bind")) if nearest.is_none() => {
            Problem::error(location, message).with_hint(bind_hint(table, key))
        }
        (None, Some(meant)) => Problem::error(location, message)
            .with_hint(format!("did you mean {meant:?}?"))
            .with_meant(Some(table.key(meant))),
    };
    problem.with_known(known)
}

/// Returns `known: a, b, c`, cut if it is long.
pub(in crate::config) fn list(known: &[&str]) -> String {
    match known {
        [] => "no key is known".to_owned(),
        _ if known.len() <= KNOWN_SHOWN_MAX + 1 => format!("known: {}", known.join(", ")),
        _ => {
            let shown = known.get(..KNOWN_SHOWN_MAX).unwrap_or(known);
            let left = known.len() - shown.len();
            format!("known: {} and {left} more", shown.join(", "))
        }
    }
}

fn synonym(key: &str, known: &[&'static str]) -> Option<&'static str> {
    let key = key.to_lowercase().replace('-', "_");
    let candidates = SYNONYMS
        .iter()
        .filter(|(words, _)| words.contains(&key.as_str()))
        .flat_map(|(_, meant)| meant.iter());
    candidates
        .copied()
        .find(|candidate| known.contains(candidate))
}

/// Returns where a value belongs that is written under a key of another table. That place is not
/// missing its value.
fn meant_elsewhere(
    table: &SourceLocation,
    key: &str,
    known: &[&'static str],
) -> Option<SourceLocation> {
    match key {
        "view" | "consumer" => OTHER_TABLE
            .iter()
            .find(|(wrong, right, _)| *wrong == key && known.contains(right))
            .map(|(_, right, _)| table.key(right)),
        _ if known.contains(&"options") && OPTIONS.contains(&key) => {
            Some(table.key("options").key(key))
        }
        _ => None,
    }
}

/// Returns advice for a key that another table knows, or that is not implemented yet.
fn elsewhere(table: &SourceLocation, key: &str, known: &[&'static str]) -> Option<String> {
    let other = OTHER_TABLE
        .iter()
        .find(|(wrong, right, _)| *wrong == key && known.contains(right));
    if let Some((_, _, sentence)) = other {
        return Some((*sentence).to_owned());
    }
    let is_route = known.contains(&"options");
    if is_route && OPTIONS.contains(&key) {
        return Some(format!("it belongs in options = {{ {key} = ... }}"));
    }
    let path = table.path();
    let is_tls = TLS.contains(&key) || key.starts_with("tls_") || key.starts_with("ssl_");
    if is_tls && matches!(path, "" | "server" | "http" | "websocket") {
        let sentence = "TLS is not built in yet: terminate it at a proxy in front, and name that in trusted_proxies";
        return Some(sentence.to_owned());
    }
    if path.is_empty() || path == "server" {
        let hint = match key {
            "logging" | "logger" | "logs" => Some("did you mean [log]?"),
            "log_level" | "loglevel" => Some("write level = \"...\" in [log]"),
            "redis" | "redis_url" => {
                Some("write backend = \"redis://127.0.0.1:6379\" in [channel_layer]")
            }
            _ => None,
        };
        if let Some(hint) = hint {
            return Some(hint.to_owned());
        }
    }
    let section = SECTIONS.iter().find(|(_, keys)| keys.contains(&key));
    let section = section.map(|(section, _)| format!("it belongs in {section}"));
    if !path.is_empty() {
        let is_settings = is_route || matches!(path, "http" | "websocket");
        return section.filter(|_| is_settings && synonym(key, known).is_none());
    }
    match key {
        "route" | "routes" => {
            Some("a route is an [[http.route]] or a [[websocket.route]]".to_owned())
        }
        "ws" | "wss" => Some("did you mean [websocket]?".to_owned()),
        _ if synonym(key, &["bind"]).is_some() => {
            Some(format!("in [server], {}", bind_hint(table, key)))
        }
        _ => section,
    }
}

/// Returns how to write an address that was given as a port or a host.
fn bind_hint(table: &SourceLocation, key: &str) -> String {
    let host_or_port = table.key(key);
    let value = host_or_port.node().map(|node| &node.value);
    let address = match value {
        Some(Value::Integer(port)) => format!("127.0.0.1:{port}"),
        Some(Value::String(text)) if text.parse::<u16>().is_ok() => format!("127.0.0.1:{text}"),
        Some(Value::String(text)) if text.parse::<crate::net::Bind>().is_ok() => text.clone(),
        Some(Value::String(text)) if format!("{text}:8000").parse::<crate::net::Bind>().is_ok() => {
            let port = match table.key("port").node().map(|node| &node.value) {
                Some(Value::Integer(port)) => port.to_string(),
                _ => "8000".to_owned(),
            };
            format!("{text}:{port}")
        }
        _ => "127.0.0.1:8000".to_owned(),
    };
    format!("write bind = [{address:?}]")
}

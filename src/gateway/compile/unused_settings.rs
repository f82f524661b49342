//! Unused settings: warns about settings whose middleware is not in the list of their route.

use super::compiler::Compiler;
use crate::config::{
    CompressConfig, CorsConfig, HeaderFields, MissingOrigin, Problem, SocketRateLimit,
    SourceLocation,
};

/// Each setting and the middleware that reads it. The hint names the first.
const READERS: [(&str, &[&str]); 7] = [
    ("headers", &["headers"]),
    ("rate_limit", &["rate_limit"]),
    ("cors", &["cors"]),
    ("compress", &["compress"]),
    ("allowed_origins", &["origin", "cors", "csrf"]),
    ("missing_origin", &["origin"]),
    ("token_in_query", &["auth"]),
];

/// A section or a route: its list of middleware, and the settings that are not the default.
struct Listed<'c> {
    location: &'c SourceLocation,
    middleware: &'c [String],
    /// Whether the list could be read.
    is_known: bool,
    set: Vec<&'static str>,
}

impl Listed<'_> {
    fn reads(&self, readers: &[&str]) -> bool {
        !self.is_known
            || self
                .middleware
                .iter()
                .any(|name| readers.contains(&name.as_str()))
    }
}

impl Compiler<'_> {
    /// Warns about settings without their middleware: about a route's own setting at the route, and
    /// about a section's setting only if no route that inherits it has the middleware.
    pub(super) fn check_unused_settings(&mut self) {
        let (config, error_locations) = (self.config, self.error_locations);
        let defaults = &config.http;
        let http = std::iter::once(defaults)
            .chain(config.http_routes.iter().map(|route| &route.settings))
            .map(|settings| Listed {
                location: &settings.location,
                middleware: &settings.middleware,
                is_known: !settings.is_invalid("middleware", error_locations),
                set: set_keys(
                    !settings.rate_limit.is_empty(),
                    &settings.headers,
                    Some(&settings.cors),
                    Some(&settings.compress),
                    &settings.allowed_origins,
                    settings.missing_origin,
                    settings.token_in_query,
                ),
            });
        let http: Vec<_> = http.collect();
        let defaults = &config.websocket;
        let websocket = std::iter::once(defaults)
            .chain(config.websocket_routes.iter().map(|route| &route.settings))
            .map(|settings| Listed {
                location: &settings.location,
                middleware: &settings.middleware,
                is_known: !settings.is_invalid("middleware", error_locations),
                set: set_keys(
                    counts_handshakes(&settings.rate_limit),
                    &settings.headers,
                    None,
                    None,
                    &settings.allowed_origins,
                    settings.missing_origin,
                    settings.token_in_query,
                ),
            });
        let websocket: Vec<_> = websocket.collect();
        for (key, readers) in READERS {
            self.check_key(&http, key, readers);
            self.check_key(&websocket, key, readers);
        }
    }

    /// Checks one setting of a table. The first of `listed` is the section.
    fn check_key(&mut self, listed: &[Listed<'_>], key: &'static str, readers: &[&str]) {
        let Some((section, routes)) = listed.split_first() else {
            return;
        };
        let is_own = |route: &Listed<'_>| route.location.key(key).is_written();
        // `is_own` looks the key up in the file, which costs more than all other conditions, so it
        // comes last.
        for route in routes {
            if route.set.contains(&key) && !route.reads(readers) && is_own(route) {
                self.problems
                    .push(unused(route.location.key(key), key, readers));
            }
        }
        if !section.set.contains(&key) {
            return;
        }
        let mut heirs = routes.iter().filter(|route| !is_own(route)).peekable();
        // Responses without a route have the fields of `[http]` too.
        let is_read_aside = key == "headers" && section.reads(readers);
        if heirs.peek().is_some() && !is_read_aside && !heirs.any(|route| route.reads(readers)) {
            self.problems
                .push(unused(section.location.key(key), key, readers));
        }
    }
}

/// Returns whether a limit is the middleware's; limits of messages need none.
fn counts_handshakes(limits: &[SocketRateLimit]) -> bool {
    let mut limits = limits.iter();
    limits.any(|limit| matches!(limit, SocketRateLimit::Handshakes(_)))
}

fn set_keys(
    has_rate_limit: bool,
    headers: &HeaderFields,
    cors: Option<&CorsConfig>,
    compress: Option<&CompressConfig>,
    allowed_origins: &[String],
    missing_origin: MissingOrigin,
    token_in_query: bool,
) -> Vec<&'static str> {
    let all = [
        ("rate_limit", has_rate_limit),
        ("headers", !headers.is_none()),
        ("cors", cors.is_some_and(|it| *it != CorsConfig::default())),
        (
            "compress",
            compress.is_some_and(|it| *it != CompressConfig::default()),
        ),
        ("allowed_origins", !allowed_origins.is_empty()),
        ("missing_origin", missing_origin != MissingOrigin::default()),
        ("token_in_query", token_in_query),
    ];
    let set = all.into_iter().filter(|(_, is_set)| *is_set);
    set.map(|(key, _)| key).collect()
}

fn unused(location: SourceLocation, key: &str, readers: &[&str]) -> Problem {
    let reader = readers.first().copied().unwrap_or_default();
    let effect = match key {
        "headers" => "these fields are never sent".to_owned(),
        "cors" | "compress" => "these settings do nothing".to_owned(),
        "rate_limit" => "these limits are never applied".to_owned(),
        key => format!("{key} has no effect"),
    };
    let hint = match key {
        "headers" | "cors" | "compress" | "rate_limit" => format!("add {reader:?} to middleware"),
        _ => format!("add {reader:?}"),
    };
    let message = format!("{effect}: the middleware {reader:?} is not in the list");
    Problem::warning(location, message).with_hint(hint)
}

//! Route checks: checks that a built-in view or consumer fits its route and the rest of the
//! configuration.

use std::collections::HashSet;

use serde::Deserialize;

use super::compiler::Compiler;
use super::middleware_settings::MiddlewareSettings;
use crate::config::{self, ConfigPath, HttpRoute, Problem, SocketRateLimit, WebsocketRoute};

/// The shortest secret that HMAC-SHA256 makes full use of (RFC 7518 §3.2).
const SECRET_BYTES_MIN: usize = 32;

/// The settings of a route that are about messages, which a tunnel does not know.
const MESSAGE_KEYS: [&str; 13] = [
    "subprotocols",
    "max_message",
    "max_fragments",
    "send_queue",
    "slow_client",
    "compression",
    "compression_threshold",
    "compression_level",
    "server_context_takeover",
    "client_context_takeover",
    "server_max_window_bits",
    "client_max_window_bits",
    "disconnect_timeout",
];

/// The options of `backend` that are checked.
#[derive(Deserialize)]
struct BackendOptions {
    #[serde(default)]
    channel: Option<String>,
    #[serde(default)]
    secret: Option<serde_json::Value>,
}

/// The options of `feed` that are checked.
#[derive(Deserialize)]
struct FeedOptions {
    groups: Vec<String>,
}

/// The options of `proxy` that are checked.
#[derive(Deserialize)]
struct ProxyOptions {
    #[serde(default)]
    tls: TlsOptions,
}

/// The options of TLS that are checked.
#[derive(Default, Deserialize)]
struct TlsOptions {
    #[serde(default)]
    verify: Option<bool>,
}

/// The options of `static` that are checked.
#[derive(Deserialize)]
struct StaticOptions {
    dir: ConfigPath,
    #[serde(default)]
    fallback: Option<String>,
}

impl Compiler<'_> {
    /// Checks a view against its route.
    pub(super) fn check_view(&mut self, written: &HttpRoute, settings: &MiddlewareSettings<'_>) {
        match written.view.as_str() {
            "publish" => {
                self.check_call(written);
                if settings.has("csrf") && !(settings.is_invalid)("middleware") {
                    self.refuse_csrf(written, settings);
                }
            }
            "static" => self.check_fallback(written),
            "proxy" => self.check_verification(&written.options),
            "dashboard" => self.check_dashboard_view(written),
            _ => {}
        }
    }

    /// Checks that the view can read its call: from a catch-all. A regular expression may capture
    /// it in other ways.
    fn check_call(&mut self, written: &HttpRoute) {
        let Some(path) = &written.path else { return };
        if path.contains("{*") || self.is_wrong(&written.location, &["path"]) {
            return;
        }
        let base = path.split('{').next().unwrap_or_default();
        let base = base.trim_end_matches('/');
        let message = "the view \"publish\" needs a catch-all";
        self.problems.push(
            Problem::error(written.location.key("path"), message)
                .with_hint(format!("write \"{base}/{{*call}}\"")),
        );
    }

    fn refuse_csrf(&mut self, written: &HttpRoute, settings: &MiddlewareSettings<'_>) {
        let location = (settings.location_of)("middleware");
        let location = if location.is_written() {
            location
        } else {
            written.location.key("view")
        };
        let message = "the middleware \"csrf\" refuses every call of the view \"publish\": programs send no CSRF token";
        self.problems.push(
            Problem::error(location, message).with_hint("give the route a list without \"csrf\""),
        );
    }

    fn check_fallback(&mut self, written: &HttpRoute) {
        let Ok(options) = written.options.read::<StaticOptions>() else {
            return;
        };
        let Some(fallback) = options.fallback.filter(|name| !name.is_empty()) else {
            return;
        };
        if options.dir.0.is_dir() && !options.dir.0.join(&fallback).is_file() {
            let message = format!(
                "there is no file {fallback:?} in {}, so a missing file is a 404",
                options.dir.0.display()
            );
            let location = written.options.location().key("fallback");
            self.problems.warning(location, message);
        }
    }

    fn check_verification(&mut self, options: &config::Options) {
        let Ok(read) = options.read::<ProxyOptions>() else {
            return;
        };
        if read.tls.verify == Some(false) {
            let message = "the certificates of the servers are not checked: anyone between them and this server can read and change everything";
            let location = options.location().below("tls.verify");
            self.problems.push(
                Problem::warning(location, message)
                    .with_hint("trust their certificates with tls = { ca = \"ca.pem\" }"),
            );
        }
    }

    /// Checks a consumer against its route.
    pub(super) fn check_consumer(&mut self, written: &WebsocketRoute) {
        match written.consumer.as_str() {
            "backend" => self.check_backend(written),
            "dashboard" => self.check_dashboard_consumer(written),
            "feed" => self.check_feed(written),
            "proxy" => {
                self.check_tunnel(written);
                self.check_verification(&written.options);
            }
            _ => {}
        }
    }

    /// Warns about settings of messages: a tunnel passes frames on without reading them. Two of
    /// them belong to its limits of messages, if it has some.
    fn check_tunnel(&mut self, written: &WebsocketRoute) {
        let mut limits = written.settings.rate_limit.iter();
        let is_limited = limits.any(|limit| matches!(limit, SocketRateLimit::Messages(_)));
        for key in MESSAGE_KEYS {
            if is_limited && matches!(key, "max_message" | "max_fragments") {
                continue;
            }
            let location = written.location.key(key);
            if location.is_written() && !self.is_wrong(&written.location, &[key]) {
                let message = format!(
                    "{key} has no effect: the consumer \"proxy\" passes frames on as they are"
                );
                self.problems.warning(location, message);
            }
        }
    }

    /// Warns about a feed whose groups are more than a socket may be in. Several patterns may form
    /// the same name, so it is no error.
    fn check_feed(&mut self, written: &WebsocketRoute) {
        let Ok(options) = written.options.read::<FeedOptions>() else {
            return;
        };
        let limits = &self.config.server.limits;
        let (key, max) = match limits.groups_per_socket <= limits.groups_per_ip {
            true => ("groups_per_socket", limits.groups_per_socket),
            false => ("groups_per_ip", limits.groups_per_ip),
        };
        let found = options.groups.iter().collect::<HashSet<_>>().len();
        if found > max {
            let message = format!(
                "expected at most {max} groups (server.limits.{key}), found {found}: handshakes get 429"
            );
            let location = written.options.location().key("groups");
            self.problems.warning(location, message);
        }
    }

    fn check_backend(&mut self, written: &WebsocketRoute) {
        let Ok(options) = written.options.read::<BackendOptions>() else {
            return;
        };
        let layer = &self.config.channel_layer;
        if options.channel.is_some()
            && layer.backend == config::Backend::Memory
            && !self.is_wrong(&layer.location, &["backend"])
        {
            let message = "no worker can read this channel: the channel layer is \"memory\", within this process";
            let location = written.options.location().key("channel");
            self.problems.push(
                Problem::error(location, message)
                    .with_hint("write backend = \"redis://127.0.0.1:6379\" in [channel_layer]"),
            );
        }
        let location = written.options.location().key("secret");
        let is_short = |secret: &serde_json::Value| {
            let secret = secret.as_str();
            secret.is_some_and(|secret| (1..SECRET_BYTES_MIN).contains(&secret.len()))
        };
        let mut warn = |location| {
            let message = format!(
                "a secret of fewer than {SECRET_BYTES_MIN} bytes can be guessed from a signature"
            );
            let hint = "`openssl rand -base64 48` makes one";
            self.problems
                .push(Problem::warning(location, message).with_hint(hint));
        };
        match &options.secret {
            Some(serde_json::Value::Array(secrets)) => {
                for (at, _) in secrets.iter().enumerate().filter(|(_, it)| is_short(it)) {
                    warn(location.index(at));
                }
            }
            Some(secret) if is_short(secret) => warn(location),
            _ => {}
        }
    }
}

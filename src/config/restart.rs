//! Restart: which keys a reload applies, and which a running server reads once, when it starts.

use std::fmt;

use serde::Serialize;

use super::read::path;
use super::read::value::Value;
use super::{
    AuthConfig, ChannelLayerConfig, Config, CsrfConfig, DrainConfig, LimitsConfig, LogConfig,
    MetricsConfig, ServerConfig, SessionConfig, TimeoutsConfig, TracingConfig,
};

/// When a changed key takes effect.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum TakesEffect {
    /// At the reload that reads it.
    AtReload,
    /// When the process starts again.
    AtRestart,
}

/// A changed key, with both values as the files have them on one line: `default` if a key is not
/// written, and neither if they are secret or sections.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct KeyChange {
    /// The key, such as `server.workers`.
    pub key: &'static str,
    /// The value that was in effect.
    pub old: String,
    /// The value that was read.
    pub new: String,
}

impl fmt::Display for KeyChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { key, old, new } = self;
        match old == new {
            true => f.write_str(key),
            false => write!(f, "{key} ({old} -> {new})"),
        }
    }
}

/// The keys whose values are secret.
const SECRET_KEYS: [&str; 5] = [
    "server.secret_key",
    "server.secret_key_fallbacks",
    "channel_layer.symmetric_encryption_keys",
    "tracing.otlp",
    "tracing.headers",
];

/// The longest value that is shown whole, in characters.
const SHOWN_MAX: usize = 80;

/// A changed key.
type Changed = (&'static str, TakesEffect);

/// Compares the keys of one section. Each field must be listed under `restart`, `reload` or `apart`
/// (compared by itself), so a new key does not compile until it is.
macro_rules! changed {
    ($Section:ident $name:literal, $running:expr, $read:expr, {
        restart: [$($restart:ident),* $(,)?],
        reload: [$($reload:ident),* $(,)?],
        $(apart: [$($apart:ident),* $(,)?],)?
    }) => {{
        let (running, read): (&$Section, &$Section) = ($running, $read);
        let $Section { $($restart: _,)* $($reload: _,)* $($($apart: _,)*)? } = running;
        let mut keys: Vec<Changed> = Vec::new();
        $(if running.$restart != read.$restart {
            keys.push((concat!($name, ".", stringify!($restart)), TakesEffect::AtRestart));
        })*
        $(if running.$reload != read.$reload {
            keys.push((concat!($name, ".", stringify!($reload)), TakesEffect::AtReload));
        })*
        keys
    }};
}

impl Config {
    /// Returns the keys that differ in `new` and take effect only at the next start. A reload
    /// applies all other keys.
    ///
    /// ```
    /// use oneport::config::Config;
    ///
    /// let read = |text| Config::parse("oneport.toml", text, ".".as_ref(), &|_| None);
    /// let (running, _) = read("[server]\nworkers = 2\n[http]\nbody_size = '1 KiB'\n")?;
    /// let (changed, _) = read("[server]\nworkers = 4\n[http]\nbody_size = '2 KiB'\n")?;
    /// assert_eq!(running.needs_restart(&changed), ["server.workers"]);
    /// # Ok::<(), oneport::config::Problems>(())
    /// ```
    #[must_use]
    pub fn needs_restart(&self, read: &Self) -> Vec<&'static str> {
        let changed = self.changed(read).into_iter();
        changed
            .filter_map(|(key, when)| (when == TakesEffect::AtRestart).then_some(key))
            .collect()
    }

    /// Returns the keys that differ in `read` and take effect then, with both values. `http` and
    /// `websocket` are those sections with their routes.
    #[must_use]
    pub fn changes(&self, read: &Self, takes_effect: TakesEffect) -> Vec<KeyChange> {
        let mut changed = self.changed(read);
        if self.http != read.http || self.http_routes != read.http_routes {
            changed.push(("http", TakesEffect::AtReload));
        }
        if self.websocket != read.websocket || self.websocket_routes != read.websocket_routes {
            changed.push(("websocket", TakesEffect::AtReload));
        }
        let changed = changed.into_iter();
        changed
            .filter(|(_, when)| *when == takes_effect)
            .map(|(key, _)| match (self.shown(key), read.shown(key)) {
                (Some(old), Some(new)) => KeyChange { key, old, new },
                _ => KeyChange {
                    key,
                    old: String::new(),
                    new: String::new(),
                },
            })
            .collect()
    }

    /// Returns a key's value as the main file has it, on one line; `None` for a secret or a section.
    fn shown(&self, key: &str) -> Option<String> {
        if SECRET_KEYS.contains(&key) {
            return None;
        }
        let Some(document) = self.documents.first() else {
            return Some("default".to_owned());
        };
        let Some(node) = document.root().find(&path::segments(key)) else {
            return Some("default".to_owned());
        };
        if matches!(node.value, Value::Table(_)) {
            return None;
        }
        let mut shown = document.shown(&node.span);
        if let Some((at, _)) = shown.char_indices().nth(SHOWN_MAX) {
            shown.truncate(at);
            shown.push('…');
        }
        Some(shown)
    }

    /// Returns the changed keys of all sections but those of routes.
    fn changed(&self, read: &Self) -> Vec<Changed> {
        let Self {
            server,
            log,
            metrics,
            tracing,
            templates,
            middleware: _,
            session,
            auth,
            csrf,
            channel_layer,
            http: _,
            websocket: _,
            http_routes: _,
            websocket_routes: _,
            documents: _,
            base: _,
        } = self;
        let mut keys = server_keys(server, &read.server);
        keys.extend(changed!(LogConfig "log", log, &read.log, {
            restart: [],
            reload: [
                format, level, file, access, access_format, access_fields, access_file, location,
            ],
        }));
        keys.extend(changed!(TracingConfig "tracing", tracing, &read.tracing, {
            restart: [otlp, sample, headers, ca, timeout, service_name],
            reload: [traceparent_from, location],
        }));
        keys.extend(changed!(MetricsConfig "metrics", metrics, &read.metrics, {
            restart: [],
            reload: [bind, location],
        }));
        if *templates != read.templates {
            keys.push(("templates", TakesEffect::AtReload));
        }
        keys.extend(session_keys(session, &read.session));
        keys.extend(changed!(AuthConfig "auth", auth, &read.auth, {
            restart: [],
            reload: [
                users, login_url, ticket_max_age, hashing_at_once, django, bearer, forward, location,
            ],
        }));
        keys.extend(changed!(CsrfConfig "csrf", csrf, &read.csrf, {
            restart: [],
            reload: [cookie, header, use_sessions, location],
        }));
        keys.extend(channel_layer_keys(channel_layer, &read.channel_layer));
        keys
    }
}

fn server_keys(running: &ServerConfig, read: &ServerConfig) -> Vec<Changed> {
    let mut keys = changed!(ServerConfig "server", running, read, {
        restart: [workers, name, pid_file],
        reload: [
            secret_key, secret_key_fallbacks, bind, allowed_hosts, trusted_proxies, forwarded, root_path,
            tls, location,
        ],
        apart: [limits, timeouts, drain],
    });
    keys.extend(
        changed!(LimitsConfig "server.limits", &running.limits, &read.limits, {
            restart: [],
            reload: [
                connections, connections_per_ip, connection_rate, connection_rate_per_ip,
                header_size, uri_size, header_count, http2_streams, body_size, file_cache,
                send_queue_total, min_rate, groups_per_socket, groups_per_ip,
            ],
        }),
    );
    keys.extend(
        changed!(TimeoutsConfig "server.timeouts", &running.timeouts, &read.timeouts, {
            restart: [],
            reload: [handshake, request, keep_alive, drain, restart],
        }),
    );
    keys.extend(
        changed!(DrainConfig "server.drain", &running.drain, &read.drain, {
            restart: [],
            reload: [delay, batch, every, jitter, code, retry_after],
        }),
    );
    keys
}

fn session_keys(running: &SessionConfig, read: &SessionConfig) -> Vec<Changed> {
    changed!(SessionConfig "session", running, read, {
        restart: [],
        reload: [
            store, cookie, max_age, path, domain, secure, http_only, same_site, cache,
            check_interval, timeout, connections, sweep_interval, django, location,
        ],
    })
}

fn channel_layer_keys(running: &ChannelLayerConfig, read: &ChannelLayerConfig) -> Vec<Changed> {
    changed!(ChannelLayerConfig "channel_layer", running, read, {
        restart: [
            backend, format, prefix, serializer, symmetric_encryption_keys, group_expiry, timeout,
            lease, queue,
        ],
        reload: [
            capacity, expiry, history_size, group_history_size, max_rooms, location,
        ],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Config {
        let parsed = Config::parse("oneport.toml", text, ".".as_ref(), &|_| None);
        parsed.unwrap().0
    }

    fn changes(old: &str, new: &str, takes_effect: TakesEffect) -> String {
        let changes = read(old).changes(&read(new), takes_effect);
        let changes: Vec<String> = changes.iter().map(ToString::to_string).collect();
        changes.join(", ")
    }

    #[test]
    fn values_are_shown_as_they_are_written_on_one_line() {
        let check = |old: &str, new: &str, expected: &str| {
            assert_eq!(changes(old, new, TakesEffect::AtReload), expected);
        };
        check("", "", "");
        check(
            "[server]\nbind = ['127.0.0.1:1']\n",
            "[server]\nbind = [\n  '127.0.0.1:1',\n  '127.0.0.1:2',\n]\n",
            "server.bind (['127.0.0.1:1'] -> [ '127.0.0.1:1', '127.0.0.1:2', ])",
        );
        check(
            "",
            "[server.limits]\nconnections = 5\n",
            "server.limits.connections (default -> 5)",
        );
        let long = format!("[server]\nroot_path = '/{}'\n", "a".repeat(100));
        let shown = format!("server.root_path (default -> '/{}…)", "a".repeat(78));
        check("", &long, &shown);
        check("", "[[http.route]]\npath = '/'\nview = 'health'\n", "http");
    }

    #[test]
    fn secrets_are_not_shown() {
        let key = "0123456789abcdef0123456789abcdef";
        let text = |letter: &str| {
            format!(
                "[server]\nsecret_key = '{letter}{key}'\nsecret_key_fallbacks = ['{letter}{key}']\n\
                 [session]\nstore = 'postgres://anna:{letter}secret@localhost/db'\n"
            )
        };
        let (old, new) = (read(&text("a")), read(&text("b")));
        for takes_effect in [TakesEffect::AtReload, TakesEffect::AtRestart] {
            for change in old.changes(&new, takes_effect) {
                let shown = change.to_string();
                assert!(
                    !shown.contains(key) && !shown.contains("secret@"),
                    "{shown}"
                );
            }
        }
        let keys: Vec<&str> = old.changed(&new).iter().map(|(key, _)| *key).collect();
        assert_eq!(
            keys,
            [
                "server.secret_key",
                "server.secret_key_fallbacks",
                "session.store"
            ]
        );
    }
}

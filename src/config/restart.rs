//! Restart: the keys that a running server reads once, when it starts.

use super::{
    AuthConfig, ChannelLayerConfig, Config, CsrfConfig, LimitsConfig, LogConfig, ServerConfig,
    SessionConfig, TimeoutsConfig,
};

/// Compares the keys of one section. Each field must be listed under `restart` or `reload`, so a
/// new key does not compile until it is.
macro_rules! changed {
    ($Section:ident $name:literal, $running:expr, $read:expr, {
        restart: [$($restart:ident),* $(,)?],
        reload: [$($reload:ident),* $(,)?],
    }) => {{
        let (running, read): (&$Section, &$Section) = ($running, $read);
        let $Section { $($restart: _,)* $($reload: _,)* } = running;
        let keys: [(&'static str, bool); _] = [
            $((concat!($name, ".", stringify!($restart)), running.$restart != read.$restart),)*
        ];
        keys.into_iter().filter(|(_, is_changed)| *is_changed).map(|(key, _)| key)
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
        let Self {
            server,
            log,
            templates: _,
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
            restart: [format, level, access],
            reload: [location],
        }));
        keys.extend(session_keys(session, &read.session));
        keys.extend(changed!(AuthConfig "auth", auth, &read.auth, {
            restart: [users, ticket_max_age, hashing_at_once, django],
            reload: [login_url, bearer, forward, location],
        }));
        keys.extend(changed!(CsrfConfig "csrf", csrf, &read.csrf, {
            restart: [cookie, header, use_sessions],
            reload: [location],
        }));
        keys.extend(channel_layer_keys(channel_layer, &read.channel_layer));
        keys
    }
}

fn server_keys(running: &ServerConfig, read: &ServerConfig) -> Vec<&'static str> {
    let mut keys = Vec::new();
    keys.extend(changed!(ServerConfig "server", running, read, {
        restart: [bind, workers, name, secret_key, secret_key_fallbacks],
        reload: [
            allowed_hosts, trusted_proxies, forwarded, root_path,
            limits, timeouts, // below, key by key
            tls, // below: a listener that speaks TLS does so until it is closed
            location,
        ],
    }));
    if running.tls.is_some() != read.tls.is_some() {
        keys.push("server.tls");
    }
    keys.extend(
        changed!(LimitsConfig "server.limits", &running.limits, &read.limits, {
            restart: [connections, connections_per_ip, header_size, send_queue_total, file_cache, min_rate],
            reload: [body_size],
        }),
    );
    keys.extend(
        changed!(TimeoutsConfig "server.timeouts", &running.timeouts, &read.timeouts, {
            restart: [handshake, request, keep_alive, drain], // request: of a write; routes follow a reload
            reload: [],
        }),
    );
    keys
}

fn session_keys(running: &SessionConfig, read: &SessionConfig) -> Vec<&'static str> {
    changed!(SessionConfig "session", running, read, {
        restart: [
            store, cookie, max_age, path, domain, secure, http_only, same_site, cache,
            check_interval, timeout, connections, sweep_interval, django,
        ],
        reload: [location],
    })
    .collect()
}

fn channel_layer_keys(
    running: &ChannelLayerConfig,
    read: &ChannelLayerConfig,
) -> Vec<&'static str> {
    changed!(ChannelLayerConfig "channel_layer", running, read, {
        restart: [
            backend, format, prefix, serializer, symmetric_encryption_keys, capacity, expiry,
            group_expiry, timeout, lease, queue, history_size, group_history_size, max_rooms,
        ],
        reload: [location],
    })
    .collect()
}

//! Store checks: contradictions between `[server]`, `[session]` and `[auth]`.

use super::compiler::Compiler;
use crate::config::{Config, Problem, SameSite, Secure, SourceLocation, StoreUrl};

/// The shortest key that HMAC-SHA256 makes full use of (RFC 7518 §3.2).
const KEY_BYTES_MIN: usize = 32;

impl Compiler<'_> {
    /// Checks that browsers accept the cookies (RFC 6265bis §4.1.3, §5.7).
    fn check_cookies(&mut self) {
        let (session, csrf) = (&self.config.session, &self.config.csrf);
        let keys = ["cookie", "secure", "domain", "path", "same_site"];
        if self.is_wrong(&session.location, &keys) || self.is_wrong(&csrf.location, &["cookie"]) {
            return;
        }
        let (of_session, of_csrf) = (session.location.key("cookie"), csrf.location.key("cookie"));
        self.check_cookie(&session.cookie, &of_session);
        if !csrf.use_sessions {
            // The CSRF cookie has the attributes of the session cookie.
            self.check_cookie(&csrf.cookie, &of_csrf);
        }
        if session.same_site == SameSite::None && session.secure == Secure::Never {
            let message = "expected \"auto\" or \"always\" with same_site = \"none\", found \"never\": browsers take no such cookie";
            let location = session.location.key("secure");
            self.problems.push(Problem::error(location, message));
        }
        if session.cookie == csrf.cookie && !csrf.use_sessions {
            let location = if of_csrf.is_written() {
                of_csrf
            } else {
                of_session
            };
            let message = format!(
                "expected different names in session.cookie and csrf.cookie, found {:?} twice",
                csrf.cookie
            );
            self.problems.push(Problem::error(location, message));
        }
    }

    /// Checks the name of a cookie, set at `named`, against the attributes that its prefix
    /// requires.
    fn check_cookie(&mut self, name: &str, named: &SourceLocation) {
        let session = &self.config.session;
        let mut refuse = |key: &str, message: String| {
            let location = session.location.key(key);
            let location = if location.is_written() {
                location
            } else {
                named.clone()
            };
            self.problems.push(Problem::error(location, message));
        };
        let is_host = name.starts_with("__Host-");
        if (is_host || name.starts_with("__Secure-")) && session.secure != Secure::Always {
            refuse(
                "secure",
                format!(
                    "expected session.secure = \"always\" for the cookie {name:?}, found another"
                ),
            );
        }
        if is_host && !session.domain.is_empty() {
            refuse(
                "domain",
                format!("expected no session.domain for the cookie {name:?}, found one"),
            );
        }
        if is_host && session.path != "/" {
            refuse(
                "path",
                format!(
                    "expected session.path = \"/\" for the cookie {name:?}, found {:?}",
                    session.path
                ),
            );
        }
    }

    /// Checks the length of the keys. A short key of a Django project, or a short fallback, is only
    /// a warning: the first is the project's choice, the second is being phased out.
    fn check_key_length(&mut self) {
        let server = &self.config.server;
        let is_django = self.config.session.store.is_django();
        let what = "since it signs cookies, CSRF tokens, tickets and logins";
        let message = |key: &str| {
            let found = key.len();
            (found < KEY_BYTES_MIN)
                .then(|| format!("expected at least {KEY_BYTES_MIN} bytes, {what}, found {found}"))
        };
        let hint = "`openssl rand -base64 48` makes one";
        let key = server.secret_key.0.as_str();
        if !key.is_empty()
            && let Some(message) = message(key)
        {
            let location = server.location.key("secret_key");
            self.problems.push(match is_django {
                true => Problem::warning(location, message),
                false => Problem::error(location, message).with_hint(hint),
            });
        }
        let fallbacks = server.location.key("secret_key_fallbacks");
        for (at, key) in server.secret_key_fallbacks.iter().enumerate() {
            if let Some(message) = message(&key.0) {
                self.problems.warning(fallbacks.text(at), message);
            }
        }
    }

    /// Warns about a time zone that no column needs.
    fn check_time_zone(&mut self) {
        let session = &self.config.session;
        let zone = session.django.time_zone.name();
        if zone.is_empty()
            || matches!(
                session.store,
                StoreUrl::DjangoSqlite(_) | StoreUrl::DjangoMysql(_)
            )
        {
            return;
        }
        let location = session.location.key("django").key("time_zone");
        let message = format!(
            "{zone:?} has no effect with {}: its sessions expire at an instant, whatever the time zone",
            session.store
        );
        self.problems.warning(location, message);
    }

    /// Checks `[server]`, `[session]` and `[auth]` against each other, once for all routes.
    pub(super) fn check_stores(&mut self, uses_sessions: bool) {
        let Config {
            server,
            session,
            auth,
            ..
        } = self.config;
        if !uses_sessions {
            return;
        }
        self.check_cookies();
        self.check_files();
        let has_store = !self.is_wrong(&session.location, &["store"]);
        let has_users = !self.is_wrong(&auth.location, &["users"]);
        let has_key = !self.is_wrong(&server.location, &["secret_key"]);
        let needs_key = !matches!(session.store, StoreUrl::Memory | StoreUrl::Sqlite(_));
        if has_store && has_key && needs_key && server.secret_key.0.is_empty() {
            let message = if session.store.is_django() {
                "expected the Django project's SECRET_KEY, found none"
            } else {
                "expected a key that all processes with this store have, found none"
            };
            let key = server.location.key("secret_key");
            let location = if key.is_written() {
                key
            } else {
                session.location.key("store")
            };
            self.problems.push(
                Problem::error(location, message)
                    .with_hint("secret_key = \"${ONEPORT_SECRET_KEY}\" in [server]"),
            );
        }
        if has_store {
            self.check_key_length();
            self.check_time_zone();
        }
        if has_store && has_users && session.store.is_django() && !auth.users.is_django() {
            let key = auth.location.key("users");
            let location = if key.is_written() {
                key
            } else {
                session.location.key("store")
            };
            let message = format!(
                "expected the Django project's users for its sessions, found {:?}",
                auth.users.to_string()
            );
            self.problems.push(Problem::error(location, message).with_hint(
                "users = \"django+postgres://...\", \"django+mysql://...\" or \"django+sqlite:PATH\" in [auth]",
            ));
        }
        if matches!(
            auth.users,
            StoreUrl::Memory | StoreUrl::DjangoRedis(_) | StoreUrl::DjangoSignedCookies
        ) {
            let users = auth.users.to_string();
            let message = format!("expected a table of users, found {users:?}");
            let hint = "\"sqlite:PATH\", \"postgres://...\", \"django+sqlite:PATH\", \"django+postgres://...\" or \"django+mysql://...\"";
            self.problems
                .push(Problem::error(auth.location.key("users"), message).with_hint(hint));
        }
    }
}

//! Settings: the services that a reload replaces, all at once.
//!
//! What does not change is kept, not made again: a database stays open, sessions in memory,
//! tickets, logouts and passwords that are being hashed carry over. Requests in progress go on with
//! the settings that they have loaded.

use std::sync::Arc;
use std::time::Duration;

use crate::auth::{Auth, Users};
use crate::config::{AuthConfig, Config, CsrfConfig, SessionConfig, StoreUrl};
use crate::database::{Database, DatabaseSettings};
use crate::secrets::Secrets;
use crate::session::SessionStore;

/// Sessions, users, CSRF tokens and keys, as the configuration in effect has them.
#[derive(Debug)]
pub struct Settings {
    /// The store of sessions.
    pub sessions: SessionStore,
    /// Users, logins and tickets.
    pub auth: Auth,
    /// The settings of CSRF tokens.
    pub csrf: CsrfConfig,
    /// The keys that cookies, tokens and tickets are signed with.
    pub secrets: Arc<Secrets>,
    /// The most bytes of files that `static` keeps in memory.
    pub(crate) file_cache: u64,
    /// How often logins are checked; zero: never.
    pub(crate) check_interval: Duration,
    /// How often expired sessions are deleted; zero: never.
    pub(crate) sweep_interval: Duration,
    database: Option<Database>,
    /// The sections that they were made of.
    session_config: SessionConfig,
    auth_config: AuthConfig,
}

/// A store that cannot be opened.
#[derive(Debug)]
pub(crate) struct StoreFailure {
    /// The key that names it: `session.store` or `auth.users`.
    pub(crate) key: &'static str,
    /// The cause.
    pub(crate) sentence: String,
}

impl Settings {
    /// Makes the services of a configuration, with what can be kept of those before. Opens no store
    /// yet. Needs a tokio runtime.
    pub(crate) fn new(config: &Config, before: Option<&Self>) -> Result<Self, StoreFailure> {
        let (session, auth) = (&config.session, &config.auth);
        let secrets = Secrets::new(config);
        let secrets = match before {
            Some(before) if before.secrets.is_same(&secrets) => before.secrets.clone(),
            Some(before) => Arc::new(secrets.with_generated_key_of(&before.secrets)),
            None => Arc::new(secrets),
        };
        let same_pool = before.filter(|before| {
            let known = &before.session_config;
            known.timeout == session.timeout && known.connections == session.connections
        });
        let kept_database = same_pool.filter(|known| known.session_config.store == session.store);
        let database = match kept_database {
            Some(before) => before.database.clone(),
            None => open("session.store", &session.store, session, "session")?,
        };
        let kept_users = same_pool.filter(|known| {
            known.auth_config.users == auth.users
                && known.auth_config.django == auth.django
                && known.session_config.cache == session.cache
        });
        let users = match kept_users {
            Some(before) => before.auth.users().cloned(),
            None => {
                let kept_database = same_pool.filter(|known| known.auth_config.users == auth.users);
                let database = match kept_database {
                    _ if auth.users == session.store => database.clone(),
                    Some(before) => before.auth.users().map(|users| users.database().clone()),
                    None => open("auth.users", &auth.users, session, "users")?,
                };
                database.map(|database| Users::new(auth, session, database))
            }
        };
        // A store of Django's reads how long a session lives, and the keys of signatures.
        let kept_store = before.filter(|before| {
            let known = &before.session_config;
            let is_same = known.store == session.store
                && known.django == session.django
                && (!session.store.is_django() || known.max_age == session.max_age)
                && Arc::ptr_eq(&before.secrets, &secrets);
            is_same && (kept_database.is_some() || session.store == StoreUrl::Memory)
        });
        Ok(Self {
            sessions: match kept_store {
                Some(before) => before.sessions.reconfigured(session),
                None => SessionStore::new(session, database.clone(), secrets.clone()),
            },
            auth: match before {
                Some(before) => before.auth.reconfigured(auth, users, secrets.clone()),
                None => Auth::new(auth, users, secrets.clone()),
            },
            csrf: config.csrf.clone(),
            secrets,
            file_cache: config.server.limits.file_cache.bytes(),
            check_interval: session.check_interval,
            sweep_interval: session.sweep_interval,
            database,
            session_config: session.clone(),
            auth_config: auth.clone(),
        })
    }

    /// Returns whether the store of sessions, and the database of users, are others than before.
    pub(crate) fn stores_differ(&self, before: &Self) -> (bool, bool) {
        let same_users = match (self.auth.users(), before.auth.users()) {
            (Some(one), Some(other)) => one.database().is_same(other.database()),
            (one, other) => one.is_none() && other.is_none(),
        };
        (!self.sessions.has_store_of(&before.sessions), !same_users)
    }
}

fn open(
    key: &'static str,
    url: &StoreUrl,
    session: &SessionConfig,
    store: &'static str,
) -> Result<Option<Database>, StoreFailure> {
    let settings = DatabaseSettings {
        timeout: session.timeout,
        connections: u32::try_from(session.connections).unwrap_or(u32::MAX),
    };
    Database::new(url, settings, store)
        .transpose()
        .map_err(|error| StoreFailure {
            key,
            sentence: format!("{url}: {error}"),
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(text: &str) -> Config {
        let parsed = Config::parse("test.toml", text, ".".as_ref(), &|_| None);
        parsed.unwrap().0
    }

    fn settings(text: &str, before: Option<&Settings>) -> Settings {
        Settings::new(&config(text), before).unwrap()
    }

    const MEMORY: &str = "[session]\nstore = 'memory'\n";

    #[tokio::test]
    async fn sessions_in_memory_and_the_generated_key_are_kept() {
        let first = settings(MEMORY, None);
        let session = first.sessions.empty();
        session.set("cart", 7);
        session.save().await.unwrap();
        let key = session.key().unwrap();
        let text = format!("{MEMORY}cookie = 'other'\nmax_age = '1h'\ncache = '0s'\n");
        let second = settings(&text, Some(&first));
        assert_eq!(second.sessions.cookie_name(), "other");
        let found = second.sessions.open(Some(&key)).await.unwrap();
        assert_eq!(found.get("cart"), Some(7.into()));
        let fallbacks = format!(
            "[server]\nsecret_key_fallbacks = ['{}']\n{MEMORY}",
            "a".repeat(40)
        );
        let third = settings(&fallbacks, Some(&second));
        assert_eq!(first.secrets.key(), third.secrets.key());
        assert_eq!(third.secrets.keys().len(), 2);
        assert_eq!(second.stores_differ(&first), (false, false));
    }

    #[tokio::test]
    async fn key_that_becomes_a_fallback_is_still_accepted() {
        let keys = ["a", "b"].map(|letter| letter.repeat(40));
        let text = |key: &str, fallbacks: &str| {
            format!(
                "[server]\nsecret_key = '{key}'\nsecret_key_fallbacks = [{fallbacks}]\n{MEMORY}"
            )
        };
        let first = settings(&text(&keys[0], ""), None);
        let second = settings(&text(&keys[1], &format!("'{}'", keys[0])), Some(&first));
        assert_eq!(second.secrets.keys(), [keys[1].clone(), keys[0].clone()]);
        assert_eq!(second.secrets.key(), keys[1]);
        let third = settings(&text(&keys[1], ""), Some(&second));
        assert_eq!(third.secrets.keys(), [keys[1].clone()]);
    }

    #[tokio::test]
    async fn only_a_changed_store_is_opened_anew() {
        let one = "[session]\nstore = 'sqlite:one.db'\n[auth]\nusers = 'sqlite:one.db'\n";
        let first = settings(one, None);
        let cookie = one.replace("[auth]", "cookie = 'other'\n[auth]");
        assert_eq!(
            settings(&cookie, Some(&first)).stores_differ(&first),
            (false, false)
        );
        let users = one.replace("users = 'sqlite:one.db'", "users = 'sqlite:two.db'");
        assert_eq!(
            settings(&users, Some(&first)).stores_differ(&first),
            (false, true)
        );
        let pool = one.replace("[auth]", "connections = 2\n[auth]");
        assert_eq!(
            settings(&pool, Some(&first)).stores_differ(&first),
            (true, true)
        );
        let memory = one.replace("store = 'sqlite:one.db'", "store = 'memory'");
        assert_eq!(
            settings(&memory, Some(&first)).stores_differ(&first),
            (true, false)
        );
    }

    #[tokio::test]
    async fn tickets_and_logouts_carry_over() {
        let first = settings(MEMORY, None);
        let user = Arc::new(crate::auth::User {
            id: "1".to_owned(),
            name: "anna".to_owned(),
            is_staff: false,
        });
        let identified = crate::auth::Identified { user, login: None };
        let ticket = first.auth.issue_ticket(identified).unwrap();
        first.auth.logged_out("key".into());
        let text = format!("{MEMORY}[auth]\nticket_max_age = '5s'\nhashing_at_once = 1\n");
        let second = settings(&text, Some(&first));
        assert_eq!(second.auth.ticket_max_age(), Duration::from_secs(5));
        assert!(second.auth.of_ticket(&ticket).is_some());
        assert!(second.auth.until_logged_out().await.contains("key"));
        // The task that waits has loaded the settings before.
        let waiting = first.auth.until_logged_out();
        second.auth.logged_out("other".into());
        assert!(waiting.await.contains("other"));
    }
}

//! Authentication: identifies the user of a session, of a ticket, or of a name and password.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use parking_lot::{Mutex, MutexGuard};
use serde_json::{Map, Value};
use subtle::ConstantTimeEq;
use tokio::sync::{Notify, OnceCell};

use super::hashing_queue::HashingQueue;
use super::tickets::{PassedTicket, Tickets};
use super::{Account, BACKEND, Login, User, Users, password, session_key};
use crate::config::AuthConfig;
use crate::database::StoreError;
use crate::secrets::{self, Secrets};
use crate::session::{Session, SessionStore, auth_hash};

/// A longer name matches no user; the database is not queried.
const NAME_BYTES_MAX: usize = 1000;

/// The most logouts queued until their sockets are closed.
const LOGGED_OUT_MAX: usize = 10_000;

/// A user, and the login that identified it.
#[derive(Clone, Debug)]
pub struct Identified {
    /// The user.
    pub user: Arc<User>,
    /// The login whose end closes the sockets; `None` if nothing can end it.
    pub login: Option<Arc<Login>>,
}

/// The user table, and the keys and settings for checking logins (cheap to clone).
#[derive(Clone, Debug)]
pub struct Auth(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    users: Option<Users>,
    secrets: Arc<Secrets>,
    /// The values accepted as the backend that checked a session's password.
    backends: Vec<String>,
    /// Whether sessions hold a hash of the password.
    has_hash: bool,
    hashing_at_once: usize,
    hashing: Arc<HashingQueue>,
    ticket_max_age: Duration,
    tickets: Arc<Tickets>,
    logged_out: Arc<LoggedOut>,
    /// An encoded password, checked for names that do not exist.
    nobody: OnceCell<String>,
}

/// The sessions that this process has ended and whose sockets are still open.
#[derive(Debug, Default)]
struct LoggedOut {
    changed: Notify,
    keys: Mutex<HashSet<Arc<str>>>,
}

impl Auth {
    /// Creates the authentication of a configuration; without a table no user can be found.
    pub(crate) fn new(config: &AuthConfig, users: Option<Users>, secrets: Arc<Secrets>) -> Self {
        Self::with(config, users, secrets, None)
    }

    /// Creates that of another configuration, with the tickets, logouts and passwords under way of
    /// this one.
    pub(crate) fn reconfigured(
        &self,
        config: &AuthConfig,
        users: Option<Users>,
        secrets: Arc<Secrets>,
    ) -> Self {
        Self::with(config, users, secrets, Some(&self.0))
    }

    fn with(
        config: &AuthConfig,
        users: Option<Users>,
        secrets: Arc<Secrets>,
        before: Option<&Shared>,
    ) -> Self {
        let hashing_at_once = config.hashing_at_once;
        let same_hashing = before.filter(|before| before.hashing_at_once == hashing_at_once);
        let is_django = config.users.is_django();
        let mut backends = vec![BACKEND.to_owned()];
        if is_django {
            backends.extend(config.django.backends.iter().cloned());
        }
        Self(Arc::new(Shared {
            users,
            secrets,
            backends,
            has_hash: !is_django || config.django.session_auth_hash,
            hashing_at_once,
            hashing: same_hashing.map_or_else(
                || Arc::new(HashingQueue::new(hashing_at_once)),
                |before| before.hashing.clone(),
            ),
            ticket_max_age: config.ticket_max_age,
            tickets: before
                .map(|before| before.tickets.clone())
                .unwrap_or_default(),
            logged_out: before
                .map(|before| before.logged_out.clone())
                .unwrap_or_default(),
            nobody: OnceCell::new(),
        }))
    }

    /// Returns the table of users, if the configuration has one.
    #[must_use]
    pub fn users(&self) -> Option<&Users> {
        self.0.users.as_ref()
    }

    /// Returns the user of a session. `None`: no user is logged in, or the login has ended
    /// (Django's `get_user`).
    pub async fn of_session(&self, session: &Session) -> Result<Option<Identified>, StoreError> {
        let (data, key) = (session.data(), session.key());
        let (Some(key), Some(id)) = (key, user_id(&data)) else {
            return Ok(None);
        };
        let Some(users) = &self.0.users else {
            return Ok(None);
        };
        let Some(account) = users.find(id).await? else {
            return Ok(None);
        };
        if !self.stands_for(&data, &account) {
            return Ok(None);
        }
        Ok(Some(Identified {
            user: account.user.clone(),
            login: Some(Arc::new(Login::Session {
                key,
                user_id: id.into(),
                is_staff: account.user.is_staff,
            })),
        }))
    }

    /// Returns whether a session's values are a login of this user with the current password.
    fn stands_for(&self, data: &Map<String, Value>, account: &Account) -> bool {
        let value = |name| data.get(name).and_then(Value::as_str);
        let is_known = value(session_key::BACKEND)
            .is_some_and(|found| self.0.backends.iter().any(|backend| backend == found));
        let is_same = user_id(data) == Some(&account.user.id);
        let is_current = || {
            let hash = value(session_key::HASH).unwrap_or_default();
            self.0.secrets.keys().iter().any(|secret| {
                auth_hash(secret, &account.stamp)
                    .as_bytes()
                    .ct_eq(hash.as_bytes())
                    .into()
            })
        };
        is_known && is_same && account.is_active && (!self.0.has_hash || is_current())
    }

    /// Returns the user with this name and password. A wrong name takes as long as a wrong
    /// password.
    pub async fn check_password(
        &self,
        name: &str,
        given: &str,
    ) -> Result<Option<Arc<Account>>, StoreError> {
        let Some(users) = &self.0.users else {
            return Ok(None);
        };
        let account = if name.len() <= NAME_BYTES_MAX && !name.contains('\0') {
            users.find_by_name(name).await?
        } else {
            None
        };
        let nobody = self
            .0
            .nobody
            .get_or_try_init(|| self.password_of_nobody(users))
            .await?;
        let usable = account
            .as_ref()
            .filter(|account| !account.password.starts_with('!'));
        let encoded = usable.map_or(nobody, |account| &account.password).clone();
        let (text, known) = (given.to_owned(), encoded.clone());
        let checked = self
            .0
            .hashing
            .run(move || password::verify(&text, &known))
            .await?;
        let is_right = checked.unwrap_or_else(|error| {
            tracing::warn!(user = name, %error, "a password cannot be checked");
            false
        });
        let Some(account) =
            account.filter(|account| is_right && account.is_active && account.password == encoded)
        else {
            return Ok(None);
        };
        if users.is_own() && password::needs_rehash(&account.password) {
            let text = given.to_owned();
            match self.0.hashing.run(move || password::hash(&text)).await? {
                Ok(encoded) => users.rehash(&account, &encoded).await?,
                Err(error) => tracing::warn!(%error, "a password could not be hashed anew"),
            }
        }
        // Race: a cached row may date from before another process changed the password; it would
        // end this new login.
        users.forget(&account.user.id);
        Ok(Some(Arc::new(account)))
    }

    /// Returns a password that no user has, hashed as those of the table are.
    async fn password_of_nobody(&self, users: &Users) -> Result<String, StoreError> {
        if let Some(encoded) = users.some_password().await? {
            return Ok(encoded);
        }
        self.hash(&secrets::random(16)).await
    }

    /// Hashes a new password, off the async threads.
    pub async fn hash(&self, text: &str) -> Result<String, StoreError> {
        let text = text.to_owned();
        let hashed = self.0.hashing.run(move || password::hash(&text)).await?;
        hashed.map_err(|error| StoreError::Unavailable {
            store: "password hashing",
            cause: Box::new(error),
        })
    }

    /// Logs a user in. Another user's values are dropped, and the session gets a new key, so a key
    /// planted before the login is worthless (Django's `login`). The caller saves the session.
    pub fn log_in(&self, session: &Session, account: &Account) {
        let data = session.data();
        match user_id(&data) {
            Some(_) if !self.stands_for(&data, account) => session.flush(),
            _ => session.cycle_key(),
        }
        let hash = auth_hash(self.0.secrets.key(), &account.stamp);
        session.set(session_key::USER_ID, account.user.id.as_str());
        session.set(session_key::BACKEND, BACKEND);
        session.set(session_key::HASH, hash);
    }

    /// Records that this process ended a session, so that its sockets close now, not at the next
    /// interval.
    pub fn logged_out(&self, key: Arc<str>) {
        let mut keys = self.logged_out_keys();
        // Beyond that, the next interval finds them.
        if keys.len() < LOGGED_OUT_MAX {
            keys.insert(key);
            self.0.logged_out.changed.notify_one();
        }
    }

    /// Completes when this process has ended sessions; returns their keys.
    pub(crate) async fn until_logged_out(&self) -> HashSet<Arc<str>> {
        loop {
            let keys = std::mem::take(&mut *self.logged_out_keys());
            if !keys.is_empty() {
                return keys;
            }
            self.0.logged_out.changed.notified().await;
        }
    }

    fn logged_out_keys(&self) -> MutexGuard<'_, HashSet<Arc<str>>> {
        self.0.logged_out.keys.lock()
    }

    /// Creates a ticket for one WebSocket; `None` if too many are unused.
    #[must_use]
    pub fn issue_ticket(&self, identified: Identified) -> Option<String> {
        let max_age = self.0.ticket_max_age;
        self.0
            .tickets
            .issue(identified.user, identified.login, max_age)
    }

    /// Returns how long a ticket is valid.
    #[must_use]
    pub fn ticket_max_age(&self) -> Duration {
        self.0.ticket_max_age
    }

    /// Redeems a ticket, which is valid once.
    #[must_use]
    pub fn of_ticket(&self, ticket: &str) -> Option<Identified> {
        let (user, login) = self.0.tickets.take(ticket)?;
        Some(Identified { user, login })
    }

    /// Takes all unused tickets, for the process that takes the place of this one.
    pub(crate) fn take_tickets(&self) -> Vec<PassedTicket> {
        self.0.tickets.take_all()
    }

    /// Adds the unused tickets of the process whose place this one takes.
    pub(crate) fn add_tickets(&self, passed: Vec<PassedTicket>) {
        self.0.tickets.add(passed);
    }

    /// Returns whether a login has ended, according to the current state of the stores.
    pub(crate) async fn has_ended(
        &self,
        sessions: &SessionStore,
        login: &Login,
    ) -> Result<bool, StoreError> {
        match login {
            Login::Token { expires_at } => Ok(*expires_at <= SystemTime::now()),
            Login::Session {
                key,
                user_id,
                is_staff,
            } => {
                let ended = self.ended(sessions, &[(key, user_id, *is_staff)]).await?;
                Ok(ended.first().copied().unwrap_or(true))
            }
        }
    }

    /// Returns which of these logins have ended: each is a session's key, its user, and whether the
    /// user was staff.
    pub(crate) async fn ended(
        &self,
        sessions: &SessionStore,
        logins: &[(&str, &str, bool)],
    ) -> Result<Vec<bool>, StoreError> {
        let Some(users) = &self.0.users else {
            return Ok(vec![true; logins.len()]);
        };
        let keys: Vec<&str> = logins.iter().map(|(key, ..)| *key).collect();
        let stored = sessions.read_many(&keys).await?;
        let ids: HashSet<&str> = logins.iter().map(|(_, id, _)| *id).collect();
        let ids: Vec<&str> = ids.into_iter().collect();
        let accounts = users.find_many(&ids).await?;
        Ok(logins
            .iter()
            .zip(stored)
            .map(|((_, id, was_staff), stored)| {
                let stands = stored.zip(accounts.get(*id));
                !stands.is_some_and(|(stored, account)| {
                    let keeps_rights = account.user.is_staff || !was_staff;
                    keeps_rights && self.stands_for(&stored.data, account)
                })
            })
            .collect())
    }
}

fn user_id(data: &Map<String, Value>) -> Option<&str> {
    data.get(session_key::USER_ID)
        .and_then(Value::as_str)
        .filter(|id| !id.contains('\0'))
}

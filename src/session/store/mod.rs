//! SessionStore: sessions in memory, in a database, or in a Django project, which is only read.
//!
//! | file | store |
//! |---|---|
//! | `memory.rs` | the memory of this process |
//! | `sql.rs` | a table in SQLite or PostgreSQL |
//! | `django/` | the sessions of a Django project: its table, its Redis cache or its signed cookies, read only |
//!
//! To add a store: a file with its type, a variant of `Backend`, and an arm where each method of
//! [`SessionStore`] matches on it. Its URL is parsed in `src/config/values/store_url.rs`. Stores
//! that can be written never get a session's key, only its SHA-256.

pub(crate) mod django;
mod memory;
mod sql;

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use http::HeaderValue;
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use django::Django;
use memory::Memory;
use sql::Sql;

pub(crate) use sql::read_chunks;

use super::Session;
use super::cookie::{CookieAttributes, SessionCookie};
use crate::config::{SessionConfig, StoreUrl};
use crate::database::{Database, StoreError};
use crate::secrets::{self, Secrets};
use crate::ttl_cache::TtlCache;

/// The length of a key: as in Django, 165 bits.
const KEY_CHARACTERS: usize = 32;

const ALPHABET: &[u8; 36] = b"abcdefghijklmnopqrstuvwxyz0123456789";

/// A store of sessions (cheap to clone).
#[derive(Clone, Debug)]
pub struct SessionStore(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    backend: Arc<Backend>,
    cookie: CookieAttributes,
    cache: Arc<TtlCache<String, Arc<Map<String, Value>>>>,
}

#[derive(Debug)]
enum Backend {
    Memory(Memory),
    Sql(Sql),
    Django(Django),
}

/// A stored session.
#[derive(Clone, Debug)]
pub(crate) struct Stored {
    pub(crate) data: Arc<Map<String, Value>>,
    /// Incremented by each change.
    pub(super) version: i64,
}

impl SessionStore {
    /// Creates the store of a configuration, on its database if it has one. Opens nothing.
    pub(crate) fn new(
        config: &SessionConfig,
        database: Option<Database>,
        secrets: Arc<Secrets>,
    ) -> Self {
        let backend = match (&config.store, database) {
            (StoreUrl::Sqlite(_) | StoreUrl::Postgres(_), Some(database)) => {
                Backend::Sql(Sql::new(database))
            }
            (store, database) if store.is_django() => {
                Backend::Django(Django::new(config, database, secrets))
            }
            _ => Backend::Memory(Memory::default()),
        };
        Self(Arc::new(Shared {
            backend: Arc::new(backend),
            cookie: CookieAttributes::of_session(config),
            cache: Arc::new(TtlCache::new(config.cache)),
        }))
    }

    /// Returns the same store with the cookie and the cache of another configuration.
    pub(crate) fn reconfigured(&self, config: &SessionConfig) -> Self {
        Self(Arc::new(Shared {
            backend: self.0.backend.clone(),
            cookie: CookieAttributes::of_session(config),
            cache: match self.0.cache.ttl() == config.cache {
                true => self.0.cache.clone(),
                false => Arc::new(TtlCache::new(config.cache)),
            },
        }))
    }

    /// Returns whether both keep their sessions in the same place.
    pub(crate) fn has_store_of(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0.backend, &other.0.backend)
    }

    /// Returns the session for a cookie's value. An unknown key is never adopted: it gives an empty
    /// session, which gets a key of its own when a value is set.
    pub async fn open(&self, cookie: Option<&str>) -> Result<Session, StoreError> {
        let Some(key) = cookie.filter(|key| self.is_key(key)) else {
            return Ok(self.empty());
        };
        if let Some(data) = self.0.cache.get(key) {
            return Ok(Session::new(self.clone(), Some(key), data));
        }
        let before = self.0.cache.generation(key);
        Ok(match self.read(key).await? {
            Some(stored) => {
                let data = stored.data.clone();
                self.0.cache.insert(key.to_owned(), data, before);
                Session::new(self.clone(), Some(key), stored.data)
            }
            None => self.empty(),
        })
    }

    /// Returns an empty session.
    #[must_use]
    pub fn empty(&self) -> Session {
        Session::new(self.clone(), None, Arc::default())
    }

    /// Returns the name of the session cookie.
    #[must_use]
    pub fn cookie_name(&self) -> &str {
        &self.0.cookie.name
    }

    /// Returns the attributes of another cookie for the same host that scripts can read.
    pub(crate) fn cookie_beside(&self, name: &str, max_age: Duration) -> CookieAttributes {
        self.0.cookie.beside(name, max_age)
    }

    /// Returns the `Domain` of the cookies; empty for the host alone.
    pub(crate) fn cookie_domain(&self) -> &str {
        &self.0.cookie.domain
    }

    /// Returns whether a Django project owns the store.
    #[must_use]
    pub fn is_read_only(&self) -> bool {
        matches!(*self.0.backend, Backend::Django(_))
    }

    /// Evicts expired entries of the cache.
    pub(crate) fn evict_expired(&self) {
        self.0.cache.evict_expired();
    }

    /// Opens the database, if any.
    pub async fn ready(&self) -> Result<(), StoreError> {
        match &*self.0.backend {
            Backend::Sql(sql) => sql.database.ready().await,
            Backend::Django(django) => django.ready().await,
            Backend::Memory(_) => Ok(()),
        }
    }

    /// Deletes expired sessions and returns their number.
    pub async fn sweep(&self) -> Result<u64, StoreError> {
        match &*self.0.backend {
            Backend::Memory(memory) => Ok(memory.sweep()),
            Backend::Sql(sql) if sql.database.is_open() => sql.sweep().await,
            Backend::Sql(_) => Ok(0), // not opened yet
            Backend::Django(_) => Ok(0),
        }
    }

    /// Returns the `Set-Cookie` field.
    pub(crate) fn set_cookie(&self, cookie: &SessionCookie, is_https: bool) -> Option<HeaderValue> {
        let value = match cookie {
            SessionCookie::Set(key) => Some(&**key),
            SessionCookie::Delete => None,
        };
        self.0.cookie.header(value, is_https)
    }

    /// Drops a session from the cache because its row is gone.
    pub(super) fn forget(&self, key: &str) {
        self.0.cache.remove(key);
    }

    /// Reads a session from the store, bypassing the cache.
    pub(super) async fn read(&self, key: &str) -> Result<Option<Stored>, StoreError> {
        let found = self.read_many(&[key]).await?;
        Ok(found.into_iter().next().flatten())
    }

    /// Reads many sessions from the store in the order of their keys, bypassing the cache.
    pub(crate) async fn read_many(&self, keys: &[&str]) -> Result<Vec<Option<Stored>>, StoreError> {
        let hashes = || keys.iter().map(|key| hash(key)).collect::<Vec<_>>();
        Ok(match &*self.0.backend {
            Backend::Memory(memory) => hashes().iter().map(|hash| memory.read(hash)).collect(),
            Backend::Sql(sql) => {
                let hashes = hashes();
                let mut found: std::collections::HashMap<_, _> =
                    sql.read(&hashes).await?.into_iter().collect();
                hashes.iter().map(|hash| found.remove(hash)).collect()
            }
            Backend::Django(django) => django.read_many(keys).await?,
        })
    }

    /// Stores a new session and returns its key.
    pub(super) async fn insert(&self, data: &Map<String, Value>) -> Result<Arc<str>, StoreError> {
        let key = new_key();
        match &*self.0.backend {
            Backend::Memory(memory) => {
                memory.insert(&hash(&key), data, Instant::now() + self.max_age());
            }
            Backend::Sql(sql) => sql.insert(&hash(&key), data, self.max_age()).await?,
            Backend::Django(_) => return Err(StoreError::ReadOnly),
        }
        Ok(key.into())
    }

    /// Replaces a session's data unless it changed since it was read. Returns whether it was
    /// replaced.
    pub(super) async fn replace(
        &self,
        key: &str,
        version: i64,
        data: &Map<String, Value>,
    ) -> Result<bool, StoreError> {
        self.0.cache.remove(key);
        let is_replaced = match &*self.0.backend {
            Backend::Memory(memory) => {
                memory.replace(&hash(key), version, data, Instant::now() + self.max_age())
            }
            Backend::Sql(sql) => {
                sql.replace(&hash(key), version, data, self.max_age())
                    .await?
            }
            Backend::Django(_) => return Err(StoreError::ReadOnly),
        };
        self.0.cache.remove(key);
        Ok(is_replaced)
    }

    /// Deletes a session.
    pub(super) async fn delete(&self, key: &str) -> Result<(), StoreError> {
        self.0.cache.remove(key);
        match &*self.0.backend {
            Backend::Memory(memory) => memory.delete(&hash(key)),
            Backend::Sql(sql) => sql.delete(&hash(key)).await?,
            Backend::Django(_) => return Err(StoreError::ReadOnly),
        }
        self.0.cache.remove(key);
        Ok(())
    }

    fn max_age(&self) -> Duration {
        self.0.cookie.max_age
    }

    /// Returns whether a cookie's value has the form of a key. Other values are not looked up.
    fn is_key(&self, value: &str) -> bool {
        match &*self.0.backend {
            Backend::Django(django) => django.is_key(value),
            Backend::Memory(_) | Backend::Sql(_) => {
                value.len() == KEY_CHARACTERS && value.bytes().all(|byte| ALPHABET.contains(&byte))
            }
        }
    }
}

/// Generates a key.
fn new_key() -> String {
    let mut key = String::with_capacity(KEY_CHARACTERS);
    let mut random = [0; KEY_CHARACTERS];
    while key.len() < KEY_CHARACTERS {
        secrets::fill(&mut random);
        // 252 is a multiple of 36, so all characters are equally likely.
        let fair = random.iter().filter(|byte| **byte < 252);
        key.extend(
            fair.take(KEY_CHARACTERS - key.len())
                .map(|byte| char::from(ALPHABET[usize::from(byte % 36)])),
        );
    }
    key
}

/// Returns the hash under which our own stores keep a key.
fn hash(key: &str) -> String {
    data_encoding::HEXLOWER.encode(&Sha256::digest(key))
}

/// Returns the current Unix time in seconds.
pub(crate) fn unix_seconds() -> i64 {
    SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |since| {
            i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
        })
}

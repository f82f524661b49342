//! Session: a visitor's data that persists between requests.

mod cookie;
pub(crate) mod signing;
pub(crate) mod store;
mod values;

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};
use serde_json::{Map, Value};

pub use cookie::SessionCookie;
pub use signing::{auth_hash, salted_hmac_sha256};
pub use store::SessionStore;
pub(crate) use store::{read_chunks, unix_seconds};

use crate::database::StoreError;
use values::Values;

/// How often a change is retried after losing against a concurrent one.
const TRIES: usize = 8;

/// One visitor's session: values by name, kept in a store under a key that only the visitor's
/// cookie has.
///
/// Nothing is stored and no cookie is set until a value is set. A view's changes are saved with its
/// response; a consumer's by [`Session::save`] and when the socket closes. Saving writes only the
/// changed names, so concurrent changes of other names persist.
///
/// ```
/// use oneport::session::Session;
/// let session = Session::default();
/// session.set("cart", serde_json::json!([7]));
/// assert_eq!(session.get("cart"), Some(serde_json::json!([7])));
/// ```
#[derive(Default)]
pub struct Session {
    store: Option<SessionStore>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// The key of the row, if it exists.
    key: Option<Arc<str>>,
    values: Values,
    /// Unsaved changes; `None` means removed.
    changes: BTreeMap<String, Option<Value>>,
    /// Whether saving deletes the old row and its key.
    is_flushed: bool,
    /// Whether saving moves the row to a new key.
    is_cycled: bool,
    /// Whether the response is sent, so that the client can get no new key.
    is_sealed: bool,
    cookie: Option<SessionCookie>,
}

impl std::fmt::Debug for Session {
    /// Omits the key and the values.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session")
            .field("has_key", &self.key().is_some())
            .field("is_modified", &self.is_modified())
            .finish_non_exhaustive()
    }
}

/// The changes to save.
struct Pending {
    key: Option<Arc<str>>,
    data: Arc<Map<String, Value>>,
    changes: BTreeMap<String, Option<Value>>,
    is_flushed: bool,
    is_cycled: bool,
    is_sealed: bool,
}

/// The result of a save.
struct Saved {
    key: Option<Arc<str>>,
    data: Arc<Map<String, Value>>,
}

impl Session {
    /// Creates the session of an existing row, or a new session if `key` is `None`.
    #[must_use]
    pub fn new(store: SessionStore, key: Option<&str>, data: Arc<Map<String, Value>>) -> Self {
        Self {
            store: Some(store),
            state: Mutex::new(State {
                key: key.map(Arc::from),
                values: data.into(),
                ..State::default()
            }),
        }
    }

    /// Returns a value.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<Value> {
        self.state().values.get(name)
    }

    /// Returns all current values.
    #[must_use]
    pub fn data(&self) -> Arc<Map<String, Value>> {
        self.state().values.map()
    }

    /// Sets a value.
    pub fn set(&self, name: &str, value: impl Into<Value>) {
        let value = value.into();
        let mut state = self.state();
        let values = state.values.make_mut();
        values.insert(name.to_owned(), value.clone());
        state.changes.insert(name.to_owned(), Some(value));
    }

    /// Removes a value and returns it.
    pub fn remove(&self, name: &str) -> Option<Value> {
        let mut state = self.state();
        let removed = state.values.get(name)?;
        state.values.make_mut().shift_remove(name);
        state.changes.insert(name.to_owned(), None);
        Some(removed)
    }

    /// Clears the session. Saving deletes the row; values set from now on are stored under a new
    /// key.
    pub fn flush(&self) {
        let mut state = self.state();
        state.values = Values::default();
        state.changes.clear();
        state.is_flushed = true;
    }

    /// Gives the session a new key and keeps its values. Prevents session fixation at login.
    pub fn cycle_key(&self) {
        self.state().is_cycled = true;
    }

    /// Returns the key of the row, if it exists. The key is as secret as a password.
    #[must_use]
    pub fn key(&self) -> Option<Arc<str>> {
        self.state().key.clone()
    }

    /// Returns whether there is anything to save.
    #[must_use]
    pub fn is_modified(&self) -> bool {
        let state = self.state();
        !state.changes.is_empty() || state.is_flushed || (state.is_cycled && state.key.is_some())
    }

    /// Saves the changes since the last save.
    ///
    /// Fails with [`StoreError::Gone`] if the session was ended elsewhere, [`StoreError::ReadOnly`]
    /// on a Django project's store, [`StoreError::Sealed`] for a new session on an open socket (its
    /// client cannot get the key), and [`StoreError::Unavailable`] if the store is unavailable.
    /// After a failure the changes are kept for another try.
    pub async fn save(&self) -> Result<(), StoreError> {
        let Some(store) = &self.store else {
            return Ok(());
        };
        if !self.is_modified() {
            return Ok(());
        }
        if store.is_read_only() {
            return Err(StoreError::ReadOnly);
        }
        let pending = self.state().pending();
        let key = pending.key.clone();
        let saved = pending.store(store).await.inspect_err(|error| {
            if let (StoreError::Gone, Some(key)) = (error, &key) {
                store.forget(key);
            }
        })?;
        let mut state = self.state();
        state.cookie = match &saved.key {
            Some(key) => Some(SessionCookie::Set(key.clone())),
            None => state.key.is_some().then_some(SessionCookie::Delete),
        };
        // The state did not change meanwhile: views and consumers await this call.
        *state = State {
            key: saved.key,
            values: saved.data.into(),
            cookie: state.cookie.take(),
            is_sealed: state.is_sealed,
            ..State::default()
        };
        Ok(())
    }

    /// Takes the pending change to the client's cookie.
    pub(crate) fn take_cookie(&self) -> Option<SessionCookie> {
        self.state().cookie.take()
    }

    /// Packs the values to save memory: the session may live as long as a socket.
    pub(crate) fn pack(&self) {
        self.state().values.pack();
    }

    /// Marks the response as sent: from now on no new key can reach the client.
    pub(crate) fn seal(&self) {
        self.state().is_sealed = true;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }
}

impl State {
    fn pending(&self) -> Pending {
        Pending {
            key: self.key.clone(),
            data: self.values.map(),
            changes: self.changes.clone(),
            is_flushed: self.is_flushed,
            is_cycled: self.is_cycled,
            is_sealed: self.is_sealed,
        }
    }
}

impl Pending {
    async fn store(self, store: &SessionStore) -> Result<Saved, StoreError> {
        match self.key.as_deref() {
            Some(old) if self.is_flushed => {
                store.delete(old).await?;
                self.store_new(store, self.data.clone()).await
            }
            Some(old) if self.is_cycled => {
                // The row is gone: new values, such as a login, start a new session.
                let stored = store.read(old).await?;
                let before = stored.map(|stored| stored.data).unwrap_or_default();
                let data = Arc::new(apply(&before, &self.changes));
                let saved = self.store_new(store, data).await?;
                // Deleted last: if storing the new row fails, the old one still exists.
                store.delete(old).await?;
                Ok(saved)
            }
            Some(old) => {
                let data = self.merge(store, old).await?;
                let mut key = Some(old.into());
                if data.is_empty() {
                    store.delete(old).await?;
                    key = None;
                }
                Ok(Saved { key, data })
            }
            None => self.store_new(store, self.data.clone()).await,
        }
    }

    /// Stores values under a new key, unless the map is empty.
    async fn store_new(
        &self,
        store: &SessionStore,
        data: Arc<Map<String, Value>>,
    ) -> Result<Saved, StoreError> {
        let key = match (data.is_empty(), self.is_sealed) {
            (true, _) => None,
            (false, true) => return Err(StoreError::Sealed),
            (false, false) => Some(store.insert(&data).await?),
        };
        Ok(Saved { key, data })
    }

    /// Applies the changes to the stored row, and retries if the row changes concurrently.
    async fn merge(
        &self,
        store: &SessionStore,
        key: &str,
    ) -> Result<Arc<Map<String, Value>>, StoreError> {
        for _ in 0..TRIES {
            let stored = store.read(key).await?.ok_or(StoreError::Gone)?;
            let merged = apply(&stored.data, &self.changes);
            if store.replace(key, stored.version, &merged).await? {
                return Ok(Arc::new(merged));
            }
        }
        Err(StoreError::Contended)
    }
}

fn apply(
    stored: &Map<String, Value>,
    changes: &BTreeMap<String, Option<Value>>,
) -> Map<String, Value> {
    let mut merged = stored.clone();
    for (name, change) in changes {
        match change {
            Some(value) => {
                merged.insert(name.clone(), value.clone());
            }
            None => {
                merged.shift_remove(name);
            }
        }
    }
    merged
}

/// Creates a session with values but without a store, for tests.
impl From<Map<String, Value>> for Session {
    fn from(data: Map<String, Value>) -> Self {
        Self {
            store: None,
            state: Mutex::new(State {
                values: Arc::new(data).into(),
                ..State::default()
            }),
        }
    }
}

//! Memory: sessions in this process, lost when it exits.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use parking_lot::{Mutex, MutexGuard};
use serde_json::{Map, Value};

use super::Stored;

/// The maximum number of sessions. One more evicts the one that expires first.
const SESSIONS_MAX: usize = 100_000;

/// Sessions in this process.
#[derive(Debug, Default)]
pub(super) struct Memory(Mutex<HashMap<String, Entry>>);

#[derive(Debug)]
struct Entry {
    stored: Stored,
    expires_at: Instant,
}

impl Memory {
    pub(super) fn read(&self, key_hash: &str) -> Option<Stored> {
        self.sessions()
            .get(key_hash)
            .filter(|kept| kept.expires_at > Instant::now())
            .map(|kept| kept.stored.clone())
    }

    pub(super) fn insert(&self, key_hash: &str, data: &Map<String, Value>, expires_at: Instant) {
        let mut sessions = self.sessions();
        if sessions.len() >= SESSIONS_MAX
            && let Some(first) = sessions
                .iter()
                .min_by_key(|(_, kept)| kept.expires_at)
                .map(|(key_hash, _)| key_hash.clone())
        {
            sessions.remove(&first);
            metrics::counter!("oneport_sessions_dropped_total").increment(1);
        }
        sessions.insert(
            key_hash.to_owned(),
            Entry {
                stored: Stored {
                    data: Arc::new(data.clone()),
                    version: 1,
                },
                expires_at,
            },
        );
    }

    /// Replaces the data unless it changed since it was read.
    pub(super) fn replace(
        &self,
        key_hash: &str,
        version: i64,
        data: &Map<String, Value>,
        expires_at: Instant,
    ) -> bool {
        let mut sessions = self.sessions();
        match sessions.get_mut(key_hash) {
            Some(kept) if kept.stored.version == version => {
                *kept = Entry {
                    stored: Stored {
                        data: Arc::new(data.clone()),
                        version: version + 1,
                    },
                    expires_at,
                };
                true
            }
            _ => false,
        }
    }

    pub(super) fn delete(&self, key_hash: &str) {
        self.sessions().remove(key_hash);
    }

    pub(super) fn sweep(&self) -> u64 {
        let mut sessions = self.sessions();
        let before = sessions.len();
        let now = Instant::now();
        sessions.retain(|_, kept| kept.expires_at > now);
        (before - sessions.len()) as u64
    }

    fn sessions(&self) -> MutexGuard<'_, HashMap<String, Entry>> {
        self.0.lock()
    }
}

//! SQL: sessions in a table of our own.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value};

use super::{Stored, unix_seconds};
use crate::database::{Bind, Database, Row, StoreError};
use crate::telemetry::LogThrottle;

/// The maximum number of keys in one query.
const KEYS_AT_ONCE: usize = 100;

/// The maximum number of expired rows that one statement deletes.
const SWEPT_AT_ONCE: i64 = 1000;

/// The maximum number of statements in one sweep. The next sweep continues.
const SWEEP_STATEMENTS_MAX: usize = 1000;

/// Sessions in the table `oneport_session`.
#[derive(Debug)]
pub(super) struct Sql {
    pub(super) database: Database,
    unreadable: LogThrottle,
}

impl Sql {
    pub(super) fn new(database: Database) -> Self {
        Self {
            database,
            unreadable: LogThrottle::new(),
        }
    }

    /// Reads rows. Missing and expired ones are omitted.
    pub(super) async fn read(
        &self,
        key_hashes: &[String],
    ) -> Result<Vec<(String, Stored)>, StoreError> {
        let now = [Bind::Integer(unix_seconds())];
        let rows = read_chunks(&self.database, key_hashes, &now, |places| {
            format!(
                "SELECT key_hash, data, CAST(version AS TEXT) FROM oneport_session WHERE expires_at > $1 AND key_hash IN ({})",
                places.join(", ")
            )
        });
        let rows = rows.await?.into_iter();
        Ok(rows.filter_map(|row| self.stored(row)).collect())
    }

    pub(super) async fn insert(
        &self,
        key_hash: &str,
        data: &Map<String, Value>,
        max_age: Duration,
    ) -> Result<(), StoreError> {
        let binds = [
            Bind::Text(key_hash),
            Bind::Text(&text(data)),
            Bind::Integer(expiry(max_age)),
        ];
        let sql = "INSERT INTO oneport_session (key_hash, data, version, expires_at) VALUES ($1, $2, 1, $3)";
        self.database.execute(sql, &binds).await.map(drop)
    }

    /// Replaces the data unless it changed since it was read.
    pub(super) async fn replace(
        &self,
        key_hash: &str,
        version: i64,
        data: &Map<String, Value>,
        max_age: Duration,
    ) -> Result<bool, StoreError> {
        let binds = [
            Bind::Text(key_hash),
            Bind::Integer(version),
            Bind::Text(&text(data)),
            Bind::Integer(expiry(max_age)),
        ];
        let sql = "UPDATE oneport_session SET data = $3, version = version + 1, expires_at = $4 WHERE key_hash = $1 AND version = $2";
        Ok(self.database.execute(sql, &binds).await? > 0)
    }

    pub(super) async fn delete(&self, key_hash: &str) -> Result<(), StoreError> {
        let sql = "DELETE FROM oneport_session WHERE key_hash = $1";
        let binds = [Bind::Text(key_hash)];
        self.database.execute(sql, &binds).await.map(drop)
    }

    /// Deletes expired rows, a thousand at a time, so that other writers do not wait long.
    pub(super) async fn sweep(&self) -> Result<u64, StoreError> {
        let sql = "DELETE FROM oneport_session WHERE key_hash IN (SELECT key_hash FROM oneport_session WHERE expires_at <= $1 LIMIT $2)";
        let mut swept = 0;
        for _ in 0..SWEEP_STATEMENTS_MAX {
            let binds = [Bind::Integer(unix_seconds()), Bind::Integer(SWEPT_AT_ONCE)];
            let deleted = self.database.execute(sql, &binds).await?;
            swept += deleted;
            if deleted == 0 {
                break;
            }
        }
        Ok(swept)
    }

    /// Parses a row of `read`. An invalid row is logged and ignored.
    fn stored(&self, row: Row) -> Option<(String, Stored)> {
        let mut columns = row.into_iter().flatten();
        let (key_hash, data, version) = (columns.next()?, columns.next()?, columns.next()?);
        let data = serde_json::from_str(&data)
            .inspect_err(|error| {
                // Each request of the visitor reads the row again, so the log line is rate-limited.
                if let Some(times) = self.unreadable.count() {
                    tracing::warn!(%error, times, "invalid session row, ignored");
                }
            })
            .ok()?;
        Some((
            key_hash,
            Stored {
                data: Arc::new(data),
                version: version.parse().ok()?,
            },
        ))
    }
}

/// Reads rows for many keys. `sql` receives the keys' placeholders, which follow those of `first`.
pub(crate) async fn read_chunks(
    database: &Database,
    keys: &[String],
    first: &[Bind<'_>],
    sql: impl Fn(&[String]) -> String,
) -> Result<Vec<Row>, StoreError> {
    let mut found = Vec::new();
    for chunk in keys.chunks(KEYS_AT_ONCE) {
        // One of two lengths, so that SQLite and MySQL prepare each query only once. Nothing is
        // prepared in PostgreSQL.
        let places_count = if chunk.len() == 1 { 1 } else { KEYS_AT_ONCE };
        let places: Vec<String> = (1..=places_count)
            .map(|at| format!("${}", first.len() + at))
            .collect();
        let padded = chunk.iter().chain(std::iter::repeat(&chunk[0]));
        let keys = padded.take(places_count).map(|key| Bind::Text(key));
        let binds: Vec<Bind<'_>> = first.iter().copied().chain(keys).collect();
        found.extend(database.fetch(&sql(&places), &binds).await?);
    }
    Ok(found)
}

fn text(data: &Map<String, Value>) -> String {
    serde_json::to_string(data).unwrap_or_else(|_| "{}".to_owned())
}

fn expiry(max_age: Duration) -> i64 {
    unix_seconds().saturating_add(i64::try_from(max_age.as_secs()).unwrap_or(i64::MAX))
}

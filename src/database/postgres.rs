//! PostgreSQL: connects and runs queries, also through a pooler in transaction mode.
//!
//! PgBouncer in transaction mode (and every similar pooler) runs each transaction on any of its
//! server connections. State of a session therefore leaks to another client:
//!
//! - A prepared statement exists on one server connection. On another one it is missing, or it is
//!   *another client's statement of the same name*, and its rows would be taken for ours. So
//!   nothing is prepared: each query is one message of the simple protocol, which is one
//!   transaction, one round trip, and never split over two connections.
//! - `SET` would persist on the server connection and affect other clients. So settings are made
//!   for the query's own transaction only.
//! - Start-up parameters are limited to those that a pooler tracks for each client: `options` and
//!   `extra_float_digits` are not sent.
//! - A session's advisory lock would be released on the wrong connection. So migrations use a
//!   transaction's lock.

use std::fmt::Write as _;
use std::str::FromStr;

use sqlx::migrate::{MigrateError, Migration};
use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions, PgRow};
use sqlx::{AssertSqlSafe, ConnectOptions, Executor, Postgres, Row as _, ValueRef as _, raw_sql};

use super::placeholders::{missing_value, replace_placeholders};
use super::{Bind, DatabaseSettings, MIGRATIONS_TABLE, Row, migrations};

/// Our migrations, in the order of their numbers.
const MIGRATIONS: [(i64, &str, &str); 1] = [(
    1,
    "sessions and users",
    include_str!("postgres/0001_sessions_and_users.sql"),
)];

/// The advisory lock that serialises processes which migrate at once.
const MIGRATION_LOCK: i64 = 0x006f_6e65_706f_7274; // "oneport"

/// Precedes each query to a Django project's database and applies to the query's own transaction.
const READ_ONLY: &str = "SET TRANSACTION READ ONLY; ";

/// Prepares a pool without opening a connection.
pub(super) fn pool(url: &str, settings: DatabaseSettings) -> Result<PgPool, sqlx::Error> {
    let options = PgConnectOptions::from_str(url)?
        .application_name("oneport")
        .extra_float_digits(None)
        .disable_statement_logging();
    Ok(PgPoolOptions::new()
        .acquire_timeout(settings.timeout)
        .max_connections(settings.connections)
        .test_before_acquire(false)
        .connect_lazy_with(options))
}

/// Fetches rows. `is_own` is `false` for a database that is never written.
pub(super) async fn fetch(
    pool: &PgPool,
    sql: &str,
    binds: &[Bind<'_>],
    is_own: bool,
) -> Result<Vec<Row>, sqlx::Error> {
    let before = if is_own { "" } else { READ_ONLY };
    rows(pool, before.to_owned() + &inline(sql, binds)?).await
}

/// Changes rows and returns their number.
pub(super) async fn execute(
    pool: &PgPool,
    sql: &str,
    binds: &[Bind<'_>],
) -> Result<u64, sqlx::Error> {
    run(pool, inline(sql, binds)?).await
}

async fn rows<'e>(
    executor: impl Executor<'e, Database = Postgres>,
    sql: String,
) -> Result<Vec<Row>, sqlx::Error> {
    // `inline` has inserted every value as a literal.
    let rows = raw_sql(AssertSqlSafe(sql)).fetch_all(executor).await?;
    rows.iter().map(row).collect()
}

async fn run<'e>(
    executor: impl Executor<'e, Database = Postgres>,
    sql: String,
) -> Result<u64, sqlx::Error> {
    let done = raw_sql(AssertSqlSafe(sql)).execute(executor).await?;
    Ok(done.rows_affected())
}

/// Returns a row's columns. In the simple protocol, values of every type arrive as text.
fn row(row: &PgRow) -> Result<Row, sqlx::Error> {
    let column = |at| {
        let value = row.try_get_raw(at)?;
        if value.is_null() {
            return Ok(None);
        }
        let text = value.as_str().map_err(sqlx::Error::Decode)?;
        Ok(Some(text.to_owned()))
    };
    (0..row.len()).map(column).collect()
}

/// Replaces the placeholders `$1` and so on with literals.
fn inline(sql: &str, binds: &[Bind<'_>]) -> Result<String, sqlx::Error> {
    replace_placeholders(sql, |sql, index| {
        let bind = binds
            .get(index)
            .ok_or_else(|| missing_value(index, binds.len()))?;
        push_literal(sql, *bind)
    })
}

/// Appends a value as a literal with the same meaning under all server settings.
///
/// Text becomes an escape string. Characters that could end or change it, and those that depend on
/// the connection's encoding, are written as numeric escapes. The literal is a constant, so the
/// planner uses an index as for a parameter.
fn push_literal(sql: &mut String, bind: Bind<'_>) -> Result<(), sqlx::Error> {
    let text = match bind {
        Bind::Text(text) => text,
        Bind::Integer(number) => {
            let written = write!(sql, "({number})::bigint");
            return written.map_err(|error| sqlx::Error::Encode(error.into()));
        }
    };
    if text.contains('\0') {
        let cause = "PostgreSQL cannot store text with a NUL character";
        return Err(sqlx::Error::Encode(cause.into()));
    }
    sql.push_str("E'");
    for character in text.chars() {
        match character {
            ' '..='~' if !matches!(character, '\'' | '\\') => sql.push(character),
            other => write!(sql, "\\U{:08x}", u32::from(other))
                .map_err(|error| sqlx::Error::Encode(error.into()))?,
        }
    }
    sql.push_str("'::text");
    Ok(())
}

/// Migrates our tables. The table of migrations has sqlx's columns.
pub(super) async fn migrate(pool: &PgPool) -> Result<(), sqlx::Error> {
    let mut transaction = pool.begin().await?;
    let connection = &mut *transaction;
    // Waits for another process's migrations, at most until the query's deadline.
    let sql = format!("SELECT pg_advisory_xact_lock({MIGRATION_LOCK})::text");
    rows(&mut *connection, sql).await?;
    // A role that cannot create tables can start if they exist.
    let sql = format!("SELECT to_regclass('{MIGRATIONS_TABLE}')::text");
    let found = rows(&mut *connection, sql).await?;
    if found.iter().flatten().all(Option::is_none) {
        let sql = format!(
            "CREATE TABLE {MIGRATIONS_TABLE} (version BIGINT PRIMARY KEY, description TEXT NOT NULL, \
             installed_on TIMESTAMPTZ NOT NULL DEFAULT now(), success BOOLEAN NOT NULL, \
             checksum BYTEA NOT NULL, execution_time BIGINT NOT NULL)"
        );
        run(&mut *connection, sql).await?;
    }
    let sql = format!(
        "SELECT version::text, encode(checksum, 'hex') FROM {MIGRATIONS_TABLE} ORDER BY version"
    );
    let applied = rows(&mut *connection, sql).await?;
    for sql in missing_migrations(&migrations(&MIGRATIONS), &applied)? {
        run(&mut *connection, sql).await?;
    }
    transaction.commit().await
}

/// Returns the statements of the migrations that are not applied yet. Refuses a database that a
/// newer version has migrated.
fn missing_migrations(known: &[Migration], applied: &[Row]) -> Result<Vec<String>, sqlx::Error> {
    let refuse = |error| Err(sqlx::Error::Migrate(Box::new(error)));
    let mut missing = Vec::new();
    let mut applied_versions = Vec::new();
    for row in applied {
        let [Some(version), Some(checksum)] = row.as_slice() else {
            continue;
        };
        let version = version.parse().unwrap_or(i64::MAX);
        applied_versions.push(version);
        match known.iter().find(|known| known.version == version) {
            None => return refuse(MigrateError::VersionMissing(version)),
            Some(known) if data_encoding::HEXLOWER.encode(&known.checksum) != *checksum => {
                return refuse(MigrateError::VersionMismatch(version));
            }
            Some(_) => {}
        }
    }
    for migration in known {
        let version = migration.version;
        if applied_versions.contains(&version) {
            continue;
        }
        missing.push(migration.sql.as_str().to_owned());
        let checksum = data_encoding::HEXLOWER.encode(&migration.checksum);
        let description = &migration.description;
        missing.push(format!(
            "INSERT INTO {MIGRATIONS_TABLE} (version, description, success, checksum, execution_time) \
             VALUES ({version}, '{description}', TRUE, decode('{checksum}', 'hex'), -1)"
        ));
    }
    Ok(missing)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_literals_that_no_character_can_leave() {
        let check = |sql: &str, binds: &[Bind<'_>], expected: &str| {
            assert_eq!(inline(sql, binds).unwrap(), expected, "{sql}");
        };
        check("SELECT 1", &[], "SELECT 1");
        check(
            "a = $1 AND b > $2",
            &[Bind::Text("abc-1"), Bind::Integer(7)],
            "a = E'abc-1'::text AND b > (7)::bigint",
        );
        check("a = $1", &[Bind::Integer(-7)], "a = (-7)::bigint");
        check("a = $1", &[Bind::Text("")], "a = E''::text");
        for (text, expected) in [
            ("{\"a\": [1, $1]}", "{\"a\": [1, $1]}"),
            ("a'b", "a\\U00000027b"),
            ("\\", "\\U0000005c"),
            ("\\'; --", "\\U0000005c\\U00000027; --"),
            ("é\n", "\\U000000e9\\U0000000a"),
            ("\u{1f600}", "\\U0001f600"),
        ] {
            check(
                "a = $1",
                &[Bind::Text(text)],
                &format!("a = E'{expected}'::text"),
            );
        }
        let ten = [Bind::Integer(1); 10];
        check("($10, $1)", &ten, "((1)::bigint, (1)::bigint)");
        check(
            "\"a$1\" = '$1' AND \"b\"\"$1\" = $1",
            &ten,
            "\"a$1\" = '$1' AND \"b\"\"$1\" = (1)::bigint",
        );
    }

    #[test]
    fn what_cannot_be_written_is_an_error_and_no_query() {
        for (sql, binds) in [
            ("a = $2", &[Bind::Integer(1)][..]),
            ("a = $0", &[Bind::Integer(1)]),
            ("a = $", &[Bind::Integer(1)]),
            ("a = $1", &[]),
            ("a = $1", &[Bind::Text("a\0b")]),
        ] {
            assert!(inline(sql, binds).is_err(), "{sql}");
        }
    }

    #[test]
    fn migrations_are_applied_once_and_a_newer_database_is_refused() {
        let known = migrations(&MIGRATIONS);
        let row = |version: i64, checksum: &str| {
            vec![Some(version.to_string()), Some(checksum.to_owned())]
        };
        let right = data_encoding::HEXLOWER.encode(&known[0].checksum);
        assert_eq!(missing_migrations(&known, &[]).unwrap().len(), 2);
        assert!(
            missing_migrations(&known, &[row(1, &right)])
                .unwrap()
                .is_empty()
        );
        assert!(missing_migrations(&known, &[row(1, "00")]).is_err());
        assert!(missing_migrations(&known, &[row(1, &right), row(2, "00")]).is_err());
    }
}

//! SQLite: how its file is opened and asked.

use std::path::Path;

use sqlx::migrate::Migrator;
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous,
};
use sqlx::{AssertSqlSafe, ConnectOptions, Row as _, SqlSafeStr};

use super::{Bind, DatabaseSettings, MIGRATIONS_TABLE, Row, migrations};

/// Our migrations; their numbers are the order.
const MIGRATIONS: [(i64, &str, &str); 1] = [(
    1,
    "sessions and users",
    include_str!("sqlite/0001_sessions_and_users.sql"),
)];

/// Prepares a pool; nothing is opened yet.
pub(super) fn pool(path: &Path, settings: DatabaseSettings, is_read_only: bool) -> SqlitePool {
    let is_memory = is_memory(path);
    let mut options = SqliteConnectOptions::new()
        .disable_statement_logging()
        .busy_timeout(settings.timeout)
        .read_only(is_read_only);
    options = if is_memory {
        options.in_memory(true)
    } else {
        options.filename(path)
    };
    if !is_read_only && !is_memory {
        options = options
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Normal);
    }
    let pool = SqlitePoolOptions::new()
        .acquire_timeout(settings.timeout)
        .test_before_acquire(false);
    let pool = if is_memory {
        // It lives as long as its one connection.
        pool.max_connections(1)
            .min_connections(1)
            .idle_timeout(None)
            .max_lifetime(None)
    } else {
        pool.max_connections(settings.connections)
    };
    pool.connect_lazy_with(options)
}

/// Tells whether it is SQLite's name for what is in memory alone.
pub(super) fn is_memory(path: &Path) -> bool {
    path.as_os_str() == ":memory:"
}

/// Makes the file for its owner alone, as it holds the hashes of passwords. What fails here fails again, and is told, when it is opened.
pub(super) fn own_file(path: &Path) {
    let mut open = std::fs::OpenOptions::new();
    open.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut open, 0o600);
    let _ = open.open(path);
}

/// Brings our tables up to date.
pub(super) async fn migrate(pool: &SqlitePool) -> Result<(), sqlx::Error> {
    let mut migrator = Migrator::with_migrations(migrations(&MIGRATIONS));
    migrator.dangerous_set_table_name(MIGRATIONS_TABLE);
    let outcome = migrator.run(pool).await;
    outcome.map_err(|error| sqlx::Error::Migrate(Box::new(error)))
}

/// Asks for rows.
pub(super) async fn fetch(
    pool: &SqlitePool,
    sql: &str,
    binds: &[Bind<'_>],
) -> Result<Vec<Row>, sqlx::Error> {
    let rows = query(sql, binds).fetch_all(pool).await?;
    rows.iter()
        .map(|row| (0..row.len()).map(|at| row.try_get(at)).collect())
        .collect()
}

/// Changes rows; returns how many.
pub(super) async fn execute(
    pool: &SqlitePool,
    sql: &str,
    binds: &[Bind<'_>],
) -> Result<u64, sqlx::Error> {
    Ok(query(sql, binds).execute(pool).await?.rows_affected())
}

fn query<'q>(
    sql: &str,
    binds: &'q [Bind<'q>],
) -> sqlx::query::Query<'q, sqlx::Sqlite, sqlx::sqlite::SqliteArguments> {
    // The text is ours; what comes from outside is bound.
    let mut query = sqlx::query(AssertSqlSafe(sql).into_sql_str());
    for bind in binds {
        query = match *bind {
            Bind::Text(text) => query.bind(text),
            Bind::Integer(number) => query.bind(number),
        };
    }
    query
}

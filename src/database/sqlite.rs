//! SQLite: opens the file and runs queries.

use std::path::Path;

use sqlx::migrate::Migrator;
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous,
};
use sqlx::{AssertSqlSafe, ConnectOptions, Row as _, SqlSafeStr};

use super::{Bind, DatabaseSettings, MIGRATIONS_TABLE, Row, migrations};

/// Our migrations, in the order of their numbers.
const MIGRATIONS: [(i64, &str, &str); 1] = [(
    1,
    "sessions and users",
    include_str!("sqlite/0001_sessions_and_users.sql"),
)];

/// Connections to one file.
///
/// SQLite has one writer at a time; other writers wait for the file's lock, each on its own
/// connection. If writers shared the readers' pool, waiting writers could occupy every connection.
/// A writer that times out keeps its connection until SQLite gives up too, so a count of pending
/// calls would not bound the connections. The writer's pool of one connection does.
#[derive(Debug)]
pub(super) struct Sqlite {
    readers: SqlitePool,
    /// One connection. The same pool as `readers` if the file is read-only, in memory, or limited
    /// to one connection.
    writer: SqlitePool,
}

impl Sqlite {
    /// Prepares the pools without opening the file.
    pub(super) fn new(path: &Path, settings: DatabaseSettings, is_read_only: bool) -> Self {
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
        let pool = |connections| {
            SqlitePoolOptions::new()
                .acquire_timeout(settings.timeout)
                .test_before_acquire(false)
                .max_connections(connections)
        };
        if is_memory {
            // An in-memory database lives as long as its one connection.
            let only = pool(1)
                .min_connections(1)
                .idle_timeout(None)
                .max_lifetime(None);
            return Self::shared(only.connect_lazy_with(options));
        }
        if is_read_only || settings.connections <= 1 {
            return Self::shared(pool(settings.connections).connect_lazy_with(options));
        }
        Self {
            readers: pool(settings.connections - 1).connect_lazy_with(options.clone()),
            writer: pool(1).connect_lazy_with(options),
        }
    }

    fn shared(pool: SqlitePool) -> Self {
        Self {
            readers: pool.clone(),
            writer: pool,
        }
    }

    /// Migrates our tables.
    pub(super) async fn migrate(&self) -> Result<(), sqlx::Error> {
        let mut migrator = Migrator::with_migrations(migrations(&MIGRATIONS));
        migrator.dangerous_set_table_name(MIGRATIONS_TABLE);
        let outcome = migrator.run(&self.writer).await;
        outcome.map_err(|error| sqlx::Error::Migrate(Box::new(error)))
    }

    /// Fetches rows.
    pub(super) async fn fetch(
        &self,
        sql: &str,
        binds: &[Bind<'_>],
    ) -> Result<Vec<Row>, sqlx::Error> {
        let rows = query(sql, binds).fetch_all(&self.readers).await?;
        rows.iter()
            .map(|row| (0..row.len()).map(|at| row.try_get(at)).collect())
            .collect()
    }

    /// Changes rows and returns their number.
    pub(super) async fn execute(&self, sql: &str, binds: &[Bind<'_>]) -> Result<u64, sqlx::Error> {
        let done = query(sql, binds).execute(&self.writer).await?;
        Ok(done.rows_affected())
    }
}

/// Returns whether this is SQLite's name for an in-memory database.
pub(super) fn is_memory(path: &Path) -> bool {
    path.as_os_str() == ":memory:"
}

/// Creates the file readable by its owner only, because it contains password hashes. Errors are
/// ignored: opening the file reports them.
pub(super) fn own_file(path: &Path) {
    let mut open = std::fs::OpenOptions::new();
    open.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut open, 0o600);
    let _ = open.open(path);
}

fn query<'q>(
    sql: &str,
    binds: &'q [Bind<'q>],
) -> sqlx::query::Query<'q, sqlx::Sqlite, sqlx::sqlite::SqliteArguments> {
    // The SQL is ours; all outside values are bound.
    let mut query = sqlx::query(AssertSqlSafe(sql).into_sql_str());
    for bind in binds {
        query = match *bind {
            Bind::Text(text) => query.bind(text),
            Bind::Integer(number) => query.bind(number),
        };
    }
    query
}

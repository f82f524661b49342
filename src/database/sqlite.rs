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

/// Connections to one file.
///
/// SQLite has one writer at a time; the others wait for the file's lock, each with a connection of its own. Were that connection one
/// of the readers', waiting writers would leave nothing to read with. A writer whose time is up keeps its connection until SQLite
/// gives up too, so counting the calls that are under way would not bound them: the writer's pool of one does.
#[derive(Debug)]
pub(super) struct Sqlite {
    readers: SqlitePool,
    /// One connection. The readers' pool where nothing is written, in memory, and when there may be one connection only.
    writer: SqlitePool,
}

impl Sqlite {
    /// Prepares the pools; nothing is opened yet.
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
            // It lives as long as its one connection.
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

    /// Brings our tables up to date.
    pub(super) async fn migrate(&self) -> Result<(), sqlx::Error> {
        let mut migrator = Migrator::with_migrations(migrations(&MIGRATIONS));
        migrator.dangerous_set_table_name(MIGRATIONS_TABLE);
        let outcome = migrator.run(&self.writer).await;
        outcome.map_err(|error| sqlx::Error::Migrate(Box::new(error)))
    }

    /// Asks for rows.
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

    /// Changes rows; returns how many.
    pub(super) async fn execute(&self, sql: &str, binds: &[Bind<'_>]) -> Result<u64, sqlx::Error> {
        let done = query(sql, binds).execute(&self.writer).await?;
        Ok(done.rows_affected())
    }
}

/// Tells whether it is SQLite's name for what is in memory alone.
pub(super) fn is_memory(path: &Path) -> bool {
    path.as_os_str() == ":memory:"
}

/// Makes the file for its owner alone, as it holds the hashes of passwords. Errors are ignored here: opening the file reports them.
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

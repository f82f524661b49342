//! Database: tables in SQLite or PostgreSQL, or those of a Django project in MySQL, with a bounded
//! pool, a deadline for each query, and an outage that is logged once per interval.

mod diagnosis;
mod mysql;
mod outage;
mod placeholders;
mod postgres;
mod query_timer;
mod sqlite;

use std::error::Error;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use sqlx::migrate::{MigrateError, Migration, MigrationType};
use sqlx::{MySqlPool, PgPool, SqlSafeStr};
use thiserror::Error;
use tokio::sync::OnceCell;
use tokio::time::{Instant, timeout_at};

pub(crate) use diagnosis::{diagnose, io_cause, why_not_connected};
pub(crate) use outage::{Access, Outage};
pub(crate) use query_timer::QueryTimer;

use self::sqlite::Sqlite;
use crate::config::StoreUrl;
use crate::telemetry::trace::{self, Span, SpanKind};

/// How many connections a query is tried on if each turns out to be broken.
const TRIES: usize = 10;

/// How often migrations are tried if several processes start at once, and the pause between tries.
const MIGRATION_TRIES: usize = 4;
const MIGRATION_PAUSE: Duration = Duration::from_millis(50);

/// The table of applied migrations. Not sqlx's default name, because the database may also be an
/// application's.
const MIGRATIONS_TABLE: &str = "oneport_migration";

/// The cause of a failure, for the log.
type Cause = Box<dyn Error + Send + Sync>;

/// Why a store failed.
#[derive(Debug, Error)]
pub enum StoreError {
    /// The store failed or did not reply in time: 503, or 1013 on an open socket.
    #[error("{store} unavailable: {cause}")]
    Unavailable {
        /// The name of the store.
        store: &'static str,
        /// The cause, for the log.
        cause: Box<dyn Error + Send + Sync>,
    },
    /// The session to change no longer exists: it was ended elsewhere.
    #[error("the session was ended elsewhere")]
    Gone,
    /// The store belongs to a Django project and is never written.
    #[error("the store belongs to a Django project and is read-only")]
    ReadOnly,
    /// The response is already sent, so a new key cannot reach the client.
    #[error("a new session cannot be created after the response is sent")]
    Sealed,
    /// Concurrent changes won every retry.
    #[error("too many concurrent changes of the session")]
    Contended,
    /// The user name is taken.
    #[error("user {0:?} already exists")]
    Taken(String),
}

impl StoreError {
    /// Returns whether a later retry may succeed.
    #[must_use]
    pub fn is_unavailable(&self) -> bool {
        matches!(self, Self::Unavailable { .. } | Self::Contended)
    }
}

/// The limits of a database.
#[derive(Clone, Copy, Debug)]
pub struct DatabaseSettings {
    /// The timeout of one query, including the wait for a connection.
    pub timeout: Duration,
    /// The maximum number of connections.
    pub connections: u32,
}

/// A value for a placeholder in a query.
#[derive(Clone, Copy, Debug)]
pub enum Bind<'a> {
    /// Text.
    Text(&'a str),
    /// A whole number.
    Integer(i64),
}

/// One row of a result. Every column is selected as text.
pub type Row = Vec<Option<String>>;

/// A database (cheap to clone).
#[derive(Clone, Debug)]
pub struct Database(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    pool: Pool,
    settings: DatabaseSettings,
    /// Whether the tables are ours, to be created and changed.
    is_own: bool,
    /// The SQLite file, created before the first query.
    file: Option<PathBuf>,
    is_ready: OnceCell<()>,
    outage: Outage,
}

#[derive(Debug)]
enum Pool {
    Sqlite(Sqlite),
    Postgres(PgPool),
    Mysql(MySqlPool),
}

/// The SQL dialect of a database.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Dialect {
    /// SQLite.
    Sqlite,
    /// PostgreSQL.
    Postgres,
    /// MySQL and MariaDB.
    Mysql,
}

impl Dialect {
    /// Quotes an identifier. Both parts of `schema.table` are quoted.
    #[must_use]
    pub fn quoted(self, identifier: &str) -> String {
        let quote = match self {
            Self::Sqlite | Self::Postgres => "\"",
            Self::Mysql => "`",
        };
        let quoted =
            |part: &str| format!("{quote}{}{quote}", part.replace(quote, &quote.repeat(2)));
        let parts: Vec<String> = identifier.split('.').map(quoted).collect();
        parts.join(".")
    }

    /// Returns the type name for a cast to text.
    #[must_use]
    pub fn text(self) -> &'static str {
        match self {
            Self::Sqlite | Self::Postgres => "TEXT",
            Self::Mysql => "CHAR",
        }
    }

    /// Returns the type name for a cast to an integer.
    #[must_use]
    pub fn integer(self) -> &'static str {
        match self {
            Self::Sqlite | Self::Postgres => "INTEGER",
            Self::Mysql => "SIGNED",
        }
    }
}

impl Pool {
    /// Returns a query that needs no table of ours. SQLite reads the file only for a query that
    /// needs its contents.
    fn probe(&self) -> &'static str {
        match self {
            Self::Sqlite(_) => "SELECT name FROM sqlite_master LIMIT 1",
            Self::Postgres(_) | Self::Mysql(_) => "SELECT 'open'",
        }
    }
}

impl Database {
    /// Returns whether both are one pool of connections.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Prepares a database of ours or of a Django project without opening it. Needs a tokio
    /// runtime. `store` is its name in messages. Returns `None` for URLs without SQL.
    pub fn new(
        url: &StoreUrl,
        settings: DatabaseSettings,
        store: &'static str,
    ) -> Option<Result<Self, sqlx::Error>> {
        let pool = match url {
            StoreUrl::Sqlite(path) => Ok(Pool::Sqlite(Sqlite::new(path, settings, false))),
            StoreUrl::DjangoSqlite(path) => Ok(Pool::Sqlite(Sqlite::new(path, settings, true))),
            StoreUrl::Postgres(url) | StoreUrl::DjangoPostgres(url) => {
                postgres::pool(url, settings).map(Pool::Postgres)
            }
            StoreUrl::DjangoMysql(url) => mysql::pool(url, settings).map(Pool::Mysql),
            StoreUrl::Memory | StoreUrl::DjangoRedis(_) | StoreUrl::DjangoSignedCookies => {
                return None;
            }
        };
        Some(pool.map(|pool| {
            Self(Arc::new(Shared {
                pool,
                settings,
                is_own: !url.is_django(),
                file: match url {
                    StoreUrl::Sqlite(path) if !sqlite::is_memory(path) => Some(path.clone()),
                    _ => None,
                },
                is_ready: OnceCell::new(),
                outage: Outage::new(store),
            }))
        }))
    }

    /// Returns the SQL dialect.
    #[must_use]
    pub fn dialect(&self) -> Dialect {
        match self.0.pool {
            Pool::Sqlite(_) => Dialect::Sqlite,
            Pool::Postgres(_) => Dialect::Postgres,
            Pool::Mysql(_) => Dialect::Mysql,
        }
    }

    /// Returns whether the database is open, which the first query does.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.0.is_ready.initialized()
    }

    /// Opens the database and migrates our own tables, once. Until that succeeds, each query tries
    /// again. The caller logs a failure.
    pub async fn ready(&self) -> Result<(), StoreError> {
        let opened = self.run(|| async { Ok(()) }).await;
        opened.map_err(|(_, cause)| {
            self.0.outage.report_elsewhere();
            self.unavailable(cause)
        })
    }

    /// Fetches rows. `$1` and so on are the placeholders, in every dialect.
    pub async fn fetch(&self, sql: &str, binds: &[Bind<'_>]) -> Result<Vec<Row>, StoreError> {
        let query = || self.try_fetch(sql, binds);
        self.within_time(Access::Read, query).await
    }

    /// Changes rows and returns their number. Fails with [`StoreError::ReadOnly`] on a Django
    /// project's database.
    pub async fn execute(&self, sql: &str, binds: &[Bind<'_>]) -> Result<u64, StoreError> {
        if !self.0.is_own {
            return Err(StoreError::ReadOnly);
        }
        let query = || self.try_execute(sql, binds);
        self.within_time(Access::Write, query).await
    }

    /// Runs a query within its deadline and records the outcome in the outage.
    async fn within_time<T, F>(
        &self,
        access: Access,
        query: impl Fn() -> F,
    ) -> Result<T, StoreError>
    where
        F: Future<Output = Result<T, sqlx::Error>>,
    {
        let outage = &self.0.outage;
        let mut span = self.span(access);
        let timer = QueryTimer::start(outage.store());
        let answered = self.run(query).await;
        timer.end(answered.is_ok());
        match answered {
            Ok(answer) => {
                outage.is_over(access);
                Ok(answer)
            }
            Err((was_reached, cause)) => {
                let access = if was_reached { access } else { Access::Read };
                outage.report(access, &*cause);
                if let Some(span) = &mut span {
                    span.fail("unavailable");
                }
                Err(self.unavailable(cause))
            }
        }
    }

    /// Starts the span of a query; `None` while nothing is traced.
    fn span(&self, access: Access) -> Option<Box<Span>> {
        if !trace::is_on() {
            return None;
        }
        let name = match access {
            Access::Read => "store read",
            Access::Write => "store write",
        };
        let mut span = Span::child(SpanKind::Client, name)?;
        let system = match self.0.pool {
            Pool::Sqlite(_) => "sqlite",
            Pool::Postgres(_) => "postgresql",
            Pool::Mysql(_) => "mysql",
        };
        span.set("db.system.name", system);
        span.set("oneport.store", self.0.outage.store());
        Some(Box::new(span))
    }

    /// Runs a query within its deadline. A broken connection is replaced, up to [`TRIES`]. An error
    /// includes whether the database was reached.
    async fn run<T, F>(&self, query: impl Fn() -> F) -> Result<T, (bool, Cause)>
    where
        F: Future<Output = Result<T, sqlx::Error>>,
    {
        let inner = &*self.0;
        let attempt = async {
            inner.is_ready.get_or_try_init(|| self.prepare()).await?;
            let mut tries = 1;
            loop {
                match query().await {
                    Err(error) if tries < TRIES && is_of_connection(&error) => tries += 1,
                    done => return done,
                }
            }
        };
        let deadline = Instant::now() + inner.settings.timeout;
        match timeout_at(deadline, attempt).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(sqlx::Error::PoolTimedOut)) | Err(_) => {
                let cause = format!("no answer within {:?}", inner.settings.timeout);
                Err((true, cause.into()))
            }
            Ok(Err(error)) => {
                let was_reached = matches!(error, sqlx::Error::Database(_));
                Err((was_reached, plain(error)))
            }
        }
    }

    fn unavailable(&self, cause: Cause) -> StoreError {
        StoreError::Unavailable {
            store: self.0.outage.store(),
            cause,
        }
    }

    /// Creates or migrates our own file and tables. A Django project's database is only opened.
    async fn prepare(&self) -> Result<(), sqlx::Error> {
        if !self.0.is_own {
            return self.try_fetch(self.0.pool.probe(), &[]).await.map(drop);
        }
        if let Some(path) = &self.0.file {
            sqlite::own_file(path);
        }
        let mut tries = 1;
        loop {
            let outcome = match &self.0.pool {
                Pool::Sqlite(pool) => pool.migrate().await,
                Pool::Postgres(pool) => postgres::migrate(pool).await,
                // MySQL is only a Django project's database, never ours.
                Pool::Mysql(_) => return Ok(()),
            };
            match outcome {
                // SQLite has no advisory lock: another process may just have created the same
                // table.
                Err(_) if tries < MIGRATION_TRIES => tokio::time::sleep(MIGRATION_PAUSE).await,
                Ok(()) => break,
                Err(error) => return Err(error),
            }
            tries += 1;
        }
        self.warn_of_django().await;
        Ok(())
    }

    async fn try_fetch(&self, sql: &str, binds: &[Bind<'_>]) -> Result<Vec<Row>, sqlx::Error> {
        match &self.0.pool {
            Pool::Sqlite(pool) => pool.fetch(sql, binds).await,
            Pool::Postgres(pool) => postgres::fetch(pool, sql, binds, self.0.is_own).await,
            Pool::Mysql(pool) => mysql::fetch(pool, sql, binds).await,
        }
    }

    async fn try_execute(&self, sql: &str, binds: &[Bind<'_>]) -> Result<u64, sqlx::Error> {
        match &self.0.pool {
            Pool::Sqlite(pool) => pool.execute(sql, binds).await,
            Pool::Postgres(pool) => postgres::execute(pool, sql, binds).await,
            Pool::Mysql(_) => Err(sqlx::Error::Configuration(Box::new(StoreError::ReadOnly))),
        }
    }
}

/// Returns the migrations of a dialect as sqlx's type, with their checksums.
fn migrations(of_dialect: &[(i64, &'static str, &'static str)]) -> Vec<Migration> {
    let migrations = of_dialect.iter().map(|(version, description, sql)| {
        Migration::new(
            *version,
            (*description).into(),
            MigrationType::Simple,
            sql.into_sql_str(),
            false,
        )
    });
    migrations.collect()
}

/// Returns the database's own message, if any, without sqlx's prefix, error numbers, or line
/// numbers of the server's source.
fn plain(error: sqlx::Error) -> Cause {
    match error {
        sqlx::Error::Database(error) => error.message().into(),
        sqlx::Error::Migrate(error) => match *error {
            MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) => plain(error),
            other => Box::new(other),
        },
        other => Box::new(other),
    }
}

/// Returns whether an error concerns the connection, not the query.
fn is_of_connection(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(error) => error.kind() != std::io::ErrorKind::ConnectionRefused,
        sqlx::Error::WorkerCrashed | sqlx::Error::Protocol(_) => true,
        // 57P01 to 57P03: the server stops or starts; 08...: the connection is broken; 70100: the
        // connection was killed (MySQL).
        sqlx::Error::Database(error) => error.code().is_some_and(|code| {
            code.starts_with("57P") || code.starts_with("08") || code == "70100"
        }),
        _ => false,
    }
}

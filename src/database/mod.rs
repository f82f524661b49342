//! Database: tables in SQLite or PostgreSQL, or those of a Django project in MySQL, with a bounded pool, a deadline for each query, and one word about an outage.

mod diagnosis;
mod mysql;
mod outage;
mod placeholders;
mod postgres;
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

use self::sqlite::Sqlite;
use crate::config::StoreUrl;

/// How often a query is tried on another connection when its own turns out to be broken.
const TRIES: usize = 10;

/// How often migrations are tried when several processes start at once, and how long after each other.
const MIGRATION_TRIES: usize = 4;
const MIGRATION_PAUSE: Duration = Duration::from_millis(50);

/// The table that says which of them ran; not sqlx's own name, for the database may be an application's too.
const MIGRATIONS_TABLE: &str = "oneport_migration";

/// What went wrong, for the log.
type Cause = Box<dyn Error + Send + Sync>;

/// Why a store gave nothing.
#[derive(Debug, Error)]
pub enum StoreError {
    /// It did not answer in time, or with an error: 503, or 1013 where a socket is open.
    #[error("{store} does not answer: {cause}")]
    Unavailable {
        /// Which one.
        store: &'static str,
        /// What happened.
        cause: Box<dyn Error + Send + Sync>,
    },
    /// What was to be changed is there no more: the session was ended elsewhere.
    #[error("expected a session to change, found that it was ended")]
    Gone,
    /// The store belongs to a Django project: it is read, never written.
    #[error("expected a store of our own, found one that is Django's: it is never written")]
    ReadOnly,
    /// A new key cannot reach the client any more: its answer has left.
    #[error("expected a session that the client has the key of, found a new one after the answer")]
    Sealed,
    /// Others changed it all the time.
    #[error("expected a moment to write, found a session that others change all the time")]
    Contended,
    /// The name is in use.
    #[error("user {0:?} already exists")]
    Taken(String),
}

impl StoreError {
    /// Tells whether trying again later may help.
    #[must_use]
    pub fn is_unavailable(&self) -> bool {
        matches!(self, Self::Unavailable { .. } | Self::Contended)
    }
}

/// How a database is used.
#[derive(Clone, Copy, Debug)]
pub struct DatabaseSettings {
    /// The time one query has, waiting for a connection included.
    pub timeout: Duration,
    /// Connections at the same time, at most.
    pub connections: u32,
}

/// A value for a place in a query.
#[derive(Clone, Copy, Debug)]
pub enum Bind<'a> {
    /// Text.
    Text(&'a str),
    /// A whole number.
    Integer(i64),
}

/// One row of an answer; every column is asked for as text.
pub type Row = Vec<Option<String>>;

/// A database (cheap to clone).
#[derive(Clone, Debug)]
pub struct Database(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    pool: Pool,
    settings: DatabaseSettings,
    /// Are the tables ours, to be made and changed?
    is_own: bool,
    /// The file that holds them, made when it is asked for the first time.
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

/// How a database writes what the standard leaves open.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Dialect {
    /// SQLite's.
    Sqlite,
    /// PostgreSQL's.
    Postgres,
    /// That of MySQL and MariaDB.
    Mysql,
}

impl Dialect {
    /// Returns a name in quotes; `schema.table` gets both parts quoted.
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

    /// Returns the type that a value is cast to as text.
    #[must_use]
    pub fn text(self) -> &'static str {
        match self {
            Self::Sqlite | Self::Postgres => "TEXT",
            Self::Mysql => "CHAR",
        }
    }

    /// Returns the type that a value is cast to as a whole number.
    #[must_use]
    pub fn integer(self) -> &'static str {
        match self {
            Self::Sqlite | Self::Postgres => "INTEGER",
            Self::Mysql => "SIGNED",
        }
    }
}

impl Pool {
    /// A query that needs no table. SQLite reads nothing of the file before it is asked for something in it.
    fn probe(&self) -> &'static str {
        match self {
            Self::Sqlite(_) => "SELECT name FROM sqlite_master LIMIT 1",
            Self::Postgres(_) | Self::Mysql(_) => "SELECT 'open'",
        }
    }
}

impl Database {
    /// Prepares a database of ours or of a Django project; nothing is opened yet. Needs a tokio runtime. `store` is what messages
    /// call it. None for URLs without SQL.
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

    /// Returns what it speaks.
    #[must_use]
    pub fn dialect(&self) -> Dialect {
        match self.0.pool {
            Pool::Sqlite(_) => Dialect::Sqlite,
            Pool::Postgres(_) => Dialect::Postgres,
            Pool::Mysql(_) => Dialect::Mysql,
        }
    }

    /// Tells whether it was opened: somebody has asked it something.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.0.is_ready.initialized()
    }

    /// Opens it and brings our own tables up to date, once; it is tried again with each query until it succeeds. The caller logs
    /// what fails.
    pub async fn ready(&self) -> Result<(), StoreError> {
        let opened = self.asked(|| async { Ok(()) }).await;
        opened.map_err(|(_, cause)| {
            self.0.outage.report_elsewhere();
            self.unavailable(cause)
        })
    }

    /// Asks for rows. `$1` and so on are the places of the values, in both dialects.
    pub async fn fetch(&self, sql: &str, binds: &[Bind<'_>]) -> Result<Vec<Row>, StoreError> {
        let query = || self.try_fetch(sql, binds);
        self.within_time(Access::Read, query).await
    }

    /// Changes rows; returns how many. [`StoreError::ReadOnly`] with a Django project's database.
    pub async fn execute(&self, sql: &str, binds: &[Bind<'_>]) -> Result<u64, StoreError> {
        if !self.0.is_own {
            return Err(StoreError::ReadOnly);
        }
        let query = || self.try_execute(sql, binds);
        self.within_time(Access::Write, query).await
    }

    /// Makes a query within the time it has, and keeps the outage.
    async fn within_time<T, F>(
        &self,
        access: Access,
        query: impl Fn() -> F,
    ) -> Result<T, StoreError>
    where
        F: Future<Output = Result<T, sqlx::Error>>,
    {
        let outage = &self.0.outage;
        match self.asked(query).await {
            Ok(answer) => {
                outage.is_over(access);
                Ok(answer)
            }
            Err((was_asked, cause)) => {
                let access = if was_asked { access } else { Access::Read };
                outage.report(access, &*cause);
                Err(self.unavailable(cause))
            }
        }
    }

    /// Makes a query within the time it has; a connection that turns out to be broken is no failure yet. An error tells too whether
    /// the database was reached.
    async fn asked<T, F>(&self, query: impl Fn() -> F) -> Result<T, (bool, Cause)>
    where
        F: Future<Output = Result<T, sqlx::Error>>,
    {
        let inner = &*self.0;
        let asked = async {
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
        match timeout_at(deadline, asked).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(sqlx::Error::PoolTimedOut)) | Err(_) => {
                let cause = format!("no answer within {:?}", inner.settings.timeout);
                Err((true, cause.into()))
            }
            Ok(Err(error)) => {
                let was_asked = matches!(error, sqlx::Error::Database(_));
                Err((was_asked, plain(error)))
            }
        }
    }

    fn unavailable(&self, cause: Cause) -> StoreError {
        StoreError::Unavailable {
            store: self.0.outage.store(),
            cause,
        }
    }

    /// Makes our own file and tables, or brings them up to date. A Django project's database is only opened.
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
                // Only a Django project's, which is never ours.
                Pool::Mysql(_) => return Ok(()),
            };
            match outcome {
                // SQLite has no lock for it: another process may have made the same table a moment before.
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

/// Returns the migrations of a dialect as sqlx has them, with their checksums.
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

/// Returns the database's own words where it has any: without sqlx's, error numbers, or lines of the server's source.
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

/// Errors that say something of one connection, not of the query.
fn is_of_connection(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(error) => error.kind() != std::io::ErrorKind::ConnectionRefused,
        sqlx::Error::WorkerCrashed | sqlx::Error::Protocol(_) => true,
        // 57P01 to 57P03: the server ends or starts; 08...: the connection is broken; 70100: it was ended (MySQL).
        sqlx::Error::Database(error) => error.code().is_some_and(|code| {
            code.starts_with("57P") || code.starts_with("08") || code == "70100"
        }),
        _ => false,
    }
}

//! Django: reads the sessions of a Django project in Django's formats; never writes them.

mod clock;
pub(crate) mod pickle;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Mutex, MutexGuard};
use redis::AsyncCommands;
use redis::aio::{ConnectionManager, ConnectionManagerConfig};
use serde_json::{Map, Value};
use tokio::sync::OnceCell;

use clock::DjangoClock;

use super::sql::read_chunks;
use super::{Stored, unix_seconds};
use crate::config::{SessionConfig, StoreUrl};
use crate::database::{Access, Database, Dialect, Outage, QueryTimer, StoreError};
use crate::secrets::Secrets;
use crate::session::signing::{SignatureError, signed_at, unsign_object};
use crate::telemetry::LogThrottle;

/// The salt of the stores db, cached_db and file.
const SALT: &str = "django.contrib.sessions.SessionStore";

/// The salt of signed_cookies, and the prefix of the cache engine's keys.
const SALT_SIGNED_COOKIES: &str = "django.contrib.sessions.backends.signed_cookies";
const CACHE_PREFIX: &str = "django.contrib.sessions.cache";

/// Django ignores shorter keys, and its column holds at most 40 characters.
const KEY_LENGTHS: std::ops::RangeInclusive<usize> = 8..=40;

/// Longer signed cookies are ignored: browsers store at most 4096 bytes.
const SIGNED_COOKIE_BYTES_MAX: usize = 8 * 1024;

/// The first and the longest pause before reconnecting to Redis.
const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(2);

/// The maximum pickled size of one session.
const PICKLE_BYTES_MAX: usize = 1024 * 1024;

/// Sessions of a Django project.
#[derive(Debug)]
pub(super) struct Django {
    engine: Engine,
    salt: String,
    max_age: Duration,
    secrets: Arc<Secrets>,
    unreadable: LogThrottle,
}

enum Engine {
    /// The engines db and cached_db.
    Table(Box<Table>),
    /// The engine cache, over Django's own RedisCache.
    Cache(Box<Cache>),
    /// The engine signed_cookies.
    SignedCookies,
}

struct Table {
    database: Database,
    /// The query without the placeholders of its keys.
    select: String,
    /// The clock that decides expiry if the column has no time zone. PostgreSQL's column has one,
    /// so its query excludes expired rows.
    clock: Option<DjangoClock>,
}

struct Cache {
    url: String,
    key_prefix: String,
    timeout: Duration,
    connection: OnceCell<ConnectionManager>,
    failed: Mutex<Option<Failed>>,
    outage: Outage,
}

/// The cause of the last failed connection attempt, and the time of the next one.
struct Failed {
    cause: String,
    pause: Duration,
    next: Instant,
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Table(_) => "Table",
            Self::Cache(_) => "Cache",
            Self::SignedCookies => "SignedCookies",
        })
    }
}

impl Django {
    pub(super) fn new(
        config: &SessionConfig,
        database: Option<Database>,
        secrets: Arc<Secrets>,
    ) -> Self {
        let django = &config.django;
        let engine = match (&config.store, database) {
            (_, Some(database)) => {
                let dialect = database.dialect();
                let table = dialect.quoted(&django.table);
                let (columns, unexpired, clock) = match dialect {
                    Dialect::Postgres => {
                        let unexpired = "expire_date > now() AND ";
                        ("session_data".to_owned(), unexpired, None)
                    }
                    Dialect::Sqlite | Dialect::Mysql => {
                        let clock = DjangoClock::new(django.time_zone.clone(), config.max_age);
                        let text = dialect.text();
                        let columns = format!("session_data, CAST(expire_date AS {text})");
                        (columns, "", Some(clock))
                    }
                };
                Engine::Table(Box::new(Table {
                    database,
                    select: format!(
                        "SELECT session_key, {columns} FROM {table} WHERE {unexpired}session_key IN"
                    ),
                    clock,
                }))
            }
            (StoreUrl::DjangoRedis(url), None) => Engine::Cache(Box::new(Cache {
                url: url.clone(),
                key_prefix: format!(
                    "{}:{}:{CACHE_PREFIX}",
                    django.cache_key_prefix, django.cache_version
                ),
                timeout: config.timeout,
                connection: OnceCell::new(),
                failed: Mutex::default(),
                outage: Outage::new("session"),
            })),
            _ => Engine::SignedCookies,
        };
        let salt = match (&*django.salt, &engine) {
            ("", Engine::SignedCookies) => SALT_SIGNED_COOKIES,
            ("", _) => SALT,
            (salt, _) => salt,
        };
        Self {
            salt: salt.to_owned(),
            engine,
            max_age: config.max_age,
            secrets,
            unreadable: LogThrottle::new(),
        }
    }

    /// Opens the database. Redis is connected on first use.
    pub(super) async fn ready(&self) -> Result<(), StoreError> {
        match &self.engine {
            Engine::Table(table) => table.database.ready().await,
            Engine::Cache(_) | Engine::SignedCookies => Ok(()),
        }
    }

    pub(super) fn is_key(&self, value: &str) -> bool {
        match self.engine {
            Engine::SignedCookies => value.len() <= SIGNED_COOKIE_BYTES_MAX && value.contains(':'),
            Engine::Table(_) | Engine::Cache(_) => {
                KEY_LENGTHS.contains(&value.len())
                    && value.bytes().all(|byte| byte.is_ascii_alphanumeric())
            }
        }
    }

    /// Reads sessions in the order of their keys. As in Django, a session that cannot be decoded
    /// counts as empty, which is logged.
    pub(super) async fn read_many(&self, keys: &[&str]) -> Result<Vec<Option<Stored>>, StoreError> {
        Ok(match &self.engine {
            Engine::Table(table) => {
                let keys: Vec<String> = keys.iter().map(|key| (*key).to_owned()).collect();
                let select = &table.select;
                let rows = read_chunks(&table.database, &keys, &[], |places| {
                    format!("{select} ({})", places.join(", "))
                });
                let now = table.clock.as_ref().map(DjangoClock::now);
                let found: HashMap<String, (String, Option<String>)> = rows
                    .await?
                    .into_iter()
                    .filter_map(|row| {
                        let mut columns = row.into_iter().flatten();
                        Some((columns.next()?, (columns.next()?, columns.next())))
                    })
                    .collect();
                keys.iter()
                    .map(|key| {
                        let (signed, expire_date) = found.get(key)?;
                        match (&table.clock, &now) {
                            (Some(clock), Some(now)) => {
                                self.unexpired(clock, now, signed, expire_date.as_deref()?)
                            }
                            _ => self.unsign(signed, None),
                        }
                    })
                    .collect()
            }
            Engine::SignedCookies => keys
                .iter()
                .map(|cookie| self.unsign(cookie, Some(self.max_age)))
                .collect(),
            Engine::Cache(cache) => {
                let values = cache.read_many(keys).await?;
                values
                    .into_iter()
                    .map(|value| match value? {
                        large if large.len() > PICKLE_BYTES_MAX => {
                            self.decoded(Err("larger than 1 MiB"))
                        }
                        value => self.decoded(pickle::read(&value)),
                    })
                    .collect()
            }
        })
    }

    /// Reads a row unless it has expired by the project's clock.
    fn unexpired(
        &self,
        clock: &DjangoClock,
        now: &str,
        signed: &str,
        expire_date: &str,
    ) -> Option<Stored> {
        let check = |data: &Map<String, Value>| {
            if let Some(signed_at) = signed_at(signed) {
                clock.check(expire_date, signed_at, data);
            }
        };
        // Both are text in a format that sorts like time.
        if expire_date > now {
            return self
                .unsign(signed, None)
                .inspect(|stored| check(&stored.data));
        }
        // A wrong clock can make every row look expired, so its offset is checked too.
        if clock.is_in_doubt()
            && let Ok(data) = unsign_object(signed, &self.salt, self.secrets.keys(), 0, None)
        {
            check(&data);
        }
        None
    }

    fn unsign(&self, signed: &str, max_age: Option<Duration>) -> Option<Stored> {
        let now = u64::try_from(unix_seconds()).unwrap_or(0);
        match unsign_object(signed, &self.salt, self.secrets.keys(), now, max_age) {
            // Invalid cookies are not logged: any client could flood the log with them.
            Err(SignatureError::Expired { .. }) => None,
            Err(_) if matches!(self.engine, Engine::SignedCookies) => None,
            decided => self.decoded(decided),
        }
    }

    fn decoded<E: std::fmt::Display>(&self, read: Result<Map<String, Value>, E>) -> Option<Stored> {
        match read {
            Ok(data) => Some(Stored {
                data: Arc::new(data),
                version: 0,
            }),
            Err(error) => {
                // Each request of the visitor reads the session again, so the log line is
                // rate-limited.
                if let Some(times) = self.unreadable.count() {
                    tracing::warn!(%error, times, "invalid Django session, treated as empty");
                }
                None
            }
        }
    }
}

/// The cause of a failure, for the log.
type Cause = Box<dyn std::error::Error + Send + Sync>;

/// The values that Redis holds for some keys.
type Values = Vec<Option<Vec<u8>>>;

impl Cache {
    async fn read_many(&self, keys: &[&str]) -> Result<Values, StoreError> {
        let keys: Vec<String> = keys
            .iter()
            .map(|key| format!("{}{key}", self.key_prefix))
            .collect();
        let asked = async {
            let mut connection = self
                .connection
                .get_or_try_init(|| self.connect())
                .await?
                .clone();
            let answer = match connection.mget::<_, Values>(&keys).await {
                // The connection broke since its last use; the retry runs on a new one.
                Err(error) if error.is_io_error() || error.is_connection_dropped() => {
                    connection.mget(&keys).await
                }
                done => done,
            };
            answer.map_err(|error| match error.code() {
                Some("NOPERM") => format!("MGET on {}*: {error}", self.key_prefix).into(),
                _ => Cause::from(error),
            })
        };
        let timer = QueryTimer::start(self.outage.store());
        let answered = tokio::time::timeout(self.timeout, asked).await;
        timer.end(matches!(answered, Ok(Ok(_))));
        let cause = match answered {
            Ok(Ok(values)) => {
                self.outage.is_over(Access::Read);
                return Ok(values);
            }
            Ok(Err(cause)) => cause,
            Err(_) => format!("no answer within {:?}", self.timeout).into(),
        };
        self.outage.report(Access::Read, &*cause);
        Err(StoreError::Unavailable {
            store: self.outage.store(),
            cause,
        })
    }

    /// Connects for the first time, unless an attempt failed recently. The pauses double, so that
    /// an unavailable Redis is not tried on each request.
    async fn connect(&self) -> Result<ConnectionManager, Cause> {
        if let Some(failed) = &*self.failed()
            && Instant::now() < failed.next
        {
            return Err(failed.cause.clone().into());
        }
        let settings = ConnectionManagerConfig::new()
            .set_connection_timeout(Some(self.timeout))
            .set_response_timeout(Some(self.timeout))
            .set_number_of_retries(1);
        let connected = match redis::Client::open(self.url.as_str()) {
            Ok(client) => client.get_connection_manager_with_config(settings).await,
            Err(error) => Err(error),
        };
        let mut failed = self.failed();
        connected.inspect(|_| *failed = None).map_err(|error| {
            let pause = failed.as_ref().map_or(PAUSE_MIN, |failed| failed.pause);
            *failed = Some(Failed {
                cause: error.to_string(),
                pause: (pause * 2).min(PAUSE_MAX),
                next: Instant::now() + pause.mul_f64(0.5 + fastrand::f64()),
            });
            error.into()
        })
    }

    fn failed(&self) -> MutexGuard<'_, Option<Failed>> {
        self.failed.lock()
    }
}

//! Diagnosis: explains why a database cannot be used and what to check.

use std::error::Error;
use std::fs::OpenOptions;
use std::io::{self, ErrorKind, Write};
use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

use sqlx::mysql::MySqlConnectOptions;
use sqlx::postgres::PgConnectOptions;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::{Database, Pool, Row, StoreError};
use crate::config::{StoreUrl, hide_url_secrets, process_user};

/// The timeout of the connection attempt to a server.
const LOOK: Duration = Duration::from_secs(2);

/// The minimum space that SQLite needs next to its file: a page of the write-ahead log, and the
/// log's index.
const TRIAL_BYTES: usize = 64 << 10;

/// Explains why a store cannot be opened: `session.store: cannot write in config/ as user nobody`.
/// `key` is the configuration key of its URL.
pub(crate) async fn diagnose(key: &str, url: &StoreUrl, error: &StoreError) -> String {
    let cause = match error {
        StoreError::Unavailable { cause, .. } => hide_url_secrets(&cause.to_string()),
        other => other.to_string(),
    };
    let found = match url {
        StoreUrl::Sqlite(path) => of_file(path, true),
        StoreUrl::DjangoSqlite(path) => of_file(path, false),
        StoreUrl::Postgres(url) | StoreUrl::DjangoPostgres(url) => {
            match PgConnectOptions::from_str(url) {
                Ok(options) if options.get_socket().is_none() => {
                    let address = (options.get_host(), options.get_port());
                    of_server("PostgreSQL", address, &cause).await
                }
                _ => None,
            }
        }
        StoreUrl::DjangoMysql(url) => match MySqlConnectOptions::from_str(url) {
            Ok(options) if options.get_socket().is_none() => {
                let address = (options.get_host(), options.get_port());
                of_server("MySQL", address, &cause).await
            }
            _ => None,
        },
        StoreUrl::Memory | StoreUrl::DjangoRedis(_) | StoreUrl::DjangoSignedCookies => None,
    };
    let is_locked = cause.starts_with("no answer")
        && matches!(url, StoreUrl::Sqlite(_) | StoreUrl::DjangoSqlite(_));
    match found {
        Some(found) => format!("{key}: {found}"),
        None if is_locked => format!("{key}: {url}: {cause}; is it locked by another process?"),
        None => format!("{key}: {url}: {cause}"),
    }
}

impl Database {
    /// Warns if the database belongs to a Django project, which may need a `django+postgres://`
    /// URL. `check` cannot test this, because it does not connect to PostgreSQL.
    pub(super) async fn warn_of_django(&self) {
        let Pool::Postgres(_) = self.0.pool else {
            return;
        };
        let sql = "SELECT to_regclass('django_migrations')::text";
        let found = self.try_fetch(sql, &[]).await;
        let is_there = |rows: &Vec<Row>| rows.iter().flatten().any(Option::is_some);
        if found.as_ref().is_ok_and(is_there) {
            tracing::warn!(
                store = self.0.outage.store(),
                "this is a Django project's database, and Oneport keeps tables of its own in it; \"django+postgres://\" reads the project's sessions and users"
            );
        }
    }
}

/// Checks what SQLite needs: access to the file, and to its directory for the journal.
fn of_file(path: &Path, is_written: bool) -> Option<String> {
    let directory = match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    if !directory.is_dir() {
        return Some(format!(
            "cannot open {}: there is no directory {}/",
            path.display(),
            directory.display()
        ));
    }
    if path.is_dir() {
        return Some(format!("{} is a directory", path.display()));
    }
    let user = process_user();
    if path.exists() {
        let opened = OpenOptions::new().read(true).write(is_written).open(path);
        if let Err(error) = opened {
            let verb = if is_written { "write" } else { "read" };
            return Some(format!(
                "cannot {verb} {} as {user}{}",
                path.display(),
                unless_denied(&error)
            ));
        }
    }
    if !is_written {
        return None;
    }
    // A trial file next to it, which is removed at once.
    let trial = directory.join(format!(".oneport-{}", std::process::id()));
    let opened = OpenOptions::new().write(true).create_new(true).open(&trial);
    let written = opened.and_then(|mut file| {
        let written = file.write_all(&[0; TRIAL_BYTES]);
        let _ = std::fs::remove_file(&trial);
        written
    });
    match written {
        Ok(()) => None,
        Err(error) if error.kind() == ErrorKind::AlreadyExists => None,
        Err(error) => {
            let directory = directory.display();
            Some(format!(
                "cannot write in {directory}/ as {user}{}",
                unless_denied(&error)
            ))
        }
    }
}

/// Returns the system's reason, unless it is the usual "permission denied".
fn unless_denied(error: &io::Error) -> String {
    match error.kind() {
        ErrorKind::PermissionDenied => String::new(),
        _ => format!(": {error}"),
    }
}

/// Connects to a server's address to find the cause: the pool reports only a timeout.
async fn of_server(server: &str, (host, port): (&str, u16), cause: &str) -> Option<String> {
    let place = format!("{host}:{port}");
    let is_refused = ["password authentication failed", "(using password"]
        .iter()
        .any(|words| cause.contains(words));
    if is_refused {
        return Some(format!("{place} rejects the user or password of the URL"));
    }
    match timeout(LOOK, TcpStream::connect((host, port))).await {
        Ok(Ok(_)) => Some(format!("{server} at {place}: {cause}")),
        Ok(Err(error)) => Some(why_not_connected(&error, host, &place, server)),
        Err(_) => Some(format!(
            "no answer from {place}; is it the right address, and does a firewall let you through?"
        )),
    }
}

/// Explains why a connection failed, and what to check.
pub(crate) fn why_not_connected(
    error: &io::Error,
    host: &str,
    place: &str,
    server: &str,
) -> String {
    let text = error.to_string();
    match error.kind() {
        ErrorKind::ConnectionRefused => {
            format!("connection refused; is {server} running at {place}?")
        }
        ErrorKind::TimedOut | ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable => {
            format!(
                "no answer from {place}; is it the right address, and does a firewall let you through?"
            )
        }
        _ if text.contains("lookup") || text.contains("resolve") => {
            format!("unknown host {host:?}; is its name right?")
        }
        _ => format!("{place}: {text}"),
    }
}

/// Returns the I/O error in an error's chain of sources, if any.
pub(crate) fn io_cause<'e>(error: &'e (dyn Error + 'static)) -> Option<&'e io::Error> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref::<io::Error>() {
            return Some(found);
        }
        next = error.source();
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn diagnosis_of(url: &str) -> String {
        let error = StoreError::Unavailable {
            store: "sessions",
            cause: "no answer within 2s".into(),
        };
        diagnose("session.store", &url.parse().unwrap(), &error).await
    }

    #[tokio::test]
    async fn a_database_that_cannot_be_opened_is_diagnosed() {
        let directory =
            std::env::temp_dir().join(format!("oneport-diagnosis-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let shown = directory.display();
        let check = |found: String, expected: String| assert_eq!(found, expected);
        check(
            diagnosis_of(&format!("sqlite:{shown}/none/a.db")).await,
            format!(
                "session.store: cannot open {shown}/none/a.db: there is no directory {shown}/none/"
            ),
        );
        check(
            diagnosis_of(&format!("sqlite:{shown}")).await,
            format!("session.store: {shown} is a directory"),
        );
        check(
            diagnosis_of("sqlite:/proc/self/a.db")
                .await
                .split(" as user")
                .next()
                .unwrap()
                .to_owned(),
            "session.store: cannot write in /proc/self/".to_owned(),
        );
        std::fs::remove_dir_all(&directory).unwrap();
        check(
            diagnosis_of("postgres://u:s3cret@127.0.0.1:1/db").await,
            "session.store: connection refused; is PostgreSQL running at 127.0.0.1:1?".to_owned(),
        );
        check(
            diagnosis_of("django+postgres://u:s3cret@no.such.host.invalid/db").await,
            "session.store: unknown host \"no.such.host.invalid\"; is its name right?".to_owned(),
        );
        check(
            diagnosis_of("django+mysql://u:s3cret@127.0.0.1:1/db").await,
            "session.store: connection refused; is MySQL running at 127.0.0.1:1?".to_owned(),
        );
        check(
            diagnosis_of("django+redis://:s3cret@h/0").await,
            "session.store: django+redis://:(hidden)@h/0: no answer within 2s".to_owned(),
        );
    }
}

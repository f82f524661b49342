//! StoreUrl: where sessions or users are stored.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::net::url::{Url, hide_url};

/// Where sessions or users are stored, as written in the file.
///
/// ```
/// use oneport::config::StoreUrl;
/// assert_eq!("sqlite:oneport.db".parse(), Ok(StoreUrl::Sqlite("oneport.db".into())));
/// assert!("mysql://localhost/app".parse::<StoreUrl>().is_err());
/// ```
#[derive(Clone, Deserialize, Eq, PartialEq)]
#[serde(try_from = "String")]
pub enum StoreUrl {
    /// `memory`: in this process, lost when it ends.
    Memory,
    /// `sqlite:PATH`: our own tables in a file; `sqlite::memory:` for tests.
    Sqlite(PathBuf),
    /// `postgres://...`: our own tables.
    Postgres(String),
    /// `django+sqlite:PATH`: a Django project's tables, read only.
    DjangoSqlite(PathBuf),
    /// `django+postgres://...`: a Django project's tables, read only.
    DjangoPostgres(String),
    /// `django+mysql://...`: a Django project's tables in MySQL or MariaDB, read only.
    DjangoMysql(String),
    /// `django+redis://...`: the sessions of Django's cache engine, read only.
    DjangoRedis(String),
    /// `django+signed_cookies:`: in the cookies themselves.
    DjangoSignedCookies,
}

/// The schemes of a URL.
const KNOWN: &str = "\"memory\", \"sqlite:PATH\", \"postgres://...\", \"django+sqlite:PATH\", \"django+postgres://...\", \
                     \"django+mysql://...\", \"django+redis://...\" or \"django+signed_cookies:\"";

/// The schemes of stores that hold users.
const KNOWN_OF_USERS: &str = "\"sqlite:PATH\", \"postgres://...\", \"django+sqlite:PATH\", \"django+postgres://...\" or \"django+mysql://...\"";

/// A [`StoreUrl`] for users. A text of another form is refused with the forms that hold users; a
/// known form that holds none is refused later, when the sections are checked against each other.
#[derive(Deserialize)]
#[serde(try_from = "String")]
pub(in crate::config) struct UsersUrl(StoreUrl);

impl TryFrom<String> for UsersUrl {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let url = text.parse::<StoreUrl>();
        url.map(Self)
            .map_err(|sentence| sentence.replace(KNOWN, KNOWN_OF_USERS))
    }
}

impl From<UsersUrl> for StoreUrl {
    fn from(url: UsersUrl) -> Self {
        url.0
    }
}

impl StoreUrl {
    /// Resolves a file's path from the configuration's directory.
    pub(in crate::config) fn relative_to(self, base: &Path) -> Self {
        let resolve = |path: PathBuf| {
            if path.as_os_str() == ":memory:" {
                path
            } else {
                base.join(path)
            }
        };
        match self {
            Self::Sqlite(path) => Self::Sqlite(resolve(path)),
            Self::DjangoSqlite(path) => Self::DjangoSqlite(resolve(path)),
            other => other,
        }
    }

    /// Returns whether a Django project writes the store and Oneport only reads it.
    #[must_use]
    pub fn is_django(&self) -> bool {
        matches!(
            self,
            Self::DjangoSqlite(_)
                | Self::DjangoPostgres(_)
                | Self::DjangoMysql(_)
                | Self::DjangoRedis(_)
                | Self::DjangoSignedCookies
        )
    }
}

impl std::str::FromStr for StoreUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (rest, is_django) = match text.strip_prefix("django+") {
            Some(rest) => (rest, true),
            None => (text, false),
        };
        let refuse = || Err(format!("expected {KNOWN}, found {:?}", hide_url(text)));
        let path = rest
            .strip_prefix("sqlite:")
            .map(|path| path.strip_prefix("//").unwrap_or(path));
        let is_postgres = rest.starts_with("postgres://") || rest.starts_with("postgresql://");
        let is_mysql = is_django && rest.starts_with("mysql://");
        if is_postgres || is_mysql || rest.starts_with("redis://") {
            Url::parse(rest).map_err(|error| error.to_string())?;
        }
        Ok(match (rest, path, is_django) {
            ("memory", _, false) => Self::Memory,
            ("signed_cookies:" | "signed_cookies", _, true) => Self::DjangoSignedCookies,
            (_, Some(""), _) => {
                return Err(format!(
                    "expected a file after \"sqlite:\", found none in {text:?}"
                ));
            }
            (_, Some(path), false) => Self::Sqlite(path.into()),
            (_, Some(path), true) => Self::DjangoSqlite(path.into()),
            (url, None, true) if is_postgres => Self::DjangoPostgres(url.to_owned()),
            (url, None, true) if is_mysql => Self::DjangoMysql(url.to_owned()),
            (url, None, false) if is_postgres => Self::Postgres(url.to_owned()),
            (url, None, true) if url.starts_with("redis://") => Self::DjangoRedis(url.to_owned()),
            _ => return refuse(),
        })
    }
}

impl TryFrom<String> for StoreUrl {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

/// Displays it as written, without the password.
impl fmt::Display for StoreUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = hide_url;
        match self {
            Self::Memory => f.write_str("memory"),
            Self::Sqlite(path) => write!(f, "sqlite:{}", path.display()),
            Self::Postgres(url) => f.write_str(&shown(url)),
            Self::DjangoSqlite(path) => write!(f, "django+sqlite:{}", path.display()),
            Self::DjangoPostgres(url) | Self::DjangoMysql(url) | Self::DjangoRedis(url) => {
                write!(f, "django+{}", shown(url))
            }
            Self::DjangoSignedCookies => f.write_str("django+signed_cookies:"),
        }
    }
}

impl fmt::Debug for StoreUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StoreUrl({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_form_reads_and_shows_itself() {
        for text in [
            "memory",
            "sqlite:a/b.db",
            "postgres://h/db",
            "django+sqlite:/x.db",
            "django+postgres://u@h/db",
            "django+mysql://u@h/db",
            "django+redis://h:1/0",
            "django+signed_cookies:",
        ] {
            assert_eq!(text.parse::<StoreUrl>().unwrap().to_string(), text);
        }
        for text in [
            "",
            "sqlite:",
            "mysql://h",
            "redis://h",
            "django+memory",
            "mysql://u@h/db",
            "django+mysql://h:abc/db",
            "django+mysql://u:a?b@h/db",
            "postgres://h:abc/db",
            "postgres://u:a?b@h/db",
        ] {
            assert!(text.parse::<StoreUrl>().is_err(), "{text}");
        }
    }

    #[test]
    fn passwords_are_not_shown() {
        let url: StoreUrl = "django+postgres://u:hunter22@h/db".parse().unwrap();
        assert!(!format!("{url:?}{url}").contains("hunter22"));
        for odd in ["?", "#", "/", "'", "`", "<", " ", "\""] {
            for scheme in [
                "postgres",
                "django+postgres",
                "django+redis",
                "django+mysql",
                "mysql",
            ] {
                let text = format!("{scheme}://u:ge{odd}heim@127.0.0.1:abc/db");
                let said = match text.parse::<StoreUrl>() {
                    Ok(url) => url.to_string(),
                    Err(sentence) => sentence,
                };
                assert!(!said.contains("heim"), "{text}: {said}");
            }
        }
    }

    #[test]
    fn files_stand_beside_the_configuration() {
        let at = |text: &str| {
            text.parse::<StoreUrl>()
                .unwrap()
                .relative_to("/etc".as_ref())
        };
        assert_eq!(at("sqlite:x.db"), StoreUrl::Sqlite("/etc/x.db".into()));
        assert_eq!(at("sqlite:/var/x.db"), StoreUrl::Sqlite("/var/x.db".into()));
        assert_eq!(at("sqlite::memory:"), StoreUrl::Sqlite(":memory:".into()));
    }
}

//! RedisUrl: the address of one or several Redis servers, with credentials.

use std::fmt;
use std::path::PathBuf;

use crate::config::values::secret::Secret;
use crate::net::unix_path_problem;
use crate::net::url::{Url, UrlError, decoded, hide_url};

/// The address of a Redis, with credentials. Displayed without the password.
#[derive(Clone, Eq, PartialEq)]
pub struct RedisUrl {
    /// How to reach it.
    pub home: RedisHome,
    /// The user's name, if any.
    pub username: Option<String>,
    /// The password, if any.
    pub password: Option<Secret>,
    /// The number of the database.
    pub database: i64,
}

/// How to reach a Redis.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum RedisHome {
    /// `redis://HOST:PORT`, and `rediss://HOST:PORT` over TLS.
    Tcp {
        /// A name or an address.
        host: String,
        /// The port.
        port: u16,
        /// Whether the connection uses TLS.
        tls: bool,
    },
    /// `redis+unix:///PATH`.
    Unix(PathBuf),
    /// `redis+sentinel://HOST:PORT,HOST:PORT/SERVICE`: the master that Sentinels name.
    Sentinel {
        /// The Sentinels.
        hosts: Vec<(String, u16)>,
        /// The name of the service.
        service: String,
        /// Whether the connections to them and to the master use TLS.
        tls: bool,
    },
    /// `redis+cluster://HOST:PORT,HOST:PORT`: the masters of the cluster that one of these servers
    /// belongs to.
    Cluster {
        /// Servers that are asked for the others.
        hosts: Vec<(String, u16)>,
        /// Whether all connections use TLS.
        tls: bool,
    },
}

pub(in crate::config) const KNOWN: &str = "\"memory\", \"redis://HOST:PORT/DATABASE\", \"redis+unix:///PATH\", \
                     \"redis+sentinel://HOST:PORT,HOST:PORT/SERVICE/DATABASE\", \"redis+cluster://HOST:PORT,HOST:PORT\", or \
                     \"rediss...\" for TLS";

/// The schemes and their default ports.
const REDIS_PORT: u16 = 6379;
const SENTINEL_PORT: u16 = 26379;

impl std::str::FromStr for RedisUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let unknown = || format!("expected {KNOWN}, found {:?}", hide_url(text));
        let (scheme, _) = text.split_once("://").ok_or_else(unknown)?;
        if !scheme.contains("redis") && scheme != "unix" {
            return Err(unknown());
        }
        let (url, hosts) = Url::parse_list(text).map_err(sentence)?;
        let mut segments = url.path().splitn(3, '/').skip(1);
        let tls = url.scheme().starts_with("rediss");
        let (home, database) = match url.scheme() {
            "redis" | "rediss" => {
                let mut hosts = with_ports(hosts, REDIS_PORT)?;
                let (host, port) = hosts.swap_remove(0);
                if !hosts.is_empty() {
                    return Err(format!(
                        "expected one host with its port (several are of \"redis+cluster://\" or \"redis+sentinel://\"), found {:?}",
                        hide_url(text)
                    ));
                }
                (RedisHome::Tcp { host, port, tls }, segments.next())
            }
            "redis+unix" | "unix" if url.host().is_none() && url.path().len() > 1 => {
                let path = PathBuf::from(decoded(url.path()).map_err(sentence)?);
                if let Some(problem) = unix_path_problem(&path) {
                    return Err(problem);
                }
                (RedisHome::Unix(path), None)
            }
            "redis+cluster" | "rediss+cluster" => {
                let hosts = with_ports(hosts, REDIS_PORT)?;
                (RedisHome::Cluster { hosts, tls }, segments.next())
            }
            "redis+sentinel" | "rediss+sentinel" => {
                let hosts = with_ports(hosts, SENTINEL_PORT)?;
                let Some(service) = segments.next().filter(|service| !service.is_empty()) else {
                    return Err(format!(
                        "expected the name of a service after the Sentinels, found none in {:?}",
                        hide_url(text)
                    ));
                };
                let service = decoded(service).map_err(sentence)?;
                let home = RedisHome::Sentinel {
                    hosts,
                    service,
                    tls,
                };
                (home, segments.next())
            }
            _ => return Err(unknown()),
        };
        let mut redis = Self {
            home,
            username: url.username().map_err(sentence)?,
            password: url.password().map_err(sentence)?.map(Secret),
            database: database_number(database.unwrap_or_default())?,
        };
        for (key, value) in url.query() {
            let text = || -> Result<_, String> {
                Ok(Some(decoded(value).map_err(sentence)?).filter(|text| !text.is_empty()))
            };
            match key {
                "db" => redis.database = database_number(value)?,
                "user" => redis.username = text()?,
                "pass" | "password" => redis.password = text()?.map(Secret),
                other => {
                    return Err(format!(
                        "expected \"db\", \"user\" or \"pass\" in the URL's query, found {other:?}"
                    ));
                }
            }
        }
        if matches!(redis.home, RedisHome::Cluster { .. }) && redis.database != 0 {
            let found = redis.database;
            return Err(format!(
                "expected no database, as a cluster has only the first, found {found}"
            ));
        }
        Ok(redis)
    }
}

#[expect(clippy::needless_pass_by_value, reason = "for `map_err`")]
fn sentence(error: UrlError) -> String {
    error.to_string()
}

fn database_number(text: &str) -> Result<i64, String> {
    match text.trim_end_matches('/') {
        "" => Ok(0),
        text => match text.parse() {
            Ok(number @ 0..) => Ok(number),
            _ => Err(format!("expected the number of a database, found {text:?}")),
        },
    }
}

/// Adds the default port to each host without one.
fn with_ports(
    hosts: Vec<(String, Option<u16>)>,
    default: u16,
) -> Result<Vec<(String, u16)>, String> {
    if hosts.iter().any(|(host, _)| host.is_empty()) {
        return Err("expected a host after \"//\", found none".to_owned());
    }
    let hosts = hosts
        .into_iter()
        .map(|(host, port)| (host, port.unwrap_or(default)));
    Ok(hosts.collect())
}

impl fmt::Display for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.home {
            RedisHome::Tcp { host, port, tls } => {
                let scheme = if *tls { "rediss" } else { "redis" };
                write!(f, "{scheme}://{}/{}", written(host, *port), self.database)
            }
            RedisHome::Unix(path) => {
                write!(f, "redis+unix://{}?db={}", path.display(), self.database)
            }
            RedisHome::Sentinel {
                hosts,
                service,
                tls,
            } => {
                let hosts = list(hosts);
                let s = if *tls { "s" } else { "" };
                write!(f, "redis{s}+sentinel://{hosts}/{service}/{}", self.database)
            }
            RedisHome::Cluster { hosts, tls } => {
                let s = if *tls { "s" } else { "" };
                write!(f, "redis{s}+cluster://{}", list(hosts))
            }
        }
    }
}

fn list(hosts: &[(String, u16)]) -> String {
    let hosts = hosts.iter().map(|(host, port)| written(host, *port));
    hosts.collect::<Vec<_>>().join(",")
}

/// Returns an address as in a URL.
fn written(host: &str, port: u16) -> String {
    if host.contains(':') {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    }
}

impl fmt::Debug for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RedisUrl({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Backend;

    fn redis(text: &str) -> RedisUrl {
        text.parse()
            .unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    #[test]
    fn each_form_says_where_redis_is() {
        let tcp = |host: &str, port, tls| RedisHome::Tcp {
            host: host.to_owned(),
            port,
            tls,
        };
        assert_eq!(redis("redis://h").home, tcp("h", 6379, false));
        assert_eq!(redis("rediss://[::1]:7000/3").home, tcp("::1", 7000, true));
        assert_eq!(redis("rediss://[::1]:7000/3").database, 3);
        assert_eq!(redis("redis://h?db=2").database, 2);
        let url = redis("redis://u%40:p%2Fw@h:1/0");
        assert_eq!(url.username.as_deref(), Some("u@"));
        assert_eq!(url.password, Some(Secret("p/w".to_owned())));
        let url = redis("redis+unix://:p%23@/run/r.sock?db=4");
        assert_eq!(url.home, RedisHome::Unix("/run/r.sock".into()));
        assert_eq!(url.password, Some(Secret("p#".to_owned())));
        let url = redis("redis+unix:///run/r.sock?db=4&pass=x");
        assert_eq!(url.home, RedisHome::Unix("/run/r.sock".into()));
        assert_eq!((url.database, url.password.is_some()), (4, true));
        let url = redis("redis+sentinel://:pw@a,b:1/mymaster/5");
        let hosts = vec![("a".to_owned(), 26379), ("b".to_owned(), 1)];
        let service = "mymaster".to_owned();
        let tls = false;
        assert_eq!(
            url.home,
            RedisHome::Sentinel {
                hosts: hosts.clone(),
                service,
                tls
            }
        );
        assert_eq!(url.database, 5);
        assert_eq!(url.to_string(), "redis+sentinel://a:26379,b:1/mymaster/5");
        let url = redis("rediss+sentinel://a,b:1/mymaster");
        assert_eq!(url.to_string(), "rediss+sentinel://a:26379,b:1/mymaster/0");
        let url = redis("redis+cluster://:pw@a,[::1]:1");
        let hosts = vec![("a".to_owned(), 6379), ("::1".to_owned(), 1)];
        assert_eq!(url.home, RedisHome::Cluster { hosts, tls });
        assert_eq!(url.to_string(), "redis+cluster://a:6379,[::1]:1");
        assert_eq!(
            redis("rediss+cluster://a/0").to_string(),
            "rediss+cluster://a:6379"
        );
    }

    #[test]
    fn others_are_refused_without_their_password() {
        for text in [
            "",
            "redis:",
            "redis://",
            "redis://h:0",
            "redis://h:x",
            "redis://h/x",
            "redis://h/-1",
            "redis://h?x=1",
            "redis+unix://",
            "redis+sentinel://h",
            "redis+cluster://",
            "redis+cluster://a,",
            "redis+cluster://a/1",
            "redis://a:1,b:2",
            "amqp://h",
        ] {
            assert!(text.parse::<RedisUrl>().is_err(), "{text}");
        }
        assert!("memroy".parse::<Backend>().is_err());
        let error = Backend::try_from("amqp://u:hunter22@h".to_owned()).unwrap_err();
        assert!(!error.contains("hunter22"), "{error}");
        for text in [
            "redis://u:hunter?22@h",
            "redis://u:hunter#22@h:x",
            "rediss+cluster://u:hunter/22@h",
            "redis+sentinel://:1?22@h",
            "redis://:hunter?a=22@h",
        ] {
            let error = Backend::try_from(text.to_owned()).unwrap_err();
            assert!(error.contains("percent-encoded"), "{error}");
            assert!(!error.contains("22@"), "{error}");
        }
        let url = Backend::try_from("redis://u:hunter22@h".to_owned()).unwrap();
        assert!(!format!("{url:?}{url}").contains("hunter22"));
    }
}

//! `[channel_layer]`: what carries events between consumers, and between processes.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;

use super::checked::{PositiveCount, PositiveDuration, PositiveSize, via};
use super::place::Place;
use super::secret::{self, Secret};
use super::suggest::did_you_mean;
use super::units::Size;

/// `[channel_layer]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ChannelLayerConfig {
    /// What carries events between consumers. Default: `"memory"`, within this process.
    pub backend: Backend,
    /// How events are written for Redis. Default: `"oneport"`.
    pub format: LayerFormat,
    /// What the names in Redis begin with; empty: `oneport`, or `asgi` in Django's formats.
    pub prefix: String,
    /// How a dictionary is written in Django's formats. Default: `"msgpack"`.
    pub serializer: Serializer,
    /// Keys for Django's formats: the first encrypts, all decrypt. Default: none, nothing is encrypted.
    pub symmetric_encryption_keys: Vec<Secret>,
    /// The events that may wait for one channel. Default: 100.
    #[serde(deserialize_with = "via::<PositiveCount, _, _>")]
    pub capacity: usize,
    /// How long an event may wait before it is dropped. Default: 60 s.
    #[serde(deserialize_with = "via::<PositiveDuration, _, _>")]
    pub expiry: Duration,
    /// How long Redis keeps who is in a group, in `channels_redis.core`. Default: a day.
    #[serde(deserialize_with = "via::<PositiveDuration, _, _>")]
    pub group_expiry: Duration,
    /// How long Redis may take to answer, or to be reached. Default: 5 s.
    #[serde(deserialize_with = "via::<PositiveDuration, _, _>")]
    pub timeout: Duration,
    /// After how long the members of a process that died are gone. Default: 10 s.
    #[serde(deserialize_with = "via::<PositiveDuration, _, _>")]
    pub lease: Duration,
    /// The bytes of events that may wait for Redis. Default: 16 MiB.
    #[serde(deserialize_with = "via::<PositiveSize, _, _>")]
    pub queue: Size,
    /// Where the section stands.
    #[serde(skip)]
    pub place: Place,
}

impl Default for ChannelLayerConfig {
    fn default() -> Self {
        Self {
            backend: Backend::Memory,
            format: LayerFormat::Oneport,
            prefix: String::new(),
            serializer: Serializer::Msgpack,
            symmetric_encryption_keys: Vec::new(),
            capacity: 100,
            expiry: Duration::from_secs(60),
            group_expiry: Duration::from_secs(24 * 60 * 60),
            timeout: Duration::from_secs(5),
            lease: Duration::from_secs(10),
            queue: Size(16 << 20),
            place: Place::default(),
        }
    }
}

impl ChannelLayerConfig {
    /// Returns what the names in Redis begin with.
    #[must_use]
    pub fn prefix(&self) -> &str {
        match (&*self.prefix, self.format) {
            ("", LayerFormat::Oneport) => "oneport",
            ("", _) => "asgi",
            (prefix, _) => prefix,
        }
    }

    /// Returns each key that another one makes meaningless, with the sentence that says so.
    pub(super) fn contradictions(&self) -> Vec<(&'static str, String)> {
        let mut found = Vec::new();
        let is_ours = self.format == LayerFormat::Oneport;
        if self.backend == Backend::Memory && !is_ours {
            let sentence = "expected a backend such as \"redis://127.0.0.1:6379\" for a format that is shared with Django, found \"memory\"";
            found.push(("format", sentence.to_owned()));
        }
        if is_ours && !self.symmetric_encryption_keys.is_empty() {
            let sentence = "expected no keys with format \"oneport\", which does not encrypt (use rediss://), found some";
            found.push(("symmetric_encryption_keys", sentence.to_owned()));
        }
        if self.lease < Duration::from_secs(1) {
            let sentence = "expected at least \"1s\": it is renewed every third of it";
            found.push(("lease", sentence.to_owned()));
        }
        found
    }
}

/// How events are written for Redis.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq)]
pub enum LayerFormat {
    /// Our own, between Oneports.
    #[default]
    #[serde(rename = "oneport")]
    Oneport,
    /// That of `channels_redis.pubsub.RedisPubSubChannelLayer`.
    #[serde(rename = "channels_redis.pubsub")]
    Pubsub,
    /// That of `channels_redis.core.RedisChannelLayer`.
    #[serde(rename = "channels_redis.core")]
    Core,
}

impl fmt::Display for LayerFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Oneport => "oneport",
            Self::Pubsub => "channels_redis.pubsub",
            Self::Core => "channels_redis.core",
        })
    }
}

/// How a dictionary is written in Django's formats.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "snake_case")]
pub enum Serializer {
    /// MessagePack, as `msgpack.packb`.
    #[default]
    Msgpack,
    /// JSON, as `json.dumps`.
    Json,
}

/// What carries events between consumers.
///
/// ```
/// use oneport::config::Backend;
/// assert_eq!("memory".parse(), Ok(Backend::Memory));
/// assert!(matches!("redis://127.0.0.1:6379/1".parse(), Ok(Backend::Redis(_))));
/// assert!("rabbitmq://localhost".parse::<Backend>().is_err());
/// ```
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(try_from = "String")]
pub enum Backend {
    /// This process alone.
    #[default]
    Memory,
    /// All processes at one Redis.
    Redis(RedisUrl),
}

/// Where a Redis is and who we are there. It shows itself without its password.
#[derive(Clone, Eq, PartialEq)]
pub struct RedisUrl {
    /// How to get there.
    pub home: RedisHome,
    /// The user's name, when there is one.
    pub username: Option<String>,
    /// The password, when there is one.
    pub password: Option<Secret>,
    /// The number of the database.
    pub database: i64,
}

/// How to get to a Redis.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum RedisHome {
    /// `redis://HOST:PORT`, and `rediss://HOST:PORT` over TLS.
    Tcp {
        /// A name or an address.
        host: String,
        /// The port.
        port: u16,
        /// Is it TLS?
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
    },
}

const KNOWN: &str = "\"memory\", \"redis://HOST:PORT/DATABASE\", \"rediss://...\", \"redis+unix:///PATH\" or \
                     \"redis+sentinel://HOST:PORT,HOST:PORT/SERVICE/DATABASE\"";

/// Schemes and the port where none is written.
const REDIS_PORT: u16 = 6379;
const SENTINEL_PORT: u16 = 26379;

impl std::str::FromStr for Backend {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "memory" {
            return Ok(Self::Memory);
        }
        let Some((scheme, rest)) = text.split_once("://") else {
            let meant = did_you_mean(text, ["memory"]).map(|meant| format!("; {meant}"));
            let meant = meant.unwrap_or_default();
            return Err(format!("expected {KNOWN}, found {text:?}{meant}"));
        };
        let rest = rest.split('#').next().unwrap_or_default();
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (user, rest) = rest.rsplit_once('@').unwrap_or(("", rest));
        let (username, password) = user.split_once(':').unwrap_or((user, ""));
        let mut url = RedisUrl {
            home: RedisHome::Unix(PathBuf::new()),
            username: some(decoded(username)?),
            password: some(decoded(password)?).map(Secret),
            database: 0,
        };
        let mut parts = rest.splitn(3, '/');
        let authority = parts.next().unwrap_or_default();
        match scheme {
            "redis" | "rediss" => {
                let (host, port) = host_and_port(authority, REDIS_PORT)?;
                let tls = scheme == "rediss";
                url.home = RedisHome::Tcp { host, port, tls };
                url.database = database(parts.next().unwrap_or_default())?;
            }
            "redis+unix" | "unix" if authority.is_empty() && rest.len() > 1 => {
                url.home = RedisHome::Unix(decoded(rest)?.into());
            }
            "redis+sentinel" => {
                let hosts = authority
                    .split(',')
                    .map(|host| host_and_port(host, SENTINEL_PORT));
                let hosts = hosts.collect::<Result<_, _>>()?;
                let Some(service) = parts.next().filter(|service| !service.is_empty()) else {
                    return Err(format!(
                        "expected the name of a service after the Sentinels, found none in {text:?}"
                    ));
                };
                url.home = RedisHome::Sentinel {
                    hosts,
                    service: decoded(service)?,
                };
                url.database = database(parts.next().unwrap_or_default())?;
            }
            _ => return Err(format!("expected {KNOWN}, found {text:?}")),
        }
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            match key {
                "db" => url.database = database(value)?,
                "user" => url.username = some(decoded(value)?),
                "pass" | "password" => url.password = some(decoded(value)?).map(Secret),
                other => {
                    return Err(format!(
                        "expected \"db\", \"user\" or \"pass\" in the URL's query, found {other:?}"
                    ));
                }
            }
        }
        Ok(Self::Redis(url))
    }
}

fn some(text: String) -> Option<String> {
    (!text.is_empty()).then_some(text)
}

fn decoded(text: &str) -> Result<String, String> {
    percent_encoding::percent_decode_str(text)
        .decode_utf8()
        .map(Into::into)
        .map_err(|_| "expected UTF-8 behind the percent signs of the URL, found other bytes".into())
}

fn database(text: &str) -> Result<i64, String> {
    match text.trim_end_matches('/') {
        "" => Ok(0),
        text => match text.parse() {
            Ok(number @ 0..) => Ok(number),
            _ => Err(format!("expected the number of a database, found {text:?}")),
        },
    }
}

fn host_and_port(text: &str, port: u16) -> Result<(String, u16), String> {
    let (host, written) = match text.rsplit_once(':') {
        Some((host, written)) if !written.contains(']') => (host, Some(written)),
        _ => (text, None),
    };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    if host.is_empty() {
        return Err("expected a host after \"//\", found none".to_owned());
    }
    let port = match written {
        None => port,
        Some(written) => match written.parse() {
            Ok(0) | Err(_) => {
                return Err(format!(
                    "expected a port from 1 to 65535, found {written:?}"
                ));
            }
            Ok(port) => port,
        },
    };
    Ok((host.to_owned(), port))
}

impl TryFrom<String> for Backend {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
            .map_err(|message: String| match secret::url_password(&text) {
                Some(password) => secret::hide(&message, password),
                None => message,
            })
    }
}

impl fmt::Display for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.home {
            RedisHome::Tcp { host, port, tls } => {
                let scheme = if *tls { "rediss" } else { "redis" };
                let bracketed = host.contains(':');
                let (open, close) = if bracketed { ("[", "]") } else { ("", "") };
                write!(f, "{scheme}://{open}{host}{close}:{port}/{}", self.database)
            }
            RedisHome::Unix(path) => {
                write!(f, "redis+unix://{}?db={}", path.display(), self.database)
            }
            RedisHome::Sentinel { hosts, service } => {
                f.write_str("redis+sentinel://")?;
                for (at, (host, port)) in hosts.iter().enumerate() {
                    let comma = if at > 0 { "," } else { "" };
                    write!(f, "{comma}{host}:{port}")?;
                }
                write!(f, "/{service}/{}", self.database)
            }
        }
    }
}

impl fmt::Debug for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RedisUrl({self})")
    }
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Memory => f.write_str("memory"),
            Self::Redis(url) => url.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn redis(text: &str) -> RedisUrl {
        match text.parse() {
            Ok(Backend::Redis(url)) => url,
            other => panic!("{text}: {other:?}"),
        }
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
        let url = redis("redis+unix:///run/r.sock?db=4&pass=x");
        assert_eq!(url.home, RedisHome::Unix("/run/r.sock".into()));
        assert_eq!((url.database, url.password.is_some()), (4, true));
        let url = redis("redis+sentinel://:pw@a,b:1/mymaster/5");
        let hosts = vec![("a".to_owned(), 26379), ("b".to_owned(), 1)];
        let service = "mymaster".to_owned();
        assert_eq!(url.home, RedisHome::Sentinel { hosts, service });
        assert_eq!(url.database, 5);
        assert_eq!(url.to_string(), "redis+sentinel://a:26379,b:1/mymaster/5");
    }

    #[test]
    fn others_are_refused_without_their_password() {
        for text in [
            "",
            "memroy",
            "redis:",
            "redis://",
            "redis://h:0",
            "redis://h:x",
            "redis://h/x",
            "redis://h/-1",
            "redis://h?x=1",
            "redis+unix://",
            "redis+sentinel://h",
            "amqp://h",
        ] {
            assert!(text.parse::<Backend>().is_err(), "{text}");
        }
        let error = Backend::try_from("amqp://u:hunter22@h".to_owned()).unwrap_err();
        assert!(!error.contains("hunter22"), "{error}");
        let url = Backend::try_from("redis://u:hunter22@h".to_owned()).unwrap();
        assert!(!format!("{url:?}{url}").contains("hunter22"));
    }
}

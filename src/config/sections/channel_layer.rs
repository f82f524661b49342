//! The `[channel_layer]` section: the transport of events between consumers, and between processes.

use std::fmt;
use std::time::Duration;

use serde::Deserialize;

use crate::config::problems::suggest::did_you_mean;
use crate::config::read::source_location::SourceLocation;
use crate::config::values::checked::{PositiveCount, PositiveDuration, PositiveSize, via};
use crate::config::values::not_compared::NotCompared;
use crate::config::values::redis_url::{RedisHome, RedisUrl};
use crate::config::values::secret::Secret;
use crate::config::values::units::Size;

/// `[channel_layer]`.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(default, deny_unknown_fields)]
pub struct ChannelLayerConfig {
    /// The transport of events between consumers. Default: `"memory"`, within this process.
    pub backend: Backend,
    /// The format of events in Redis. Default: `"oneport"`.
    pub format: LayerFormat,
    /// The prefix of names in Redis; empty: `oneport`, or `asgi` in Django's formats.
    pub prefix: String,
    /// The serializer in Django's formats. Default: `"msgpack"`.
    pub serializer: Serializer,
    /// Encryption keys for Django's formats: the first encrypts, all decrypt. Default: none, no
    /// encryption.
    pub symmetric_encryption_keys: Vec<Secret>,
    /// The most events queued for one channel. Default: 100.
    #[serde(deserialize_with = "via::<PositiveCount, _, _>")]
    pub capacity: usize,
    /// How long an event may be queued before it is dropped. Default: 60 s.
    #[serde(deserialize_with = "via::<PositiveDuration, _, _>")]
    pub expiry: Duration,
    /// How long Redis keeps the members of a group, in `channels_redis.core`. Default: a day.
    #[serde(deserialize_with = "via::<PositiveDuration, _, _>")]
    pub group_expiry: Duration,
    /// The deadline for connecting to Redis and for each response. Default: 5 s.
    #[serde(deserialize_with = "via::<PositiveDuration, _, _>")]
    pub timeout: Duration,
    /// How long after the death of a process its members are removed. Default: 10 s.
    #[serde(deserialize_with = "via::<PositiveDuration, _, _>")]
    pub lease: Duration,
    /// The most bytes of events queued for Redis. Default: 16 MiB.
    #[serde(deserialize_with = "via::<PositiveSize, _, _>")]
    pub queue: Size,
    /// The most memory for the histories of all groups, in this process and again in Redis.
    /// Default: 128 MiB.
    #[serde(deserialize_with = "via::<PositiveSize, _, _>")]
    pub history_size: Size,
    /// The most memory for one group's history. Default: 1 MiB.
    #[serde(deserialize_with = "via::<PositiveSize, _, _>")]
    pub group_history_size: Size,
    /// The most groups with a history that clients of one address may have created and that still
    /// exist. Default: 1000.
    #[serde(deserialize_with = "via::<PositiveCount, _, _>")]
    pub max_rooms: usize,
    /// The section's location.
    #[serde(skip)]
    pub location: NotCompared<SourceLocation>,
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
            history_size: Size(128 << 20),
            group_history_size: Size(1 << 20),
            max_rooms: 1000,
            location: NotCompared::default(),
        }
    }
}

impl ChannelLayerConfig {
    /// Returns the prefix of names in Redis.
    #[must_use]
    pub fn prefix(&self) -> &str {
        match (&*self.prefix, self.format) {
            ("", LayerFormat::Oneport) => "oneport",
            ("", _) => "asgi",
            (prefix, _) => prefix,
        }
    }

    /// Returns each key that another one makes meaningless, with a sentence about it.
    pub(in crate::config) fn contradictions(&self) -> Vec<(&'static str, String)> {
        let mut found = Vec::new();
        let is_ours = self.format == LayerFormat::Oneport;
        if self.backend == Backend::Memory && !is_ours {
            let sentence = "expected a backend such as \"redis://127.0.0.1:6379\" for a format that is shared with Django, found \"memory\"";
            found.push(("format", sentence.to_owned()));
        }
        let is_cluster =
            matches!(&self.backend, Backend::Redis(urls) if urls.iter().any(is_cluster));
        if is_cluster && self.format == LayerFormat::Core {
            let sentence = "expected \"oneport\" or \"channels_redis.pubsub\" with a Redis Cluster, which Django's core layer cannot use, found \"channels_redis.core\"";
            found.push(("format", sentence.to_owned()));
        }
        if is_ours && !self.symmetric_encryption_keys.is_empty() {
            let sentence = "expected no keys with format \"oneport\", which does not encrypt (use rediss://), found some";
            found.push(("symmetric_encryption_keys", sentence.to_owned()));
        }
        if self.group_history_size > self.history_size {
            let (one, all) = (self.group_history_size, self.history_size);
            let sentence = format!("expected at most history_size, {all}, found {one}");
            found.push(("group_history_size", sentence));
        }
        if self.lease < Duration::from_secs(1) {
            let sentence = "expected at least \"1s\": it is renewed every sixth of it";
            found.push(("lease", sentence.to_owned()));
        }
        found
    }
}

/// The format of events in Redis.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq)]
pub enum LayerFormat {
    /// Oneport's own.
    #[default]
    #[serde(rename = "oneport")]
    Oneport,
    /// The format of `channels_redis.pubsub.RedisPubSubChannelLayer`.
    #[serde(rename = "channels_redis.pubsub")]
    Pubsub,
    /// The format of `channels_redis.core.RedisChannelLayer`.
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

/// The serializer in Django's formats.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "snake_case")]
pub enum Serializer {
    /// MessagePack, as `msgpack.packb`.
    #[default]
    Msgpack,
    /// JSON, as `json.dumps`.
    Json,
}

/// The transport of events between consumers.
///
/// ```
/// use oneport::config::Backend;
/// assert_eq!("memory".parse(), Ok(Backend::Memory));
/// assert!(matches!("redis://127.0.0.1:6379/1".parse(), Ok(Backend::Redis(_))));
/// assert!("rabbitmq://localhost".parse::<Backend>().is_err());
/// ```
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub enum Backend {
    /// Within this process.
    #[default]
    Memory,
    /// Between all processes at one Redis, or at several servers that share the groups, as `hosts`
    /// of `channels_redis`.
    Redis(Vec<RedisUrl>),
}

impl std::str::FromStr for Backend {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "memory" {
            return Ok(Self::Memory);
        }
        let meant = did_you_mean(text, ["memory"]).filter(|_| !text.contains("://"));
        let url: RedisUrl = text.parse().map_err(|sentence: String| match meant {
            Some(meant) => format!("{sentence}; {meant}"),
            None => sentence,
        })?;
        Ok(Self::Redis(vec![url]))
    }
}

impl TryFrom<String> for Backend {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl<'de> Deserialize<'de> for Backend {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Written;

        impl<'de> serde::de::Visitor<'de> for Written {
            type Value = Backend;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text or an array of texts")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Backend, E> {
                Backend::try_from(text.to_owned()).map_err(E::custom)
            }

            fn visit_seq<A: serde::de::SeqAccess<'de>>(
                self,
                mut list: A,
            ) -> Result<Backend, A::Error> {
                let mut all = Vec::new();
                while let Some(Servers(urls)) = list.next_element()? {
                    all.extend(urls);
                }
                if all.is_empty() {
                    let sentence = "expected at least one URL, found none";
                    return Err(serde::de::Error::custom(sentence));
                }
                if all.len() > 1 && all.iter().any(is_cluster) {
                    let sentence = "expected servers that know nothing of each other, found a Redis Cluster among them";
                    return Err(serde::de::Error::custom(sentence));
                }
                Ok(Backend::Redis(all))
            }
        }

        deserializer.deserialize_any(Written)
    }
}

/// One item of a list. Each is read by itself, so that all wrong ones are reported.
#[derive(Deserialize)]
#[serde(try_from = "String")]
struct Servers(Vec<RedisUrl>);

impl TryFrom<String> for Servers {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        match text.parse()? {
            Backend::Redis(urls) => Ok(Self(urls)),
            Backend::Memory => {
                Err("expected URLs of Redis servers, found \"memory\" among them".to_owned())
            }
        }
    }
}

fn is_cluster(url: &RedisUrl) -> bool {
    matches!(url.home, RedisHome::Cluster { .. })
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Memory => f.write_str("memory"),
            Self::Redis(urls) => {
                let urls = urls.iter().map(ToString::to_string);
                f.write_str(&urls.collect::<Vec<_>>().join(", "))
            }
        }
    }
}

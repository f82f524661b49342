//! Rate limits: the key `rate_limit` of both tables, one limit or a list of them.

use std::fmt;
use std::marker::PhantomData;
use std::num::NonZeroU64;

use http::HeaderName;
use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{self, Deserializer, MapAccess, SeqAccess, Visitor};

use crate::config::values::rate::{ByteRate, Rate};

/// A limit of an HTTP route's requests, or of a WebSocket route's handshakes.
#[derive(Clone, Debug, Deserialize, Eq, Hash, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct RequestLimit {
    /// How many are allowed in a time.
    pub rate: Rate,
    /// How many may come at once. Default: the number of the rate.
    #[serde(default)]
    pub burst: Option<NonZeroU64>,
    /// Whose requests are counted together. Default: those of an address.
    #[serde(default)]
    pub by: RequestKey,
}

/// Whose requests or handshakes a limit counts together.
#[derive(Clone, Debug, Default, Deserialize, Eq, Hash, PartialEq)]
#[serde(try_from = "String")]
pub enum RequestKey {
    /// Those of a client's address; of an IPv6 address the first half.
    #[default]
    Address,
    /// Those of a user.
    User,
    /// Those with the same value of a header field.
    Header(HeaderName),
    /// Those with the same value of a route's parameter.
    Param(String),
}

/// A limit of what the clients of WebSockets send.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct MessageLimit {
    /// How many messages and pings are allowed in a time.
    pub rate: Option<Rate>,
    /// How many may come at once. Default: the number of the rate.
    pub burst: Option<NonZeroU64>,
    /// How many bytes of messages and control frames are allowed in a time.
    pub bytes: Option<ByteRate>,
    /// Whose messages are counted together.
    pub by: SocketKey,
    /// What happens to messages over the limit.
    pub over: OverLimit,
}

/// Whose messages a limit counts together.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum SocketKey {
    /// Those of one WebSocket.
    Connection,
    /// Those of all WebSockets of an address.
    Address,
    /// Those of all WebSockets of a user.
    User,
}

/// What happens to messages over a limit.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, Hash, PartialEq)]
#[serde(rename_all = "snake_case")]
pub enum OverLimit {
    /// Reading pauses until the rate allows more.
    #[default]
    Delay,
    /// They are dropped.
    Drop,
    /// The WebSocket is closed with 1008.
    Close,
}

/// A limit of a WebSocket route.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub enum SocketRateLimit {
    /// Of its handshakes.
    Handshakes(RequestLimit),
    /// Of its messages.
    Messages(MessageLimit),
}

impl RequestKey {
    /// Returns the word for metrics: the kind of the key.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Address => "address",
            Self::User => "user",
            Self::Header(_) => "header",
            Self::Param(_) => "param",
        }
    }
}

impl SocketKey {
    /// Returns the value as written in the file.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Connection => "connection",
            Self::Address => "address",
            Self::User => "user",
        }
    }
}

impl OverLimit {
    /// Returns the value as written in the file.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Delay => "delay",
            Self::Drop => "drop",
            Self::Close => "close",
        }
    }
}

impl TryFrom<String> for RequestKey {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let refuse = |why: &str| {
            format!(
                "expected \"address\", \"user\", \"header:NAME\" or \"param:NAME\", found {text:?}{why}"
            )
        };
        match text.split_once(':') {
            Some(("header", name)) => HeaderName::from_bytes(name.as_bytes())
                .map(Self::Header)
                .map_err(|_| refuse("; the name of the header is missing or malformed")),
            Some(("param", name)) if !name.is_empty() => Ok(Self::Param(name.to_owned())),
            Some(("param", _)) => Err(refuse("; the name of the parameter is missing")),
            None if text == "address" => Ok(Self::Address),
            None if text == "user" => Ok(Self::User),
            None if text == "connection" => Err(refuse(
                "; the messages of one connection are counted on WebSocket routes only",
            )),
            _ => Err(refuse("")),
        }
    }
}

impl fmt::Display for RequestKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address => f.write_str("address"),
            Self::User => f.write_str("user"),
            Self::Header(name) => write!(f, "header:{name}"),
            Self::Param(name) => write!(f, "param:{name}"),
        }
    }
}

impl fmt::Display for RequestLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.rate)?;
        if let Some(burst) = self.burst {
            write!(f, " burst {burst}")?;
        }
        write!(f, " by {}", self.by)
    }
}

impl fmt::Display for MessageLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(rate) = self.rate {
            write!(f, "{rate} ")?;
        }
        if let Some(burst) = self.burst {
            write!(f, "burst {burst} ")?;
        }
        if let Some(bytes) = self.bytes {
            write!(f, "{bytes} ")?;
        }
        write!(f, "by {}: {}", self.by.as_str(), self.over.as_str())
    }
}

impl<'de> Deserialize<'de> for SocketRateLimit {
    /// A limit by connection, with `bytes` or with `over`, counts messages; another one handshakes.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Table {
            #[serde(default)]
            rate: Option<Rate>,
            #[serde(default)]
            burst: Option<NonZeroU64>,
            #[serde(default)]
            bytes: Option<ByteRate>,
            #[serde(default)]
            by: Option<Key>,
            #[serde(default)]
            over: Option<OverLimit>,
        }
        let Table {
            rate,
            burst,
            bytes,
            by,
            over,
        } = Table::deserialize(deserializer)?;
        let counts_messages =
            matches!(by, Some(Key::Connection)) || bytes.is_some() || over.is_some();
        if !counts_messages {
            let Some(rate) = rate else {
                return Err(de::Error::missing_field("rate"));
            };
            let by = match by {
                Some(Key::Request(key)) => key,
                _ => RequestKey::default(),
            };
            return Ok(Self::Handshakes(RequestLimit { rate, burst, by }));
        }
        if rate.is_none() && bytes.is_none() {
            return Err(de::Error::custom(
                "expected a rate of messages (rate) or of bytes (bytes), found none",
            ));
        }
        if rate.is_none() && burst.is_some() {
            return Err(de::Error::custom(
                "expected a rate of messages for the burst, found none",
            ));
        }
        let by = match by {
            None | Some(Key::Connection) => SocketKey::Connection,
            Some(Key::Request(RequestKey::Address)) => SocketKey::Address,
            Some(Key::Request(RequestKey::User)) => SocketKey::User,
            Some(Key::Request(key)) => {
                return Err(de::Error::custom(format_args!(
                    "expected \"connection\", \"address\" or \"user\" for a limit of messages, found \"{key}\""
                )));
            }
        };
        Ok(Self::Messages(MessageLimit {
            rate,
            burst,
            bytes,
            by,
            over: over.unwrap_or_default(),
        }))
    }
}

/// The key of a WebSocket route's limit.
#[derive(Deserialize)]
#[serde(try_from = "String")]
enum Key {
    Connection,
    Request(RequestKey),
}

impl TryFrom<String> for Key {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        match text.as_str() {
            "connection" => Ok(Self::Connection),
            _ => match RequestKey::try_from(text) {
                Ok(key) => Ok(Self::Request(key)),
                Err(error) => Err(error.replacen("expected ", "expected \"connection\", ", 1)),
            },
        }
    }
}

/// One table, or a list of tables.
#[derive(Debug)]
pub(in crate::config) struct OneOrSeveral<T>(Vec<T>);

impl<T> From<OneOrSeveral<T>> for Vec<T> {
    fn from(read: OneOrSeveral<T>) -> Self {
        read.0
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for OneOrSeveral<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Written<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Written<T> {
            type Value = OneOrSeveral<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a table, or a list of tables")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<OneOrSeveral<T>, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map)).map(|one| OneOrSeveral(vec![one]))
            }

            fn visit_seq<A: SeqAccess<'de>>(
                self,
                mut list: A,
            ) -> Result<OneOrSeveral<T>, A::Error> {
                let mut read = Vec::new();
                while let Some(one) = list.next_element()? {
                    read.push(one);
                }
                Ok(OneOrSeveral(read))
            }
        }
        deserializer.deserialize_any(Written(PhantomData))
    }
}

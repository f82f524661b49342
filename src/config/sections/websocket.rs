//! WebSocket as it is written: the `[websocket]` section and its routes.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::config::problems::error_locations::ErrorLocations;
use crate::config::problems::problem::Problems;
use crate::config::read::located::Located;
use crate::config::read::source_location::SourceLocation;
use crate::config::sections::headers::HeaderFields;
use crate::config::sections::options::Options;
use crate::config::sections::route::{RouteHead, options_of};
use crate::config::sections::settings::{MissingOrigin, settings};
use crate::config::values::checked::{
    CompressionLevel, HeaderTable, HostPattern, ListOf, PositiveCount, PositiveDuration,
    PositiveSize, Subprotocol, WindowBits,
};
use crate::config::values::not_compared::NotCompared;
use crate::config::values::units::{Size, WrittenDuration};

settings! {
    /// The keys of `[websocket]`, which each `[[websocket.route]]` may set for itself.
    pub struct WebsocketDefaults {
        /// The middleware in the order it runs. Default: `["hosts", "origin"]`.
        middleware: Vec<String> as Vec<String> = vec!["hosts".to_owned(), "origin".to_owned()],
        /// The origins that the `origin` middleware lets in; empty: the hosts of `server.allowed_hosts`. Default: empty.
        allowed_origins: Vec<String> as Vec<String> = Vec::new(),
        /// What a handshake without an `Origin` header gets from that middleware. Default: `"refuse"`.
        missing_origin: MissingOrigin as MissingOrigin = MissingOrigin::Refuse,
        /// Whether a bearer token or a ticket in the query string counts. Default: `false`.
        token_in_query: bool as bool = false,
        /// Headers that are added to the answer to the handshake, from a table. Default: none.
        headers: HeaderFields as HeaderTable = HeaderFields::default(),
        /// The greatest message from the client, after inflating. Default: 64 KiB.
        max_message: Size as PositiveSize = Size::kib(64),
        /// The fragments one message may come in. Default: 1024.
        max_fragments: usize as PositiveCount = 1024,
        /// The bytes that may wait for one slow client. Default: 1 MiB.
        send_queue: Size as PositiveSize = Size::mib(1),
        /// What happens when more would wait. Default: `"close"`.
        slow_client: SlowClient as SlowClient = SlowClient::Close,
        /// The time without traffic after which a ping is sent; 0 sends none. Default: 25 s.
        ping_interval: Duration as WrittenDuration = Duration::from_secs(25),
        /// The time a client has to answer a ping. Default: 10 s.
        pong_timeout: Duration as PositiveDuration = Duration::from_secs(10),
        /// The time one write may take. Default: 5 s.
        write_timeout: Duration as PositiveDuration = Duration::from_secs(5),
        /// The time after which a connection is closed however it is doing, somewhat spread; 0 for never. Default: 0 s.
        max_lifetime: Duration as WrittenDuration = Duration::ZERO,
        /// The time the consumer has to decide on the handshake. Default: 10 s.
        connect_timeout: Duration as PositiveDuration = Duration::from_secs(10),
        /// The time the client has to answer a close. Default: 5 s.
        close_timeout: Duration as PositiveDuration = Duration::from_secs(5),
        /// The time a consumer may go on after its connection has ended. Default: 10 s.
        disconnect_timeout: Duration as PositiveDuration = Duration::from_secs(10),
        /// The time without a byte from the client after which it is closed; 0 for never. Default: 0 s.
        idle_timeout: Duration as WrittenDuration = Duration::ZERO,
        /// The time the client has for its first message; 0 for any. Default: 0 s.
        first_message_timeout: Duration as WrittenDuration = Duration::ZERO,
        /// Whether messages are compressed. Default: `"auto"`.
        compression: Compression as Compression = Compression::Auto,
        /// Messages shorter than this stay plain. Default: 256 B.
        compression_threshold: Size as Size = Size(256),
        /// How hard to compress, from 1 (fast) to 9 (small). Default: 1.
        compression_level: u8 as CompressionLevel = 1,
        /// Whether the server's messages may refer to earlier ones, at some 300 KiB a connection. Default: `false`.
        server_context_takeover: bool as bool = false,
        /// Whether the client's messages may refer to earlier ones, at some 40 KiB a connection. Default: `false`.
        client_context_takeover: bool as bool = false,
        /// The window of the server's messages, as a power of two. Default: 15.
        server_max_window_bits: u8 as WindowBits = 15,
        /// The window of the client's messages, when the client lets the server choose. Default: 15.
        client_max_window_bits: u8 as WindowBits = 15,
    }
    /// `[websocket]`.
    section WebsocketSection;
    /// One `[[websocket.route]]`.
    route RawWebsocketRoute {
        path: Option<String>,
        regex: Option<String>,
        name: Option<String>,
        host: Option<HostPattern>,
        subprotocols: Option<ListOf<Subprotocol>>,
        consumer: Option<String>,
        options: Option<BTreeMap<String, IgnoredAny>>,
        defaults: BTreeMap<String, String>,
    }
}

/// What happens to a client whose queue is full.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, Hash, PartialEq)]
#[serde(rename_all = "snake_case")]
pub enum SlowClient {
    /// It is closed with 1013.
    #[default]
    Close,
    /// The message that does not fit is dropped.
    DropNewest,
    /// The messages that wait longest are dropped until it fits.
    DropOldest,
    /// An event takes the place of a waiting one with the same `conflate_key`; one that does not fit is dropped.
    Conflate,
}

impl SlowClient {
    /// Returns the word of the file.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Close => "close",
            Self::DropNewest => "drop_newest",
            Self::DropOldest => "drop_oldest",
            Self::Conflate => "conflate",
        }
    }
}

/// Whether messages are compressed.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, Hash, PartialEq)]
#[serde(rename_all = "snake_case")]
pub enum Compression {
    /// Never.
    Off,
    /// When the client offers it; small messages are left alone.
    #[default]
    Auto,
}

/// One `[[websocket.route]]`: which handshakes go to which consumer.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct WebsocketRoute {
    /// The path with its parameters, such as `/ws/chat/{room:slug}/`; this or [`regex`](Self::regex).
    pub path: Option<String>,
    /// A regular expression with named groups in place of a path.
    pub regex: Option<String>,
    /// The name that links are made from. Default: none.
    pub name: Option<String>,
    /// The host it is for. Default: any.
    pub host: Option<String>,
    /// The subprotocols it speaks. Default: none.
    pub subprotocols: Vec<String>,
    /// The name of the consumer.
    pub consumer: String,
    /// What only the consumer understands.
    pub options: Options,
    /// Parameters that win over those in the path. Default: none.
    pub defaults: BTreeMap<String, String>,
    /// What the including files put before the path; empty in the main file.
    pub prefix: String,
    /// The section's settings with the route's own laid over.
    pub settings: WebsocketDefaults,
    /// The location of the route.
    pub location: NotCompared<SourceLocation>,
}

impl RawWebsocketRoute {
    /// Checks what concerns several keys, and lays the route over its section.
    pub(in crate::config) fn finish(
        mut self,
        location: SourceLocation,
        prefix: &str,
        defaults: &WebsocketDefaults,
        problems: &mut Problems,
    ) -> WebsocketRoute {
        let settings = self.settings(defaults, &location);
        RouteHead {
            path: self.path.as_deref(),
            regex: self.regex.as_deref(),
            name: self.name.as_deref(),
            target_key: "consumer",
            target: self.consumer.as_deref(),
            prefix,
        }
        .check(&location, problems);
        WebsocketRoute {
            path: self.path,
            regex: self.regex,
            name: self.name,
            host: self.host.map(Into::into),
            subprotocols: self.subprotocols.map(Into::into).unwrap_or_default(),
            consumer: self.consumer.unwrap_or_default(),
            options: options_of(&location),
            defaults: self.defaults,
            prefix: prefix.to_owned(),
            settings,
            location: location.into(),
        }
    }
}

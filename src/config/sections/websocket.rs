//! The `[websocket]` section and its routes, as written.

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
use crate::config::sections::rate_limit::{OneOrSeveral, SocketRateLimit};
use crate::config::sections::route::{RouteHead, options_of};
use crate::config::sections::settings::{MissingOrigin, settings};
use crate::config::values::checked::{
    CompressionLevel, HeaderTable, HostPattern, ListOf, PositiveCount, PositiveDuration,
    PositiveSize, Subprotocol, WindowBits,
};
use crate::config::values::not_compared::NotCompared;
use crate::config::values::units::{Size, WrittenDuration};
use crate::telemetry::AccessRule;

settings! {
    /// The keys of `[websocket]` that each `[[websocket.route]]` may override.
    pub struct WebsocketDefaults {
        /// The middleware, in order. Default: `["hosts", "origin"]`.
        middleware: Vec<String> as Vec<String> = vec!["hosts".to_owned(), "origin".to_owned()],
        /// The origins that the `origin` middleware admits; empty: the hosts of
        /// `server.allowed_hosts`. Default: empty.
        allowed_origins: Vec<String> as Vec<String> = Vec::new(),
        /// How that middleware treats a handshake without an `Origin` header. Default: `"refuse"`.
        missing_origin: MissingOrigin as MissingOrigin = MissingOrigin::Refuse,
        /// Whether a bearer token or a ticket is accepted in the query string. Default: `false`.
        token_in_query: bool as bool = false,
        /// Which handshakes and sockets get a line in the access log. Default: all.
        access_log: AccessRule as AccessRule = AccessRule::On,
        /// The limits of the `rate_limit` middleware, and of messages; a table or a list of tables.
        /// Default: none.
        rate_limit: Vec<SocketRateLimit> as OneOrSeveral<SocketRateLimit> = Vec::new(),
        /// Headers that are added to the response to the handshake, as a table. Default: none.
        headers: HeaderFields as HeaderTable = HeaderFields::default(),
        /// The largest message from the client, decompressed. Default: 64 KiB.
        max_message: Size as PositiveSize = Size::kib(64),
        /// The most fragments of one message. Default: 1024.
        max_fragments: usize as PositiveCount = 1024,
        /// The most bytes queued for one slow client. Default: 1 MiB.
        send_queue: Size as PositiveSize = Size::mib(1),
        /// What happens when that queue is full. Default: `"close"`.
        slow_client: SlowClient as SlowClient = SlowClient::Close,
        /// The time without traffic after which a ping is sent; 0 sends none. Default: 25 s.
        ping_interval: Duration as WrittenDuration = Duration::from_secs(25),
        /// The deadline for the client's pong. Default: 10 s.
        pong_timeout: Duration as PositiveDuration = Duration::from_secs(10),
        /// The deadline of one write. Default: 5 s.
        write_timeout: Duration as PositiveDuration = Duration::from_secs(5),
        /// The age at which any connection is closed, spread somewhat; 0 never. Default: 0 s.
        max_lifetime: Duration as WrittenDuration = Duration::ZERO,
        /// The deadline of the consumer's `connect`. Default: 10 s.
        connect_timeout: Duration as PositiveDuration = Duration::from_secs(10),
        /// The deadline for the client's close frame. Default: 5 s.
        close_timeout: Duration as PositiveDuration = Duration::from_secs(5),
        /// How long a consumer may run after its connection has ended. Default: 10 s.
        disconnect_timeout: Duration as PositiveDuration = Duration::from_secs(10),
        /// The time without a byte from the client after which it is closed; 0 never. Default: 0 s.
        idle_timeout: Duration as WrittenDuration = Duration::ZERO,
        /// The deadline for the client's first message; 0 for none. Default: 0 s.
        first_message_timeout: Duration as WrittenDuration = Duration::ZERO,
        /// Whether messages are compressed. Default: `"auto"`.
        compression: Compression as Compression = Compression::Auto,
        /// Shorter messages are not compressed. Default: 256 B.
        compression_threshold: Size as Size = Size(256),
        /// The compression level, from 1 (fast) to 9 (small). Default: 1.
        compression_level: u8 as CompressionLevel = 1,
        /// Whether the server keeps its compression context between messages, at some 300 KiB per
        /// connection. Default: `false`.
        server_context_takeover: bool as bool = false,
        /// Whether the client keeps its compression context between messages, at some 40 KiB per
        /// connection. Default: `false`.
        client_context_takeover: bool as bool = false,
        /// The server's window, as a power of two. Default: 15.
        server_max_window_bits: u8 as WindowBits = 15,
        /// The client's window, if the client lets the server choose. Default: 15.
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
    /// Close the client with 1013.
    #[default]
    Close,
    /// Drop the message that does not fit.
    DropNewest,
    /// Drop the oldest queued messages until it fits.
    DropOldest,
    /// An event replaces a queued one with the same `conflate_key`; one that does not fit is
    /// dropped.
    Conflate,
}

impl SlowClient {
    /// Returns the value as written in the file.
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
    /// If the client offers it; small messages are not compressed.
    #[default]
    Auto,
}

/// One `[[websocket.route]]`: which handshakes go to which consumer.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct WebsocketRoute {
    /// The path with its parameters, such as `/ws/chat/{room:slug}/`; this or
    /// [`regex`](Self::regex).
    pub path: Option<String>,
    /// A regular expression with named groups in place of a path.
    pub regex: Option<String>,
    /// The name for `url_for`. Default: none.
    pub name: Option<String>,
    /// The host that the route is limited to. Default: any.
    pub host: Option<String>,
    /// The subprotocols that the route accepts. Default: none.
    pub subprotocols: Vec<String>,
    /// The name of the consumer.
    pub consumer: String,
    /// The consumer's options.
    pub options: Options,
    /// Parameters that take precedence over those in the path. Default: none.
    pub defaults: BTreeMap<String, String>,
    /// The path prefix of the including files; empty in the main file.
    pub prefix: String,
    /// The section's settings with the route's overrides.
    pub settings: WebsocketDefaults,
    /// The route's location.
    pub location: NotCompared<SourceLocation>,
}

impl RawWebsocketRoute {
    /// Checks the keys against each other and fills in the section's settings.
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

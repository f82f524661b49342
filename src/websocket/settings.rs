//! SocketSettings: the limits and timeouts of a route's sockets.

use std::time::Duration;

use super::decoder::Limits;
use super::extension::DeflateSettings;
use super::message_limits::MessageLimits;
pub use crate::config::{Compression, SlowClient};
use crate::telemetry::AccessRule;

/// The limits and timeouts of a route's sockets. A timeout of zero is off.
#[derive(Clone, Debug)]
pub struct SocketSettings {
    /// Limits of the client's messages.
    pub limits: Limits,
    /// The rates of the client's messages.
    pub message_limits: MessageLimits,
    /// The most bytes queued for one client.
    pub send_queue: usize,
    /// What happens to frames over `send_queue`.
    pub slow_client: SlowClient,
    /// How long the client may be silent before it is pinged.
    pub ping_interval: Duration,
    /// How long the client may be silent after a ping before the socket ends.
    pub pong_timeout: Duration,
    /// How long a write may make no progress.
    pub write_timeout: Duration,
    /// How long a socket may be open.
    pub max_lifetime: Duration,
    /// How long the client may send no byte.
    pub idle_timeout: Duration,
    /// How long the client may take for its first message.
    pub first_message_timeout: Duration,
    /// How long to wait for the client's close frame.
    pub close_timeout: Duration,
    /// How long the consumer's `connect` may take.
    pub connect_timeout: Duration,
    /// How long a consumer's call may continue after its socket has ended.
    pub disconnect_timeout: Duration,
    /// Which handshakes and sockets get a line in the access log.
    pub access_log: AccessRule,
    /// Whether offers of compression are accepted.
    pub compression: Compression,
    /// The parameters of compression.
    pub deflate: DeflateSettings,
}

impl Default for SocketSettings {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self {
            limits: Limits {
                message_bytes_max: 64 * 1024,
                fragments_max: 1024,
            },
            message_limits: MessageLimits::default(),
            send_queue: 1 << 20,
            slow_client: SlowClient::Close,
            ping_interval: seconds(25),
            pong_timeout: seconds(10),
            write_timeout: seconds(5),
            max_lifetime: Duration::ZERO,
            idle_timeout: Duration::ZERO,
            first_message_timeout: Duration::ZERO,
            close_timeout: seconds(5),
            connect_timeout: seconds(10),
            disconnect_timeout: seconds(10),
            access_log: AccessRule::On,
            compression: Compression::Auto,
            deflate: DeflateSettings::default(),
        }
    }
}

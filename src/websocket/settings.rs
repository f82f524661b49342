//! SocketSettings: the bounds and deadlines of a route's sockets, as the file means them.

use std::time::Duration;

use super::decoder::Limits;
use super::extension::DeflateSettings;
pub use crate::config::{Compression, SlowClient};

/// The bounds and deadlines of a route's sockets. A duration of zero means: none.
#[derive(Clone, Debug)]
pub struct SocketSettings {
    /// What a client may send.
    pub limits: Limits,
    /// Bytes that wait for one client.
    pub send_queue: usize,
    /// What happens beyond them.
    pub slow_client: SlowClient,
    /// Silence after which a ping is sent.
    pub ping_interval: Duration,
    /// Silence after a ping that ends the socket.
    pub pong_timeout: Duration,
    /// How long a write may make no progress.
    pub write_timeout: Duration,
    /// How old a socket may get.
    pub max_lifetime: Duration,
    /// How long there may be no byte from the client.
    pub idle_timeout: Duration,
    /// How long the client may take for its first message.
    pub first_message_timeout: Duration,
    /// How long the peer's close frame is waited for.
    pub close_timeout: Duration,
    /// How long the consumer may decide on the handshake.
    pub connect_timeout: Duration,
    /// How long a consumer may go on after its socket ended.
    pub disconnect_timeout: Duration,
    /// Whether compression is agreed to when a client offers it.
    pub compression: Compression,
    /// On which terms.
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
            compression: Compression::Auto,
            deflate: DeflateSettings::default(),
        }
    }
}

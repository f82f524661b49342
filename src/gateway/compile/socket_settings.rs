//! Socket settings: the settings of a `[[websocket.route]]`, and its fingerprint, which shows a
//! reload whether the route changed.

use std::hash::{DefaultHasher, Hash, Hasher};

use crate::config::{CustomMiddlewareSections, WebsocketDefaults, WebsocketRoute};
use crate::websocket::decoder::Limits;
use crate::websocket::extension::DeflateSettings;
use crate::websocket::{MessageLimits, SocketSettings};

/// Returns the limits and deadlines of a route.
pub(super) fn socket_settings(
    written: &WebsocketDefaults,
    message_limits: MessageLimits,
) -> SocketSettings {
    SocketSettings {
        limits: Limits {
            message_bytes_max: written.max_message.as_usize(),
            fragments_max: written.max_fragments,
        },
        message_limits,
        send_queue: written.send_queue.as_usize(),
        slow_client: written.slow_client,
        ping_interval: written.ping_interval,
        pong_timeout: written.pong_timeout,
        write_timeout: written.write_timeout,
        max_lifetime: written.max_lifetime,
        idle_timeout: written.idle_timeout,
        first_message_timeout: written.first_message_timeout,
        close_timeout: written.close_timeout,
        connect_timeout: written.connect_timeout,
        disconnect_timeout: written.disconnect_timeout,
        access_log: written.access_log,
        compression: written.compression,
        deflate: DeflateSettings {
            threshold: written.compression_threshold.as_usize(),
            level: written.compression_level,
            server_context_takeover: written.server_context_takeover,
            client_context_takeover: written.client_context_takeover,
            server_max_window_bits: written.server_max_window_bits,
            client_max_window_bits: written.client_max_window_bits,
        },
    }
}

/// Returns the hash of everything that a route sets and inherits, and of the options of its
/// middleware. Routes with the same meaning have the same hash, wherever they are written. A reload
/// ends the sockets of a route whose fingerprint no longer exists.
pub(super) fn fingerprint(written: &WebsocketRoute, sections: &CustomMiddlewareSections) -> u64 {
    let mut hasher = DefaultHasher::new();
    written.hash(&mut hasher);
    for name in &written.settings.middleware {
        sections.options(name).hash(&mut hasher);
    }
    hasher.finish()
}

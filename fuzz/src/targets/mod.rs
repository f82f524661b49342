//! The targets, one file each.

pub mod backend_response;
pub mod channels_redis;
pub mod config;
pub mod cookies;
pub mod deflate;
pub mod django_pickle;
pub mod django_signing;
pub mod encodings;
pub mod events;
pub mod forwarded;
pub mod frames;
pub mod gateway;
pub mod group_patterns;
pub mod handshake;
pub mod head_scanner;
pub mod layer_messages;
pub mod proxy_protocol;
pub mod ranges;
pub mod readings;
pub mod routing;
pub mod server_api;
pub mod tls;
pub mod tokens;
pub mod upstream_http1;
pub mod upstream_http2;

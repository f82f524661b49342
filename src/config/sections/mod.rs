//! The sections of the file: one file for each, with every key, its type and its default.
//!
//! Add a key to the struct of its section. `[http]` and `[websocket]` declare their keys through
//! [`settings`], because each route may set them too.

pub(in crate::config) mod acme;
pub(in crate::config) mod auth;
pub(in crate::config) mod channel_layer;
pub(in crate::config) mod compress;
pub(in crate::config) mod cors;
pub(in crate::config) mod csrf;
pub(in crate::config) mod custom_middleware;
pub(in crate::config) mod drain;
pub(in crate::config) mod headers;
pub(in crate::config) mod http;
pub(in crate::config) mod log;
pub(in crate::config) mod metrics;
pub(in crate::config) mod options;
pub(in crate::config) mod rate_limit;
pub(in crate::config) mod route;
pub(in crate::config) mod server;
pub(in crate::config) mod session;
pub(in crate::config) mod settings;
pub(in crate::config) mod templates;
pub(in crate::config) mod tls;
pub(in crate::config) mod tracing;
pub(in crate::config) mod websocket;

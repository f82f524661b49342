//! Oneport: HTTP and WebSocket on one port, two tables, one TOML file.

pub mod routing;

/// HTTP: what is known about a request before a view sees it.
pub mod http {
    pub mod host;
    pub mod origin;
}

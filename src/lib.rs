//! Oneport: HTTP and WebSocket on one port, two tables, one TOML file.

pub mod config;

//! Oneport: HTTP and WebSocket on one port, two tables, one TOML file.

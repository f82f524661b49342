//! Integration tests of the public interface: communicators without sockets, and a live server
//! where the bytes on the wire matter. `support/` holds what several files share.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod acceptance;
mod applications;
mod backend;
mod build_script;
mod compress;
mod compression;
mod config;
mod dashboard;
mod django;
mod docs;
mod drain;
mod edge;
mod ends;
mod file_delivery;
mod file_rules;
mod files;
mod group_limits;
mod groups;
mod http2;
mod layers;
mod life;
mod limits;
mod messages;
mod metrics;
mod outbound_tls;
mod panics;
mod pipeline;
mod proxy;
mod publish;
mod reload;
mod requests;
mod resolve;
mod scale;
mod sequences;
mod sessions;
mod support;
mod tokens;
mod tunnel;
mod watchdog;
mod wire;

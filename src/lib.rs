//! Oneport: HTTP and WebSocket on one port, two tables, one TOML file.
//!
//! A hyper service decides the *protocol type* of each request and hands it to one of two tables:
//! HTTP [views](http::View) or WebSocket [consumers](websocket::Consumer). Each table has its own
//! [path matcher](routing::UrlRouter); a TOML file maps paths to views and consumers. It is Django
//! Channels' `ProtocolTypeRouter` as a server.
//!
//! A binary of your own takes three lines. The file names your views and consumers as it names the
//! built-in ones:
//!
//! ```no_run
//! use std::process::ExitCode;
//! use oneport::gateway::Registry;
//! use oneport::websocket::{Close, Consumer, Context, Message};
//!
//! struct Shout;
//!
//! impl Consumer for Shout {
//!     type Options = ();
//!     fn new(_: &()) -> Self { Self }
//!     async fn receive(&mut self, cx: &mut Context<'_>, message: Message) -> Result<(), Close> {
//!         cx.send(message.as_text().unwrap_or_default().to_uppercase());
//!         Ok(())
//!     }
//! }
//!
//! fn main() -> ExitCode {
//!     oneport::cli::run(Registry::builtin().consumer::<Shout>("shout"))
//! }
//! ```
//!
//! [`Registry`](gateway::Registry) also takes [middleware](middleware::Middleware), application
//! state and background tasks: see `examples/tenants.rs`.

mod acme;
mod atomic_file;
pub mod auth;
pub mod channels;
pub mod cli;
pub mod client;
pub mod clock;
mod close_code;
mod cluster;
pub mod config;
pub mod database;
mod file_stamp;
mod first_items;
#[doc(hidden)]
pub mod fuzzing;
pub mod gateway;
pub mod group_pattern;
pub mod host;
pub mod http;
pub mod middleware;
pub mod net;
mod otlp;
pub mod pace;
mod queued_bytes;
mod rate_limiter;
pub mod reload_handle;
pub mod routing;
pub mod scope;
pub mod secrets;
pub mod server;
pub mod services;
pub mod session;
pub mod state;
pub mod stats;
pub mod tasks;
pub mod telemetry;
pub mod templates;
pub mod testing;
pub mod text;
pub mod timestamp;
pub mod ttl_cache;
pub mod upstream;
pub mod websocket;

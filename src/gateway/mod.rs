//! Gateway: compiles the configuration into a table of routes, and takes requests and handshakes
//! through it.
//!
//! `registry.rs` maps names in the file to code, `compile/` builds the table, and the other files
//! serve with it: start at `dispatch.rs`, then `http.rs` and `websocket.rs`, which share
//! `pipeline.rs`.

mod access_log;
mod background_task;
mod compile;
mod connection_info;
mod deadline;
mod dispatch;
mod error_pages;
mod http;
mod login_expiry;
mod middleware_chain;
mod pipeline;
mod plaintext;
mod preflight;
mod recent_refusals;
mod registry;
mod request_head;
mod request_span;
mod resolve;
mod response_framing;
mod response_metrics;
mod running;
mod serving;
mod table;
mod unmatched;
mod upgrade;
mod websocket;

pub(crate) use compile::otlp_settings;
pub use compile::{compile, compile_draft};
pub use connection_info::ConnectionInfo;
pub use registry::Registry;
pub(crate) use request_head::Fragment;
pub(crate) use request_span::ResponseSpan;
pub use resolve::{Outcome, Resolved};
pub use running::Gateway;
pub use serving::Serving;
pub(crate) use table::TlsSettings;
pub use table::{HttpEntry, HttpHandler, RouteEntry, Table, WebsocketEntry, WebsocketHandler};
pub use upgrade::{Reply, Upgrade};

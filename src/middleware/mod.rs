//! Middleware: a list of steps that run before a handler and then on its response, for requests and
//! handshakes alike.
//!
//! Each built-in middleware has a file in this folder and a variant of [`Step`]. To add one: its
//! file, its variant and name in `step.rs`, an arm in `gateway/compile/middleware_list.rs`, which
//! compiles lists, and a row in docs/CONFIGURATION.md. An application's own middleware implements
//! [`Middleware`].

mod auth;
mod compress;
mod context;
mod cors;
mod csrf;
mod custom;
mod headers;
mod hosts;
mod login_required;
mod origin;
mod rate_limit;
mod session;
mod step;

pub use auth::{Auth, BEARER, TICKET};
pub use compress::Compress;
pub use context::MiddlewareContext;
pub use cors::Cors;
pub use csrf::Csrf;
pub use custom::{Custom, Middleware};
pub use headers::Headers;
pub use hosts::Hosts;
pub use login_required::LoginRequired;
pub use origin::Origin;
pub use rate_limit::RateLimit;
pub use session::Session;
pub use step::{Progress, Step};

/// Middleware that refuses visitors depending on their login.
pub(crate) const RESTRICTING: [&str; 2] = ["login_required", "staff_required"];

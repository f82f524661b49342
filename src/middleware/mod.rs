//! Middleware: a list of steps before a request or a handshake, and over its response; the same
//! steps for both tables.
//!
//! Built-in middleware has a file each and a variant of [`Step`]. To add one: its file here, its
//! variant and name in `step.rs`, an arm where a list is compiled
//! (`gateway/compile/middleware_list.rs`), a row in docs/CONFIGURATION.md. An application's own
//! implements [`Middleware`].

mod auth;
mod context;
mod cors;
mod csrf;
mod custom;
mod headers;
mod hosts;
mod login_required;
mod origin;
mod session;
mod step;

pub use auth::{Auth, BEARER, TICKET};
pub use context::MiddlewareContext;
pub use cors::Cors;
pub use csrf::Csrf;
pub use custom::{Custom, Middleware};
pub use headers::Headers;
pub use hosts::Hosts;
pub use login_required::LoginRequired;
pub use origin::Origin;
pub use session::Session;
pub use step::Step;

/// Middleware that lets some visitors through and refuses others.
pub(crate) const RESTRICTING: [&str; 2] = ["login_required", "staff_required"];

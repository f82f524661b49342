//! Edge: what a client or a proxy can send before a view sees it, and what every answer carries.

mod cors;
mod forwarded;
mod headers;
mod lists;
mod redirects;

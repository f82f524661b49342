//! Proxy: passes requests on to other servers.

mod accel;
mod header_rules;
mod header_template;
mod request_head;
mod response_head;
mod rewrite;
mod target;
mod trailers;

pub(crate) use header_rules::WrittenHeaderRules;
pub(crate) use request_head::{RequestRules, WrittenForwarded};
pub(crate) use response_head::{clean, remove_accel};

//! Consumers: the built-in ones, one file each.
//!
//! A new one is a file with a type that implements [`Consumer`](super::Consumer), a line in
//! `Registry::builtin` (src/gateway/registry.rs) and a section in docs/CONFIGURATION.md.

pub(crate) mod backend;
mod broadcast;
mod chat;
mod dashboard;
mod echo;
mod feed;
pub(crate) mod proxy;

pub use backend::Backend;
pub use broadcast::Broadcast;
pub use chat::Chat;
pub use dashboard::Dashboard;
pub use echo::Echo;
pub use feed::Feed;

pub use proxy::{Options as ProxyOptions, Proxy};

use std::time::Duration;

use http::StatusCode;

use super::accept::Denial;
use crate::channels::GroupName;
use crate::config::{OptionError, WrittenDuration};
use crate::group_pattern::{GroupError, GroupPattern};
use crate::scope::Scope;

/// Returns the group of a handshake, or a denial: 403 to an anonymous client, 404 for an invalid
/// name, 500 if the route lacks the parameter.
fn group(pattern: &GroupPattern, scope: &Scope) -> Result<GroupName, Denial> {
    pattern.group(scope).map_err(|error| match error {
        GroupError::Anonymous { .. } => Denial::forbidden("log in first"),
        GroupError::NotAName { .. } => Denial::new(StatusCode::NOT_FOUND, error.to_string()),
        GroupError::NoParam { .. } => Denial::from(error),
    })
}

/// The default of `history_expiry`.
fn an_hour() -> WrittenDuration {
    WrittenDuration(Duration::from_secs(3600))
}

/// Returns an error if `recover` is on but no history is kept to recover from.
fn check_recovery(recover: bool, history: usize) -> Option<OptionError> {
    (recover && history == 0).then(|| {
        OptionError::new(
            "recover",
            "expected a history above 0 to go with it, found 0",
        )
    })
}

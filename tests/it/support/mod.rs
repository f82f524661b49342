//! Support: helpers for several of these tests.

mod directory;
mod http_endpoint;
mod raw_socket;
mod raw_upstream;
mod upgrade;

use std::time::Duration;

use oneport::gateway::Registry;
use oneport::testing::Application;

pub(crate) use directory::Directory;
pub(crate) use http_endpoint::{HttpEndpoint, head_field};
pub(crate) use raw_socket::{HANDSHAKE, close_code, frame, open, read_until};
pub(crate) use raw_upstream::{RawUpstream, closed, read_head};
pub(crate) use upgrade::upgrade;

/// How long a test waits for an answer before it fails.
pub(crate) const DEADLINE: Duration = Duration::from_secs(5);

/// Builds an application; a configuration with Problems fails the test and prints them.
pub(crate) fn application(registry: &Registry, text: &str) -> Application {
    Application::with(registry, text).unwrap_or_else(|problems| panic!("{problems}"))
}

/// A header field of a response, as text.
pub(crate) fn field<'r, T>(response: &'r http::Response<T>, name: &str) -> Option<&'r str> {
    let value = response.headers().get(name)?;
    Some(value.to_str().unwrap())
}

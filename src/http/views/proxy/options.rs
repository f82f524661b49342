//! Options: those of the view, beside those of its upstream.

use super::accel::Accel;
use super::{WrittenForwarded, WrittenHeaderRules};
use crate::upstream::upstream_options;

upstream_options! {
    /// The options of `proxy`.
    pub struct Options {
        /// The start of the path that the upstream does not get.
        #[serde(default)]
        pub(super) strip_prefix: String,
        /// The path that the upstream gets, with parameters of the route.
        #[serde(default)]
        pub(super) rewrite: Option<String>,
        /// `Host`: `preserve`, `upstream` or a name.
        #[serde(default = "preserve")]
        pub(super) host: String,
        /// The family of forwarded fields that the upstream gets.
        #[serde(default)]
        pub(super) forwarded: WrittenForwarded,
        /// The fields that a request gets or loses.
        #[serde(default)]
        pub(super) request_headers: WrittenHeaderRules,
        /// The fields that a response gets or loses.
        #[serde(default)]
        pub(super) response_headers: WrittenHeaderRules,
        /// Whether `Location` is rewritten.
        #[serde(default = "yes")]
        pub(super) redirects: bool,
        /// Whether `Set-Cookie` is rewritten.
        #[serde(default)]
        pub(super) cookies: bool,
        /// The statuses of the upstream that get a page of Oneport.
        #[serde(default)]
        pub(super) intercept_errors: Vec<u16>,
        /// The files that the application may ask for.
        #[serde(default)]
        pub(super) accel: Option<Accel>,
    }
}

impl Options {
    /// Returns the URLs of the servers.
    pub(super) fn urls(&self) -> impl Iterator<Item = &str> {
        self.upstream.iter().map(|url| url.0.as_str())
    }
}

fn preserve() -> String {
    "preserve".to_owned()
}

fn yes() -> bool {
    true
}

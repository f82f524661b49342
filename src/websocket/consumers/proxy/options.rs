//! Options: the options of the `proxy` consumer.

use crate::config::OptionErrors;
use crate::http::views::proxy::{RequestRules, WrittenForwarded, WrittenHeaderRules};
use crate::routing::RouteContext;
use crate::upstream::upstream_options;

upstream_options! {
    /// The options of the `proxy` consumer: those of an upstream, and how the head of a handshake
    /// becomes the head for the upstream.
    pub struct Options {
        #[serde(default)]
        strip_prefix: String,
        #[serde(default)]
        rewrite: Option<String>,
        #[serde(default = "preserve")]
        host: String,
        #[serde(default)]
        forwarded: WrittenForwarded,
        #[serde(default)]
        request_headers: WrittenHeaderRules,
    }
}

fn preserve() -> String {
    "preserve".to_owned()
}

impl Options {
    /// Returns the URLs of the servers.
    pub(super) fn urls(&self) -> Vec<String> {
        self.upstream.iter().map(|url| url.0.clone()).collect()
    }

    /// Parses the rules for the head of a handshake.
    pub(super) fn request_rules(
        &self,
        route: &RouteContext<'_>,
        errors: &mut OptionErrors,
    ) -> RequestRules {
        let path = (&*self.strip_prefix, self.rewrite.as_deref());
        let (forwarded, headers) = (self.forwarded, &self.request_headers);
        let mut rules = RequestRules::parse(path, &self.host, forwarded, headers, errors);
        rules.mount(route, errors);
        rules
    }
}

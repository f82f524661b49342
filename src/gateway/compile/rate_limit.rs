//! Rate limit: checks the limits of a route, and creates the step of the middleware `rate_limit`
//! and the limits of messages.

use super::compiler::Compiler;
use super::middleware_settings::MiddlewareSettings;
use crate::config::{
    Bind, OverLimit, Problem, RequestKey, RequestLimit, SocketKey, SocketRateLimit, SourceLocation,
    WebsocketRoute,
};
use crate::middleware::{RateLimit, Step};
use crate::websocket::MessageLimits;

/// Steps that read a store, before which a limit without a user refuses requests cheaply.
const READS_A_STORE: [&str; 2] = ["session", "auth"];

impl Compiler<'_> {
    /// Creates the step. `None` if its settings are invalid.
    pub(super) fn rate_limit(
        &mut self,
        settings: &MiddlewareSettings<'_>,
        listed: &SourceLocation,
    ) -> Option<Step> {
        if (settings.is_invalid)("rate_limit") {
            return None;
        }
        if settings.rate_limits.is_empty() {
            let message = "expected rate_limit for the middleware \"rate_limit\", found none";
            self.problems.push(
                Problem::error(listed.clone(), message)
                    .with_hint("rate_limit = { rate = \"10/s\", burst = 20 }"),
            );
            return None;
        }
        let written = (settings.location_of)("rate_limit");
        let mut is_sound = true;
        for (at, limit) in &settings.rate_limits {
            let location = limit_location(&written, *at).key("by");
            match &limit.by {
                RequestKey::User if !settings.gives_user() => {
                    let message =
                        "expected the middleware \"auth\" for a limit by user, found none";
                    self.problems.push(
                        Problem::error(location, message)
                            .with_hint("add \"auth\" before \"rate_limit\""),
                    );
                    is_sound = false;
                }
                RequestKey::Param(name) => {
                    if let Some(missing) = settings.params.missing(name) {
                        let message = format!("the route has no parameter {name:?}");
                        self.problems
                            .push(Problem::error(location, message).with_hint(missing.hint()));
                        is_sound = false;
                    }
                }
                _ => {}
            }
        }
        self.check_addresses(settings, &written);
        // The section's limits count the requests of all routes that inherit them.
        let is_shared = !settings.sets_own_rate_limit;
        let limits: Vec<RequestLimit> = settings
            .rate_limits
            .iter()
            .map(|(_, it)| it.clone())
            .collect();
        is_sound.then(|| Step::RateLimit(RateLimit::new(&limits, is_shared)))
    }

    /// Warns about limits by address on a unix socket whose clients have none.
    fn check_addresses(&mut self, settings: &MiddlewareSettings<'_>, written: &SourceLocation) {
        let server = &self.config.server;
        let is_unix = |bind: &Bind| matches!(bind, Bind::Unix(_));
        let has_unix = server.bind.iter().any(|listen| is_unix(&listen.address));
        let counts_addresses = settings
            .rate_limits
            .iter()
            .any(|(_, limit)| limit.by == RequestKey::Address);
        if has_unix && counts_addresses && server.trusted_proxies.is_empty() {
            let message = "all clients of the unix socket count as one address: server.trusted_proxies is empty, so the fields of the proxy in front are ignored";
            self.problems
                .push(Problem::warning(written.clone(), message).with_hint(
                    "trusted_proxies = [\"127.0.0.1\"] trusts the proxy at the unix socket",
                ));
        }
    }

    /// Reports `rate_limit` before the step that it needs, and warns if it comes after steps that
    /// it could spare.
    pub(super) fn check_rate_limit_order(
        &mut self,
        settings: &MiddlewareSettings<'_>,
        list: &SourceLocation,
    ) -> bool {
        let Some(own) = settings.position("rate_limit") else {
            return true;
        };
        let needs_user = settings
            .rate_limits
            .iter()
            .any(|(_, limit)| limit.by == RequestKey::User);
        if needs_user {
            let is_after = settings.position("auth").is_none_or(|auth| auth < own);
            if !is_after {
                let message =
                    "\"auth\" is listed after \"rate_limit\", which counts by user; swap them";
                self.problems.push(Problem::error(list.text(own), message));
            }
            return is_after;
        }
        let before = READS_A_STORE
            .into_iter()
            .find(|name| settings.position(name).is_some_and(|at| at < own));
        if let Some(name) = before {
            let message = format!(
                "\"rate_limit\" is listed after {name:?}, so the store is read for requests that it refuses"
            );
            let hint = format!("put \"rate_limit\" before {name:?}");
            self.problems
                .push(Problem::warning(list.text(own), message).with_hint(hint));
        }
        true
    }

    /// Returns the limits of a route's messages. `None` if one is invalid.
    pub(super) fn message_limits(
        &mut self,
        written: &WebsocketRoute,
        settings: &MiddlewareSettings<'_>,
    ) -> Option<MessageLimits> {
        let location = (settings.location_of)("rate_limit");
        let mut is_sound = !(settings.is_invalid)("rate_limit");
        let mut limits = Vec::new();
        for (at, limit) in written.settings.rate_limit.iter().enumerate() {
            let SocketRateLimit::Messages(limit) = limit else {
                continue;
            };
            let location = limit_location(&location, at);
            if limit.by == SocketKey::User && !settings.gives_user() {
                let message = "expected the middleware \"auth\" for a limit by user, found none";
                self.problems
                    .push(Problem::error(location.key("by"), message));
                is_sound = false;
            }
            if limit.over == OverLimit::Drop && written.consumer == "proxy" {
                let message = "expected over = \"delay\" or \"close\" for the consumer \"proxy\", found \"drop\": it passes bytes on and cannot leave out a message";
                self.problems
                    .push(Problem::error(location.key("over"), message));
                is_sound = false;
            }
            limits.push(limit.clone());
        }
        is_sound.then(|| {
            MessageLimits::new(
                limits,
                written.settings.max_message.bytes(),
                !settings.sets_own_rate_limit,
            )
        })
    }
}

/// Returns the location of one limit: the key's value is one table, or a list of them.
fn limit_location(written: &SourceLocation, at: usize) -> SourceLocation {
    let item = written.index(at);
    if item.is_written() {
        item
    } else {
        written.clone()
    }
}

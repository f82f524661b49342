//! Middleware list: turns a route's list of names into its chain.

use http::{HeaderName, HeaderValue};

use super::compiler::Compiler;
use super::identity_providers::IdentityProviders;
use super::middleware_settings::MiddlewareSettings;
use crate::config::{HeaderFields, HttpDefaults, HttpRoute, Problem, SourceLocation};
use crate::gateway::middleware_chain::MiddlewareChain;
use crate::http::{framing, origin};
use crate::middleware::{Auth, Csrf, Headers, Hosts, LoginRequired, Origin, Session, Step};
use crate::scope::ScopeType;

impl Compiler<'_> {
    pub(super) fn chain(&mut self, settings: &MiddlewareSettings<'_>) -> Option<MiddlewareChain> {
        let mut steps = Vec::with_capacity(settings.middleware.len());
        let mut is_sound = true;
        let list = (settings.location_of)("middleware");
        // An invalid list lacks the names that could not be read, so its order proves nothing.
        let is_known = !(settings.is_invalid)("middleware");
        for (at, name) in settings.middleware.iter().enumerate() {
            let location = || list.text(at);
            if self.registry.find_middleware(name).is_some() {
                match self.custom_step(settings, at, name) {
                    Some(step) => steps.push(step),
                    None => is_sound = false,
                }
                continue;
            }
            steps.push(match name.as_str() {
                "hosts" => Step::Hosts(Hosts::new(&self.config.server.allowed_hosts)),
                "origin" => Step::Origin(self.origin(settings)),
                "rate_limit" => match self.rate_limit(settings, &location()) {
                    Some(step) => step,
                    None => {
                        is_sound = false;
                        continue;
                    }
                },
                "session" => {
                    self.check_session(settings, &location());
                    Step::Session(Session)
                }
                "auth" => {
                    let IdentityProviders { bearer, forward } = &self.sources;
                    let auth = &self.config.auth;
                    let has_others = auth.bearer.is_some() || auth.forward.is_some();
                    if is_known && !has_others && !settings.has("session") {
                        let message = "expected \"session\" before \"auth\", found none";
                        self.problems.push(Problem::error(location(), message));
                        is_sound = false;
                    }
                    let (bearer, forward) = (bearer.clone(), forward.clone());
                    Step::Auth(Auth::new(bearer, forward, settings.token_in_query))
                }
                "login_required" | "staff_required" => {
                    if is_known && !settings.has("auth") {
                        let message = format!("expected \"auth\" before {name:?}, found none");
                        self.problems.push(Problem::error(location(), message));
                        is_sound = false;
                    }
                    let login_url = &self.config.auth.login_url;
                    Step::LoginRequired(LoginRequired::new(login_url, name == "staff_required"))
                }
                "csrf" => {
                    if is_known && self.config.csrf.use_sessions && !settings.has("session") {
                        let message = "expected \"session\" before \"csrf\" because csrf.use_sessions is true, found none";
                        self.problems.push(Problem::error(location(), message));
                        is_sound = false;
                    }
                    if !settings.has("origin") && !settings.allowed_origins.is_empty() {
                        self.check_any_origin(settings);
                    }
                    Step::Csrf(Csrf::new(settings.allowed_origins))
                }
                "headers" => Step::Headers(headers(settings.headers)),
                "compress" => match self.compress(settings, at) {
                    Some(step) => step,
                    None => {
                        is_sound = false;
                        continue;
                    }
                },
                "cors" => match self.cors(settings, at) {
                    Some(step) => step,
                    None => {
                        is_sound = false;
                        continue;
                    }
                },
                unknown => {
                    self.problems.push(Problem::unknown(
                        location(),
                        "middleware",
                        unknown,
                        Step::NAMES.into_iter().chain(self.registry.middleware_names()),
                    ));
                    is_sound = false;
                    continue;
                }
            });
        }
        for (name, _) in &settings.headers.written {
            if let Some(sentence) = framing::refusal(name) {
                let location = (settings.location_of)("headers").key(name);
                self.problems.push(Problem::error(location, sentence));
                is_sound = false;
            }
        }
        if is_known {
            is_sound &= self.check_order(settings, &list);
        }
        is_sound.then(|| MiddlewareChain::new(steps))
    }

    /// Checks a route's list for the middleware that its view needs.
    pub(super) fn check_needs(
        &mut self,
        settings: &MiddlewareSettings<'_>,
        written: &HttpRoute,
        middleware: &[&str],
        writes_sessions: bool,
    ) {
        let view = &written.view;
        if (settings.is_invalid)("middleware") {
            return;
        }
        if view == "publish" && settings.has("auth") && self.config.auth.bearer.is_some() {
            let location = (settings.location_of)("middleware");
            let location = if location.is_written() {
                location
            } else {
                written.location.key("view")
            };
            self.problems.push(
                Problem::warning(
                    location,
                    "the middleware \"auth\" reads the tokens of this view as bearer tokens of users, and refuses them",
                )
                .with_hint("give the route a list without \"auth\""),
            );
        }
        for needed in middleware.iter().filter(|needed| !settings.has(needed)) {
            let location = (settings.location_of)("middleware");
            let location = if location.is_written() {
                location
            } else {
                written.location.key("view")
            };
            let message =
                format!("expected the middleware {needed:?} for the view {view:?}, found none");
            self.problems.push(
                Problem::error(location, message)
                    .with_hint(format!("add \"{needed}\" to middleware")),
            );
        }
        if writes_sessions && self.config.session.store.is_django() {
            let message = format!(
                "expected sessions of our own for the view {view:?}, found Django's, which are never written"
            );
            self.problems.push(
                Problem::error(written.location.key("view"), message)
                    .with_hint("people log in and out at the Django project"),
            );
        }
    }

    fn check_session(&mut self, settings: &MiddlewareSettings<'_>, location: &SourceLocation) {
        let is_known = !(settings.is_invalid)("middleware");
        if is_known && settings.table == ScopeType::Websocket && !settings.has("origin") {
            self.problems.push(
                Problem::warning(
                    location.clone(),
                    "any page can open this WebSocket with its visitor's session: the middleware \"origin\" is not in the list",
                )
                .with_hint("add \"origin\" before \"session\""),
            );
        }
    }

    fn origin(&mut self, settings: &MiddlewareSettings<'_>) -> Origin {
        let patterns = if settings.allowed_origins.is_empty() {
            &self.config.server.allowed_hosts
        } else {
            settings.allowed_origins
        };
        self.check_any_origin(settings);
        for (at, pattern) in settings.allowed_origins.iter().enumerate() {
            if let Some(sentence) = origin::lint(pattern) {
                self.problems.push(Problem::warning(
                    (settings.location_of)("allowed_origins").text(at),
                    sentence,
                ));
            }
        }
        Origin::new(patterns, settings.missing_origin)
    }
}

fn headers(written: &HeaderFields) -> Headers {
    Headers::new(header_fields(written), written.preset)
}

/// Returns the fields of responses without a route: those of `[http]`, if its middleware contains
/// `headers`.
pub(super) fn unmatched_headers(section: &HttpDefaults) -> Option<Headers> {
    let is_sent = section.middleware.iter().any(|name| name == "headers");
    is_sent.then(|| headers(&section.headers))
}

fn header_fields(written: &[(String, String)]) -> Vec<(HeaderName, HeaderValue)> {
    let field = |(name, value): &(String, String)| {
        Some((
            HeaderName::from_bytes(name.as_bytes()).ok()?,
            HeaderValue::from_str(value).ok()?,
        ))
    };
    written.iter().filter_map(field).collect()
}

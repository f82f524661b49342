//! Guards: a route's list of middleware becomes its steps.

use std::sync::Arc;

use http::{HeaderName, HeaderValue};

use super::compile::Compiler;
use crate::auth::bearer::{Bearer, BearerKey, BearerSettings, BearerSettingsError};
use crate::auth::forward::{Forward, ForwardSettings};
use crate::config::{
    self, BearerConfig, Config, CorsConfig, ForwardConfig, HeaderFields, HttpDefaults, HttpRoute,
    Place, Problem, Problems, Wrong, reason,
};
use crate::http::{framing, origin};
use crate::middleware::{Auth, Csrf, Headers, Hosts, Origin, Required, Session, Step};
use crate::scope::ScopeType;

/// The settings that both kinds of routes have.
pub(super) struct Guards<'r> {
    pub(super) table: ScopeType,
    pub(super) middleware: &'r [String],
    pub(super) allowed_origins: &'r [String],
    pub(super) missing_origin: config::MissingOrigin,
    pub(super) headers: &'r HeaderFields,
    pub(super) token_in_query: bool,
    /// None for a WebSocket.
    pub(super) cors: Option<&'r CorsConfig>,
    /// Whether a key's value is made up, because it is wrong where it is written.
    pub(super) is_made_up: &'r dyn Fn(&str) -> bool,
    pub(super) place_of: &'r dyn Fn(&str) -> Place,
}

/// What tells who a request is from, beside its session.
#[derive(Default)]
pub(super) struct Sources {
    bearer: Option<Arc<Bearer>>,
    forward: Option<Arc<Forward>>,
}

impl Guards<'_> {
    pub(super) fn has(&self, name: &str) -> bool {
        self.middleware.iter().any(|known| known == name)
    }

    /// Tells whether a request can have a user, as far as its list is known.
    pub(super) fn gives_user(&self) -> bool {
        self.has("auth") || (self.is_made_up)("middleware")
    }

    /// Where a step stands in the list.
    pub(super) fn position(&self, name: &str) -> Option<usize> {
        self.middleware.iter().position(|known| known == name)
    }
}

impl Sources {
    /// Reads keys and URLs.
    pub(super) fn new(config: &Config, wrong: &Wrong, problems: &mut Problems) -> Self {
        let auth = &config.auth;
        let is_known = |key: &str| !wrong.touches(&auth.place.key(key));
        let written = auth.bearer.as_ref().filter(|_| is_known("bearer"));
        let bearer = written.and_then(|written| {
            let place = auth.place.key("bearer");
            bearer(written, &place)
                .map_err(|problem| problems.push(problem))
                .ok()
        });
        let written = auth.forward.as_ref().filter(|_| is_known("forward"));
        let forward = written.and_then(|written| {
            let place = auth.place.key("forward").key("url");
            forward(written)
                .map_err(|sentence| problems.push(Problem::error(place, sentence)))
                .ok()
        });
        Self {
            bearer: bearer.map(Arc::new),
            forward: forward.map(Arc::new),
        }
    }
}

impl Compiler<'_> {
    pub(super) fn steps(&mut self, guards: &Guards<'_>) -> Option<Arc<[Step]>> {
        let mut steps = Vec::with_capacity(guards.middleware.len());
        let mut is_sound = true;
        let list = (guards.place_of)("middleware");
        // Names that could not be read are missing from the list, so its order says nothing.
        let is_known = !(guards.is_made_up)("middleware");
        for (at, name) in guards.middleware.iter().enumerate() {
            let place = || list.text(at);
            steps.push(match name.as_str() {
                "hosts" => Step::Hosts(Hosts::new(&self.config.server.allowed_hosts)),
                "origin" => Step::Origin(self.origin(guards)),
                "session" => {
                    self.check_session(guards, &place());
                    Step::Session(Session)
                }
                "auth" => {
                    let Sources { bearer, forward } = &self.sources;
                    let auth = &self.config.auth;
                    let has_others = auth.bearer.is_some() || auth.forward.is_some();
                    if is_known && !has_others && !guards.has("session") {
                        let message = "expected \"session\" before \"auth\", found none";
                        self.problems.push(Problem::error(place(), message));
                        is_sound = false;
                    }
                    let (bearer, forward) = (bearer.clone(), forward.clone());
                    Step::Auth(Auth::new(bearer, forward, guards.token_in_query))
                }
                "login_required" | "staff_required" => {
                    if is_known && !guards.has("auth") {
                        let message = format!("expected \"auth\" before {name:?}, found none");
                        self.problems.push(Problem::error(place(), message));
                        is_sound = false;
                    }
                    let login_url = &self.config.auth.login_url;
                    Step::Required(Required::new(login_url, name == "staff_required"))
                }
                "csrf" => {
                    if is_known && self.config.csrf.use_sessions && !guards.has("session") {
                        let message = "expected \"session\" before \"csrf\" because csrf.use_sessions is true, found none";
                        self.problems.push(Problem::error(place(), message));
                        is_sound = false;
                    }
                    if !guards.has("origin") && !guards.allowed_origins.is_empty() {
                        self.check_any_origin(guards);
                    }
                    Step::Csrf(Csrf::new(guards.allowed_origins))
                }
                "headers" => Step::Headers(headers(guards.headers)),
                "cors" => match self.cors(guards, at) {
                    Some(step) => step,
                    None => {
                        is_sound = false;
                        continue;
                    }
                },
                unknown => {
                    self.problems.push(Problem::unknown(
                        place(),
                        "middleware",
                        unknown,
                        Step::NAMES,
                    ));
                    is_sound = false;
                    continue;
                }
            });
        }
        for (name, _) in &guards.headers.written {
            if let Some(sentence) = framing::refusal(name) {
                let place = (guards.place_of)("headers").key(name);
                self.problems.push(Problem::error(place, sentence));
                is_sound = false;
            }
        }
        if is_known {
            is_sound &= self.check_order(guards, &list);
        }
        is_sound.then(|| steps.into())
    }

    /// Holds a route's list against what its view cannot do without.
    pub(super) fn check_needs(
        &mut self,
        guards: &Guards<'_>,
        written: &HttpRoute,
        middleware: &[&str],
        writes_sessions: bool,
    ) {
        let view = &written.view;
        if (guards.is_made_up)("middleware") {
            return;
        }
        if view == "publish" && guards.has("auth") && self.config.auth.bearer.is_some() {
            let place = (guards.place_of)("middleware");
            let place = if place.is_written() {
                place
            } else {
                written.place.key("view")
            };
            self.problems.push(
                Problem::warning(
                    place,
                    "the middleware \"auth\" takes the tokens of this view for bearer tokens of users, and refuses them",
                )
                .with_hint("give the route a list without \"auth\""),
            );
        }
        for needed in middleware.iter().filter(|needed| !guards.has(needed)) {
            let place = (guards.place_of)("middleware");
            let place = if place.is_written() {
                place
            } else {
                written.place.key("view")
            };
            let message =
                format!("expected the middleware {needed:?} for the view {view:?}, found none");
            self.problems.push(
                Problem::error(place, message).with_hint(format!("add \"{needed}\" to middleware")),
            );
        }
        if writes_sessions && self.config.session.store.is_django() {
            let message = format!(
                "expected sessions of our own for the view {view:?}, found Django's, which are never written"
            );
            self.problems.push(
                Problem::error(written.place.key("view"), message)
                    .with_hint("people log in and out at the Django project"),
            );
        }
    }

    fn check_session(&mut self, guards: &Guards<'_>, place: &Place) {
        let is_known = !(guards.is_made_up)("middleware");
        if is_known && guards.table == ScopeType::Websocket && !guards.has("origin") {
            self.problems.push(
                Problem::warning(
                    place.clone(),
                    "any page can open this WebSocket with its visitor's session: the middleware \"origin\" is not in the list",
                )
                .with_hint("add \"origin\" before \"session\""),
            );
        }
    }

    fn origin(&mut self, guards: &Guards<'_>) -> Origin {
        let patterns = if guards.allowed_origins.is_empty() {
            &self.config.server.allowed_hosts
        } else {
            guards.allowed_origins
        };
        self.check_any_origin(guards);
        for (at, pattern) in guards.allowed_origins.iter().enumerate() {
            if let Some(sentence) = origin::lint(pattern) {
                self.problems.push(Problem::warning(
                    (guards.place_of)("allowed_origins").text(at),
                    sentence,
                ));
            }
        }
        Origin::new(patterns, guards.missing_origin)
    }
}

fn bearer(written: &BearerConfig, place: &Place) -> Result<Bearer, Problem> {
    let read = |name: &str, file: &config::ConfigPath| {
        std::fs::read_to_string(file).map_err(|error| {
            let message = format!("cannot read {}: {}", file.0.display(), reason(&error));
            Problem::error(place.key(name), message)
        })
    };
    let (name, key) = match (&written.key, &written.key_file, &written.jwks_file) {
        (Some(key), None, None) => ("key", BearerKey::Text(key.0.clone())),
        (None, Some(file), None) => {
            let text = read("key_file", file)?;
            // The end of the line belongs to the file, not to a secret in it.
            let text = text.trim_end_matches(['\r', '\n']).to_owned();
            ("key_file", BearerKey::Text(text))
        }
        (None, None, Some(file)) => ("jwks_file", BearerKey::Jwks(read("jwks_file", file)?)),
        _ => {
            let message = "expected one of \"key\", \"key_file\" and \"jwks_file\"";
            return Err(Problem::error(place.clone(), message));
        }
    };
    let set = |text: &String| Some(text.clone()).filter(|text| !text.is_empty());
    let settings = BearerSettings {
        algorithms: written.algorithms.clone(),
        key,
        issuer: set(&written.issuer),
        audience: set(&written.audience),
        required: written
            .required
            .iter()
            .map(|(claim, value)| (claim.clone(), value.0.clone()))
            .collect(),
        leeway: written.leeway,
        user_id: written.user_id.clone(),
        user_name: written.user_name.clone(),
        is_staff: written.is_staff.clone(),
    };
    Bearer::new(settings).map_err(|error| {
        let key = match error {
            BearerSettingsError::NoAlgorithm
            | BearerSettingsError::Algorithm { .. }
            | BearerSettingsError::Families { .. } => "algorithms",
            BearerSettingsError::UserId => "user_id",
            BearerSettingsError::Required => "required",
            _ => name,
        };
        Problem::error(place.key(key), error.to_string())
    })
}

fn forward(written: &ForwardConfig) -> Result<Forward, String> {
    let name = |name: &str| {
        HeaderName::from_bytes(name.as_bytes())
            .map_err(|_| format!("expected the name of a header field, found {name:?}"))
    };
    let settings = ForwardSettings {
        url: written.url.clone(),
        request_headers: written
            .request_headers
            .iter()
            .map(|field| name(field))
            .collect::<Result<_, _>>()?,
        id_header: name(&written.id_header)?,
        name_header: name(&written.name_header)?,
        staff_header: name(&written.staff_header)?,
        cache: written.cache,
        timeout: written.timeout,
    };
    Forward::new(settings).map_err(|error| error.to_string())
}

fn headers(written: &HeaderFields) -> Headers {
    Headers::new(header_fields(written), written.preset)
}

/// The fields of answers that no route gives: those of `[http]`, when its middleware sends them.
pub(super) fn missed_headers(section: &HttpDefaults) -> Option<Headers> {
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

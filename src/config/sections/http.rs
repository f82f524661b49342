//! HTTP as it is written: the `[http]` section and its routes.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::de::IgnoredAny;

use crate::config::problems::error_locations::ErrorLocations;
use crate::config::problems::problem::Problems;
use crate::config::read::located::Located;
use crate::config::read::source_location::SourceLocation;
use crate::config::sections::cors::CorsConfig;
use crate::config::sections::headers::HeaderFields;
use crate::config::sections::options::Options;
use crate::config::sections::route::{RouteHead, options_of};
use crate::config::sections::settings::{MissingOrigin, settings};
use crate::config::values::checked::{
    HeaderTable, HostPattern, ListOf, MethodName, PositiveDuration,
};
use crate::config::values::not_compared::NotCompared;
use crate::config::values::units::Size;

settings! {
    /// The keys of `[http]`, which each `[[http.route]]` may set for itself.
    pub struct HttpDefaults {
        /// The middleware in the order it runs. Default: `["hosts"]`.
        middleware: Vec<String> as Vec<String> = vec!["hosts".to_owned()],
        /// The origins that the `origin` middleware lets in; empty: the hosts of `server.allowed_hosts`. Default: empty.
        allowed_origins: Vec<String> as Vec<String> = Vec::new(),
        /// What a request without an `Origin` header gets from that middleware. Default: `"refuse"`.
        missing_origin: MissingOrigin as MissingOrigin = MissingOrigin::Refuse,
        /// Whether a bearer token or a ticket in the query string counts. Default: `false`.
        token_in_query: bool as bool = false,
        /// Headers that are added to each response, from a table. Default: none.
        headers: HeaderFields as HeaderTable = HeaderFields::default(),
        /// What the `cors` middleware lets pages of `allowed_origins` do, as a table. Default: see [`CorsConfig`].
        cors: CorsConfig as CorsConfig = CorsConfig::default(),
        /// Whether a path that would match with or without its trailing slash answers 308. Default: `true`.
        append_slash: bool as bool = true,
        /// The greatest body of a request; 0 allows none. Default: `server.limits.body_size`.
        body_size: Option<Size> as Size = None,
        /// The time from a request to its answer. Default: `server.timeouts.request`.
        request_timeout: Option<Duration> as PositiveDuration = None,
    }
    /// `[http]`.
    section HttpSection;
    /// One `[[http.route]]`.
    route RawHttpRoute {
        path: Option<String>,
        regex: Option<String>,
        name: Option<String>,
        methods: Option<ListOf<MethodName>>,
        host: Option<HostPattern>,
        view: Option<String>,
        options: Option<BTreeMap<String, IgnoredAny>>,
        defaults: BTreeMap<String, String>,
    }
}

/// One `[[http.route]]`: which requests go to which view.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct HttpRoute {
    /// The path with its parameters, such as `/chat/{room:slug}/`; this or [`regex`](Self::regex).
    pub path: Option<String>,
    /// A regular expression with named groups in place of a path.
    pub regex: Option<String>,
    /// The name that links are made from. Default: none.
    pub name: Option<String>,
    /// The methods; empty: those of the view.
    pub methods: Vec<String>,
    /// The host it is for. Default: any.
    pub host: Option<String>,
    /// The name of the view.
    pub view: String,
    /// What only the view understands.
    pub options: Options,
    /// Parameters that win over those in the path. Default: none.
    pub defaults: BTreeMap<String, String>,
    /// What the including files put before the path; empty in the main file.
    pub prefix: String,
    /// The section's settings with the route's own laid over.
    pub settings: HttpDefaults,
    /// The location of the route.
    pub location: NotCompared<SourceLocation>,
}

impl RawHttpRoute {
    /// Checks what concerns several keys, and lays the route over its section.
    pub(in crate::config) fn finish(
        mut self,
        location: SourceLocation,
        prefix: &str,
        defaults: &HttpDefaults,
        problems: &mut Problems,
    ) -> HttpRoute {
        let settings = self.settings(defaults, &location);
        RouteHead {
            path: self.path.as_deref(),
            regex: self.regex.as_deref(),
            name: self.name.as_deref(),
            target_key: "view",
            target: self.view.as_deref(),
            prefix,
        }
        .check(&location, problems);
        HttpRoute {
            path: self.path,
            regex: self.regex,
            name: self.name,
            methods: self.methods.map(Into::into).unwrap_or_default(),
            host: self.host.map(Into::into),
            view: self.view.unwrap_or_default(),
            options: options_of(&location),
            defaults: self.defaults,
            prefix: prefix.to_owned(),
            settings,
            location: location.into(),
        }
    }
}

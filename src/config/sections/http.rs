//! The `[http]` section and its routes, as written.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::de::IgnoredAny;

use crate::config::problems::error_locations::ErrorLocations;
use crate::config::problems::problem::Problems;
use crate::config::read::located::Located;
use crate::config::read::source_location::SourceLocation;
use crate::config::sections::compress::CompressConfig;
use crate::config::sections::cors::CorsConfig;
use crate::config::sections::headers::HeaderFields;
use crate::config::sections::options::Options;
use crate::config::sections::rate_limit::{OneOrSeveral, RequestLimit};
use crate::config::sections::route::{RouteHead, options_of};
use crate::config::sections::settings::{MissingOrigin, settings};
use crate::config::values::checked::{
    HeaderTable, HostPattern, ListOf, MethodName, PositiveDuration,
};
use crate::config::values::not_compared::NotCompared;
use crate::config::values::units::Size;
use crate::telemetry::AccessRule;

settings! {
    /// The keys of `[http]` that each `[[http.route]]` may override.
    pub struct HttpDefaults {
        /// The middleware, in order. Default: `["hosts"]`.
        middleware: Vec<String> as Vec<String> = vec!["hosts".to_owned()],
        /// The origins that the `origin` middleware admits; empty: the hosts of
        /// `server.allowed_hosts`. Default: empty.
        allowed_origins: Vec<String> as Vec<String> = Vec::new(),
        /// How that middleware treats a request without an `Origin` header. Default: `"refuse"`.
        missing_origin: MissingOrigin as MissingOrigin = MissingOrigin::Refuse,
        /// Whether a bearer token or a ticket is accepted in the query string. Default: `false`.
        token_in_query: bool as bool = false,
        /// Which requests get a line in the access log. Default: all.
        access_log: AccessRule as AccessRule = AccessRule::On,
        /// The limits of the `rate_limit` middleware, a table or a list of tables. Default: none.
        rate_limit: Vec<RequestLimit> as OneOrSeveral<RequestLimit> = Vec::new(),
        /// Headers that are added to each response, as a table. Default: none.
        headers: HeaderFields as HeaderTable = HeaderFields::default(),
        /// What the `cors` middleware permits to pages of `allowed_origins`, as a table. Default:
        /// see [`CorsConfig`].
        cors: CorsConfig as CorsConfig = CorsConfig::default(),
        /// How the `compress` middleware compresses, as a table. Default: see [`CompressConfig`].
        compress: CompressConfig as CompressConfig = CompressConfig::default(),
        /// Whether a path that matches only with or only without its trailing slash gets a 308.
        /// Default: `true`.
        append_slash: bool as bool = true,
        /// The largest request body; 0 allows none. Default: `server.limits.body_size`.
        body_size: Option<Size> as Size = None,
        /// The time from a request to its response. Default: `server.timeouts.request`.
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
    /// The name for `url_for`. Default: none.
    pub name: Option<String>,
    /// The methods; empty: those of the view.
    pub methods: Vec<String>,
    /// The host that the route is limited to. Default: any.
    pub host: Option<String>,
    /// The name of the view.
    pub view: String,
    /// The view's options.
    pub options: Options,
    /// Parameters that take precedence over those in the path. Default: none.
    pub defaults: BTreeMap<String, String>,
    /// The path prefix of the including files; empty in the main file.
    pub prefix: String,
    /// The section's settings with the route's overrides.
    pub settings: HttpDefaults,
    /// The route's location.
    pub location: NotCompared<SourceLocation>,
}

impl RawHttpRoute {
    /// Checks the keys against each other and fills in the section's settings.
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

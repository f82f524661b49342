//! Cors: lets pages of other origins read a route's responses (WHATWG Fetch, section 3.3).

use http::{HeaderMap, HeaderValue, Method, StatusCode, header};

use crate::config::CorsConfig;
use crate::http::origin::{AllowedOrigins, MissingOrigin};
use crate::http::{Body, Response};
use crate::scope::Scope;

/// `cors`: lets pages of `allowed_origins` read the route's responses, including refusals, and
/// answers their preflights.
///
/// It never refuses a request: without the CORS fields the browser hides the response from the
/// page. To refuse requests, use `origin`.
#[derive(Debug)]
pub struct Cors {
    allowed: AllowedOrigins,
    /// Whether any page may read the responses, without the visitor's credentials.
    is_public: bool,
    has_credentials: bool,
    headers: Option<HeaderValue>,
    exposed: Option<HeaderValue>,
    max_age: HeaderValue,
}

impl Cors {
    /// Creates the step from the allowed origins and the settings for their pages.
    #[must_use]
    pub fn new(origins: &[String], settings: &CorsConfig) -> Self {
        let list = |names: &[String]| {
            let list = names.join(", ");
            HeaderValue::from_str(&list)
                .ok()
                .filter(|list| !list.is_empty())
        };
        Self {
            allowed: AllowedOrigins::new(origins),
            is_public: origins == ["*"] && !settings.credentials,
            has_credentials: settings.credentials,
            headers: list(&settings.headers),
            exposed: list(&settings.expose_headers),
            max_age: settings.max_age.as_secs().into(),
        }
    }

    /// Answers a preflight with 204 and the methods and header fields that the page may send.
    /// `methods` are the route's; an empty list means all. An origin that is not allowed gets 204
    /// without these fields.
    pub(crate) fn preflight(&self, scope: &Scope, wanted: &Method, methods: &[Method]) -> Response {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::NO_CONTENT;
        let fields = response.headers_mut();
        fields.insert(
            header::VARY,
            HeaderValue::from_static(
                "origin, access-control-request-method, access-control-request-headers",
            ),
        );
        if !self.add_origin(scope, fields) {
            return response;
        }
        let methods = match methods {
            [] => std::slice::from_ref(wanted),
            methods => methods,
        };
        let methods: Vec<&str> = methods.iter().map(Method::as_str).collect();
        if let Ok(methods) = HeaderValue::from_str(&methods.join(", ")) {
            fields.insert(header::ACCESS_CONTROL_ALLOW_METHODS, methods);
        }
        if let Some(headers) = &self.headers {
            fields.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, headers.clone());
        }
        fields.insert(header::ACCESS_CONTROL_MAX_AGE, self.max_age.clone());
        response
    }

    pub(super) fn after(&self, scope: &Scope, fields: &mut HeaderMap) {
        // Also set without an Origin, because a cache may serve this response to a page.
        fields.append(header::VARY, HeaderValue::from_static("origin"));
        if self.add_origin(scope, fields)
            && let Some(exposed) = &self.exposed
        {
            fields.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, exposed.clone());
        }
    }

    /// Allows the page's origin to read the response if the list contains it. Returns whether it
    /// does.
    fn add_origin(&self, scope: &Scope, fields: &mut HeaderMap) -> bool {
        let mut origins = scope.headers.all(&header::ORIGIN);
        let (Some(origin), None) = (origins.next(), origins.next()) else {
            return false;
        };
        let is_allowed = self.allowed.check(Some(origin), MissingOrigin::Refuse);
        let Some(shown) = HeaderValue::from_bytes(origin)
            .ok()
            .filter(|_| is_allowed.is_ok())
        else {
            return false;
        };
        let shown = if self.is_public {
            HeaderValue::from_static("*")
        } else {
            shown
        };
        fields.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, shown);
        if self.has_credentials {
            fields.insert(
                header::ACCESS_CONTROL_ALLOW_CREDENTIALS,
                HeaderValue::from_static("true"),
            );
        }
        true
    }
}

//! Cors: lets pages of other origins read the answers of a route (WHATWG Fetch, section 3.3).

use http::{HeaderMap, HeaderValue, Method, StatusCode, header};

use crate::config::CorsConfig;
use crate::http::origin::{AllowedOrigins, MissingOrigin};
use crate::http::{Body, Response};
use crate::scope::Scope;

/// `cors`: a page of an origin in `allowed_origins` may read what the route answers, refusals among them, and gets an answer to its
/// preflight. It never refuses a request: without the fields the browser hides the answer from the page. Use `origin` to refuse.
#[derive(Debug)]
pub struct Cors {
    allowed: AllowedOrigins,
    /// Any page may read, and none as its visitor.
    is_public: bool,
    has_credentials: bool,
    headers: Option<HeaderValue>,
    exposed: Option<HeaderValue>,
    max_age: HeaderValue,
}

impl Cors {
    /// Takes the origins, and what pages of them may do.
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

    /// Answers a preflight: 204, and what the page may send to a route with these methods (none: all). An origin that is not
    /// allowed gets 204 too, without the fields that a browser asks for.
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
        // Without an Origin too: a cache may give this answer to a page.
        fields.append(header::VARY, HeaderValue::from_static("origin"));
        if self.add_origin(scope, fields)
            && let Some(exposed) = &self.exposed
        {
            fields.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, exposed.clone());
        }
    }

    /// Names the page's origin as one that may read; returns whether it is.
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

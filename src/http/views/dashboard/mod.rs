//! Dashboard: the page that shows what the server does.
//!
//! The page and its files are in the binary, under `assets/`. All of them have the route's one
//! path: a file is asked for by the query `?file=NAME`. The figures come through the consumer
//! `dashboard`, a WebSocket at the same path.

mod asset;

use http::{HeaderValue, Method, StatusCode, header};

use self::asset::Asset;
use crate::config::OptionErrors;
use crate::http::conditional::{Precondition, Validators};
use crate::http::{Failure, OnDisconnect, Request, Response, View, respond};
use crate::scope::Scope;

/// Scripts, styles, fonts and connections of this host only; nothing inline, no frame, no HTML that
/// a script writes as text.
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; \
    img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; \
    frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'";

/// `view = "dashboard"`: a page for staff with the figures of the server, its routes, its sockets
/// and groups. No options. It needs a route with the consumer `dashboard` at the same path.
#[derive(Debug)]
pub struct Dashboard;

impl View for Dashboard {
    type Options = ();

    fn new((): ()) -> Result<Self, OptionErrors> {
        Ok(Self)
    }

    fn middleware() -> &'static [&'static str] {
        &["staff_required"]
    }

    fn methods() -> &'static [Method] {
        &[Method::GET]
    }

    fn on_disconnect() -> OnDisconnect {
        OnDisconnect::Cancel
    }

    async fn call(&self, request: Request) -> Result<Response, Failure> {
        let scope = &request.scope;
        if !scope.user.as_ref().is_some_and(|user| user.is_staff) {
            return Err(Failure::forbidden("staff only"));
        }
        let name = scope.query("file").unwrap_or_default();
        match Asset::find(&name) {
            Some(asset) => Ok(response(asset, scope)),
            None => Err(Failure::not_found("there is no such file")),
        }
    }
}

fn response(asset: &Asset, scope: &Scope) -> Response {
    let validators = Validators {
        etag: asset.etag.clone(),
        modified: None,
    };
    let mut response = match validators.evaluate(scope) {
        Precondition::NotModified => {
            let mut response = respond(304, asset.content_type, "");
            response.headers_mut().remove(header::CONTENT_TYPE);
            response
        }
        Precondition::Holds | Precondition::Failed => {
            respond(200, asset.content_type, asset.content.clone())
        }
    };
    debug_assert_ne!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    for (name, value) in [
        (header::CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::REFERRER_POLICY, "same-origin"),
        // A new version of the server has new files.
        (header::CACHE_CONTROL, "private, no-cache"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    if let Ok(etag) = HeaderValue::from_str(&asset.etag) {
        headers.insert(header::ETAG, etag);
    }
    response
}

//! Redirect: sends the client elsewhere.

use http::{HeaderValue, Method, StatusCode, header};
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};

use crate::http::{Body, Failure, OnDisconnect, Request, Response, View};
use crate::routing::ParamNames;

/// What a path must not hold as it is. Only a catch-all has slashes, and they stay.
const SEGMENT: &AsciiSet = &CONTROLS
    .add(b' ')
    .add(b'"')
    .add(b'#')
    .add(b'%')
    .add(b'<')
    .add(b'>')
    .add(b'?')
    .add(b'`')
    .add(b'{')
    .add(b'}')
    .add(b'\\');

/// `view = "redirect"`: sends the client to another place.
#[derive(Debug)]
pub struct Redirect {
    options: Options,
    status: StatusCode,
}

/// What `redirect` takes.
#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Options {
    /// Where to: a path or a URL; `{name}` is a parameter of the route, percent-encoded.
    to: String,
    /// 301, 302, 303, 307 or 308.
    #[serde(default = "permanent")]
    status: u16,
    /// Is the query passed on?
    #[serde(default)]
    keep_query: bool,
}

fn permanent() -> u16 {
    308
}

impl View for Redirect {
    type Options = Options;

    fn new(options: Options) -> Self {
        let status = StatusCode::from_u16(options.status).unwrap_or(StatusCode::PERMANENT_REDIRECT);
        Self { options, status }
    }

    fn problems(options: &Options, _params: &ParamNames) -> Vec<String> {
        let mut problems = Vec::new();
        if !matches!(options.status, 301 | 302 | 303 | 307 | 308) {
            problems.push(format!(
                "status: expected 301, 302, 303, 307 or 308, found {}",
                options.status
            ));
        }
        if HeaderValue::from_str(&options.to).is_err() || options.to.is_empty() {
            problems.push(format!(
                "to: expected a path or a URL, found {:?}",
                options.to
            ));
        }
        problems
    }

    fn methods() -> &'static [Method] {
        &[]
    }

    fn on_disconnect() -> OnDisconnect {
        OnDisconnect::Cancel
    }

    async fn call(&self, request: Request) -> Result<Response, Failure> {
        let mut to = self.options.to.clone();
        for (name, value) in request.scope.url_route.params.iter() {
            to = to.replace(
                &format!("{{{name}}}"),
                &utf8_percent_encode(value, SEGMENT).to_string(),
            );
        }
        if self.options.keep_query && !request.scope.query_string().is_empty() {
            to.push(if to.contains('?') { '&' } else { '?' });
            to.push_str(request.scope.query_string());
        }
        // A parameter must not lead to another host: "//" at the start would.
        if self.options.to.starts_with('/')
            && to.starts_with("//")
            && !self.options.to.starts_with("//")
        {
            to = format!("/{}", to.trim_start_matches('/'));
        }
        let mut response = Response::new(Body::empty());
        *response.status_mut() = self.status;
        response
            .headers_mut()
            .insert(header::LOCATION, HeaderValue::from_str(&to)?);
        Ok(response)
    }
}

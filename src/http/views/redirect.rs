//! Redirect: redirects the client to a path or a URL.

use http::{Method, StatusCode, header};
use percent_encoding::{AsciiSet, CONTROLS, NON_ALPHANUMERIC, utf8_percent_encode};

use super::under_root;
use crate::config::{OptionError, OptionErrors};
use crate::http::location::{is_own_path, location, with_query};
use crate::http::{Body, Failure, OnDisconnect, Request, Response, View};
use crate::routing::{Params, RouteContext};
use crate::scope::Scope;

/// The characters to encode in a path. Only a catch-all contains slashes, and they stay.
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

/// The characters to encode in a query or a fragment: `&`, `=` and `+` would split or change the
/// value.
const VALUE: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'/')
    .remove(b'-')
    .remove(b'_')
    .remove(b'.')
    .remove(b'~');

/// `view = "redirect"`: redirects the client to a path or a URL.
#[derive(Debug)]
pub struct Redirect {
    options: Options,
    status: StatusCode,
}

/// The options of `redirect`.
#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Options {
    /// The target: a URL, or a path that begins with one slash and is relative to
    /// `server.root_path`. `{name}` is a parameter of the route, percent-encoded.
    to: String,
    /// 301, 302, 303, 307 or 308.
    #[serde(default = "permanent")]
    status: u16,
    /// Whether to append the request's query, after the query of `to` and before its fragment.
    #[serde(default)]
    keep_query: bool,
}

fn permanent() -> u16 {
    308
}

impl View for Redirect {
    type Options = Options;

    fn new(options: Options) -> Result<Self, OptionErrors> {
        let mut errors = OptionErrors::default();
        let status = match options.status {
            301 | 302 | 303 | 307 | 308 => StatusCode::from_u16(options.status).ok(),
            _ => None,
        };
        if status.is_none() {
            let found = options.status;
            let message = format!("expected 301, 302, 303, 307 or 308, found {found}");
            errors.error("status", message);
        }
        let to = &options.to;
        if to.is_empty() || to.chars().any(char::is_control) {
            errors.error("to", format!("expected a path or a URL, found {to:?}"));
        }
        if to.starts_with('{') {
            // Otherwise the client could choose the scheme and the host.
            let message =
                format!("expected a path or a URL before the first parameter, found {to:?}");
            errors.error("to", message);
        } else if let Some(base) = open_host(to) {
            let name = parameter_of(to);
            let error = OptionError::new("to", "a parameter may not be part of the host");
            errors.push(error.with_hint(format!("write \"{base}/{{{name}}}\"")));
        }
        let status = status.unwrap_or(StatusCode::PERMANENT_REDIRECT);
        errors.into_result(Self { options, status })
    }

    fn mount(&mut self, route: &RouteContext<'_>) -> Result<(), OptionErrors> {
        let missing = route.params.missing_in("to", &self.options.to);
        missing
            .into_iter()
            .collect::<OptionErrors>()
            .into_result(())
    }

    fn methods() -> &'static [Method] {
        &[]
    }

    fn on_disconnect() -> OnDisconnect {
        OnDisconnect::Cancel
    }

    fn responds_now() -> bool {
        true
    }

    fn respond_now(&self, scope: &Scope) -> Option<Result<Response, Failure>> {
        Some(self.response(scope))
    }

    async fn call(&self, request: Request) -> Result<Response, Failure> {
        self.response(&request.scope)
    }
}

impl Redirect {
    fn response(&self, scope: &Scope) -> Result<Response, Failure> {
        let written = &self.options.to;
        let mut to = fill(written, &scope.url_route.params);
        // A parameter must not lead to another host, which "//" at the start would.
        if is_own_path(written) && !is_own_path(&to) {
            to = format!("/{}", to.trim_start_matches('/'));
        }
        if self.options.keep_query {
            to = with_query(&to, scope.query_string());
        }
        let to = if is_own_path(written) {
            under_root(scope, &to)
        } else {
            to
        };
        let mut response = Response::new(Body::empty());
        *response.status_mut() = self.status;
        response
            .headers_mut()
            .insert(header::LOCATION, location(&to)?);
        Ok(response)
    }
}

/// If the first parameter lets a client choose the host, returns a URL to put the parameter after.
/// That is so if it is in the scheme, in the authority, or directly after it.
fn open_host(written: &str) -> Option<String> {
    if is_own_path(written) {
        return None; // kept on this server when it is filled in
    }
    let (before, _) = written.split_once('{')?;
    let is_end = |found: char| matches!(found, '/' | '\\' | '?' | '#');
    let scheme = before.split_once(':');
    let scheme = scheme.filter(|(scheme, _)| !scheme.contains(is_end));
    let (scheme, rest) = scheme.unwrap_or(("", before));
    // Browsers skip any number of slashes before the host, and take backslashes for slashes.
    let host = rest.trim_start_matches(['/', '\\']);
    let is_closed = host.contains(is_end);
    let has_host = host.len() < rest.len() || !scheme.is_empty();
    if is_closed {
        return None;
    }
    let host = if has_host && !host.is_empty() && !host.ends_with(['.', ':', '@']) {
        host
    } else {
        "example.com"
    };
    let scheme = if scheme.is_empty() { "https" } else { scheme };
    Some(format!("{scheme}://{host}"))
}

/// Returns the name of the first parameter.
fn parameter_of(written: &str) -> &str {
    let after = written.split_once('{').map_or("", |(_, after)| after);
    after.split('}').next().unwrap_or_default()
}

/// Substitutes the parameters, each encoded for its part of the URL.
fn fill(written: &str, params: &Params) -> String {
    let path_end = written.find(['?', '#']).unwrap_or(written.len());
    let (path, rest) = written.split_at(path_end);
    let (mut path, mut rest) = (path.to_owned(), rest.to_owned());
    for (name, value) in params.iter() {
        let place = format!("{{{name}}}");
        path = path.replace(&place, &utf8_percent_encode(value, SEGMENT).to_string());
        rest = rest.replace(&place, &utf8_percent_encode(value, VALUE).to_string());
    }
    path + &rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parameter_is_never_part_of_the_host() {
        let check = |to: &str, expected: Option<&str>| {
            assert_eq!(open_host(to).as_deref(), expected, "{to}");
        };
        check("https://example.com{path}", Some("https://example.com"));
        check("http://h:80{path}", Some("http://h:80"));
        check("https://{p}/", Some("https://example.com"));
        check("https://{p}.example.com/", Some("https://example.com"));
        check("https://www.{p}/", Some("https://example.com"));
        check("https://h:{p}/", Some("https://example.com"));
        check("//{p}", Some("https://example.com"));
        check("//h{p}", Some("https://h"));
        check("/\\{p}", Some("https://example.com"));
        check("https:/{p}", Some("https://example.com"));
        check("https:///{p}", Some("https://example.com"));
        check("https:{p}", Some("https://example.com"));
        check("http{p}", Some("https://example.com"));
        check("https://example.com/{path}", None);
        check("https://example.com?next={path}", None);
        check("https://example.com#{path}", None);
        check("//example.com/{path}", None);
        check("/{path}", None);
        check("/a/{path}", None);
        check("other/{path}", None);
        check("https://example.com/", None);
    }
}

//! Plaintext: the response to a client that does not encrypt, on a listener that speaks TLS.

use http::{HeaderValue, StatusCode, Version, header};

use crate::config::Plaintext;
use crate::host::AllowedHosts;
use crate::http::{Body, Failure, Response, location};
use crate::scope::{Scope, ScopeType};

/// The port that a URL of http means without naming it.
const HTTP_PORT: u16 = 80;

/// Returns the response that `server.tls.plaintext` prescribes; `None` to serve the request.
pub(super) fn check(
    policy: Plaintext,
    allowed: &AllowedHosts,
    scope: &Scope,
) -> Option<Result<Response, Failure>> {
    match policy {
        Plaintext::Serve => None,
        Plaintext::Redirect => Some(redirect(allowed, scope)),
        Plaintext::Refuse => Some(Err(refusal(scope))),
    }
}

/// Redirects to the same URL with https, or wss for a handshake. The port stays: each port of a
/// listener that speaks TLS takes both. Only to a host that this server serves: caches keep a 308,
/// and the field `Host` may be a stranger's.
fn redirect(allowed: &AllowedHosts, scope: &Scope) -> Result<Response, Failure> {
    let Some(host) = &scope.host else {
        return Err(Failure::bad_request(
            "expected TLS, found plain HTTP without a Host to redirect to",
        ));
    };
    if !allowed.allows(host) {
        tracing::info!(id = %scope.request_id, host = host.name(), "host refused");
        return Err(Failure::bad_request("host not allowed"));
    }
    if !scope.raw_path().starts_with('/') {
        return Err(refusal(scope));
    }
    let scheme = match scope.scope_type {
        ScopeType::Http => "https",
        ScopeType::Websocket => "wss",
    };
    let name = host.name();
    let url = match host.port().filter(|port| *port != HTTP_PORT) {
        Some(port) => format!("{scheme}://{name}:{port}{}", scope.target),
        None => format!("{scheme}://{name}{}", scope.target),
    };
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::PERMANENT_REDIRECT;
    if let Ok(location) = location::location(&url) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    Ok(response)
}

fn refusal(scope: &Scope) -> Failure {
    let failure = Failure::bad_request("expected TLS, found plain HTTP");
    if scope.http_version >= Version::HTTP_2 {
        return failure;
    }
    failure.with_header(header::CONNECTION, HeaderValue::from_static("close"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::HostHeader;

    #[test]
    fn a_redirect_keeps_host_port_path_and_query() {
        let allowed = AllowedHosts::new(&["example.com".to_owned(), "[::1]".to_owned()]);
        for (scope_type, host, target, expected) in [
            (
                ScopeType::Http,
                "example.com",
                "/a?b=c%20d",
                Some("https://example.com/a?b=c%20d"),
            ),
            (
                ScopeType::Http,
                "Example.com:80",
                "/",
                Some("https://example.com/"),
            ),
            (
                ScopeType::Http,
                "example.com:8080",
                "/",
                Some("https://example.com:8080/"),
            ),
            (
                ScopeType::Http,
                "[::1]:8443",
                "//evil.example/",
                Some("https://[::1]:8443//evil.example/"),
            ),
            (
                ScopeType::Websocket,
                "example.com",
                "/ws/",
                Some("wss://example.com/ws/"),
            ),
            (ScopeType::Http, "evil.example", "/", None),
            (ScopeType::Websocket, "www.example.com", "/", None),
            (ScopeType::Http, "example.com", "*", None),
            (ScopeType::Http, "", "/", None),
        ] {
            let target = target.parse().unwrap();
            let mut scope = Scope::new(scope_type, http::Method::GET, target);
            scope.host = HostHeader::parse(host).ok();
            let response = check(Plaintext::Redirect, &allowed, &scope).unwrap();
            let location = response.ok().map(|response| {
                assert_eq!(response.status(), 308);
                response.headers()["location"].to_str().unwrap().to_owned()
            });
            assert_eq!(location.as_deref(), expected, "{host} {}", scope.target);
        }
    }
}

//! `oneport resolve`.

use http::request::Parts;
use http::uri::Authority;
use http::{HeaderMap, HeaderValue, Method, Request, Uri, header};

use super::arguments::ResolveArguments;
use super::output::{print, print_error, print_problems};
use super::{CONFIG, FAILURE, OK, USAGE};
use crate::gateway::{ConnectionInfo, Outcome, Registry, Resolved, RouteEntry, Table};
use crate::host::HostHeader;
use crate::routing::UrlRouter;
use crate::scope::{Scheme, ScopeType};
use crate::server::Reload;

/// The key of the handshake that is resolved, RFC 6455's example.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

pub(super) fn run(arguments: &ResolveArguments, registry: Registry) -> u8 {
    let (parts, security) = match request(arguments) {
        Ok(request) => request,
        Err(sentence) => {
            print_error(&format!("oneport resolve: {sentence}"));
            return USAGE;
        }
    };
    let reload = Reload {
        file: arguments.file.config.clone(),
        registry,
        bind: Vec::new(),
        watch: false,
    };
    let table = match reload.load() {
        Ok(loaded) => loaded.table,
        Err(problems) => {
            print_problems(&problems);
            return CONFIG;
        }
    };
    let info = connection(&table, security);
    let resolved = table.resolve(parts, &info);
    match resolved.scope.scope_type {
        ScopeType::Http => report(&resolved, &table, table.http()),
        ScopeType::Websocket => report(&resolved, &table, table.websocket()),
    }
    let is_served = resolved
        .outcome
        .status()
        .is_none_or(|status| status.is_success());
    if is_served { OK } else { FAILURE }
}

/// Returns the connection of the request: a path is one over TLS if the server speaks it.
fn connection(table: &Table, security: Option<Scheme>) -> ConnectionInfo {
    let mut info = ConnectionInfo::default();
    match (&table.tls, security) {
        (Some(_), None) => info.security = Scheme::Secure,
        (Some(tls), Some(Scheme::Plain)) => info.plaintext = tls.plaintext,
        (_, security) => info.security = security.unwrap_or_default(),
    }
    info
}

/// Returns the request that the arguments describe, as a client sends it, and the scheme of the URL;
/// `None` for a path.
fn request(arguments: &ResolveArguments) -> Result<(Parts, Option<Scheme>), String> {
    let (method, url) = match arguments.request.as_slice() {
        [url] => (Method::GET, url),
        [method, url] => (
            Method::from_bytes(method.to_ascii_uppercase().as_bytes())
                .map_err(|_| format!("expected a method, found {method:?}"))?,
            url,
        ),
        _ => return Err("expected [METHOD] <URL>".to_owned()),
    };
    let uri: Uri = url
        .parse()
        .map_err(|error| format!("expected a path or a URL, found {url:?}: {error}"))?;
    if !uri.path().starts_with('/') && url != "*" {
        return Err(format!(
            "expected a path that starts with \"/\" or a URL, found {url:?}"
        ));
    }
    let is_websocket = arguments.ws || matches!(uri.scheme_str(), Some("ws" | "wss"));
    let security = uri.scheme_str().map(|scheme| match scheme {
        "https" | "wss" => Scheme::Secure,
        _ => Scheme::Plain,
    });
    let host = uri
        .authority()
        .map(Authority::as_str)
        .or(arguments.host.as_deref())
        .unwrap_or("localhost");
    HostHeader::parse(host).map_err(|error| error.to_string())?;
    let mut headers = HeaderMap::new();
    headers.insert(header::HOST, field(host)?);
    if let Some(origin) = &arguments.origin {
        headers.insert(header::ORIGIN, field(origin)?);
    }
    if is_websocket {
        let fields = [
            (header::UPGRADE, "websocket"),
            (header::CONNECTION, "upgrade"),
            (header::SEC_WEBSOCKET_VERSION, "13"),
            (header::SEC_WEBSOCKET_KEY, KEY),
        ];
        headers.extend(fields.map(|(name, value)| (name, HeaderValue::from_static(value))));
    }
    let target = uri.path_and_query().cloned();
    let (mut parts, ()) = Request::new(()).into_parts();
    parts.method = method;
    parts.uri = target.map(Uri::from).unwrap_or_default();
    parts.headers = headers;
    Ok((parts, security))
}

fn field(value: &str) -> Result<HeaderValue, String> {
    HeaderValue::from_str(value).map_err(|_| format!("expected a field's value, found {value:?}"))
}

/// Prints the route that takes the request or the response without one, and why each other route
/// does not take it.
fn report<H>(resolved: &Resolved, table: &Table, router: &UrlRouter<RouteEntry<H>>) {
    let scope = &resolved.scope;
    if let Some(route) = resolved.route.and_then(|index| router.routes().get(index)) {
        print(&format!(
            "{} -> {} ({})",
            route.pattern,
            route.value.handler_name,
            route.name.as_deref().unwrap_or("no name")
        ));
        for (name, value) in scope.url_route.params.iter() {
            print(&format!("  {name} = {value:?}"));
        }
        for limit in route.value.rate_limits() {
            print(&format!("  at most {limit}"));
        }
    }
    print_outcome(&resolved.outcome);
    if !resolved.is_looked_up {
        return;
    }
    let Some(target) = table.target(scope) else {
        if matches!(resolved.outcome, Outcome::Failure(_)) {
            let root_path = table.root_path();
            print(&format!(
                "  the path is outside server.root_path {root_path:?}"
            ));
        }
        return;
    };
    print("");
    for explanation in router.explain(&target) {
        if let Some(route) = router.routes().get(explanation.index) {
            print(&format!("  {}: {}", route.pattern, explanation.verdict));
        }
    }
}

fn print_outcome(outcome: &Outcome) {
    match outcome {
        Outcome::Handler { needs } => {
            for need in needs {
                print(&format!("  needs {need}"));
            }
        }
        Outcome::Response(response) => {
            print(&response.status().to_string());
            print_fields(response.headers());
        }
        Outcome::Failure(failure) => {
            let cause = failure.cause().map(|cause| format!(": {cause}"));
            let (status, sentence) = (failure.status().as_u16(), failure.sentence());
            print(&format!(
                "{status}: {sentence}{}",
                cause.unwrap_or_default()
            ));
            print_fields(failure.headers());
        }
    }
}

fn print_fields(fields: &HeaderMap) {
    for (name, value) in fields {
        let value = String::from_utf8_lossy(value.as_bytes());
        print(&format!("  {name}: {value}"));
    }
}

//! `oneport resolve`.

use http::{HeaderValue, Method, Uri, header};

use super::arguments::ResolveArguments;
use super::output::{print, print_error, print_problems};
use super::{CONFIG, FAILURE, OK, USAGE};
use crate::gateway::{Registry, Table};
use crate::host::HostHeader;
use crate::middleware::Step;
use crate::routing::{Resolution, Target, UrlRouter};
use crate::scope::{Scope, ScopeType};
use crate::server::Reload;

/// The request to resolve.
struct ResolveRequest {
    method: Method,
    uri: Uri,
    is_websocket: bool,
    host: HostHeader,
    origin: Option<String>,
}

pub(super) fn run(arguments: &ResolveArguments, registry: Registry) -> u8 {
    let request = match request(arguments) {
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
    let Some(raw_path) = table.below_root(request.uri.path()) else {
        let root_path = table.root_path();
        print(&format!(
            "404: the path is outside server.root_path {root_path:?}"
        ));
        return FAILURE;
    };
    let target = Target {
        raw_path,
        host: Some(request.host.name()),
        method: (!request.is_websocket).then_some(&request.method),
    };
    let is_served = if request.is_websocket {
        answer(table.websocket(), &target, &request, &table, |entry| {
            (entry.handler_name.as_str(), entry.chain.steps())
        })
    } else {
        answer(table.http(), &target, &request, &table, |entry| {
            (entry.handler_name.as_str(), entry.chain.steps())
        })
    };
    if is_served { OK } else { FAILURE }
}

fn request(arguments: &ResolveArguments) -> Result<ResolveRequest, String> {
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
    if !uri.path().starts_with('/') {
        return Err(format!(
            "expected a path that starts with \"/\" or a URL, found {url:?}"
        ));
    }
    let is_websocket = arguments.ws || matches!(uri.scheme_str(), Some("ws" | "wss"));
    let host = uri
        .authority()
        .map(http::uri::Authority::as_str)
        .or(arguments.host.as_deref())
        .unwrap_or("localhost");
    let host = HostHeader::parse(host).map_err(|error| error.to_string())?;
    Ok(ResolveRequest {
        method,
        uri,
        is_websocket,
        host,
        origin: arguments.origin.clone(),
    })
}

fn answer<T>(
    router: &UrlRouter<T>,
    target: &Target<'_>,
    request: &ResolveRequest,
    table: &Table,
    facts: impl Fn(&T) -> (&str, &[Step]),
) -> bool {
    let outcome = match router.resolve(target) {
        Resolution::Found(found) => {
            let (name, steps) = facts(&found.route.value);
            print(&format!(
                "{} -> {name} ({})",
                found.route.pattern,
                found.route.name.as_deref().unwrap_or("no name")
            ));
            for (name, value) in found.params.iter() {
                print(&format!("  {name} = {value:?}"));
            }
            refusal(steps, request)
        }
        Resolution::MethodNotAllowed { allow } => Some(format!(
            "405: the path takes {}",
            allow
                .iter()
                .map(Method::as_str)
                .collect::<Vec<_>>()
                .join(", ")
        )),
        Resolution::SlashRedirect { raw_path } => Some(format!("308: {raw_path}")),
        Resolution::BadPath(bad) => Some(format!("400: {bad}")),
        Resolution::NotFound
            if !request.is_websocket
                && matches!(
                    table.websocket().resolve(&Target {
                        method: None,
                        ..*target
                    }),
                    Resolution::Found(_)
                ) =>
        {
            Some("426: only the WebSocket table has this path".to_owned())
        }
        Resolution::NotFound => {
            let other = table.websocket().other_slash(target);
            Some(match other {
                Some(other) => format!("404: no route; there is a WebSocket at {other}"),
                None => "404: no route".to_owned(),
            })
        }
    };
    if let Some(outcome) = &outcome {
        print(outcome);
    }
    print("");
    for explanation in router.explain(target) {
        if let Some(route) = router.routes().get(explanation.index) {
            print(&format!("  {}: {}", route.pattern, explanation.verdict));
        }
    }
    outcome.is_none()
}

/// Returns the refusal of the middleware that needs only the request's head, if any refuses.
fn refusal(steps: &[Step], request: &ResolveRequest) -> Option<String> {
    let scope_type = if request.is_websocket {
        ScopeType::Websocket
    } else {
        ScopeType::Http
    };
    let target = request.uri.path_and_query().cloned()?;
    let mut scope = Scope::new(scope_type, request.method.clone(), target);
    scope.host = Some(request.host.clone());
    if let Some(origin) = request
        .origin
        .as_deref()
        .and_then(|origin| HeaderValue::from_str(origin).ok())
    {
        scope.headers.map_mut().insert(header::ORIGIN, origin);
    }
    steps.iter().find_map(|step| match step {
        // Without `--origin` there is no origin to check.
        Step::Origin(_) if request.origin.is_none() => None,
        step => step
            .precheck(&scope)
            .err()
            .map(|failure| failure.to_string()),
    })
}

//! The journey of a request: route, middleware, view, middleware, log. Read it from top to bottom.

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Instant;

use http::{HeaderValue, Method, StatusCode, header};

use super::access_log::log_answer;
use super::run_to_completion::{AbandonedRequests, RunToCompletion};
use super::table::{HttpEntry, Table};
use super::{error_pages, not_found, preflight, response_framing};
use crate::host::HostHeader;
use crate::http::{Body, Client, Failure, OnDisconnect, Request, Response, location};
use crate::middleware::MiddlewareContext;
use crate::routing::{Match, Resolution, Target};
use crate::scope::{Scope, ScopeType};
use crate::services::Services;

/// A request on its way, and when it came.
pub(super) struct Journey {
    pub(super) scope: Arc<Scope>,
    pub(super) body: Body,
    pub(super) client: Client,
    pub(super) started: Instant,
}

/// Takes a request through the HTTP table.
pub(super) async fn handle(
    services: &Services,
    table: &Arc<Table>,
    mut journey: Journey,
    abandoned: &AbandonedRequests,
) -> Response {
    let scope = &mut journey.scope;
    if let Some(response) = preflight::answer(services, table, scope, journey.started) {
        return response;
    }
    let Match {
        route,
        params,
        index,
    } = match target(table, scope)
        .map_or(Resolution::NotFound, |target| table.http().resolve(&target))
    {
        Resolution::Found(found) => found,
        missed => {
            let mut response = miss(services, table, scope, missed);
            table.finish_missed(&mut response);
            log_answer(scope, "", &response, journey.started);
            return response;
        }
    };
    let entry = &route.value;
    let known = Arc::make_mut(scope);
    known.url_route.name.clone_from(&entry.name);
    known.url_route.params = params;
    match entry.on_disconnect {
        OnDisconnect::Cancel => pass(services, table, entry, journey).await,
        OnDisconnect::Finish => {
            let (services, table) = (services.clone(), table.clone());
            let tasks = services.tasks.clone();
            let work = async move {
                let entry = &table.http().routes()[index].value;
                pass(&services, &table, entry, journey).await
            };
            RunToCompletion::new(work, tasks, abandoned.clone()).await
        }
    }
}

/// Middleware, view, middleware.
async fn pass(
    services: &Services,
    table: &Arc<Table>,
    entry: &HttpEntry,
    journey: Journey,
) -> Response {
    let Journey {
        mut scope,
        mut body,
        client,
        started,
    } = journey;
    let known = Arc::make_mut(&mut scope);
    let deadline = started + entry.request_timeout;
    let mut cx = MiddlewareContext {
        scope: known,
        body: &mut body,
        body_size: entry.body_size,
        services,
    };
    // A step may read the body, whose client may be slow.
    let steps = async {
        for step in entry.steps.iter() {
            step.before(&mut cx).await?;
        }
        Ok(())
    };
    let refusal = within(deadline, steps).await.err();
    let outcome = match refusal {
        Some(failure) => Err(failure),
        None => {
            let request = Request {
                scope: scope.clone(),
                body,
                body_size: entry.body_size,
                deadline,
                services: services.clone(),
                client,
            };
            within(deadline, call(entry, request)).await
        }
    };
    let answer = |failure: Failure| error_pages::answer(services, table, &scope, &failure);
    let mut response = outcome.unwrap_or_else(answer);
    response_framing::own(&scope, entry, &mut response);
    for (at, step) in entry.steps.iter().rev().enumerate() {
        if let Err(failure) = step.after(&scope, services, &mut response).await {
            response = answer(failure);
            // The steps before this one added to the answer that is gone.
            for step in entry.steps.iter().rev().take(at) {
                step.decorate(&scope, response.headers_mut());
            }
        }
    }
    entry.answered.count(response.status());
    log_answer(&scope, &entry.label, &response, started);
    response
}

/// Returns what the table is asked: the path below the root path, the host, the method. None outside the root path.
pub(super) fn target<'a>(table: &Table, scope: &'a Scope) -> Option<Target<'a>> {
    Some(Target {
        raw_path: table.below_root(scope.raw_path())?,
        host: scope.host.as_ref().map(HostHeader::name),
        method: (scope.scope_type == ScopeType::Http).then_some(&scope.method),
    })
}

/// Runs the view; a panic is a failure.
async fn call(entry: &HttpEntry, request: Request) -> Result<Response, Failure> {
    let mut view = entry.view.call(request);
    std::future::poll_fn(|cx| {
        catch_unwind(AssertUnwindSafe(|| view.as_mut().poll(cx))).unwrap_or_else(|_| {
            metrics::counter!("oneport_panics_total").increment(1);
            Poll::Ready(Err(Failure::from("the view panicked")))
        })
    })
    .await
}

/// Ends what takes longer than the route's deadline with 504.
async fn within<T>(
    deadline: Instant,
    work: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    let mut work = pin!(work);
    let mut timer = None;
    std::future::poll_fn(|cx| {
        if let Poll::Ready(outcome) = work.as_mut().poll(cx) {
            return Poll::Ready(outcome);
        }
        // A timer only for what waits.
        let timer = timer.get_or_insert_with(|| Box::pin(expired(deadline)));
        timer.as_mut().poll(cx).map(|()| {
            Err(Failure::new(
                StatusCode::GATEWAY_TIMEOUT,
                "the answer took too long",
            ))
        })
    })
    .await
}

/// Completes after a deadline. After a pause of the process what arrived in it is looked at first: that the deadline is over is
/// known before the sockets are read.
async fn expired(deadline: Instant) {
    tokio::time::sleep_until(deadline.into()).await;
    tokio::task::yield_now().await;
}

/// Answers a request that no route takes.
fn miss<T>(
    services: &Services,
    table: &Arc<Table>,
    scope: &Scope,
    missed: Resolution<'_, T>,
) -> Response {
    let failure = match missed {
        _ if scope.target == "*" && scope.method == Method::OPTIONS => {
            return server_options(table);
        }
        _ if scope.target == "*" => Failure::bad_request("expected OPTIONS for the target \"*\""),
        Resolution::MethodNotAllowed { allow } => {
            let allow = allow
                .iter()
                .map(Method::as_str)
                .collect::<Vec<_>>()
                .join(", ");
            let value =
                HeaderValue::from_str(&allow).unwrap_or_else(|_| HeaderValue::from_static(""));
            if scope.method == Method::OPTIONS {
                let mut response = Response::new(Body::empty());
                *response.status_mut() = StatusCode::NO_CONTENT;
                response.headers_mut().insert(header::ALLOW, value);
                return response;
            }
            Failure::new(
                StatusCode::METHOD_NOT_ALLOWED,
                format!("expected {allow}, found {}", scope.method),
            )
            .with_header(header::ALLOW, value)
        }
        Resolution::SlashRedirect { raw_path } => return slash_redirect(scope, &raw_path),
        Resolution::BadPath(bad) => Failure::bad_request(bad.to_string()),
        Resolution::NotFound | Resolution::Found(_) => match target(table, scope).map(|target| {
            table.websocket().resolve(&Target {
                method: None,
                ..target
            })
        }) {
            Some(Resolution::Found(_)) => Failure::new(
                StatusCode::UPGRADE_REQUIRED,
                match asks_for_websocket(scope) {
                    true => "expected the token \"upgrade\" in Connection, found none",
                    false => "expected a WebSocket handshake, found an ordinary request",
                },
            )
            .with_header(header::UPGRADE, HeaderValue::from_static("websocket"))
            .with_header(header::CONNECTION, HeaderValue::from_static("upgrade")),
            _ => Failure::not_found(not_found::sentence(table, scope, "page")),
        },
    };
    error_pages::answer(services, table, scope, &failure)
}

/// Tells whether a request that is no handshake has `Upgrade: websocket`: its `Connection` does not say so, and a proxy in front
/// may have taken that out.
fn asks_for_websocket(scope: &Scope) -> bool {
    scope
        .headers
        .all(&header::UPGRADE)
        .flat_map(|field| field.split(|byte| *byte == b','))
        .any(|token| token.trim_ascii().eq_ignore_ascii_case(b"websocket"))
}

/// Answers `OPTIONS *`: the methods that some route takes (RFC 9110 §9.3.7).
fn server_options(table: &Table) -> Response {
    let mut methods = vec![Method::OPTIONS];
    for route in table.http().routes() {
        methods.extend(route.methods.iter().cloned());
    }
    if methods.contains(&Method::GET) {
        methods.push(Method::HEAD);
    }
    methods.sort_unstable_by(|one, other| one.as_str().cmp(other.as_str()));
    methods.dedup();
    let names: Vec<&str> = methods.iter().map(Method::as_str).collect();
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    if let Ok(allow) = HeaderValue::from_str(&names.join(", ")) {
        response.headers_mut().insert(header::ALLOW, allow);
    }
    response
}

fn slash_redirect(scope: &Scope, raw_path: &str) -> Response {
    let root_path = scope.root_path.as_deref().unwrap_or_default();
    let location = match scope.query_string() {
        "" => format!("{root_path}{raw_path}"),
        query => format!("{root_path}{raw_path}?{query}"),
    };
    // Two slashes at the start would name another host.
    let location = format!("/{}", location.trim_start_matches('/'));
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::PERMANENT_REDIRECT;
    if let Ok(location) = location::location(&location) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    response
}

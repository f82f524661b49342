//! The journey of an upgrade: route, middleware, consumer, middleware, 101. Read it from top to bottom.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Instant;

use futures_util::FutureExt;
use http::{HeaderValue, StatusCode, header};

use super::access_log::log_answer;
use super::http::target;
use super::table::{Table, WebsocketEntry};
use super::upgrade::{Reply, Upgrade};
use super::{error_pages, not_found};
use crate::channels::LayerError;
use crate::http::framing::is_framing;
use crate::http::{Body, Failure, Response};
use crate::middleware::{BEARER, MiddlewareContext, Step, TICKET};
use crate::routing::{Match, Resolution};
use crate::scope::Scope;
use crate::services::Services;
use crate::websocket::extension::{self, Deflate};
use crate::websocket::handshake::Handshake;
use crate::websocket::{Accept, Accepted, Compression, PreparedJoins, Sockets};

/// Takes a handshake through the WebSocket table.
pub(super) async fn handle(
    services: &Services,
    sockets: &Sockets,
    table: &Arc<Table>,
    mut scope: Arc<Scope>,
    handshake: Handshake,
    started: Instant,
) -> Reply {
    let Match { route, params, .. } = match target(table, &scope)
        .map_or(Resolution::NotFound, |target| {
            table.websocket().resolve(&target)
        }) {
        Resolution::Found(found) => found,
        missed => {
            let failure = match missed {
                Resolution::BadPath(bad) => Failure::bad_request(bad.to_string()),
                _ => Failure::not_found(not_found::sentence(table, &scope, "WebSocket")),
            };
            return refuse(services, table, None, &scope, &failure, started).await;
        }
    };
    let entry = &route.value;
    let known = Arc::make_mut(&mut scope);
    known.url_route.name.clone_from(&entry.name);
    known.url_route.params = params;
    known.subprotocols = handshake.subprotocols.into();
    known.connection = services.layer.next_member();

    let mut cx = MiddlewareContext {
        scope: known,
        body: &mut Body::empty(),
        body_size: 0,
        services,
    };
    for step in entry.steps.iter() {
        if let Err(failure) = step.before(&mut cx).await {
            return refuse(services, table, Some(entry), &scope, &failure, started).await;
        }
    }
    let (accept, consumer) = match connect(entry, &scope).await {
        Ok(accepted) => accepted,
        Err(failure) => {
            return refuse(services, table, Some(entry), &scope, &failure, started).await;
        }
    };
    let Ok(prepared_joins) = prepare(services, &scope, &accept).await else {
        let failure = Failure::too_many_rooms();
        return refuse(services, table, Some(entry), &scope, &failure, started).await;
    };
    let settings = &entry.route.settings;
    let deflate = match settings.compression {
        Compression::Off => None,
        Compression::Auto => {
            let offers = scope.headers.all(&header::SEC_WEBSOCKET_EXTENSIONS);
            extension::negotiate(offers, &settings.deflate)
        }
    };
    let mut response = match switch(entry, &scope, accept, handshake.accept.as_deref(), deflate) {
        Ok(response) => response,
        Err(failure) => {
            return refuse(services, table, Some(entry), &scope, &failure, started).await;
        }
    };
    if let Err(failure) = after(services, entry, &scope, &mut response).await {
        return refuse(services, table, Some(entry), &scope, &failure, started).await;
    }
    entry.answered.count(response.status());
    log_answer(&scope, &entry.route.label, &response, started);
    let (services, sockets, route) = (services.clone(), sockets.clone(), entry.route.clone());
    Reply::Upgrade(
        response,
        Box::new(Upgrade {
            consumer,
            scope,
            route,
            services,
            sockets,
            deflate,
            prepared_joins,
            counted: None,
        }),
    )
}

/// Lets the consumer decide, within the route's deadline; a panic is a failure.
async fn connect(
    entry: &WebsocketEntry,
    scope: &Scope,
) -> Result<(Accept, Box<dyn Accepted>), Failure> {
    let deciding = AssertUnwindSafe(entry.consumer.connect(scope)).catch_unwind();
    match tokio::time::timeout(entry.route.settings.connect_timeout, deciding).await {
        Ok(Ok(decided)) => decided.map_err(|denial| denial.into_failure().without_framing()),
        Ok(Err(_)) => {
            metrics::counter!("oneport_panics_total").increment(1);
            Err(Failure::from("the consumer panicked in connect"))
        }
        Err(_) => Err(Failure::new(
            StatusCode::GATEWAY_TIMEOUT,
            "the decision on the handshake took too long",
        )),
    }
}

/// Waits until the groups that the consumer will join are heard from other processes, and holds them: what is sent to them once
/// the client knows that it is open shall reach it. Fails when clients of its address have begun too many.
async fn prepare(
    services: &Services,
    scope: &Scope,
    accept: &Accept,
) -> Result<PreparedJoins, LayerError> {
    if accept.groups.is_empty() {
        return Ok(None);
    }
    let client = scope.client.as_ref().map(|client| client.ip());
    let prepared_joins = accept.groups.iter().map(|(group, options)| {
        services
            .layer
            .begin(group, options, scope.connection, client)
    });
    let prepared_joins = futures_util::future::try_join_all(prepared_joins).await?;
    Ok(Some(Box::new(prepared_joins)))
}

/// Makes the 101 response (RFC 6455 §4.2.2), or over HTTP/2 the 200 (RFC 8441 §5).
fn switch(
    entry: &WebsocketEntry,
    scope: &Scope,
    accept: Accept,
    key: Option<&str>,
    deflate: Option<Deflate>,
) -> Result<Response, Failure> {
    let subprotocol = match accept.subprotocol {
        Some(chosen) if scope.subprotocols.contains(&chosen) => Some(chosen),
        Some(chosen) => {
            return Err(Failure::from(format!(
                "the consumer chose subprotocol {chosen:?}, which the client did not offer: {:?}",
                scope.subprotocols
            )));
        }
        None => {
            let offered = || scope.subprotocols.iter();
            offered()
                .find(|offered| entry.subprotocols.contains(offered))
                .or_else(|| {
                    // A browser that offered some wants one of them.
                    let has_auth = entry.steps.iter().any(|step| matches!(step, Step::Auth(_)));
                    offered().find(|word| has_auth && [BEARER, TICKET].contains(&word.as_str()))
                })
                .cloned()
        }
    };
    let mut response = Response::new(Body::empty());
    if key.is_some() {
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    }
    let headers = response.headers_mut();
    for (name, value) in &accept.headers {
        // Fields of the handshake itself are not the consumer's to say.
        if !is_framing(name) {
            headers.append(name, value.clone());
        }
    }
    if let Some(key) = key {
        headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(header::SEC_WEBSOCKET_ACCEPT, HeaderValue::from_str(key)?);
    }
    if let Some(subprotocol) = subprotocol {
        headers.insert(
            header::SEC_WEBSOCKET_PROTOCOL,
            HeaderValue::from_str(&subprotocol)?,
        );
    }
    if let Some(deflate) = deflate {
        headers.insert(
            header::SEC_WEBSOCKET_EXTENSIONS,
            HeaderValue::from_str(&deflate.to_string())?,
        );
    }
    Ok(response)
}

async fn refuse(
    services: &Services,
    table: &Arc<Table>,
    entry: Option<&WebsocketEntry>,
    scope: &Scope,
    failure: &Failure,
    started: Instant,
) -> Reply {
    let mut response = error_pages::answer(services, table, scope, failure);
    match entry {
        Some(entry) => {
            if let Err(failure) = after(services, entry, scope, &mut response).await {
                response = error_pages::answer(services, table, scope, &failure);
                for step in entry.steps.iter().rev() {
                    step.decorate(scope, response.headers_mut());
                }
            }
            entry.answered.count(response.status());
        }
        None => table.finish_missed(&mut response),
    }
    log_answer(
        scope,
        entry.map_or("", |entry| &entry.route.label),
        &response,
        started,
    );
    Reply::Response(response)
}

/// Runs the steps over the answer; the first that fails ends it.
async fn after(
    services: &Services,
    entry: &WebsocketEntry,
    scope: &Scope,
    response: &mut Response,
) -> Result<(), Failure> {
    for step in entry.steps.iter().rev() {
        step.after(scope, services, response).await?;
    }
    Ok(())
}

//! WebSocket: the life of a handshake: route, then the pipeline around the consumer's `connect`,
//! then 101. Read it from top to bottom.

use std::sync::Arc;
use std::time::Instant;

use http::{HeaderMap, HeaderValue, StatusCode, header};

use super::deadline::{Deadline, run_until};
use super::pipeline::{Handled, Pipeline};
use super::table::{Handler, WebsocketEntry, WebsocketHandler};
use super::unmatched;
use super::upgrade::{Reply, Upgrade};
use crate::channels::LayerError;
use crate::http::framing::{is_framing, remove_framing};
use crate::http::{Body, Failure, Response};
use crate::middleware::{BEARER, TICKET};
use crate::scope::Scope;
use crate::services::Services;
use crate::websocket::extension::{self, Deflate};
use crate::websocket::handshake::Handshake;
use crate::websocket::{Accept, Accepted, Compression, Negotiation, PreparedJoins, Sockets};

/// A handshake that the consumer accepted.
struct AcceptedHandshake {
    consumer: Box<dyn Accepted>,
    prepared_joins: PreparedJoins,
    deflate: Option<Deflate>,
    /// The fields that turn the response into a WebSocket handshake's. They are set last, so
    /// middleware cannot change or remove them.
    fields: HeaderMap,
}

impl Handled for (Response, AcceptedHandshake) {
    type Made = AcceptedHandshake;

    fn split(self) -> (Response, AcceptedHandshake) {
        self
    }
}

/// Takes a handshake through the WebSocket table.
pub(super) async fn handle(
    pipeline: &Pipeline<'_>,
    sockets: &Sockets,
    mut scope: Scope,
    handshake: Handshake,
) -> Reply {
    let entry = match pipeline.resolve(pipeline.table.websocket(), &mut scope) {
        Ok((entry, _)) => entry,
        Err(missed) => return Reply::Response(unmatched::handshake(pipeline, &scope, &missed)),
    };
    let services = pipeline.services;
    scope.subprotocols = handshake.subprotocols.into();
    scope.connection = services.layer.next_member();
    let mut scope = Arc::new(scope);
    let key = handshake.accept;

    let deadline = Deadline::At(pipeline.started.unwrap_or_else(Instant::now) + entry.timeout);
    let connect = async |scope, _: Body| {
        // The client connects elsewhere, or later: a socket of this server would end at once. After
        // a restart it does so at once, so it gets its socket and the close frame.
        if let Some(pace) = sockets.draining()
            && !services.tasks.is_replaced()
        {
            return Err(Failure::stopping(pace.seconds_of(sockets.len())));
        }
        connect(services, entry, deadline, scope, key.as_deref()).await
    };
    let (mut response, accepted) = pipeline
        .run(entry, &mut scope, &mut Body::empty(), 0, connect)
        .await;
    let Some(accepted) = accepted else {
        return Reply::Response(response);
    };
    let headers = response.headers_mut();
    remove_framing(headers);
    headers.extend(accepted.fields);
    *response.body_mut() = Body::empty();
    Reply::Upgrade(
        response,
        Box::new(Upgrade {
            consumer: accepted.consumer,
            scope,
            route: entry.handler.route.clone(),
            services: services.clone(),
            sockets: sockets.clone(),
            deflate: accepted.deflate,
            prepared_joins: accepted.prepared_joins,
            counted: None,
        }),
    )
}

/// Calls the consumer's `connect`, registers the groups that it will join, and creates the
/// response.
async fn connect(
    services: &Services,
    entry: &WebsocketEntry,
    deadline: Deadline,
    scope: Arc<Scope>,
    key: Option<&str>,
) -> Result<(Response, AcceptedHandshake), Failure> {
    let consumer = &entry.handler.consumer;
    let deciding = async {
        let decision = consumer.connect(&scope).await;
        decision.map_err(|denial| denial.into_failure().without_framing())
    };
    // Only the decision has this deadline: the wait for Redis below has its own, and a consumer
    // that has accepted is let in after it.
    let (timed_out, panicked) = (WebsocketHandler::TIMED_OUT, WebsocketHandler::PANICKED);
    let (accept, consumer) = run_until(deadline, timed_out, panicked, deciding).await?;
    let client = scope.client.as_ref().map(|client| client.ip());
    services
        .group_limits
        .check_all(client, &accept.groups)
        .map_err(|_| Failure::too_many_groups())?;
    let prepared_joins = register_joins(services, &scope, &accept)
        .await
        .map_err(|_| Failure::too_many_rooms())?;
    let (subprotocol, deflate, extensions) = match consumer.negotiation() {
        Negotiation::Route => {
            let subprotocol = choose_subprotocol(entry, &scope, accept.subprotocol)?;
            let deflate = negotiate_deflate(entry, &scope);
            let extensions = deflate.map(|agreed| HeaderValue::from_str(&agreed.to_string()));
            let extensions = extensions.transpose()?.into_iter().collect();
            (subprotocol, deflate, extensions)
        }
        Negotiation::Upstream(extensions) => {
            let subprotocol = accept
                .subprotocol
                .or_else(|| credential_word(entry, &scope));
            (subprotocol, None, extensions)
        }
    };
    let status = match key {
        Some(_) => StatusCode::SWITCHING_PROTOCOLS, // RFC 6455 §4.2.2
        None => StatusCode::OK,                     // over HTTP/2, RFC 8441 §5
    };
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    for (name, value) in &accept.headers {
        if !is_framing(name) {
            response.headers_mut().append(name, value.clone());
        }
    }
    let accepted = AcceptedHandshake {
        consumer,
        prepared_joins,
        deflate,
        fields: handshake_fields(key, subprotocol.as_deref(), extensions)?,
    };
    Ok((response, accepted))
}

/// Subscribes to the groups that the consumer will join, including events from other processes, and
/// retains events from now on: an event sent once the client knows that the socket is open must
/// reach it. Fails if the clients of this address have begun too many groups.
async fn register_joins(
    services: &Services,
    scope: &Scope,
    accept: &Accept,
) -> Result<PreparedJoins, LayerError> {
    if accept.groups.is_empty() {
        return Ok(None);
    }
    let client = scope.client.as_ref().map(|client| client.ip());
    let joins = accept.groups.iter().map(|(group, options)| {
        services
            .layer
            .begin(group, options, scope.connection, client)
    });
    let joins = futures_util::future::try_join_all(joins).await?;
    Ok(Some(Box::new(joins)))
}

/// Returns the parameters of permessage-deflate, if the route and the client agree on it.
fn negotiate_deflate(entry: &WebsocketEntry, scope: &Scope) -> Option<Deflate> {
    let settings = &entry.handler.route.settings;
    match settings.compression {
        Compression::Off => None,
        Compression::Auto => {
            let offers = scope.headers.all(&header::SEC_WEBSOCKET_EXTENSIONS);
            extension::negotiate(offers, &settings.deflate)
        }
    }
}

/// Returns the consumer's choice, or the first subprotocol that the client offers and the route
/// lists.
fn choose_subprotocol(
    entry: &WebsocketEntry,
    scope: &Scope,
    chosen: Option<String>,
) -> Result<Option<String>, Failure> {
    if let Some(chosen) = chosen {
        if scope.subprotocols.contains(&chosen) {
            return Ok(Some(chosen));
        }
        return Err(Failure::from(format!(
            "the consumer chose subprotocol {chosen:?}, which the client did not offer: {:?}",
            scope.subprotocols
        )));
    }
    let offered = || scope.subprotocols.iter();
    let spoken = offered().find(|offered| entry.handler.subprotocols.contains(offered));
    Ok(spoken.cloned().or_else(|| credential_word(entry, scope)))
}

/// Returns the word that announces a token or a ticket, if the client offers it. A browser that
/// offers subprotocols fails the connection unless one of them is selected, and it may offer only
/// such words.
fn credential_word(entry: &WebsocketEntry, scope: &Scope) -> Option<String> {
    let is_word = |word: &&String| [BEARER, TICKET].contains(&word.as_str());
    let mut offered = scope.subprotocols.iter();
    let word = offered.find(|word| entry.chain.has_auth() && is_word(word));
    word.cloned()
}

/// Returns the fields that complete the handshake (RFC 6455 §4.2.2).
fn handshake_fields(
    key: Option<&str>,
    subprotocol: Option<&str>,
    extensions: Vec<HeaderValue>,
) -> Result<HeaderMap, Failure> {
    let mut fields = HeaderMap::new();
    if let Some(key) = key {
        fields.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        fields.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        fields.insert(header::SEC_WEBSOCKET_ACCEPT, HeaderValue::from_str(key)?);
    }
    if let Some(subprotocol) = subprotocol {
        let subprotocol = HeaderValue::from_str(subprotocol)?;
        fields.insert(header::SEC_WEBSOCKET_PROTOCOL, subprotocol);
    }
    for value in extensions {
        fields.append(header::SEC_WEBSOCKET_EXTENSIONS, value);
    }
    Ok(fields)
}

//! Execute: executes the calls of the server API.

use std::time::{Duration, Instant};

use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::calls::{Call, Filter, checked_close, group_name, no_connection};
use super::response::ApiError;
use super::tokens::Token;
use crate::channels::event::EventError;
use crate::channels::{ConnectionId, Event, GroupName, LayerError, NodeReply, NodeRequest, Sent};
use crate::cluster::{self, ConnectionFilter, Unanswered, WAIT_MAX};
use crate::services::Services;
use crate::telemetry::recent_ends::EndFilter;

/// How long all events of a batch together wait for other nodes.
const BATCH_MAX: Duration = Duration::from_secs(5);

/// How many of the last ends are shown with the figures.
const ENDS_SHOWN: usize = 50;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Batch {
    events: Vec<BatchEvent>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct BatchEvent {
    #[serde(default)]
    group: Option<String>,
    #[serde(default)]
    connection: Option<String>,
    /// As it is written.
    event: Box<RawValue>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Disconnect {
    code: Option<u16>,
    #[serde(default)]
    reason: String,
}

/// The limits of one call.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// The maximum size of an event.
    pub(super) event_bytes: usize,
    /// The maximum number of events in a batch.
    pub(super) batch_events: usize,
}

impl Limits {
    /// Executes a call.
    pub(super) async fn run(
        &self,
        token: &Token,
        call: &Call,
        body: &[u8],
        services: &Services,
    ) -> Result<Value, ApiError> {
        match call {
            Call::GroupSend(group) => {
                token.check_group(group.as_str())?;
                let event = self.event(body)?;
                group_send(services, group, event, WAIT_MAX).await
            }
            Call::Group(group) => {
                token.check_group(group.as_str())?;
                Ok(group_shown(services, group).await)
            }
            Call::ConnectionSend(id) => {
                token.check_connections()?;
                let event = self.event(body)?;
                connection_send(services, *id, &event, WAIT_MAX).await
            }
            Call::Connection(id) => {
                token.check_connections()?;
                let show = NodeRequest::Show { number: id.number };
                found(*id, ask_node(services, *id, show, WAIT_MAX).await?)
            }
            Call::ConnectionEnd(id, frame) => {
                token.check_connections()?;
                let end = NodeRequest::End {
                    number: Some(id.number),
                    user: None,
                    code: frame.code,
                    reason: frame.reason.clone(),
                };
                found(*id, ask_node(services, *id, end, WAIT_MAX).await?)
            }
            Call::Connections(filter) => {
                token.check_connections()?;
                Ok(connections(services, filter).await)
            }
            Call::UserDisconnect(user) => {
                token.check_connections()?;
                let asked: Disconnect = if body.trim_ascii().is_empty() {
                    Disconnect::default()
                } else {
                    serde_json::from_slice(body).map_err(|error| of_json(&error))?
                };
                let frame = checked_close(asked.code, asked.reason)?;
                let end = NodeRequest::End {
                    number: None,
                    user: Some(user.clone()),
                    code: frame.code,
                    reason: frame.reason,
                };
                let (replies, unanswered) = cluster::ask_all(services, end).await;
                let closed = |reply: &NodeReply| match reply {
                    NodeReply::Closed { matched, .. } => *matched,
                    _ => 0,
                };
                let matched: u64 = replies.iter().map(closed).sum();
                Ok(json!({"matched": matched, "closed": matched, "unanswered": unanswered}))
            }
            Call::Batch => self.batch(token, body, services).await,
            Call::Info => info(services).await,
            Call::Stats => {
                token.check_connections()?;
                Ok(stats(services).await)
            }
        }
    }

    fn event(&self, body: &[u8]) -> Result<Event, ApiError> {
        let json = std::str::from_utf8(body).map_err(|error| {
            let message = format!("expected the call's JSON: {error}");
            ApiError::bad_request("invalid_json", message)
        })?;
        self.event_of(json)
    }

    fn event_of(&self, json: &str) -> Result<Event, ApiError> {
        let (max, found) = (self.event_bytes, json.len());
        match Event::from_json(json) {
            Err(EventError::Json(error)) => Err(of_json(&error)),
            _ if found > max => {
                let message = format!("expected an event of at most {max} bytes, found {found}");
                Err(ApiError::too_large(message))
            }
            Ok(event) => Ok(event),
            Err(error) => Err(ApiError::bad_request("invalid_event", error.to_string())),
        }
    }

    async fn batch(
        &self,
        token: &Token,
        body: &[u8],
        services: &Services,
    ) -> Result<Value, ApiError> {
        let batch: Batch = serde_json::from_slice(body).map_err(|error| of_json(&error))?;
        if batch.events.len() > self.batch_events {
            let (max, found) = (self.batch_events, batch.events.len());
            let message = format!("expected at most {max} events, found {found}");
            return Err(ApiError::too_large(message));
        }
        let mut results = Vec::with_capacity(batch.events.len());
        // All events are sent and the response is in time, however many nodes do not reply.
        let deadline = Instant::now() + BATCH_MAX;
        for one in batch.events {
            let now = Instant::now();
            if now > deadline + BATCH_MAX {
                let message = "not sent: the events before it took too long";
                results.push(ApiError::unavailable(message).body());
                continue;
            }
            let wait = deadline.saturating_duration_since(now);
            let result = self
                .batch_event(token, one, services, wait.min(WAIT_MAX))
                .await;
            results.push(result.unwrap_or_else(|error| error.body()));
        }
        Ok(json!({"results": results}))
    }

    async fn batch_event(
        &self,
        token: &Token,
        one: BatchEvent,
        services: &Services,
        wait: Duration,
    ) -> Result<Value, ApiError> {
        match (one.group, one.connection) {
            (Some(group), None) => {
                let group = group_name(&group)?;
                token.check_group(group.as_str())?;
                let event = self.event_of(one.event.get())?;
                group_send(services, &group, event, wait).await
            }
            (None, Some(connection)) => {
                token.check_connections()?;
                let id =
                    ConnectionId::read(&connection).ok_or_else(|| no_connection(&connection))?;
                let event = self.event_of(one.event.get())?;
                connection_send(services, id, &event, wait).await
            }
            _ => Err(ApiError::bad_request(
                "invalid_request",
                "expected exactly one of \"group\" and \"connection\" beside \"event\"",
            )),
        }
    }
}

fn of_json(error: &serde_json::Error) -> ApiError {
    let code = if error.is_data() {
        "invalid_request"
    } else {
        "invalid_json"
    };
    ApiError::bad_request(code, format!("expected the call's JSON: {error}"))
}

async fn group_send(
    services: &Services,
    group: &GroupName,
    event: Event,
    wait: Duration,
) -> Result<Value, ApiError> {
    let sent = services.layer.group_send_counted(group, event, wait).await;
    match sent {
        Ok(Sent {
            matched,
            queued,
            dropped,
            unanswered,
        }) => Ok(json!({
            "matched": matched, "queued": queued, "dropped": dropped, "unanswered": unanswered,
        })),
        Err(error @ LayerError::InvalidEvent { .. }) => {
            Err(ApiError::bad_request("invalid_event", error.to_string()))
        }
        Err(error) => Err(ApiError::unavailable(error.to_string())),
    }
}

async fn connection_send(
    services: &Services,
    id: ConnectionId,
    event: &Event,
    wait: Duration,
) -> Result<Value, ApiError> {
    let send = NodeRequest::Send {
        number: id.number,
        event: event.json().into_owned(),
    };
    found(id, ask_node(services, id, send, wait).await?)
}

/// Returns the reply about one connection as JSON; fails if there is no such connection.
fn found(id: ConnectionId, reply: NodeReply) -> Result<Value, ApiError> {
    match serde_json::to_value(reply) {
        Ok(reply) if !reply.is_null() => Ok(reply),
        _ => Err(no_connection(&id.to_string())),
    }
}

/// Sends a request to the node of a connection.
async fn ask_node(
    services: &Services,
    id: ConnectionId,
    request: NodeRequest,
    wait: Duration,
) -> Result<NodeReply, ApiError> {
    match cluster::ask_node(services, id, request, wait).await {
        Ok(reply) => reply.ok_or_else(|| no_connection(&id.to_string())),
        Err(Unanswered) => Err(ApiError::unavailable(
            "the node of the connection did not reply in time",
        )),
    }
}

async fn group_shown(services: &Services, group: &GroupName) -> Value {
    let found = cluster::group_users(services, group.as_str()).await;
    let users: Vec<Value> = found
        .users
        .into_iter()
        .map(
            |(id, (name, connections))| json!({"id": id, "name": name, "connections": connections}),
        )
        .collect();
    json!({
        "group": group.as_str(), "members": found.members, "users": users,
        "anonymous": found.anonymous, "left_out": found.left_out, "unanswered": found.unanswered,
    })
}

async fn connections(services: &Services, filter: &Filter) -> Value {
    let filter = ConnectionFilter {
        user: filter.user.clone(),
        route: filter.route.clone(),
        group: filter.group.as_ref().map(GroupName::to_string),
        cursor: filter.cursor,
        limit: filter.limit,
    };
    let page = cluster::connections(services, &filter).await;
    json!({
        "connections": page.connections, "cursor": page.cursor, "unanswered": page.unanswered,
    })
}

/// The figures of this process, and the last ends of all of them.
async fn stats(services: &Services) -> Value {
    let mut stats = cluster::own_stats(services).await;
    let (ends, _) = cluster::recent_ends(services, EndFilter::default(), ENDS_SHOWN).await;
    stats["recent_ends"] = json!(ends);
    stats
}

async fn info(services: &Services) -> Result<Value, ApiError> {
    let remote = services.layer.remote();
    let connections = match services.answer(NodeRequest::Info).await {
        NodeReply::Info { connections } => Some(connections),
        _ => None,
    };
    let nodes = match remote {
        Some(remote) => 1 + remote.call_all(&NodeRequest::Info).await.replies.len(),
        None => 1,
    };
    Ok(json!({
        "node": format!("{:016x}", services.layer.node()),
        "name": services.name,
        "version": env!("CARGO_PKG_VERSION"),
        "uptime": services.started.elapsed().as_secs_f64(),
        "connections": connections,
        "groups": services.layer.groups(),
        "backend": if remote.is_some() { "redis" } else { "memory" },
        "format": remote.map(|remote| remote.format().to_string()),
        "connected": remote.is_none_or(crate::channels::Remote::is_connected),
        "nodes": nodes,
    }))
}

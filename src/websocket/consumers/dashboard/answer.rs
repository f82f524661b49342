//! Answer: carries out the calls of a page of the dashboard.

use serde_json::{Value, json};

use super::call::Call;
use crate::channels::{ConnectionId, Event, NodeReply, NodeRequest};
use crate::close_code::{CloseCode, REASON_BYTES_MAX};
use crate::cluster::{self, ConnectionFilter, Unanswered, WAIT_MAX};
use crate::net::ConnectionCause;
use crate::services::Services;
use crate::telemetry::recent_ends::{End, EndKind};
use crate::websocket::explanation::explain_refusal;
use crate::websocket::{Cause, Context};

/// The most rows of one reply.
const SOCKETS_MAX: usize = 200;
const GROUPS_MAX: usize = 200;
const USERS_MAX: usize = 200;
const ENDS_MAX: usize = 300;

/// The longest filter.
const FILTER_BYTES_MAX: usize = 512;

/// A sentence for the user.
type Sentence = String;

/// Carries out a call of a user, whose name is for the log.
pub(super) async fn answer(services: &Services, user: &str, call: Call) -> Result<Value, Sentence> {
    match call {
        Call::Snapshot | Call::Reload => Ok(Value::Null),
        Call::Processes => {
            let (processes, unanswered) = cluster::stats(services).await;
            Ok(json!({"processes": processes, "unanswered": unanswered}))
        }
        Call::Sockets {
            user,
            route,
            group,
            cursor,
        } => {
            let cursor = cursor.as_deref().map(socket_id).transpose()?;
            let filter = ConnectionFilter {
                user: short(user)?,
                route: short(route)?,
                group: short(group)?,
                cursor: cursor.map(|after| (after.node, after.number)),
                limit: SOCKETS_MAX,
            };
            let page = cluster::connections(services, &filter).await;
            Ok(json!({
                "sockets": page.connections, "cursor": page.cursor, "unanswered": page.unanswered,
            }))
        }
        Call::Socket { socket } => {
            let id = socket_id(&socket)?;
            let inspect = NodeRequest::Inspect { number: id.number };
            match ask(services, id, inspect).await? {
                NodeReply::Inspected { inspected } => Ok(inspected),
                _ => Err(closed_already()),
            }
        }
        Call::Close {
            socket,
            code,
            reason,
        } => close(services, user, &socket, code, reason).await,
        Call::Send { socket, text } => send(services, user, &socket, &text).await,
        Call::Groups { contains } => {
            let contains = short(Some(contains))?.unwrap_or_default();
            let page = cluster::largest_groups(services, &contains, GROUPS_MAX).await;
            let groups = page.groups.into_iter().map(|(name, members, processes)| {
                json!({"name": name, "members": members, "processes": processes})
            });
            Ok(json!({
                "groups": groups.collect::<Vec<_>>(), "matched": page.matched,
                "unanswered": page.unanswered,
            }))
        }
        Call::Group { group } => {
            let group = short(Some(group))?.unwrap_or_default();
            let found = cluster::group_users(services, &group).await;
            let left_out = found.left_out + found.users.len().saturating_sub(USERS_MAX) as u64;
            let mut users: Vec<_> = found.users.into_iter().collect();
            users.sort_by_key(|(_, (_, connections))| std::cmp::Reverse(*connections));
            let users = users.into_iter().take(USERS_MAX);
            let users = users.map(|(id, (name, connections))| {
                json!({"id": id, "name": name, "connections": connections})
            });
            Ok(json!({
                "members": found.members, "anonymous": found.anonymous,
                "users": users.collect::<Vec<_>>(), "left_out": left_out,
                "unanswered": found.unanswered,
            }))
        }
        Call::Ends { filter } => {
            let (ends, unanswered) = cluster::recent_ends(services, filter, ENDS_MAX).await;
            let ends: Vec<Value> = ends.iter().map(in_words).collect();
            Ok(json!({"ends": ends, "unanswered": unanswered}))
        }
    }
}

/// Returns an end with what happened and what to do about it, as `oneport explain-close` has it.
fn in_words(end: &End) -> Value {
    let mut shown = serde_json::to_value(end).unwrap_or_default();
    if let EndKind::Connection = end.kind {
        if let Some(cause) = ConnectionCause::with_label(&end.cause) {
            let explanation = cause.explanation();
            shown["happened"] = json!(explanation.happened);
            shown["remedy"] = json!(explanation.remedy);
        }
        return shown;
    }
    if end.table != "websocket" {
        return shown;
    }
    match end.kind {
        EndKind::Closed | EndKind::Failed => {
            // Causes of one label differ in their codes.
            let found = Cause::with_label(&end.cause).map(Cause::explanation);
            let mut found: Vec<_> = found.collect();
            found.sort_by_key(|explanation| explanation.code != Some(end.code));
            if let Some(explanation) = found.first() {
                shown["happened"] = json!(explanation.happened);
                shown["remedy"] = json!(explanation.remedy);
            }
        }
        EndKind::Refused | EndKind::Error | EndKind::Connection => {
            shown["happened"] = json!(explain_refusal(end.code));
        }
    }
    shown
}

async fn close(
    services: &Services,
    user: &str,
    socket: &str,
    code: u16,
    reason: String,
) -> Result<Value, Sentence> {
    let id = socket_id(socket)?;
    if CloseCode::new(code).is_err() {
        return Err(format!(
            "expected a close code from 3000 to 4999, or 1000, found {code}"
        ));
    }
    if reason.len() > REASON_BYTES_MAX {
        return Err(format!(
            "expected a reason of at most {REASON_BYTES_MAX} bytes, found {}",
            reason.len()
        ));
    }
    tracing::info!(user, socket, code, %reason, "dashboard: close a socket");
    let end = NodeRequest::End {
        number: Some(id.number),
        user: None,
        code,
        reason,
    };
    match ask(services, id, end).await? {
        NodeReply::Closed { .. } => Ok(Value::Null),
        _ => Err(closed_already()),
    }
}

async fn send(
    services: &Services,
    user: &str,
    socket: &str,
    text: &str,
) -> Result<Value, Sentence> {
    let id = socket_id(socket)?;
    tracing::info!(
        user,
        socket,
        bytes = text.len(),
        "dashboard: send to a socket"
    );
    let event = Event::new("websocket.send", &json!({"text": text}));
    let event = event.map_err(|error| error.to_string())?;
    let send = NodeRequest::Send {
        number: id.number,
        event: event.json().into_owned(),
    };
    match ask(services, id, send).await? {
        NodeReply::Sent { queued: 1.., .. } => Ok(Value::Null),
        NodeReply::Sent { .. } => Err("the client reads too slowly: it was dropped".to_owned()),
        _ => Err(closed_already()),
    }
}

/// Returns the name of the page's user, for the log.
pub(super) fn user<'a>(cx: &'a Context<'_>) -> &'a str {
    cx.scope().user.as_ref().map_or("", |user| &user.name)
}

async fn ask(
    services: &Services,
    id: ConnectionId,
    request: NodeRequest,
) -> Result<NodeReply, Sentence> {
    match cluster::ask_node(services, id, request, WAIT_MAX).await {
        Ok(reply) => Ok(reply.unwrap_or(NodeReply::NotFound)),
        Err(Unanswered) => Err("its process does not reply".to_owned()),
    }
}

fn closed_already() -> Sentence {
    "the socket is closed".to_owned()
}

fn socket_id(text: &str) -> Result<ConnectionId, Sentence> {
    ConnectionId::read(text)
        .ok_or_else(|| "expected the id of a socket, such as 3f0c.17".to_owned())
}

/// Checks the length of a filter; an empty one selects everything.
fn short(filter: Option<String>) -> Result<Option<String>, Sentence> {
    match filter {
        Some(text) if text.len() > FILTER_BYTES_MAX => Err(format!(
            "expected a filter of at most {FILTER_BYTES_MAX} bytes, found {}",
            text.len()
        )),
        filter => Ok(filter.filter(|text| !text.is_empty())),
    }
}

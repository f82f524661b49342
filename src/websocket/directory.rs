//! Directory: answers what the server API asks about the sockets of this process.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};

use super::close::{Cause, CloseCode, Ending};
use super::socket_handle::SocketHandle;
use super::sockets::Sockets;
use crate::channels::{ChannelLayer, Delivery, Event, GroupName, RpcHandler, deliver_direct};
use crate::timestamp::Timestamp;

/// The longest answer; a process takes no message of twice that from another.
const ANSWER_BYTES_MAX: usize = 512 << 10;

/// How many groups of one socket are shown.
const GROUPS_SHOWN_MAX: usize = 1000;

/// Answers what the server API asks about the sockets of this process, also for those of other processes.
#[derive(Debug)]
pub(crate) struct Directory {
    sockets: Sockets,
    layer: ChannelLayer,
}

/// What is asked. Processes of one version ask each other; what is not understood is answered with null.
#[derive(Deserialize)]
#[serde(tag = "ask", rename_all = "snake_case")]
enum Question {
    Group {
        group: String,
    },
    Show {
        number: u64,
    },
    Send {
        number: u64,
        event: serde_json::Map<String, Value>,
    },
    End {
        number: Option<u64>,
        user: Option<String>,
        code: u16,
        reason: String,
    },
    List {
        user: Option<String>,
        route: Option<String>,
        group: Option<String>,
        cursor: Option<(u64, u64)>,
        limit: usize,
    },
    Info,
}

impl RpcHandler for Directory {
    fn handle(&self, question: Value) -> Pin<Box<dyn Future<Output = Value> + Send + '_>> {
        Box::pin(async move {
            match serde_json::from_value(question) {
                Ok(question) => self.answer_to(question).await,
                Err(_) => Value::Null,
            }
        })
    }
}

impl Directory {
    pub(crate) fn new(sockets: Sockets, layer: ChannelLayer) -> Self {
        Self { sockets, layer }
    }

    async fn answer_to(&self, question: Question) -> Value {
        match question {
            Question::Group { group } => self.group(&group),
            Question::Show { number } => match self.sockets.get(number) {
                Some(handle) => self.shown(&handle),
                None => Value::Null,
            },
            Question::Send { number, event } => {
                let (Some(handle), Ok(event)) =
                    (self.sockets.get(number), Event::from_fields(event))
                else {
                    return Value::Null;
                };
                let is_queued = deliver_direct(&*handle, event) == Delivery::Queued;
                let (queued, dropped) = (u8::from(is_queued), u8::from(!is_queued));
                json!({"matched": 1, "queued": queued, "dropped": dropped})
            }
            Question::End {
                number,
                user,
                code,
                reason,
            } => {
                let code = CloseCode::new(code).unwrap_or(CloseCode::POLICY);
                let ending = Ending::chosen(Cause::Disconnected, code, reason);
                if let Some(number) = number {
                    let Some(handle) = self.sockets.get(number) else {
                        return Value::Null;
                    };
                    handle.end(ending);
                    return json!({"matched": 1, "closed": 1});
                }
                let is_users = |handle: &SocketHandle| {
                    let of = handle.scope().user.as_ref().map(|of| of.id.as_str());
                    of.is_some() && of == user.as_deref()
                };
                let ended = self.sockets.end(is_users, &ending, Duration::ZERO).await;
                json!({"matched": ended})
            }
            Question::List {
                user,
                route,
                group,
                cursor,
                limit,
            } => {
                let node = self.layer.node();
                let after = match cursor {
                    Some((of, _)) if of > node => u64::MAX, // all of ours were told
                    Some((of, number)) if of == node => number,
                    _ => 0,
                };
                let is_meant = |handle: &SocketHandle| {
                    let scope = handle.scope();
                    let is_of = |wanted: &Option<String>, found: Option<&str>| {
                        wanted.is_none() || wanted.as_deref() == found
                    };
                    is_of(&user, scope.user.as_ref().map(|user| user.id.as_str()))
                        && is_of(&route, Some(&handle.route().label))
                        && group.as_ref().is_none_or(|group| handle.is_in(group))
                };
                let found = self.sockets.list(is_meant, after, limit);
                let mut shown = Vec::new();
                let mut bytes = 0;
                for handle in &found {
                    let one = self.shown(handle);
                    bytes += one.to_string().len();
                    if bytes > ANSWER_BYTES_MAX {
                        break;
                    }
                    shown.push(one);
                }
                json!({"node": node, "is_cut": shown.len() < found.len(), "connections": shown})
            }
            Question::Info => json!({"connections": self.sockets.len()}),
        }
    }

    fn group(&self, group: &str) -> Value {
        let Ok(group) = GroupName::new(group) else {
            return Value::Null;
        };
        let members = self.layer.group_members(&group);
        let mut known = 0;
        let mut users: BTreeMap<&str, (&str, usize)> = BTreeMap::new();
        for user in members.iter().filter_map(|member| member.user.as_ref()) {
            known += 1;
            users.entry(&user.id).or_insert((&user.name, 0)).1 += 1;
        }
        let mut shown = Vec::new();
        let mut bytes = 0;
        for (id, (name, connections)) in &users {
            let one = json!([id, name, connections]);
            bytes += one.to_string().len();
            if bytes > ANSWER_BYTES_MAX {
                break;
            }
            shown.push(one);
        }
        json!({
            "members": members.len(), "anonymous": members.len() - known,
            "users": shown, "left_out": users.len() - shown.len(),
        })
    }

    fn shown(&self, handle: &Arc<SocketHandle>) -> Value {
        let scope = handle.scope();
        let user = scope.user.as_ref();
        json!({
            "id": handle.connection_id(),
            "node": format!("{:016x}", self.layer.node()),
            "route": &*handle.route().label,
            "path": scope.path(),
            "user": user.map(|user| json!({"id": user.id, "name": user.name})),
            "client": scope.client.map(|client| client.to_string()),
            "groups": handle.group_names(GROUPS_SHOWN_MAX),
            "opened_at": Timestamp::ago(handle.age()),
        })
    }
}

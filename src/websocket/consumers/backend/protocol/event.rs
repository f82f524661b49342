//! Event: the events to the backend, one constructor for each type.

use data_encoding::BASE64;
use serde::Serialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::Disconnect;
use crate::channels::Event;
use crate::websocket::Message;

/// A client asks for a connection.
pub(in super::super) fn connect(seq: u64) -> Value {
    json!({"seq": seq, "type": "websocket.connect"})
}

/// The client sent a message.
pub(in super::super) fn receive(seq: u64, message: &Message) -> Value {
    match message {
        Message::Text(text) => {
            let text: &str = text.as_ref();
            json!({"seq": seq, "type": "websocket.receive", "text": text})
        }
        Message::Binary(bytes) => {
            json!({"seq": seq, "type": "websocket.receive", "bytes": BASE64.encode(bytes)})
        }
    }
}

/// A group that delivers to the backend has an event.
pub(in super::super) fn group(seq: u64, group: &str, event: &Event) -> impl Serialize {
    #[derive(Serialize)]
    struct GroupEvent<'a> {
        seq: u64,
        r#type: &'static str,
        group: &'a str,
        event: Box<RawValue>,
    }
    GroupEvent {
        seq,
        r#type: "group.event",
        group,
        event: event.raw_json(),
    }
}

/// The socket could not join groups because of a limit.
pub(in super::super) fn group_refused(
    seq: u64,
    groups: &[&str],
    limit: &'static str,
    max: usize,
) -> Value {
    json!({"seq": seq, "type": "group.refused", "groups": groups, "limit": limit, "max": max})
}

/// The connection has ended.
pub(in super::super) fn disconnect(disconnect: &Disconnect<'_>) -> Value {
    let Disconnect {
        seq,
        code,
        reason,
        cause,
    } = disconnect;
    json!({
        "seq": seq, "type": "websocket.disconnect", "code": code, "reason": reason, "cause": cause,
    })
}

/// This process has started: connections of the same name and another node have ended.
pub(super) fn node_started(node: &str, name: &str) -> Value {
    json!({"seq": 0, "type": "oneport.node_started", "node": node, "name": name})
}

//! Channel: the same conversation with workers that read a named channel of the layer (Channels' `runworker`).

use std::sync::Arc;

use data_encoding::BASE64;
use http::HeaderName;
use serde_json::{Map, Value, json};

use super::effect::Effect;
use super::effects::Effects;
use super::protocol;
use crate::channels::{ChannelName, Event, Mailbox};
use crate::services::Services;
use crate::websocket::Message;
use crate::websocket::close::{Cause, CloseCode, Ending};
use crate::websocket::link::Link;

/// One connection's side of a conversation with workers.
pub(super) struct Worker {
    channel: ChannelName,
    reply_channel: ChannelName,
    headers: Vec<HeaderName>,
    services: Services,
    link: Arc<Link>,
    effects: Effects,
}

impl Worker {
    /// Makes the channel for replies, and listens to it.
    pub(super) async fn start(
        channel: ChannelName,
        headers: Vec<HeaderName>,
        services: Services,
        link: Arc<Link>,
    ) -> Arc<Self> {
        let (reply_channel, mailbox) = services.layer.new_channel().await;
        let effects = Effects::new(services.clone(), link.clone());
        let worker = Arc::new(Self {
            channel,
            reply_channel,
            headers,
            services,
            link,
            effects,
        });
        let tasks = &worker.services.tasks;
        tasks.spawn("replies of workers", worker.clone().listen(mailbox));
        worker
    }

    /// Says that somebody is there.
    pub(super) async fn connected(&self) {
        let scope = protocol::scope(self.link.scope(), &self.headers);
        self.say("websocket.connect", [("scope", scope)]).await;
    }

    pub(super) async fn receive(&self, message: &Message) {
        let content = match message {
            Message::Text(text) => {
                let text: &str = text.as_ref();
                ("text", Value::from(text))
            }
            Message::Binary(bytes) => ("bytes", Value::from(BASE64.encode(bytes))),
        };
        self.say("websocket.receive", [content]).await;
    }

    pub(super) async fn group_event(&self, group: &str, event: &Event) {
        let fields = Value::Object(event.fields());
        self.say(
            "group.event",
            [("group", Value::from(group)), ("event", fields)],
        )
        .await;
    }

    pub(super) async fn end(&self, code: u16, reason: &str, cause: &str) {
        self.effects.end();
        let end = [
            ("code", Value::from(code)),
            ("reason", Value::from(reason)),
            ("cause", Value::from(cause)),
        ];
        self.say("websocket.disconnect", end).await;
    }

    /// Sends an event to the channel; when nobody has room for it the connection ends.
    async fn say<const N: usize>(&self, event_type: &str, more: [(&str, Value); N]) {
        let mut fields = Map::new();
        let reply_channel = self.reply_channel.as_str();
        let node = format!("{:016x}", self.services.layer.node());
        let connection = json!({"id": self.link.connection_id(), "node": node});
        fields.insert("type".to_owned(), Value::from(event_type));
        fields.insert("reply_channel".to_owned(), Value::from(reply_channel));
        fields.insert("connection".to_owned(), connection);
        for (name, value) in more {
            fields.insert(name.to_owned(), value);
        }
        let sent = match Event::from_fields(fields) {
            Ok(event) => self.services.layer.send(&self.channel, event).await,
            Err(_) => return,
        };
        if let Err(error) = sent {
            tracing::error!(channel = %self.channel, %error, "the workers were not told of {event_type}");
            let away = "the application is away";
            let ending = Ending::new(CloseCode::TRY_AGAIN_LATER, Cause::BackendAway, away);
            self.link.end(ending);
        }
    }

    /// Does what workers reply, until the socket has ended.
    async fn listen(self: Arc<Self>, mailbox: Arc<Mailbox>) {
        loop {
            let received = tokio::select! {
                received = mailbox.receive() => received,
                () = self.effects.ended() => return,
            };
            let effect = serde_json::from_value(Value::Object(received.event.fields()));
            let applied = match effect {
                Ok(Effect::Accept { .. }) => Ok(false), // it was
                Ok(effect) => self.effects.apply(effect).await,
                Err(error) => Err(format!("expected a known event as a reply, found {error}")),
            };
            if let Err(sentence) = applied {
                tracing::error!(channel = %self.channel, "a worker's reply cannot be used: {sentence}");
                let failed = "the application failed";
                let ending = Ending::new(CloseCode::INTERNAL_ERROR, Cause::BackendError, failed);
                self.link.end(ending);
            }
        }
    }
}

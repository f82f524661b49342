//! Channel: the same conversation with workers that read a named channel of the layer (Channels' `runworker`).

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use data_encoding::BASE64;
use http::HeaderName;
use metrics::gauge;
use serde_json::{Map, Value, json};

use super::action::Action;
use super::disconnects::{BACKOFF_MAX, lost};
use super::endpoint::back_off;
use super::executor::Executor;
use super::protocol;
use crate::channels::{ChannelName, Event, LayerError, Mailbox};
use crate::services::Services;
use crate::websocket::Message;
use crate::websocket::SocketHandle;
use crate::websocket::close::{Cause, Ending};

/// One connection's side of a conversation with workers.
pub(super) struct WorkerChannel {
    channel: ChannelName,
    reply_channel: ChannelName,
    headers: Vec<HeaderName>,
    services: Services,
    link: Arc<SocketHandle>,
    executor: Executor,
    pending_disconnects: Arc<PendingDisconnects>,
}

/// Disconnects that found no room in a route's channel, and are told again.
#[derive(Debug)]
pub(super) struct PendingDisconnects {
    pub(super) max: usize,
    pub(super) expiry: Duration,
    waiting: AtomicUsize,
}

impl PendingDisconnects {
    pub(super) fn new(max: usize, expiry: Duration) -> Self {
        Self {
            max,
            expiry,
            waiting: AtomicUsize::new(0),
        }
    }
}

impl WorkerChannel {
    /// Makes the channel for replies, and listens to it.
    pub(super) async fn start(
        channel: ChannelName,
        headers: Vec<HeaderName>,
        services: Services,
        link: Arc<SocketHandle>,
        pending_disconnects: Arc<PendingDisconnects>,
    ) -> Arc<Self> {
        let (reply_channel, mailbox) = services.layer.new_channel().await;
        let executor = Executor::new(services.clone(), link.clone());
        let worker = Arc::new(Self {
            channel,
            reply_channel,
            headers,
            services,
            link,
            executor,
            pending_disconnects,
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

    /// The socket has ended: workers are told at least once, as far as the channel takes it within `disconnect_expiry`.
    pub(super) async fn end(self: &Arc<Self>, code: u16, reason: &str, cause: &str) {
        self.executor.end();
        let end = [
            ("code", Value::from(code)),
            ("reason", Value::from(reason)),
            ("cause", Value::from(cause)),
        ];
        let Some(event) = self.event("websocket.disconnect", end) else {
            return;
        };
        let layer = &self.services.layer;
        match layer.send(&self.channel, event.clone()).await {
            Ok(()) => {}
            Err(LayerError::NoReader { .. }) => lost(1), // nobody can read a channel of that name
            Err(_)
                if self
                    .pending_disconnects
                    .waiting
                    .fetch_add(1, Ordering::Relaxed)
                    >= self.pending_disconnects.max =>
            {
                self.pending_disconnects
                    .waiting
                    .fetch_sub(1, Ordering::Relaxed);
                lost(1);
            }
            Err(_) => {
                let again = self.clone().tell_again(event);
                let tasks = &self.services.tasks;
                tasks.spawn("disconnect for workers", again);
            }
        }
    }

    async fn tell_again(self: Arc<Self>, event: Event) {
        let (layer, tasks) = (&self.services.layer, &self.services.tasks);
        gauge!("oneport_backend_disconnects_waiting").increment(1.0);
        let began = Instant::now();
        let mut attempt = 2;
        let mut is_told = false;
        while !is_told && began.elapsed() < self.pending_disconnects.expiry {
            let is_last = tasks.is_stopping();
            tokio::select! {
                () = back_off(attempt, BACKOFF_MAX) => {}
                () = tasks.stopping(), if !is_last => {}
            }
            attempt += 1;
            is_told = layer.send(&self.channel, event.clone()).await.is_ok();
            if is_last {
                break;
            }
        }
        gauge!("oneport_backend_disconnects_waiting").decrement(1.0);
        self.pending_disconnects
            .waiting
            .fetch_sub(1, Ordering::Relaxed);
        if !is_told {
            tracing::error!(channel = %self.channel, "the workers were not told of a disconnect in time");
            lost(1);
        }
    }

    /// Makes what workers are told.
    fn event<const N: usize>(&self, event_type: &str, more: [(&str, Value); N]) -> Option<Event> {
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
        Event::from_fields(fields).ok()
    }

    /// Sends an event to the channel; when nobody has room for it the connection ends.
    async fn say<const N: usize>(&self, event_type: &str, more: [(&str, Value); N]) {
        let Some(event) = self.event(event_type, more) else {
            return;
        };
        let sent = self.services.layer.send(&self.channel, event).await;
        if let Err(error) = sent {
            tracing::error!(channel = %self.channel, %error, "the workers were not told of {event_type}");
            self.link.end(Ending::of(Cause::BackendAway));
        }
    }

    /// Does what workers reply, until the socket has ended.
    async fn listen(self: Arc<Self>, mailbox: Arc<Mailbox>) {
        loop {
            let received = tokio::select! {
                received = mailbox.receive() => received,
                () = self.executor.ended() => return,
            };
            let action = serde_json::from_value(Value::Object(received.event.fields()));
            let applied = match action {
                Ok(Action::Accept { .. }) => Ok(false), // it was
                Ok(action) => self.executor.apply(action).await,
                Err(error) => Err(format!("expected a known event as a reply, found {error}")),
            };
            if let Err(sentence) = applied {
                tracing::error!(channel = %self.channel, "a worker's reply cannot be used: {sentence}");
                self.link.end(Ending::of(Cause::BackendError));
            }
        }
    }
}

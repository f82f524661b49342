//! WorkerChannel: the same conversation with workers that read a channel of the layer (Channels'
//! `runworker`).

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use data_encoding::BASE64;
use http::HeaderName;
use metrics::gauge;
use serde::Serializer;
use serde_json::json;
use serde_json::value::RawValue;

use super::disconnects::{BACKOFF_MAX, count_lost};
use super::endpoint::back_off;
use super::executor::{Applied, Executor};
use super::protocol;
use super::protocol::action::Action;
use crate::channels::{ChannelName, Event, LayerError, Mailbox};
use crate::services::Services;
use crate::websocket::Message;
use crate::websocket::SocketHandle;
use crate::websocket::close::{Cause, Ending};

/// The state that all connections of a route with a channel share.
pub(super) struct WorkerRoute {
    pub(super) channel: ChannelName,
    /// The header fields that are passed on to workers.
    pub(super) headers: Vec<HeaderName>,
    pub(super) services: Services,
    /// The most notifications that are retried at the same time.
    pub(super) retries_max: usize,
    /// How long a notification is retried.
    pub(super) expiry: Duration,
    pub(super) retries: AtomicUsize,
}

impl WorkerRoute {
    /// Notifies the workers of the channel that this process has started.
    pub(super) fn notify_node_started(self: &Arc<Self>) {
        let services = &self.services;
        let node = format!("{:016x}", services.layer.node());
        let fields = json!({"node": node, "name": services.name});
        if let Ok(event) = Event::new("oneport.node_started", &fields) {
            let route = self.clone();
            let notify = async move { route.notify(event).await };
            services.tasks.spawn("node_started for workers", notify);
        }
    }

    /// Puts a notification into the channel at least once. If the channel is full or Redis is
    /// unavailable, a task retries it.
    async fn notify(self: &Arc<Self>, event: Event) {
        let (layer, tasks) = (&self.services.layer, &self.services.tasks);
        match layer.send(&self.channel, event.clone()).await {
            Ok(()) => {}
            Err(LayerError::NoReader { .. }) => count_lost(1), // no process can read that channel
            Err(error) if self.retries.fetch_add(1, Ordering::Relaxed) >= self.retries_max => {
                self.retries.fetch_sub(1, Ordering::Relaxed);
                error.count_dropped();
                count_lost(1);
            }
            Err(error) => {
                let retry = self.clone().retry(event, error);
                tasks.spawn("notification for workers", retry);
            }
        }
    }

    /// Retries a notification that failed with `error` until the channel takes it; once more when
    /// the server stops.
    async fn retry(self: Arc<Self>, event: Event, error: LayerError) {
        let (layer, tasks) = (&self.services.layer, &self.services.tasks);
        gauge!("oneport_backend_disconnects_waiting").increment(1.0);
        let started_at = Instant::now();
        let mut attempt = 2;
        let mut sent = Err(error);
        while sent.is_err() && started_at.elapsed() < self.expiry {
            let is_last = tasks.is_stopping();
            tokio::select! {
                () = back_off(attempt, BACKOFF_MAX) => {}
                () = tasks.stopping(), if !is_last => {}
            }
            attempt += 1;
            sent = layer.send(&self.channel, event.clone()).await;
            if is_last {
                break;
            }
        }
        gauge!("oneport_backend_disconnects_waiting").decrement(1.0);
        self.retries.fetch_sub(1, Ordering::Relaxed);
        if let Err(error) = sent {
            error.count_dropped();
            let event_type = event.event_type();
            tracing::error!(channel = %self.channel, "{event_type} lost: not sent to the workers within disconnect_expiry");
            count_lost(1);
        }
    }
}

/// One connection's channel to workers, and its channel for their replies.
pub(super) struct WorkerChannel {
    route: Arc<WorkerRoute>,
    reply_channel: ChannelName,
    socket: Arc<SocketHandle>,
    executor: Executor,
}

impl WorkerChannel {
    /// Opens the reply channel, with a task that reads it.
    pub(super) async fn start(route: Arc<WorkerRoute>, socket: Arc<SocketHandle>) -> Arc<Self> {
        let (reply_channel, mailbox) = route.services.layer.new_channel().await;
        let executor = Executor::new(route.services.clone(), socket.clone());
        let worker = Arc::new(Self {
            route,
            reply_channel,
            socket,
            executor,
        });
        let tasks = &worker.route.services.tasks;
        tasks.spawn(
            "replies of workers",
            worker.clone().receive_replies(mailbox),
        );
        worker
    }

    /// Sends `websocket.connect`.
    pub(super) async fn connect(&self) {
        let scope = protocol::scope(self.socket.scope(), &self.route.headers);
        self.send("websocket.connect", [("scope", protocol::raw(&scope))])
            .await;
    }

    /// Sends a message from the client.
    pub(super) async fn receive(&self, message: &Message) {
        let content = match message {
            Message::Text(text) => {
                let text: &str = text.as_ref();
                ("text", protocol::raw(&text))
            }
            Message::Binary(bytes) => ("bytes", protocol::raw(&BASE64.encode(bytes))),
        };
        self.send("websocket.receive", [content]).await;
    }

    /// Sends a group's event.
    pub(super) async fn group_event(&self, group: &str, event: &Event) {
        let more = [
            ("group", protocol::raw(&group)),
            ("event", event.raw_json()),
        ];
        self.send("group.event", more).await;
    }

    /// Called when the socket has ended. Workers get `websocket.disconnect` at least once, if the
    /// channel has room for it within `disconnect_expiry`.
    pub(super) async fn end(self: &Arc<Self>, code: u16, reason: &str, cause: &str) {
        self.executor.close();
        let end = [
            ("code", protocol::raw(&code)),
            ("reason", protocol::raw(&reason)),
            ("cause", protocol::raw(&cause)),
        ];
        if let Some(event) = self.event("websocket.disconnect", end) {
            self.route.notify(event).await;
        }
    }

    /// Builds an event for workers.
    fn event<const N: usize>(
        &self,
        event_type: &str,
        more: [(&str, Box<RawValue>); N],
    ) -> Option<Event> {
        let reply_channel = self.reply_channel.as_str();
        let services = &self.route.services;
        let node = format!("{:016x}", services.layer.node());
        let id = self.socket.connection_id();
        let connection = json!({"id": id, "node": node, "name": services.name});
        let fields = [
            ("type", protocol::raw(&event_type)),
            ("reply_channel", protocol::raw(&reply_channel)),
            ("connection", protocol::raw(&connection)),
        ];
        let mut json = Vec::new();
        let fields = fields.into_iter().chain(more);
        serde_json::Serializer::new(&mut json)
            .collect_map(fields)
            .ok()?;
        Event::from_json(std::str::from_utf8(&json).ok()?).ok()
    }

    /// Sends an event to the channel. If the channel is full, the connection closes.
    async fn send<const N: usize>(&self, event_type: &str, more: [(&str, Box<RawValue>); N]) {
        let Some(event) = self.event(event_type, more) else {
            return;
        };
        let channel = &self.route.channel;
        if let Err(error) = self.route.services.layer.send(channel, event).await {
            error.count_dropped();
            tracing::error!(%channel, %error, "cannot send {event_type} to the workers");
            self.socket.end(Ending::of(Cause::BackendAway));
        }
    }

    /// Carries out one action. A group over a limit ends the connection: workers learn that from
    /// `websocket.disconnect`, but may have no handler for another event.
    async fn apply(&self, action: Action) -> Result<(), String> {
        if let Applied::Refused(reached) = self.executor.apply(action).await? {
            self.socket.end(Ending::of_group_limit(&reached));
        }
        Ok(())
    }

    /// Carries out the workers' replies until the socket has ended.
    async fn receive_replies(self: Arc<Self>, mailbox: Arc<Mailbox>) {
        loop {
            let received = tokio::select! {
                received = mailbox.receive() => received,
                () = self.executor.closed() => return,
            };
            let action = serde_json::from_str(&received.event.json());
            let applied = match action {
                Ok(Action::Accept { .. }) => Ok(()), // the socket is open already
                Ok(action) => self.apply(action).await,
                Err(error) => Err(error.to_string()),
            };
            if let Err(sentence) = applied {
                tracing::error!(channel = %self.route.channel, "invalid reply from a worker: {sentence}");
                self.socket.end(Ending::of(Cause::BackendError));
            }
        }
    }
}

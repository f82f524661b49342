//! Connection: the life with Redis: connecting, saying, hearing, and coming back after a loss.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures_util::{FutureExt, StreamExt};
use metrics::{counter, gauge};
use redis::aio::{MultiplexedConnection, PubSub, PubSubSink, PubSubStream};
use redis::{RedisError, RedisResult, Value};
use tokio::task::{JoinSet, unconstrained};
use tokio_util::sync::CancellationToken;

use super::Remote;
use super::commands::Commands;
use super::core;
use super::outbox::Order;
use super::place::{Map, Place};
use super::refusals::Asked;
use super::scripts;
use super::stream::{self, Ahead, Metered};
use crate::channels::ChannelLayer;
use crate::config::LayerFormat;
use crate::telemetry::LOG_INTERVAL;

/// How long to wait before connecting again: the first time, and at most.
const BACKOFF_MIN: Duration = Duration::from_millis(50);
const BACKOFF_MAX: Duration = Duration::from_secs(2);

/// How long one wait for the inbox takes.
const INBOX_SECONDS: u64 = 5;

/// What one connection's tasks need.
#[derive(Clone)]
pub(super) struct Live {
    pub(super) remote: Remote,
    pub(super) layer: ChannelLayer,
    pub(super) commands: Commands,
    /// Something has ended, so all shall end.
    pub(super) ending: CancellationToken,
}

/// How many messages are handled before others may use the worker.
const HEARD_AT_ONCE: u64 = 64;

/// One connection that is heard.
struct Sink {
    sink: PubSubSink,
    /// How many messages it brought, twice; odd while one is handled.
    heard: Arc<AtomicU64>,
}

/// What ended a connection.
pub(super) type Ended = (RedisError, Vec<Order>);

/// The time without Redis, and what the log was told of it.
#[derive(Default)]
struct Outage {
    since: Option<Instant>,
    is_told: bool,
    /// When the log was told of a loss.
    last_told: Option<Instant>,
}

impl Outage {
    /// A connection was lost, or could not be made; tells whether the log is to be told. One that Redis refused is told of once per
    /// interval: it is made, and refused, again and again.
    fn begins(&mut self, now: Instant, is_away: bool) -> bool {
        let is_new = self.since.replace(self.since.unwrap_or(now)).is_none();
        let is_due = || self.last_told.is_none_or(|last| now - last >= LOG_INTERVAL);
        let tells = !self.is_told && ((is_new && is_away) || is_due());
        if tells {
            self.is_told = true;
            self.last_told = Some(now);
        }
        tells
    }
}

impl Remote {
    /// Lives with Redis until the server has ended.
    pub(in crate::channels) async fn run(self, layer: ChannelLayer) {
        let tasks = layer.tasks().clone();
        let mut outage = Outage::default();
        let mut backoff = BACKOFF_MIN;
        gauge!("oneport_layer_connected").set(0.0);
        loop {
            let ended = tasks.ended();
            tokio::pin!(ended);
            let connected = tokio::select! {
                connected = self.connect(&layer) => connected,
                () = &mut ended => return,
            };
            let error = match connected {
                Ok((live, set, resubscribed)) => {
                    self.tell_back(&mut outage, resubscribed);
                    let until_ended = until_ended(set, live.ending.clone());
                    tokio::pin!(until_ended); // lives through the farewell, which needs those who say what waits
                    let (error, taken) = tokio::select! {
                        ended = &mut until_ended => ended,
                        () = &mut ended => return live.farewell().await,
                    };
                    self.lost(&layer, taken);
                    // A Redis that ends the connection by its answers will do so again.
                    if error.is_io_error() {
                        backoff = BACKOFF_MIN;
                    }
                    error
                }
                Err(error) => {
                    self.0.outbox.still_away();
                    error
                }
            };
            self.tell_lost(&mut outage, &error);
            let jittered = backoff.mul_f64(0.5 + fastrand::f64());
            backoff = (backoff * 2).min(BACKOFF_MAX);
            tokio::select! {
                () = tokio::time::sleep(jittered) => {}
                () = &mut ended => return,
            }
        }
    }

    /// Connects, says who is here, and starts what lives as long as the connection. Each answer has its time; how many there
    /// are depends on how much is here.
    async fn connect(&self, layer: &ChannelLayer) -> RedisResult<(Live, JoinSet<Ended>, usize)> {
        let (urls, timeout) = (&self.0.urls, self.0.timeout);
        let masters = self.0.masters.lock().clone();
        let core = (self.0.format == LayerFormat::Core).then_some(&*self.0.prefix);
        let place = Place::find(urls, core, &masters, timeout);
        let place = self.in_time(place).await?;
        if matches!(place.map, Map::Cluster(_)) {
            *self.0.masters.lock() = place.addresses();
        }
        let commands = Commands::connect(&place, timeout);
        let (commands, drivers) = self.in_time(commands).await?;
        let mut set = JoinSet::new();
        let ending = CancellationToken::new();
        for driver in drivers {
            set.spawn(unless(ending.clone(), ends(driver)));
        }
        let load = scripts::all().map(|script| {
            let mut load = redis::cmd("SCRIPT");
            load.arg("LOAD").arg(script.code);
            load
        });
        self.in_time(commands.run_everywhere(&load)).await?;
        let live = Live {
            remote: self.clone(),
            layer: layer.clone(),
            commands,
            ending: ending.clone(),
        };
        let mut resubscribed = self.0.subscriptions.forget();
        let mut sinks = Vec::new();
        for url in &place.servers {
            let (ahead, heard) = (Arc::<Ahead>::default(), Arc::<AtomicU64>::default());
            let stream = self.in_time(stream::open(url, timeout)).await?;
            let stream = Metered::new(stream, ahead.clone());
            let introduction = stream::introduction(url)?;
            let pubsub = self.in_time(PubSub::new(&introduction, stream)).await?;
            let (sink, stream) = pubsub.split();
            sinks.push(Sink {
                sink,
                heard: heard.clone(),
            });
            let hear = live.clone().hear(stream, ahead, heard);
            set.spawn(unless(ending.clone(), hear));
        }
        for own in [self.nodes_channel(), self.node_channel(self.0.node)] {
            let sink = &mut sinks[live.commands.heard_at(own.as_bytes())];
            let subscribed = self.in_time(sink.sink.subscribe(&own)).await;
            let asked = Asked::new("SUBSCRIBE", &own);
            subscribed.map_err(|error| self.named(error, &asked))?;
        }
        live.subscribe_all(&mut sinks).await?;
        if self.0.format == LayerFormat::Core {
            let server = live.commands.server_of(self.0.core.inbox().as_bytes());
            let inbox = stream::commands(&place.servers[server], timeout);
            let (inbox, driver) = self.in_time(inbox).await?;
            set.spawn(unless(ending.clone(), ends(driver)));
            set.spawn(unless(ending.clone(), live.clone().empty_inbox(inbox)));
            resubscribed = self.0.core.say_again();
            live.join_all().await?;
        }
        self.0.outbox.coming();
        live.register().await?;
        live.check_histories().await?;
        for (group, found) in layer.all_groups() {
            if found.with_past(|past| {
                past.fall_behind();
                past.is_shared()
            }) {
                self.read_history(&group);
            }
        }
        self.0.in_flux.store(false, Ordering::Relaxed);
        self.0.outbox.connected();
        gauge!("oneport_layer_connected").set(1.0);
        set.spawn(live.clone().say());
        set.spawn(unless(ending.clone(), live.clone().keep_subscribed(sinks)));
        set.spawn(unless(ending.clone(), live.clone().read_histories()));
        set.spawn(unless(ending.clone(), live.clone().beat()));
        set.spawn(unless(ending.clone(), live.clone().tidy()));
        if self.shares_history() {
            set.spawn(unless(ending.clone(), live.clone().keep_registry()));
        }
        if self.0.format == LayerFormat::Core {
            set.spawn(unless(ending.clone(), live.clone().keep_joined()));
        }
        self.0.changed.notify_waiters();
        Ok((live, set, resubscribed))
    }

    /// Waits for Redis no longer than the layer's timeout.
    async fn in_time<T>(&self, answer: impl Future<Output = RedisResult<T>>) -> RedisResult<T> {
        tokio::time::timeout(self.0.timeout, answer)
            .await
            .unwrap_or_else(|_| Err(stream::timed_out()))
    }

    /// Redis is gone: members here are served all the same.
    fn lost(&self, layer: &ChannelLayer, taken: Vec<Order>) {
        gauge!("oneport_layer_connected").set(0.0);
        self.0.outbox.disconnected(taken, layer);
        self.forget_echoes();
        self.0.behind.lock().clear();
        self.0.subscriptions.forget();
        self.0.changed.notify_waiters();
    }

    fn shown_urls(&self) -> String {
        let urls = self.0.urls.iter().map(ToString::to_string);
        urls.collect::<Vec<_>>().join(", ")
    }

    fn tell_lost(&self, outage: &mut Outage, error: &RedisError) {
        if outage.begins(Instant::now(), error.is_io_error()) {
            let redis = self.shown_urls();
            let cause = match error.detail() {
                Some(detail) if error.code() == Some("NOPERM") => detail.to_owned(),
                _ => error.to_string(),
            };
            tracing::error!(
                redis,
                "the channel layer lost Redis: {cause}; members of this process are served all the same"
            );
        } else {
            tracing::debug!(%error, "Redis is still away");
        }
    }

    fn tell_back(&self, outage: &mut Outage, resubscribed: usize) {
        let is_told = std::mem::take(&mut outage.is_told);
        let Some(since) = outage.since.take() else {
            tracing::info!(redis = self.shown_urls(), format = %self.0.format, "the channel layer has Redis");
            return;
        };
        let seconds = since.elapsed().as_secs_f64();
        let lost = self.0.outbox.take_lost();
        counter!("oneport_layer_reconnects_total").increment(1);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a few seconds"
        )]
        counter!("oneport_layer_outage_seconds_total").increment(seconds.ceil() as u64);
        if is_told {
            tracing::warn!(
                seconds,
                lost,
                resubscribed,
                "the channel layer has Redis again"
            );
        }
    }
}

/// A connection's own task came to its end.
async fn ends(driver: impl Future<Output = ()>) -> Ended {
    driver.await;
    (closed(), Vec::new())
}

pub(super) fn closed() -> RedisError {
    RedisError::from(std::io::Error::new(
        std::io::ErrorKind::ConnectionReset,
        "the connection ended",
    ))
}

/// Waits for the first task that ends, and ends the others. What was taken to be said comes back.
async fn until_ended(mut set: JoinSet<Ended>, ending: CancellationToken) -> Ended {
    let mut error = None;
    let mut orders = Vec::new();
    while let Some(ended) = set.join_next().await {
        let (found, taken) = ended.unwrap_or_else(|_| (closed(), Vec::new()));
        error.get_or_insert(found);
        orders.extend(taken);
        ending.cancel(); // each task hears it wherever it waits
    }
    (error.unwrap_or_else(closed), orders)
}

/// Lets a task run until it ends, or all shall.
async fn unless(ending: CancellationToken, task: impl Future<Output = Ended>) -> Ended {
    tokio::select! {
        ended = task => ended,
        () = ending.cancelled() => (closed(), Vec::new()),
    }
}

impl Live {
    /// Waits for an answer no longer than the layer's timeout.
    pub(super) async fn within<T>(
        &self,
        answer: impl Future<Output = RedisResult<T>>,
    ) -> RedisResult<T> {
        self.remote.in_time(answer).await
    }

    // --- Hearing --------------------------------------------------------------------------------------------------------

    async fn hear(
        self,
        mut stream: PubSubStream,
        ahead: Arc<Ahead>,
        heard: Arc<AtomicU64>,
    ) -> Ended {
        loop {
            // Beside the runtime's budget: nothing there has to mean that there is nothing.
            let next = match unconstrained(stream.next()).now_or_never() {
                Some(next) => next,
                None => {
                    ahead.await_more();
                    stream.next().await
                }
            };
            let Some(message) = next else {
                return (closed(), Vec::new());
            };
            let (channel, payload) = (message.get_channel_name(), message.get_payload_bytes());
            heard.fetch_add(1, Ordering::Relaxed);
            self.remote.hear(&self.layer, channel, payload).await;
            let count = heard.fetch_add(1, Ordering::Relaxed) / 2;
            ahead.handled(channel.len() + payload.len());
            if count.is_multiple_of(HEARD_AT_ONCE) {
                tokio::task::yield_now().await;
            }
        }
    }

    async fn empty_inbox(self, mut connection: MultiplexedConnection) -> Ended {
        let inbox = self.remote.0.core.inbox();
        let longest = self.remote.0.timeout + Duration::from_secs(INBOX_SECONDS);
        loop {
            let take = core::take(&mut connection, &inbox, INBOX_SECONDS);
            let messages = match tokio::time::timeout(longest, take).await {
                Ok(Ok(messages)) => messages,
                Ok(Err(error)) => {
                    let asked = Asked::new("BZPOPMIN", &inbox);
                    return (self.remote.named(error, &asked), Vec::new());
                }
                Err(_) => return (stream::timed_out(), Vec::new()),
            };
            for message in messages {
                self.remote.hear_inbox(&self.layer, &message).await;
            }
        }
    }

    /// Waits for an answer that comes behind all that is heard before it: as long as there is something, Redis is not away.
    async fn behind_others<T>(
        &self,
        heard: &AtomicU64,
        answer: impl Future<Output = RedisResult<T>>,
    ) -> RedisResult<T> {
        tokio::pin!(answer);
        loop {
            let before = heard.load(Ordering::Relaxed);
            match tokio::time::timeout(self.remote.0.timeout, &mut answer).await {
                Ok(answer) => return answer,
                // What is handled has a deadline of its own.
                Err(_) if before % 2 == 1 || heard.load(Ordering::Relaxed) != before => {}
                Err(_) => return Err(stream::timed_out()),
            }
        }
    }

    async fn keep_subscribed(self, mut sinks: Vec<Sink>) -> Ended {
        let pause = self.remote.0.lease / 3;
        loop {
            let changed = self.remote.0.subscriptions.changed();
            let said = match tokio::time::timeout(pause, changed).await {
                Ok(()) => self.subscribe_all(&mut sinks).await,
                Err(_) => self.ping_all(&mut sinks).await,
            };
            if let Err(error) = said {
                return (error, Vec::new());
            }
        }
    }

    /// Sees whether the connections are alive.
    async fn ping_all(&self, sinks: &mut [Sink]) -> RedisResult<()> {
        for Sink { sink, heard } in sinks {
            self.behind_others(heard, sink.ping::<Value>()).await?;
        }
        Ok(())
    }

    async fn subscribe_all(&self, sinks: &mut [Sink]) -> RedisResult<()> {
        let inner = &self.remote.0;
        loop {
            let changes = inner.subscriptions.changes();
            if changes.subscribe.is_empty() && changes.unsubscribe.is_empty() {
                return Ok(());
            }
            for (server, Sink { sink, heard }) in sinks.iter_mut().enumerate() {
                let own = |channels: &[String]| -> Vec<String> {
                    let is_own =
                        |channel: &&String| self.commands.heard_at(channel.as_bytes()) == server;
                    channels.iter().filter(is_own).cloned().collect()
                };
                let (subscribe, unsubscribe) = (own(&changes.subscribe), own(&changes.unsubscribe));
                if !subscribe.is_empty() {
                    let subscribed = self.behind_others(heard, sink.subscribe(&subscribe)).await;
                    let asked = Asked::new("SUBSCRIBE", &subscribe[0]);
                    subscribed.map_err(|error| self.remote.named(error, &asked))?;
                }
                if !unsubscribe.is_empty() {
                    self.behind_others(heard, sink.unsubscribe(&unsubscribe))
                        .await?;
                }
            }
            inner.subscriptions.confirmed(&changes);
            for channel in &changes.subscribe {
                match self.remote.group_of(channel) {
                    Some(group) => self.tell_changed(group),
                    None => inner.changed.notify_waiters(),
                }
            }
        }
    }

    fn tell_changed(&self, group: &str) {
        if let Some(found) = self.layer.find(group) {
            found.tell_changed();
        }
    }

    async fn keep_joined(self) -> Ended {
        let inner = &self.remote.0;
        let again = (inner.group_expiry / 3).min(Duration::from_secs(3600));
        let mut next = tokio::time::Instant::now() + again;
        loop {
            if tokio::time::timeout_at(next, inner.core.changed())
                .await
                .is_err()
            {
                inner.core.say_again();
                next = tokio::time::Instant::now() + again;
            }
            if let Err(error) = self.join_all().await {
                return (error, Vec::new());
            }
        }
    }

    async fn join_all(&self) -> RedisResult<()> {
        let inner = &self.remote.0;
        loop {
            let changes = inner.core.changes();
            if changes.join.is_empty() && changes.leave.is_empty() {
                return Ok(());
            }
            let joined = self.remote.joined_key(inner.node);
            let expiry = inner.group_expiry.as_secs();
            self.query(inner.core.commands(&changes, expiry, &joined))
                .await?;
            inner.core.confirmed(&changes);
            for (group, _) in &changes.join {
                self.tell_changed(group.as_str());
            }
        }
    }
}

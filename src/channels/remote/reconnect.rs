//! Reconnect: connects to Redis, starts the connection's tasks, and reconnects after a loss.
//!
//! The link of a process with Redis:
//!
//! ```text
//!                  subscribe                 register, verify              lasts 2 s
//!   Disconnected ─────────────▶ Resyncing ────────────────────▶ Connected ──────────▶ (settled)
//!     ▲  │  ▲                       │                              │                     │
//!     └──┘  │  a step fails         │           a task ends        │                     │
//!    pause  └───────────────────────┴──────────────────────────────┘                     │
//!           └──────────── a task ends; the next pause is the shortest again ─────────────┘
//! ```
//!
//! | | Disconnected | Resyncing | Connected |
//! |---|---|---|---|
//! | an event of a history | waits, members here get it at once | waits, members here get it at once | is sent |
//! | any other event | reaches members here only | reaches members here only | is sent |
//! | a change of the members | is part of the next registration | is queued behind the registration | is sent |
//! | any other command | is refused | is refused | is sent |
//!
//! The pause doubles with each attempt, from `BACKOFF_MIN` to `BACKOFF_MAX`. Only a link that has
//! settled resets it: a Redis that lets the process connect and then refuses a command, or dies of
//! one, is not stormed.
//!
//! A process that connects first subscribes to its groups, then registers its members, then
//! compares its histories with those in Redis, and only then sends the queued commands. The order
//! matters: an event sent before its group is subscribed to would not reach the members of this
//! process. An event sent before the histories are compared might get an offset that members have
//! seen on another event.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use metrics::gauge;
use redis::aio::PubSub;
use redis::{RedisError, RedisResult};
use tokio_util::sync::CancellationToken;

use super::Remote;
use super::command_connections::CommandConnections;
use super::connection::{Connection, ConnectionEnd, closed};
use super::outage::Outage;
use super::presence_sync::WriteOrder;
use super::pubsub::PubSubConnection;
use super::queued_command::QueuedCommand;
use super::redis_stream::{self, MeteredStream, ReadAhead};
use super::refusals::CommandLabel;
use super::scripts;
use super::topology::{KeyMap, Topology};
use crate::config::LayerFormat;
use crate::tasks::TaskSet;
use crate::telemetry::trace;

/// The pause before connecting again: the first one, and the longest.
const BACKOFF_MIN: Duration = Duration::from_millis(50);
const BACKOFF_MAX: Duration = Duration::from_secs(2);

/// The pauses between attempts to connect.
struct Backoff {
    next: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { next: BACKOFF_MIN }
    }
}

impl Backoff {
    fn next(&mut self) -> Duration {
        let pause = self.next;
        self.next = (2 * pause).min(BACKOFF_MAX);
        pause
    }

    /// Called when a link has settled.
    fn reset(&mut self) {
        *self = Self::default();
    }
}

impl Remote {
    /// Keeps a connection until the server has stopped.
    pub(in crate::channels) async fn run(self) {
        let tasks = self.0.local.tasks().clone();
        let mut outage = Outage::default();
        let mut backoff = Backoff::default();
        gauge!("oneport_layer_connected").set(0.0);
        loop {
            let ended = tasks.ended();
            tokio::pin!(ended);
            let connected = tokio::select! {
                connected = self.connect() => connected,
                () = &mut ended => return,
            };
            let error = match connected {
                Ok((connection, set, resubscribed)) => {
                    self.log_connected(&mut outage, resubscribed);
                    let until_ended = until_ended(set, connection.ending.clone());
                    tokio::pin!(until_ended); // deregistering needs the pipeline writer
                    let settled = tokio::time::sleep(BACKOFF_MAX);
                    tokio::pin!(settled);
                    let mut is_settled = false;
                    let (error, in_flight) = loop {
                        tokio::select! {
                            ended = &mut until_ended => break ended,
                            () = &mut ended => return connection.deregister().await,
                            () = &mut settled, if !is_settled => {
                                is_settled = true;
                                backoff.reset();
                                self.log_settled(&mut outage, resubscribed);
                                self.announce_sequences();
                            }
                        }
                    };
                    self.on_disconnect(in_flight);
                    error
                }
                Err(error) => {
                    self.0.outbox.connect_failed();
                    self.tell_own_presence();
                    error
                }
            };
            self.log_disconnected(&mut outage, &error);
            let pause = backoff.next().mul_f64(0.5 + fastrand::f64());
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = &mut ended => return,
            }
        }
    }

    /// Connects, registers the process's members and subscriptions, and starts the connection's
    /// tasks. Each reply has the layer's timeout; the number of replies depends on the number of
    /// groups.
    async fn connect(&self) -> RedisResult<(Connection, TaskSet<ConnectionEnd>, usize)> {
        let (urls, timeout) = (&self.0.urls, self.0.timeout);
        let masters = self.0.masters.lock().clone();
        let core = (self.0.format == LayerFormat::Core).then_some(self.0.names.prefix());
        let topology = Topology::find(urls, core, &masters, timeout);
        let topology = self.with_timeout(topology).await?;
        if matches!(topology.map, KeyMap::Cluster(_)) {
            *self.0.masters.lock() = topology.addresses();
        }
        let commands = CommandConnections::connect(&topology, timeout);
        let (commands, drivers) = self.with_timeout(commands).await?;
        let mut set = self.0.local.tasks().set();
        let ending = CancellationToken::new();
        for driver in drivers {
            set.spawn(until_cancelled(ending.clone(), drive(driver)));
        }
        let load = scripts::all().map(|script| {
            let mut load = redis::cmd("SCRIPT");
            load.arg("LOAD").arg(script.code);
            load
        });
        self.with_timeout(commands.run_everywhere(&load)).await?;
        let connection = Connection {
            remote: self.clone(),
            commands,
            ending: ending.clone(),
        };
        let mut resubscribed = self.0.subscriptions.reset();
        let mut connections = Vec::new();
        for url in &topology.servers {
            let (ahead, activity) = (Arc::<ReadAhead>::default(), Arc::<AtomicU64>::default());
            let stream = self.with_timeout(redis_stream::open(url, timeout)).await?;
            let stream = MeteredStream::new(stream, ahead.clone());
            let redis_settings = redis_stream::redis_settings(url)?;
            let pubsub = self
                .with_timeout(PubSub::new(&redis_settings, stream))
                .await?;
            let (sink, stream) = pubsub.split();
            connections.push(PubSubConnection {
                sink,
                activity: activity.clone(),
            });
            let reader = connection.clone().read_pubsub(stream, ahead, activity);
            set.spawn(until_cancelled(ending.clone(), reader));
        }
        let is_traced = trace::is_on() && self.0.format == LayerFormat::Oneport;
        let own = [
            Some(self.0.names.nodes_channel()),
            Some(self.0.names.node_channel(self.0.node)),
            is_traced.then(|| self.0.names.spans_channel()),
        ];
        for own in own.into_iter().flatten() {
            let sink = &mut connections[connection.commands.subscription_server(own.as_bytes())];
            let subscribed = self.with_timeout(sink.sink.subscribe(&own)).await;
            let asked = CommandLabel::new("SUBSCRIBE", &own);
            subscribed.map_err(|error| self.named(error, &asked))?;
        }
        connection.apply_subscriptions(&mut connections).await?;
        if self.0.format == LayerFormat::Core {
            let server = connection
                .commands
                .server_of(self.0.core.inbox().as_bytes());
            let inbox = redis_stream::commands(&topology.servers[server], timeout);
            let (inbox, driver) = self.with_timeout(inbox).await?;
            set.spawn(until_cancelled(ending.clone(), drive(driver)));
            set.spawn(until_cancelled(
                ending.clone(),
                connection.clone().drain_inbox(inbox),
            ));
            resubscribed = self.0.core.reset();
            connection.apply_core_groups().await?;
        }
        self.0.outbox.resyncing();
        let has_registered = connection.register(WriteOrder::BeforeOutbox).await?;
        connection.verify_histories().await?;
        for (group, found) in self.0.local.all() {
            if found.with_history(|history| {
                history.mark_behind();
                history.is_shared() || history.is_kept_elsewhere()
            }) {
                self.0.read_queue.add(&group);
            }
        }
        self.0.is_resharding.store(false, Ordering::Relaxed);
        self.0.outbox.connected();
        if has_registered {
            self.publish_registered();
        }
        self.read_unread_presence();
        gauge!("oneport_layer_connected").set(1.0);
        set.spawn(connection.clone().write_pipelines());
        let subscriber = connection.clone().sync_subscriptions(connections);
        set.spawn(until_cancelled(ending.clone(), subscriber));
        let reader = connection.clone().read_histories();
        set.spawn(until_cancelled(ending.clone(), reader));
        let lease = connection.clone().renew_lease();
        set.spawn(until_cancelled(ending.clone(), lease));
        let presence = connection.clone().sync_presence();
        set.spawn(until_cancelled(ending.clone(), presence));
        let reaper = connection.clone().run_reaper();
        set.spawn(until_cancelled(ending.clone(), reaper));
        if self.shares_history() {
            let registry = connection.clone().sync_registry();
            set.spawn(until_cancelled(ending.clone(), registry));
        }
        if self.0.format == LayerFormat::Core {
            let groups = connection.clone().sync_core_groups();
            set.spawn(until_cancelled(ending.clone(), groups));
        }
        self.0.changed.notify_waiters();
        Ok((connection, set, resubscribed))
    }

    /// Waits for a reply, at most for the layer's timeout.
    pub(super) async fn with_timeout<T>(
        &self,
        reply: impl Future<Output = RedisResult<T>>,
    ) -> RedisResult<T> {
        redis_stream::reply_within(self.0.timeout, reply)
            .await
            .unwrap_or_else(|| Err(redis_stream::timed_out()))
    }

    /// Called when the connection is lost: the members of this process are served without Redis.
    /// `in_flight` are the commands without a reply.
    fn on_disconnect(&self, in_flight: Vec<QueuedCommand>) {
        gauge!("oneport_layer_connected").set(0.0);
        self.0.outbox.disconnected(in_flight);
        self.0.echoes.clear();
        self.0.read_queue.clear();
        self.0.presence_queue.clear();
        self.tell_own_presence();
        self.0.subscriptions.reset();
        self.0.changed.notify_waiters();
    }
}

/// Drives a connection until it is closed.
async fn drive(driver: impl Future<Output = ()>) -> ConnectionEnd {
    driver.await;
    (closed(), Vec::new())
}

/// Waits for the first task to end, and ends the others. Returns its error, and all commands
/// without a reply. A refusal takes precedence: the tasks that lose their stream with it may be
/// seen to end before it.
async fn until_ended(mut set: TaskSet<ConnectionEnd>, ending: CancellationToken) -> ConnectionEnd {
    let mut error = None;
    let mut commands = Vec::new();
    while let Some(ended) = set.join_next().await {
        let (found, in_flight) = ended.unwrap_or_else(|_| (closed(), Vec::new()));
        if error
            .as_ref()
            .is_none_or(|known: &RedisError| known.is_io_error() && !found.is_io_error())
        {
            error = Some(found);
        }
        commands.extend(in_flight);
        ending.cancel();
    }
    (error.unwrap_or_else(closed), commands)
}

/// Runs a task until it ends or `ending` is cancelled. The pipeline writer watches `ending` itself,
/// because it returns the commands in flight.
async fn until_cancelled(
    ending: CancellationToken,
    task: impl Future<Output = ConnectionEnd>,
) -> ConnectionEnd {
    tokio::select! {
        ended = task => ended,
        () = ending.cancelled() => (closed(), Vec::new()),
    }
}

//! Reconnect: connects to Redis, starts the tasks of the connection, and connects again after a loss.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use metrics::gauge;
use redis::RedisResult;
use redis::aio::PubSub;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::Remote;
use super::command_connections::CommandConnections;
use super::connection::{Connection, ConnectionEnd, closed};
use super::outage::Outage;
use super::outbox::QueuedCommand;
use super::pubsub::PubSubConnection;
use super::redis_stream::{self, MeteredStream, ReadAhead};
use super::refusals::CommandLabel;
use super::scripts;
use super::topology::{KeyMap, Topology};
use crate::channels::ChannelLayer;
use crate::config::LayerFormat;

/// How long to wait before connecting again: the first time, and at most.
const BACKOFF_MIN: Duration = Duration::from_millis(50);
const BACKOFF_MAX: Duration = Duration::from_secs(2);

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
                Ok((connection, set, resubscribed)) => {
                    self.log_connected(&mut outage, resubscribed);
                    let until_ended = until_ended(set, connection.ending.clone());
                    tokio::pin!(until_ended); // lives through the deregister, which needs those who say what waits
                    let (error, taken) = tokio::select! {
                        ended = &mut until_ended => ended,
                        () = &mut ended => return connection.deregister().await,
                    };
                    self.on_disconnect(&layer, taken);
                    // A Redis that ends the connection by its answers will do so again.
                    if error.is_io_error() {
                        backoff = BACKOFF_MIN;
                    }
                    error
                }
                Err(error) => {
                    self.0.outbox.connect_failed();
                    error
                }
            };
            self.log_disconnected(&mut outage, &error);
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
    async fn connect(
        &self,
        layer: &ChannelLayer,
    ) -> RedisResult<(Connection, JoinSet<ConnectionEnd>, usize)> {
        let (urls, timeout) = (&self.0.urls, self.0.timeout);
        let masters = self.0.masters.lock().clone();
        let core = (self.0.format == LayerFormat::Core).then_some(&*self.0.prefix);
        let topology = Topology::find(urls, core, &masters, timeout);
        let topology = self.with_timeout(topology).await?;
        if matches!(topology.map, KeyMap::Cluster(_)) {
            *self.0.masters.lock() = topology.addresses();
        }
        let commands = CommandConnections::connect(&topology, timeout);
        let (commands, drivers) = self.with_timeout(commands).await?;
        let mut set = JoinSet::new();
        let ending = CancellationToken::new();
        for driver in drivers {
            set.spawn(until_cancelled(ending.clone(), ends(driver)));
        }
        let load = scripts::all().map(|script| {
            let mut load = redis::cmd("SCRIPT");
            load.arg("LOAD").arg(script.code);
            load
        });
        self.with_timeout(commands.run_everywhere(&load)).await?;
        let connection = Connection {
            remote: self.clone(),
            layer: layer.clone(),
            commands,
            ending: ending.clone(),
        };
        let mut resubscribed = self.0.subscriptions.forget();
        let mut sinks = Vec::new();
        for url in &topology.servers {
            let (ahead, activity) = (Arc::<ReadAhead>::default(), Arc::<AtomicU64>::default());
            let stream = self.with_timeout(redis_stream::open(url, timeout)).await?;
            let stream = MeteredStream::new(stream, ahead.clone());
            let redis_settings = redis_stream::redis_settings(url)?;
            let pubsub = self
                .with_timeout(PubSub::new(&redis_settings, stream))
                .await?;
            let (sink, stream) = pubsub.split();
            sinks.push(PubSubConnection {
                sink,
                activity: activity.clone(),
            });
            let reader = connection.clone().read_pubsub(stream, ahead, activity);
            set.spawn(until_cancelled(ending.clone(), reader));
        }
        for own in [self.nodes_channel(), self.node_channel(self.0.node)] {
            let sink = &mut sinks[connection.commands.subscription_server(own.as_bytes())];
            let subscribed = self.with_timeout(sink.sink.subscribe(&own)).await;
            let asked = CommandLabel::new("SUBSCRIBE", &own);
            subscribed.map_err(|error| self.named(error, &asked))?;
        }
        connection.apply_subscriptions(&mut sinks).await?;
        if self.0.format == LayerFormat::Core {
            let server = connection
                .commands
                .server_of(self.0.core.inbox().as_bytes());
            let inbox = redis_stream::commands(&topology.servers[server], timeout);
            let (inbox, driver) = self.with_timeout(inbox).await?;
            set.spawn(until_cancelled(ending.clone(), ends(driver)));
            set.spawn(until_cancelled(
                ending.clone(),
                connection.clone().drain_inbox(inbox),
            ));
            resubscribed = self.0.core.reapply_all();
            connection.apply_core_groups().await?;
        }
        self.0.outbox.resyncing();
        connection.register().await?;
        connection.verify_histories().await?;
        for (group, found) in layer.all_groups() {
            if found.with_history(|history| {
                history.mark_behind();
                history.is_shared()
            }) {
                self.read_history(&group);
            }
        }
        self.0.is_resharding.store(false, Ordering::Relaxed);
        self.0.outbox.connected();
        gauge!("oneport_layer_connected").set(1.0);
        set.spawn(connection.clone().write_pipelines());
        set.spawn(until_cancelled(
            ending.clone(),
            connection.clone().sync_subscriptions(sinks),
        ));
        set.spawn(until_cancelled(
            ending.clone(),
            connection.clone().read_histories(),
        ));
        set.spawn(until_cancelled(
            ending.clone(),
            connection.clone().renew_lease(),
        ));
        set.spawn(until_cancelled(
            ending.clone(),
            connection.clone().run_reaper(),
        ));
        if self.shares_history() {
            set.spawn(until_cancelled(
                ending.clone(),
                connection.clone().sync_registry(),
            ));
        }
        if self.0.format == LayerFormat::Core {
            set.spawn(until_cancelled(
                ending.clone(),
                connection.clone().sync_core_groups(),
            ));
        }
        self.0.changed.notify_waiters();
        Ok((connection, set, resubscribed))
    }

    /// Waits for Redis no longer than the layer's timeout.
    pub(super) async fn with_timeout<T>(
        &self,
        answer: impl Future<Output = RedisResult<T>>,
    ) -> RedisResult<T> {
        tokio::time::timeout(self.0.timeout, answer)
            .await
            .unwrap_or_else(|_| Err(redis_stream::timed_out()))
    }

    /// Redis is gone: members here are served all the same.
    fn on_disconnect(&self, layer: &ChannelLayer, taken: Vec<QueuedCommand>) {
        gauge!("oneport_layer_connected").set(0.0);
        self.0.outbox.disconnected(taken, layer);
        self.forget_echoes();
        self.0.read_queue.lock().clear();
        self.0.subscriptions.forget();
        self.0.changed.notify_waiters();
    }
}

/// A connection's own task came to its end.
async fn ends(driver: impl Future<Output = ()>) -> ConnectionEnd {
    driver.await;
    (closed(), Vec::new())
}

/// Waits for the first task that ends, and ends the others. What was taken to be said comes back.
async fn until_ended(mut set: JoinSet<ConnectionEnd>, ending: CancellationToken) -> ConnectionEnd {
    let mut error = None;
    let mut commands = Vec::new();
    while let Some(ended) = set.join_next().await {
        let (found, taken) = ended.unwrap_or_else(|_| (closed(), Vec::new()));
        error.get_or_insert(found);
        commands.extend(taken);
        ending.cancel(); // each task hears it wherever it waits
    }
    (error.unwrap_or_else(closed), commands)
}

/// Lets a task run until it ends, or all shall.
async fn until_cancelled(
    ending: CancellationToken,
    task: impl Future<Output = ConnectionEnd>,
) -> ConnectionEnd {
    tokio::select! {
        ended = task => ended,
        () = ending.cancelled() => (closed(), Vec::new()),
    }
}

//! Remote: the groups of other processes, through Redis.
//!
//! A process has one connection for commands, all of them pipelined, and one for subscriptions; in
//! a cluster, one of each to every master. It subscribes to a group while it has members in it. It
//! serves those members itself: an event from another process is framed once for all of them.
//!
//! Events and commands wait in `outbox.rs` until `pipeline_writer.rs` writes them. Messages arrive
//! in `pubsub.rs` and are handled in `receive.rs`. `reconnect.rs` starts both, and starts them
//! again after each loss.

mod channel_send;
pub(crate) mod channels_redis_codec;
mod channels_redis_core;
mod cluster;
mod command_connections;
mod connection;
mod core_sync;
mod delivery_probe;
mod echoes;
mod event_spans;
pub(crate) mod fernet;
mod group_send;
mod group_sequences;
mod group_subscriptions;
mod hash_ring;
mod history_registry;
mod history_sync;
mod lease;
mod names;
mod node_calls;
mod outage;
mod outbox;
mod pending_calls;
mod pipeline_writer;
mod presence;
mod presence_index;
mod presence_sync;
mod pubsub;
mod queued_command;
mod read_queue;
mod receive;
mod reconnect;
mod redis_stream;
mod refusal_log;
mod refusals;
mod registry_buffer;
mod scripts;
mod subscriptions;
mod topology;
pub(crate) mod wire;

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use parking_lot::Mutex;
use redis::Value;
use tokio::sync::{Notify, oneshot};

use self::channels_redis_codec::{CLOCK_DIFFERENCE, ChannelsRedisCodec};
use self::channels_redis_core::ChannelsRedisCore;
use self::echoes::Echoes;
use self::event_spans::EventSpans;
use self::fernet::Fernet;
use self::group_subscriptions::{GroupSubscriptions, shares_history};
use self::names::RedisNames;
use self::outbox::Outbox;
use self::pending_calls::PendingCalls;
use self::presence_index::PresenceIndex;
use self::queued_command::{COMMAND_BYTES, CommandKind, QueuedCommand};
use self::read_queue::ReadQueue;
use self::refusal_log::RefusalLog;
use self::registry_buffer::RegistryBuffer;
use self::subscriptions::Subscriptions;
use super::group::Group;
use super::local_groups::LocalGroups;
use super::{GroupName, LayerSettings, RpcHandler};
use crate::config::{Backend, ChannelLayerConfig, LayerFormat, RedisUrl};
use crate::telemetry::LogThrottle;

/// How long a member waits until its group is subscribed to and the history has been read.
const READY_TIMEOUT: Duration = Duration::from_secs(2);

/// The link to the other processes (cheap to clone).
#[derive(Clone)]
pub struct Remote(Arc<RemoteInner>);

struct RemoteInner {
    /// The groups of this process.
    local: Arc<LocalGroups>,
    urls: Vec<RedisUrl>,
    format: LayerFormat,
    names: Arc<RedisNames>,
    node: u64,
    group_expiry: Duration,
    timeout: Duration,
    lease: Duration,
    history_size: AtomicUsize,
    group_history_size: AtomicUsize,
    codec: ChannelsRedisCodec,
    core: Arc<ChannelsRedisCore>,
    outbox: Outbox,
    subscriptions: Arc<Subscriptions>,
    echoes: Arc<Echoes>,
    event_spans: EventSpans,
    /// Notified when the connection is made or lost, and when a channel that is not a group's is
    /// subscribed to.
    changed: Notify,
    /// Groups whose shared history must be read.
    read_queue: ReadQueue,
    /// Sizes of histories that the registry in Redis does not have yet.
    registry: RegistryBuffer,
    presence: PresenceIndex,
    /// Groups whose members must be compared with those in Redis.
    presence_queue: ReadQueue,
    pending_calls: Arc<PendingCalls>,
    rpc_handler: OnceLock<Arc<dyn RpcHandler>>,
    /// Processes whose lease has expired, and whose members this process must remove.
    dead_nodes: Mutex<Vec<u64>>,
    /// Notified after each renewal of the lease.
    reaper_wakeup: Notify,
    /// True while the cluster moves slots: Redis' count of subscribers may be too low.
    is_resharding: AtomicBool,
    refusals: RefusalLog,
    memberships_lost: LogThrottle,
    /// Log messages that are no events. One of the two must not hide the other.
    malformed: LogThrottle,
    undecryptable: LogThrottle,
    /// The masters of the cluster when it was last asked.
    masters: Mutex<Vec<(String, u16)>>,
}

impl Remote {
    /// Returns the size of the commands that Redis has not answered yet.
    pub(crate) fn queued_bytes(&self) -> usize {
        self.0.outbox.bytes()
    }
}

impl std::fmt::Debug for Remote {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Remote")
            .field("urls", &self.0.urls)
            .field("format", &self.0.format)
            .finish_non_exhaustive()
    }
}

impl Remote {
    /// Creates the link that a configuration asks for, and registers it as the observer of the
    /// local groups. Returns `None` without a Redis. No connection is opened before
    /// [`run`](Remote::run).
    pub(super) fn new(config: &ChannelLayerConfig, local: Arc<LocalGroups>) -> Option<Self> {
        let Backend::Redis(urls) = &config.backend else {
            return None;
        };
        let node = local.node();
        let database = urls.first().map_or(0, |url| url.database);
        let names = Arc::new(RedisNames::new(config, database, node));
        let keys = config.symmetric_encryption_keys.iter();
        let keys = keys.map(|key| Fernet::new(&key.0)).collect();
        // As in channels_redis: the core layer rejects old messages, the pubsub layer does not
        // check their age.
        let max_age =
            (config.format == LayerFormat::Core).then(|| config.expiry + CLOCK_DIFFERENCE);
        let core = Arc::new(ChannelsRedisCore::new(config, urls.len()));
        let subscriptions = Arc::<Subscriptions>::default();
        let echoes = Arc::<Echoes>::default();
        local.set_observer(Arc::new(GroupSubscriptions {
            format: config.format,
            names: names.clone(),
            subscriptions: subscriptions.clone(),
            core: core.clone(),
            echoes: echoes.clone(),
        }));
        Some(Self(Arc::new(RemoteInner {
            outbox: Outbox::new(config.queue.as_usize(), local.clone()),
            local,
            urls: urls.clone(),
            format: config.format,
            names,
            node,
            group_expiry: config.group_expiry,
            timeout: config.timeout,
            lease: config.lease,
            history_size: config.history_size.as_usize().into(),
            group_history_size: config.group_history_size.as_usize().into(),
            codec: ChannelsRedisCodec::new(config.serializer, keys, max_age),
            core,
            subscriptions,
            echoes,
            event_spans: EventSpans::default(),
            changed: Notify::new(),
            read_queue: ReadQueue::default(),
            registry: RegistryBuffer::default(),
            presence: PresenceIndex::default(),
            presence_queue: ReadQueue::default(),
            pending_calls: Arc::default(),
            rpc_handler: OnceLock::new(),
            dead_nodes: Mutex::default(),
            reaper_wakeup: Notify::new(),
            is_resharding: AtomicBool::new(false),
            refusals: RefusalLog::default(),
            memberships_lost: LogThrottle::new(),
            malformed: LogThrottle::new(),
            undecryptable: LogThrottle::new(),
            masters: Mutex::default(),
        })))
    }

    /// Applies other bounds to what is sent from now on.
    pub(super) fn reconfigure(&self, settings: &LayerSettings) {
        let inner = &self.0;
        inner
            .history_size
            .store(settings.history_size, Ordering::Relaxed);
        inner
            .group_history_size
            .store(settings.group_history_size, Ordering::Relaxed);
        inner.core.set_bounds(settings.capacity, settings.expiry);
        inner.codec.set_expiry(settings.expiry);
    }

    /// Returns whether the process is connected to Redis.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.0.outbox.is_connected()
    }

    /// Returns the format of the messages in Redis.
    #[must_use]
    pub fn format(&self) -> LayerFormat {
        self.0.format
    }

    fn shares_history(&self) -> bool {
        shares_history(self.0.format)
    }

    /// Waits briefly until a group is subscribed to and its history has been read; not at all
    /// without a connection.
    pub(in crate::channels) async fn wait_until_ready(&self, name: &GroupName, group: &Group) {
        let deadline = tokio::time::Instant::now() + self.0.timeout.min(READY_TIMEOUT);
        loop {
            // Both are registered before the state is read: a change in between wakes this task.
            let (group_ready, all_changed) = (group.ready(), self.0.changed.notified());
            if !self.is_connected() {
                return;
            }
            if self.is_subscribed(name) {
                let is_current = group.with_history(|history| history.is_current());
                let is_unread = group.is_presence_unread();
                if is_current && !is_unread {
                    return;
                }
                if !is_current && !self.0.read_queue.contains(name) {
                    self.0.read_queue.add(name);
                }
                if is_unread && !self.0.presence_queue.contains(name) {
                    self.0.presence_queue.add(name);
                }
            }
            tokio::select! {
                () = group_ready => {}
                () = all_changed => {}
                () = tokio::time::sleep_until(deadline) => return,
            }
        }
    }

    /// Returns whether events of other processes for a group arrive.
    fn is_subscribed(&self, name: &GroupName) -> bool {
        match self.0.format {
            LayerFormat::Core => self.0.core.is_joined(name),
            _ => {
                let channel = self.0.names.channel_of(name);
                self.0.subscriptions.is_subscribed(&channel)
            }
        }
    }

    // --- Commands -------------------------------------------------------------------------------------------------------

    /// Sends commands through the outbox; returns the replies, or `None` without a connection or if
    /// a command was refused.
    async fn query_redis(&self, commands: Vec<redis::Cmd>) -> Option<Vec<Value>> {
        self.query_redis_within(self.0.timeout, commands).await
    }

    async fn query_redis_within(
        &self,
        timeout: Duration,
        commands: Vec<redis::Cmd>,
    ) -> Option<Vec<Value>> {
        let (reply, replied) = oneshot::channel();
        let is_queued = self.0.outbox.push_if_connected(QueuedCommand {
            size: COMMAND_BYTES,
            kind: CommandKind::Raw(commands),
            reply: Some(reply),
        });
        if !is_queued {
            return None;
        }
        tokio::time::timeout(timeout, replied).await.ok()?.ok()
    }
}

/// Returns how many processes a message reached, from the reply to PUBLISH or to a script that
/// publishes.
fn reached(reply: &[Value]) -> usize {
    let reached = match reply.first() {
        Some(Value::Int(reached)) => *reached,
        Some(Value::Array(both)) => match both.first() {
            Some(Value::Int(reached)) => *reached,
            _ => 0,
        },
        _ => 0,
    };
    usize::try_from(reached).unwrap_or(0)
}

//! Remote: the groups of other processes, through Redis.
//!
//! A process has one connection for commands, all of them pipelined, and one for subscriptions (to each master of a cluster); a group is subscribed while it
//! has members here. Members here are served by this process itself; what comes from others is framed once for all of them.
//! `outbox` holds what is to be said, `connection` says it and hears the others, `subscriptions` knows who is to be heard.

mod channel_send;
mod channels_redis_codec;
mod channels_redis_core;
mod cluster;
mod command_connections;
mod connection;
mod core_sync;
mod fernet;
mod group_send;
mod hash_ring;
mod history_registry;
mod history_sync;
mod lease;
mod node_rpc;
mod outage;
mod outbox;
mod pipeline_writer;
mod presence_index;
mod pubsub;
mod receive;
mod reconnect;
mod redis_stream;
mod refusals;
mod scripts;
mod subscriptions;
mod topology;
mod wire;

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use parking_lot::Mutex;
use redis::Value;
use tokio::sync::{Notify, oneshot};

pub use node_rpc::{RpcHandler, RpcReplies};

use self::channels_redis_codec::ChannelsRedisCodec;
use self::channels_redis_core::ChannelsRedisCore;
use self::fernet::Fernet;
use self::history_registry::RegistryBuffer;
use self::history_sync::ReadQueue;
use self::node_rpc::PendingCall;
use self::outbox::{COMMAND_BYTES, CommandKind, Outbox, QueuedCommand};
use self::presence_index::Here;
use self::subscriptions::Subscriptions;
use super::GroupName;
use super::group::Group;
use crate::config::{Backend, ChannelLayerConfig, LayerFormat, RedisUrl};
use crate::telemetry::Recurring;

/// How long a member waits until its group is heard and its history known.
const READY_MAX: Duration = Duration::from_secs(2);

/// The way to the other processes (cheap to clone).
#[derive(Clone)]
pub struct Remote(Arc<RemoteInner>);

struct RemoteInner {
    urls: Vec<RedisUrl>,
    format: LayerFormat,
    /// What the names of the format begin with.
    prefix: String,
    /// What the names between Oneports begin with.
    own_prefix: String,
    node: u64,
    capacity: usize,
    expiry: Duration,
    group_expiry: Duration,
    timeout: Duration,
    lease: Duration,
    history_size: usize,
    group_history_size: usize,
    codec: ChannelsRedisCodec,
    core: ChannelsRedisCore,
    outbox: Outbox,
    subscriptions: Subscriptions,
    /// Something that others wait for has happened: a subscription, a history, a loss.
    changed: Notify,
    /// Groups whose shared history is to be read.
    read_queue: Mutex<ReadQueue>,
    read_work: Notify,
    /// What the histories in Redis take, as far as it was told here.
    registry: RegistryBuffer,
    /// In `channels_redis.pubsub`: hashes of our own events that Redis will send back.
    echoes: Mutex<HashMap<String, VecDeque<u64>>>,
    pending_calls: Mutex<HashMap<u64, PendingCall>>,
    presence: Here,
    last_call_id: AtomicU64,
    rpc_handler: OnceLock<Arc<dyn RpcHandler>>,
    /// Processes that died and are to be cleared up after.
    dead_nodes: Mutex<Vec<u64>>,
    reaper_wakeup: Notify,
    /// The cluster's slots move: what is counted may be too low.
    is_resharding: AtomicBool,
    refused: Recurring,
    /// The masters of the cluster, as they were last.
    masters: Mutex<Vec<(String, u16)>>,
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
    /// What a configuration asks for, for the process of that number; `None` when it has no Redis. Nothing is opened yet.
    #[must_use]
    pub fn new(config: &ChannelLayerConfig, node: u64) -> Option<Self> {
        let Backend::Redis(urls) = &config.backend else {
            return None;
        };
        let prefix = config.prefix().to_owned();
        // Redis' publications know no databases.
        let apart = match urls.first().map_or(0, |url| url.database) {
            0 => String::new(),
            database => format!("@{database}"),
        };
        let own_prefix = match config.format {
            LayerFormat::Oneport => format!("{prefix}{apart}"),
            LayerFormat::Pubsub | LayerFormat::Core => format!("{prefix}:oneport{apart}"),
        };
        let keys = config.symmetric_encryption_keys.iter();
        let keys = keys.map(|key| Fernet::new(&key.0)).collect();
        // The core layer lets no older ones through, the pubsub layer asks for no age.
        let max_age =
            (config.format == LayerFormat::Core).then(|| config.expiry + Duration::from_secs(10));
        Some(Self(Arc::new(RemoteInner {
            urls: urls.clone(),
            format: config.format,
            core: ChannelsRedisCore::new(&prefix, urls.len()),
            prefix,
            own_prefix,
            node,
            capacity: config.capacity,
            expiry: config.expiry,
            group_expiry: config.group_expiry,
            timeout: config.timeout,
            lease: config.lease,
            history_size: config.history_size.as_usize(),
            group_history_size: config.group_history_size.as_usize(),
            codec: ChannelsRedisCodec::new(config.serializer, keys, max_age),
            outbox: Outbox::new(config.queue.as_usize()),
            subscriptions: Subscriptions::default(),
            changed: Notify::new(),
            read_queue: Mutex::default(),
            read_work: Notify::new(),
            registry: RegistryBuffer::default(),
            echoes: Mutex::default(),
            pending_calls: Mutex::default(),
            presence: Here::default(),
            dead_nodes: Mutex::default(),
            reaper_wakeup: Notify::new(),
            is_resharding: AtomicBool::new(false),
            refused: Recurring::new(),
            masters: Mutex::default(),
            last_call_id: AtomicU64::new(0),
            rpc_handler: OnceLock::new(),
        })))
    }

    /// Tells whether Redis is there.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.0.outbox.is_connected()
    }

    /// Returns how events are written for Redis.
    #[must_use]
    pub fn format(&self) -> LayerFormat {
        self.0.format
    }

    /// Tells whether the histories of groups are kept in Redis, for all processes.
    pub(in crate::channels) fn shares_history(&self) -> bool {
        self.0.format == LayerFormat::Oneport
    }

    // --- Groups ---------------------------------------------------------------------------------------------------------

    /// A group has, or will have, members here.
    pub(in crate::channels) fn subscribe_group(&self, group: &GroupName) {
        match self.0.format {
            LayerFormat::Core => self.0.core.want(group, true),
            _ => self.0.subscriptions.want(self.channel_of(group), true),
        }
    }

    /// A group has no members here any more.
    pub(in crate::channels) fn unsubscribe_group(&self, group: &GroupName) {
        match self.0.format {
            LayerFormat::Core => self.0.core.want(group, false),
            _ => {
                let channel = self.channel_of(group);
                self.0.echoes.lock().remove(&channel);
                self.0.subscriptions.want(channel, false);
            }
        }
    }

    /// Waits until a group's events come and its history is known; not for long, and not while Redis is away.
    pub(in crate::channels) async fn wait_until_ready(&self, group: &GroupName, found: &Group) {
        let deadline = tokio::time::Instant::now() + self.0.timeout.min(READY_MAX);
        loop {
            let (changed, all_changed) = (found.changed(), self.0.changed.notified());
            if !self.is_connected() {
                return;
            }
            let is_heard = match self.0.format {
                LayerFormat::Core => self.0.core.is_joined(group),
                _ => self.0.subscriptions.is_subscribed(&self.channel_of(group)),
            };
            if is_heard {
                if found.with_history(|history| history.is_complete()) {
                    return;
                }
                if !self.0.read_queue.lock().has(group) {
                    self.read_history(group);
                }
            }
            tokio::select! {
                () = changed => {}
                () = all_changed => {}
                () = tokio::time::sleep_until(deadline) => return,
            }
        }
    }

    /// Sees that a group's shared history is read.
    pub(in crate::channels) fn read_history(&self, group: &GroupName) {
        let is_new = self.0.read_queue.lock().add(group);
        if is_new {
            self.0.read_work.notify_one();
        }
    }

    // --- Commands -------------------------------------------------------------------------------------------------------

    /// Says commands to Redis, in their turn; returns the answers, `None` when it is away or one was refused.
    async fn query_redis(&self, commands: Vec<redis::Cmd>) -> Option<Vec<Value>> {
        self.query_redis_within(self.0.timeout, commands).await
    }

    async fn query_redis_within(
        &self,
        time: Duration,
        commands: Vec<redis::Cmd>,
    ) -> Option<Vec<Value>> {
        let (reply, replied) = oneshot::channel();
        let is_taken = self.0.outbox.push_if_connected(QueuedCommand {
            size: COMMAND_BYTES,
            kind: CommandKind::Raw(commands),
            reply: Some(reply),
        });
        if !is_taken {
            return None;
        }
        tokio::time::timeout(time, replied).await.ok()?.ok()
    }

    // --- Names in Redis: what stands in braces is in one place of a cluster ---------------------------------------------

    /// Returns the channel that a group's events go through; not used in `channels_redis.core`.
    fn channel_of(&self, group: &GroupName) -> String {
        match self.0.format {
            LayerFormat::Pubsub => format!("{}__group__{group}", self.0.prefix),
            _ => format!("{}:group:{{{group}}}", self.0.own_prefix),
        }
    }

    /// Returns the group whose events go through a channel.
    fn group_of<'c>(&self, channel: &'c str) -> Option<&'c str> {
        match self.0.format {
            LayerFormat::Pubsub => channel
                .strip_prefix(&self.0.prefix)?
                .strip_prefix("__group__"),
            _ => channel
                .strip_prefix(&self.0.own_prefix)?
                .strip_prefix(":group:{")?
                .strip_suffix('}'),
        }
    }

    fn history_keys(&self, group: &GroupName) -> [String; 2] {
        let prefix = &self.0.own_prefix;
        [
            format!("{prefix}:history:{{{group}}}"),
            format!("{prefix}:stream:{{{group}}}"),
        ]
    }

    /// Returns the key of the groups that a process has joined in `channels_redis.core`.
    fn joined_key(&self, node: u64) -> String {
        format!("{}:joined:{node:016x}", self.0.own_prefix)
    }

    /// Returns the channel that all Oneports hear.
    fn nodes_channel(&self) -> String {
        format!("{}:nodes", self.0.own_prefix)
    }

    fn node_channel(&self, node: u64) -> String {
        format!("{}:node:{node:016x}", self.0.own_prefix)
    }
}

/// Reads how many processes a message reached: the answer to PUBLISH, or to the script that does it.
fn reached(answer: &[Value]) -> usize {
    let reached = match answer.first() {
        Some(Value::Int(reached)) => *reached,
        Some(Value::Array(both)) => match both.first() {
            Some(Value::Int(reached)) => *reached,
            _ => 0,
        },
        _ => 0,
    };
    usize::try_from(reached).unwrap_or(0)
}

fn hash(bytes: &[u8]) -> u64 {
    use std::hash::{DefaultHasher, Hasher};
    let mut hasher = DefaultHasher::new();
    hasher.write(bytes);
    hasher.finish()
}

impl RemoteInner {
    fn next_call_id(&self) -> u64 {
        self.last_call_id.fetch_add(1, Ordering::Relaxed) + 1
    }
}

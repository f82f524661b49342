//! Names: the keys and channels that the layer uses in Redis.
//!
//! In a cluster, the keys of one command must be in one slot. Redis hashes only the text in braces,
//! so the keys and the channel of a group have its name in braces.

use crate::channels::GroupName;
use crate::config::{ChannelLayerConfig, LayerFormat};

/// Builds the keys and channels that the layer uses in Redis.
pub(super) struct RedisNames {
    format: LayerFormat,
    /// The prefix of the format's names, which may be Django's.
    prefix: String,
    /// The prefix of the names that only Oneport uses.
    own_prefix: String,
    node: u64,
}

impl RedisNames {
    /// `database`: the number in the URL. Redis has one set of channels for all databases, so
    /// channels have the number in their names.
    pub(super) fn new(config: &ChannelLayerConfig, database: i64, node: u64) -> Self {
        let prefix = config.prefix().to_owned();
        let suffix = match database {
            0 => String::new(),
            database => format!("@{database}"),
        };
        let own_prefix = match config.format {
            LayerFormat::Oneport => format!("{prefix}{suffix}"),
            LayerFormat::Pubsub | LayerFormat::Core => format!("{prefix}:oneport{suffix}"),
        };
        Self {
            format: config.format,
            prefix,
            own_prefix,
            node,
        }
    }

    pub(super) fn prefix(&self) -> &str {
        &self.prefix
    }

    pub(super) fn own_prefix(&self) -> &str {
        &self.own_prefix
    }

    /// Returns the channel that a group's events go through; not used in `channels_redis.core`.
    pub(super) fn channel_of(&self, group: &GroupName) -> String {
        match self.format {
            LayerFormat::Pubsub => format!("{}__group__{group}", self.prefix),
            _ => format!("{}:group:{{{group}}}", self.own_prefix),
        }
    }

    /// Returns the group whose events go through a channel.
    pub(super) fn group_of<'c>(&self, channel: &'c str) -> Option<&'c str> {
        match self.format {
            LayerFormat::Pubsub => channel
                .strip_prefix(&self.prefix)?
                .strip_prefix("__group__"),
            _ => channel
                .strip_prefix(&self.own_prefix)?
                .strip_prefix(":group:{")?
                .strip_suffix('}'),
        }
    }

    /// Returns the keys of a group's history: its metadata, and the stream of its events.
    pub(super) fn history_keys(&self, group: &GroupName) -> [String; 2] {
        let prefix = &self.own_prefix;
        [
            format!("{prefix}:history:{{{group}}}"),
            format!("{prefix}:stream:{{{group}}}"),
        ]
    }

    /// Returns the keys of the registry of histories, all in one slot.
    pub(super) fn registry_keys(&self) -> [String; 3] {
        ["uses", "bytes", "ends"].map(|name| format!("{}:{{histories}}:{name}", self.own_prefix))
    }

    /// Returns the key of the groups that a process has joined in `channels_redis.core`.
    pub(super) fn joined_key(&self, node: u64) -> String {
        format!("{}:joined:{node:016x}", self.own_prefix)
    }

    /// Returns the channel that every Oneport subscribes to.
    pub(super) fn nodes_channel(&self) -> String {
        format!("{}:nodes", self.own_prefix)
    }

    /// Returns the channel that every Oneport subscribes to that traces.
    pub(super) fn spans_channel(&self) -> String {
        format!("{}:spans", self.own_prefix)
    }

    /// Returns the channel that one Oneport subscribes to.
    pub(super) fn node_channel(&self, node: u64) -> String {
        format!("{}:node:{node:016x}", self.own_prefix)
    }

    /// Returns the key of a group's members.
    pub(super) fn presence_key(&self, group: &str) -> String {
        format!("{}:presence:{{{group}}}", self.own_prefix)
    }

    /// Returns the field of a member of this process under that key.
    pub(super) fn presence_field(&self, member: u64) -> String {
        format!("{}{member}", Self::presence_fields(self.node))
    }

    /// Returns the common prefix of the fields of a process's members.
    pub(super) fn presence_fields(node: u64) -> String {
        format!("{node:016x}.")
    }

    /// Returns the key of the groups in which a process has members.
    pub(super) fn present_groups_key(&self, node: u64) -> String {
        format!("{}:present:{node:016x}", self.own_prefix)
    }

    /// Returns the key of all leases.
    pub(super) fn lease_key(&self) -> String {
        format!("{}:lease", self.own_prefix)
    }
}

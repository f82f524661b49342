//! GroupSubscriptions: subscribes to the groups that this process has.

use std::sync::Arc;

use super::channels_redis_core::ChannelsRedisCore;
use super::echoes::Echoes;
use super::names::RedisNames;
use super::subscriptions::Subscriptions;
use crate::channels::GroupName;
use crate::channels::local_groups::GroupObserver;
use crate::config::LayerFormat;

/// Subscribes to the groups that this process has, and in `channels_redis.core` joins them.
///
/// It shares its parts with the link to Redis instead of owning the link, because the link owns the
/// local groups.
pub(super) struct GroupSubscriptions {
    pub(super) format: LayerFormat,
    pub(super) names: Arc<RedisNames>,
    pub(super) subscriptions: Arc<Subscriptions>,
    pub(super) core: Arc<ChannelsRedisCore>,
    pub(super) echoes: Arc<Echoes>,
}

impl GroupObserver for GroupSubscriptions {
    fn group_created(&self, group: &GroupName) {
        match self.format {
            LayerFormat::Core => self.core.set_wanted(group, true),
            _ => self
                .subscriptions
                .set_wanted(self.names.channel_of(group), true),
        }
    }

    fn group_removed(&self, group: &GroupName) {
        match self.format {
            LayerFormat::Core => self.core.set_wanted(group, false),
            _ => {
                let channel = self.names.channel_of(group);
                self.echoes.forget(&channel);
                self.subscriptions.set_wanted(channel, false);
            }
        }
    }

    fn shares_history(&self) -> bool {
        shares_history(self.format)
    }
}

/// Returns whether Redis keeps the histories of groups for all processes.
pub(super) fn shares_history(format: LayerFormat) -> bool {
    format == LayerFormat::Oneport
}

//! Echoes: events of this process that Redis sends back, in `channels_redis.pubsub`.

use std::collections::{HashMap, VecDeque};
use std::hash::{DefaultHasher, Hasher};

use parking_lot::Mutex;

/// The most events expected back in one channel; beyond it, the oldest are forgotten.
const ECHOES_MAX: usize = 10_000;

/// Hashes of the events that this process has published and not received yet, by channel.
///
/// A message of `channels_redis.pubsub` does not name its sender, and our members have already
/// received our own messages. Of two equal messages it does not matter which one is taken for ours.
#[derive(Default)]
pub(super) struct Echoes(Mutex<HashMap<String, VecDeque<u64>>>);

impl Echoes {
    pub(super) fn hash(payload: &[u8]) -> u64 {
        let mut hasher = DefaultHasher::new();
        hasher.write(payload);
        hasher.finish()
    }

    pub(super) fn expect(&self, channel: &str, hash: u64) {
        let mut echoes = self.0.lock();
        let expected = echoes.entry(channel.to_owned()).or_default();
        if expected.len() >= ECHOES_MAX {
            expected.pop_front();
        }
        expected.push_back(hash);
    }

    /// Returns whether a message is expected back in a channel, and stops expecting it.
    pub(super) fn take(&self, channel: &str, hash: u64) -> bool {
        let mut echoes = self.0.lock();
        let Some(expected) = echoes.get_mut(channel) else {
            return false;
        };
        let Some(at) = expected.iter().position(|echo| *echo == hash) else {
            return false;
        };
        expected.remove(at);
        if expected.is_empty() {
            echoes.remove(channel);
        }
        true
    }

    /// Called when the channel is no longer subscribed to.
    pub(super) fn forget(&self, channel: &str) {
        self.0.lock().remove(channel);
    }

    /// Called when the connection is lost, and with it all expected messages.
    pub(super) fn clear(&self) {
        self.0.lock().clear();
    }
}

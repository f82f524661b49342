//! Echoes: events of this process that Redis sends back, in `channels_redis.pubsub`.
//!
//! ```text
//!   the channel is       the echo
//!   not wanted           reaches no member: none is expected
//!   being subscribed to  comes if Redis subscribes before it publishes: it is expected for a while
//!   subscribed to        comes
//! ```

use std::collections::{HashMap, VecDeque};
use std::hash::{DefaultHasher, Hasher};

use parking_lot::Mutex;
use tokio::time::Instant;

/// The most events expected back in one channel; beyond it, the oldest are forgotten.
const ECHOES_MAX: usize = 10_000;

/// Hashes of the events that this process has published and not received yet, by channel.
///
/// A message of `channels_redis.pubsub` does not name its sender, and our members have already
/// received our own messages. Of two equal messages it does not matter which one is taken for ours.
#[derive(Default)]
pub(super) struct Echoes(Mutex<HashMap<String, VecDeque<Echo>>>);

struct Echo {
    hash: u64,
    /// The time after which it is no longer expected, if it may never come.
    until: Option<Instant>,
}

impl Echoes {
    pub(super) fn hash(payload: &[u8]) -> u64 {
        let mut hasher = DefaultHasher::new();
        hasher.write(payload);
        hasher.finish()
    }

    pub(super) fn expect(&self, channel: &str, hash: u64, until: Option<Instant>) {
        let mut echoes = self.0.lock();
        let expected = echoes.entry(channel.to_owned()).or_default();
        if expected.len() >= ECHOES_MAX {
            expected.pop_front();
        }
        expected.push_back(Echo { hash, until });
    }

    /// Returns whether a message is expected back in a channel, and stops expecting it.
    ///
    /// Echoes come in the order in which they are expected. So those before it that might not come
    /// have not come.
    pub(super) fn take(&self, channel: &str, hash: u64) -> bool {
        let mut echoes = self.0.lock();
        let Some(expected) = echoes.get_mut(channel) else {
            return false;
        };
        while let Some(Echo {
            until: Some(until), ..
        }) = expected.front()
            && *until < Instant::now()
        {
            expected.pop_front();
        }
        let at = expected.iter().position(|echo| echo.hash == hash);
        if let Some(at) = at {
            let before: Vec<Echo> = expected.drain(..=at).take(at).collect();
            let certain = before.into_iter().filter(|echo| echo.until.is_none());
            certain.rev().for_each(|echo| expected.push_front(echo));
        }
        if expected.is_empty() {
            echoes.remove(channel);
        }
        at.is_some()
    }

    /// Stops expecting an event that was not published after all.
    pub(super) fn cancel(&self, channel: &str, hash: u64) {
        let mut echoes = self.0.lock();
        let Some(expected) = echoes.get_mut(channel) else {
            return;
        };
        if let Some(at) = expected.iter().rposition(|echo| echo.hash == hash) {
            expected.remove(at);
        }
        if expected.is_empty() {
            echoes.remove(channel);
        }
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn an_echo_is_taken_once() {
        let echoes = Echoes::default();
        echoes.expect("a", 1, None);
        echoes.expect("a", 2, None);
        assert!(!echoes.take("b", 1));
        let taken = [2, 1, 1].map(|hash| echoes.take("a", hash));
        assert_eq!(taken, [true, true, false]);
        assert!(echoes.0.lock().is_empty());
    }

    #[test]
    fn an_echo_that_might_not_come_is_forgotten_with_the_next_one_or_in_time() {
        let echoes = Echoes::default();
        let later = Instant::now() + Duration::from_secs(60);
        echoes.expect("a", 1, Some(later));
        echoes.expect("a", 2, Some(later));
        echoes.expect("a", 3, Some(later));
        assert!(echoes.take("a", 2));
        assert!(!echoes.take("a", 1));
        assert!(echoes.take("a", 3));
        echoes.expect("a", 1, Some(later));
        echoes.expect("a", 2, Some(later));
        echoes.cancel("a", 2);
        assert!(!echoes.take("a", 2) && echoes.take("a", 1));
        echoes.expect("a", 4, Some(Instant::now()));
        while Instant::now().elapsed().is_zero() {}
        assert!(!echoes.take("a", 4));
        assert!(echoes.0.lock().is_empty());
    }
}

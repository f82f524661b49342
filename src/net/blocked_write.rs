//! BlockedWrite: the time since which a stream takes nothing that waits for it.
//!
//! Of a bare stream, bytes wait in the queue of the writer. TLS has a queue of its own: ciphertext
//! cannot be taken back, and counts as written while the kernel does not take it. So a client that
//! reads slowly takes ciphertext for a while before its writer gets further, and the other way
//! round, nothing may wait in a writer's queue while ciphertext does.

use super::stream::Stream;
use crate::clock::{Millis, NEVER};

/// Since when a write makes no progress.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct BlockedWrite {
    since: Millis,
    /// The ciphertext that the kernel had taken then.
    ciphertext: u64,
}

impl Default for BlockedWrite {
    fn default() -> Self {
        Self {
            since: NEVER,
            ciphertext: 0,
        }
    }
}

impl BlockedWrite {
    /// Returns the time since which a write makes no progress; `NEVER` if nothing waits.
    pub(crate) fn since(&self) -> Millis {
        self.since
    }

    /// Records that bytes wait: since now, or since earlier if the stream has taken nothing since
    /// then.
    pub(crate) fn record(&mut self, stream: &Stream, now: Millis) {
        let ciphertext = stream.taken_ciphertext();
        if self.since == NEVER || ciphertext != self.ciphertext {
            *self = Self {
                since: now,
                ciphertext,
            };
        }
    }

    /// Records that bytes wait, before the stream is asked to take them.
    pub(crate) fn begin(&mut self, now: Millis) {
        if self.since == NEVER {
            self.since = now;
        }
    }

    /// Records that the stream has taken bytes, or that none waits.
    pub(crate) fn clear(&mut self) {
        self.since = NEVER;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::duplex;

    #[test]
    fn wait_lasts_until_it_is_cleared() {
        let stream = Stream::boxed(duplex(1).0);
        let mut blocked = BlockedWrite::default();
        assert_eq!(blocked.since(), NEVER);
        blocked.record(&stream, 5);
        blocked.record(&stream, 9);
        assert_eq!(blocked.since(), 5);
        blocked.clear();
        blocked.record(&stream, 9);
        assert_eq!(blocked.since(), 9);
    }
}

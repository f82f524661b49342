//! HashRing: distributes names over several servers by their hash, as `channels_redis` does.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crc::{CRC_32_ISO_HDLC, Crc};

/// The number of values of the hash.
const VALUES: usize = 4096;

/// Maps keys to servers.
#[derive(Clone)]
pub(super) struct HashRing {
    servers: usize,
    /// The prefix of the names of `channels_redis.core`, in that format.
    prefix: Option<Arc<str>>,
    /// Counts the messages to channels that all servers have.
    turn: Arc<AtomicUsize>,
}

impl HashRing {
    /// `core`: the prefix of the names of `channels_redis.core`; `None` in other formats.
    pub(super) fn new(servers: usize, core: Option<&str>) -> Self {
        Self {
            servers,
            prefix: core.map(Into::into),
            turn: Arc::default(),
        }
    }

    /// Returns the number of the server that has a key or a channel.
    ///
    /// It hashes the same text as Django: for `channels_redis.core`, a group's name or the common
    /// part of a process's channels; for `channels_redis.pubsub`, the whole name of a channel; for
    /// Oneport's own keys, the text in braces. Channels that workers of `channels_redis.core` read
    /// are on all servers; messages go to the servers in turn.
    pub(super) fn server_of(&self, key: &[u8]) -> usize {
        let key = std::str::from_utf8(key).unwrap_or_default();
        let tag = key
            .split_once('{')
            .and_then(|(_, rest)| rest.split_once('}'))
            .map(|(tag, _)| tag);
        if let Some(tag) = tag {
            return self.hash(tag);
        }
        let core = self.prefix.as_deref();
        let Some(name) = core.and_then(|prefix| key.strip_prefix(prefix)) else {
            return self.hash(key);
        };
        match name.strip_prefix(":group:") {
            Some(group) => self.hash(group),
            None if name.ends_with('!') => self.hash(name),
            None if name.starts_with(':') => self.hash(key),
            None => self.turn.fetch_add(1, Ordering::Relaxed) % self.servers,
        }
    }

    /// Returns the number of the server that a name belongs to: `consistent_hash` of
    /// `channels_redis`.
    pub(super) fn hash(&self, name: &str) -> usize {
        static CRC: Crc<u32> = Crc::<u32>::new(&CRC_32_ISO_HDLC);
        let value = usize::try_from(CRC.checksum(name.as_bytes())).unwrap_or(0) % VALUES;
        // `int(value / (4096 / servers))`, whose rounding is exact where it matters.
        value * self.servers / VALUES
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_where_channels_redis_has_them() {
        // `consistent_hash` of channels_redis 4.3.0, for rings of 2, 3, 4, 5, 7, 10 and 16.
        for (name, servers) in [
            ("", [0, 0, 0, 0, 0, 0, 0]),
            ("a", [1, 2, 3, 4, 6, 8, 14]),
            ("room", [0, 0, 0, 0, 0, 1, 1]),
            ("test-group", [1, 2, 3, 4, 6, 8, 14]),
            ("chat_lobby", [1, 1, 2, 2, 3, 5, 8]),
            (
                "specific.00112233445566778899aabbccddeeff!deadbeef",
                [1, 1, 2, 3, 4, 6, 9],
            ),
            (
                "asgispecific.00112233445566778899aabbccddeeff",
                [0, 0, 1, 1, 2, 3, 4],
            ),
            ("key_two", [0, 1, 1, 2, 3, 4, 7]),
            ("wié", [1, 1, 2, 2, 3, 5, 8]),
        ] {
            for (ring, wanted) in [2, 3, 4, 5, 7, 10, 16].into_iter().zip(servers) {
                assert_eq!(
                    HashRing::new(ring, None).hash(name),
                    wanted,
                    "{name} of {ring}"
                );
            }
        }
    }

    #[test]
    fn keys_are_where_the_names_in_them_are() {
        let ring = HashRing::new(16, Some("asgi"));
        assert_eq!(
            ring.server_of(b"asgi:group:chat_lobby"),
            ring.hash("chat_lobby")
        );
        let inbox = "specific.00112233445566778899aabbccddeeff!";
        assert_eq!(
            ring.server_of(format!("asgi{inbox}").as_bytes()),
            ring.hash(inbox)
        );
        let group = "asgi__group__room";
        let pubsub = HashRing::new(16, None);
        assert_eq!(pubsub.server_of(group.as_bytes()), ring.hash(group));
        for key in [
            "oneport:history:{room}",
            "oneport:stream:{room}",
            "oneport:group:{room}",
        ] {
            assert_eq!(ring.server_of(key.as_bytes()), ring.hash("room"));
        }
        let workers: Vec<_> = (0..17).map(|_| ring.server_of(b"asgithumbnails")).collect();
        assert_eq!(workers[..3], [0, 1, 2]);
        assert_eq!(workers[16], 0);
    }
}

//! Backlog: the bytes queued for a receiver that many sockets share, such as a backend.

use std::future::Future;

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::Notify;

/// The bytes of all sockets queued for one receiver: those that consumers have queued, and those
/// that their sockets have read ahead.
#[derive(Debug)]
pub struct Backlog {
    limit: usize,
    held: Mutex<WaitingBytes>,
    room: Notify,
}

#[derive(Debug, Default)]
struct WaitingBytes {
    queued: usize,
    ahead: usize,
}

impl WaitingBytes {
    fn total(&self) -> usize {
        self.queued + self.ahead
    }
}

impl Backlog {
    /// Creates an empty backlog with room for `limit` bytes.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self {
            limit,
            held: Mutex::default(),
            room: Notify::new(),
        }
    }

    /// Returns whether a consumer may queue one more message, of any length.
    ///
    /// While nothing is queued, there is always room. Otherwise messages read ahead could fill the
    /// limit while their consumers wait for room: a deadlock.
    #[must_use]
    pub fn has_room(&self) -> bool {
        let held = self.held();
        held.queued == 0 || held.total() < self.limit
    }

    /// Counts bytes that a consumer has queued.
    pub fn queue(&self, bytes: usize) {
        self.held().queued += bytes;
    }

    /// Releases queued bytes that were sent or dropped.
    pub fn release(&self, bytes: usize) {
        if bytes > 0 {
            self.held().queued -= bytes;
            self.room.notify_waiters();
        }
    }

    /// Waits until there may be room again.
    pub fn room(&self) -> impl Future<Output = ()> + '_ {
        self.room.notified()
    }

    /// Returns whether a socket may read ahead. Half of the limit is reserved for messages that
    /// consumers queue.
    pub(super) fn has_room_ahead(&self) -> bool {
        self.held().total() < self.limit / 2
    }

    pub(super) fn read_ahead(&self, bytes: usize) {
        self.held().ahead += bytes;
    }

    /// Releases bytes that were read ahead: their consumer has taken the messages, or their socket
    /// has ended.
    pub(super) fn release_ahead(&self, bytes: usize) {
        if bytes > 0 {
            self.held().ahead -= bytes;
            self.room.notify_waiters();
        }
    }

    fn held(&self) -> MutexGuard<'_, WaitingBytes> {
        self.held.lock()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_read_ahead_leave_room_for_one_that_is_queued() {
        let backlog = Backlog::new(100);
        assert!(backlog.has_room() && backlog.has_room_ahead());
        backlog.read_ahead(50);
        assert!(backlog.has_room() && !backlog.has_room_ahead());
        backlog.read_ahead(200); // a message that is longer than the limit
        assert!(backlog.has_room());
        backlog.queue(1);
        assert!(!backlog.has_room());
        backlog.release_ahead(250);
        assert!(backlog.has_room() && backlog.has_room_ahead());
        backlog.queue(99);
        assert!(!backlog.has_room() && !backlog.has_room_ahead());
        backlog.release(100);
        assert!(backlog.has_room() && backlog.has_room_ahead());
    }
}

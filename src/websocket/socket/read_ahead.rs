//! ReadAhead: the messages that were read while their consumer was busy.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::websocket::backlog::Backlog;
use crate::websocket::message::Message;

/// The most messages read ahead while a consumer is busy.
pub(super) const MESSAGES_MAX: usize = 32;

/// The most bytes read ahead. The message that reaches the bound may exceed it.
pub(super) const BYTES_MAX: usize = 128 * 1024;

/// Messages in the order of their arrival. They count against the route's backlog until the
/// consumer takes them.
#[derive(Default)]
pub(super) struct ReadAhead {
    messages: VecDeque<Message>,
    bytes: usize,
    backlog: Option<Arc<Backlog>>,
}

impl ReadAhead {
    pub(super) fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    /// Returns whether another message may be read.
    pub(super) fn has_room(&self) -> bool {
        self.messages.len() < MESSAGES_MAX && self.bytes < BYTES_MAX
    }

    pub(super) fn push(&mut self, message: Message, backlog: Option<&Arc<Backlog>>) {
        if let Some(backlog) = backlog {
            backlog.read_ahead(message.len());
            if self.backlog.is_none() {
                self.backlog = Some(backlog.clone());
            }
        }
        self.bytes += message.len();
        self.messages.push_back(message);
    }

    pub(super) fn pop(&mut self) -> Option<Message> {
        let message = self.messages.pop_front()?;
        self.release(message.len());
        Some(message)
    }

    fn release(&mut self, bytes: usize) {
        self.bytes -= bytes;
        if let Some(backlog) = &self.backlog {
            backlog.release_ahead(bytes);
        }
    }
}

impl Drop for ReadAhead {
    fn drop(&mut self) {
        self.release(self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(bytes: usize) -> Message {
        Message::binary(vec![0; bytes])
    }

    #[test]
    fn messages_are_bounded_in_number_and_in_bytes() {
        for (size, wanted) in [
            (0, MESSAGES_MAX),
            (5000, 27),
            (BYTES_MAX / 2, 2),
            (1 << 20, 1),
        ] {
            let mut ahead = ReadAhead::default();
            let mut count = 0;
            while ahead.has_room() {
                ahead.push(message(size), None);
                count += 1;
            }
            assert_eq!(count, wanted, "messages of {size} bytes");
        }
    }

    #[test]
    fn backlog_counts_messages_until_they_are_taken_or_dropped() {
        let backlog = Arc::new(Backlog::new(100));
        let mut ahead = ReadAhead::default();
        for _ in 0..3 {
            ahead.push(message(20), Some(&backlog));
        }
        assert!(!backlog.has_room_ahead());
        assert!(ahead.pop().is_some());
        assert!(backlog.has_room_ahead());
        ahead.push(message(20), Some(&backlog));
        drop(ahead);
        backlog.queue(50);
        assert!(!backlog.has_room_ahead());
        backlog.release(1);
        assert!(backlog.has_room_ahead());
    }
}

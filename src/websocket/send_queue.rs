//! Outgoing: what one socket has to say and could not write yet.

use std::collections::VecDeque;
use std::io;
use std::task::{Context, Waker};

use bytes::{Buf, Bytes};

use super::close::Ending;
use super::deflate::Deflater;
use crate::clock::{Millis, NEVER};
use crate::net::Stream;
use crate::queued_bytes::QueuedBytes;

pub(super) struct SendQueue {
    pub(super) queue: VecDeque<QueuedFrame>,
    pub(super) bytes: usize,
    pub(super) state: SendState,
    pub(super) task: Option<Waker>,
    /// What ended the socket from outside its task.
    pub(super) order: Option<Box<Ending>>,
    /// Since when a write makes no progress; `NEVER` when none is waiting.
    pub(super) blocked_since: Millis,
    pub(super) sent_bytes: u64,
    /// Messages that a slow client lost.
    pub(super) dropped: u32,
    /// With context takeover, from the first compressed message on.
    pub(super) deflater: Option<Box<Deflater>>,
}

/// Bytes that wait, whole frames but for a first that is partly written.
pub(super) struct QueuedFrame {
    pub(super) bytes: Bytes,
    /// What they take of the memory of all queues: nothing, where a group's event is shared by its members.
    pub(super) own: QueuedBytes,
    pub(super) is_begun: bool,
    pub(super) conflate_key: Option<Box<str>>,
}

/// May something be said?
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) enum SendState {
    #[default]
    Open,
    /// Our close frame is written or waits; nothing may follow it (RFC 6455 §5.5.1).
    CloseSent,
    /// The connection failed.
    Closed,
}

impl Default for SendQueue {
    fn default() -> Self {
        Self {
            queue: VecDeque::new(),
            bytes: 0,
            state: SendState::Open,
            task: None,
            order: None,
            blocked_since: NEVER,
            sent_bytes: 0,
            dropped: 0,
            deflater: None,
        }
    }
}

/// What one socket sent.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct SendStats {
    pub(super) bytes: u64,
    pub(super) dropped: u32,
}

impl SendQueue {
    /// Writes at once if nothing waits. `None`: all is said, or the socket is past saying; else from where on it must wait.
    pub(super) fn write_now(&mut self, stream: &Stream, bytes: &[u8]) -> Option<usize> {
        if self.state != SendState::Open {
            return None;
        }
        if !self.queue.is_empty() {
            return Some(0);
        }
        match stream.try_write_shared(bytes, self.task.as_ref()) {
            Ok(written) => {
                self.sent_bytes += written as u64;
                (written < bytes.len()).then_some(written)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Some(0),
            Err(_) => {
                self.state = SendState::Closed; // the socket's own task learns it from its next read or flush
                self.wake();
                None
            }
        }
    }

    pub(super) fn written(&mut self, mut count: usize) {
        self.blocked_since = NEVER;
        self.bytes -= count;
        self.sent_bytes += count as u64;
        while let Some(first) = self.queue.front_mut() {
            if count < first.bytes.len() {
                if count > 0 {
                    first.bytes.advance(count);
                    first.is_begun = true;
                }
                break;
            }
            count -= first.bytes.len();
            self.queue.pop_front();
        }
        if self.queue.is_empty() {
            self.queue = VecDeque::new();
        }
    }

    /// The next message refers to none before it.
    pub(super) fn reset_context(&mut self) {
        if let Some(deflater) = &mut self.deflater {
            deflater.forget();
        }
    }

    /// Puts a piece in the place of a waiting one with its key.
    pub(super) fn conflate(&mut self, piece: &QueuedFrame, limit: usize) -> bool {
        let Some(key) = piece.conflate_key.as_deref() else {
            return false;
        };
        let Some(older) = self
            .queue
            .iter_mut()
            .find(|waiting| !waiting.is_begun && waiting.conflate_key.as_deref() == Some(key))
        else {
            return false;
        };
        let bytes = self.bytes - older.bytes.len() + piece.bytes.len();
        if bytes > limit {
            return false;
        }
        self.bytes = bytes;
        older.bytes = piece.bytes.clone();
        older.own = QueuedBytes::default(); // only a group's event has a key
        true
    }

    pub(super) fn listen(&mut self, cx: &Context<'_>) {
        if !self
            .task
            .as_ref()
            .is_some_and(|task| task.will_wake(cx.waker()))
        {
            self.task = Some(cx.waker().clone());
        }
    }

    pub(super) fn wake(&self) {
        if let Some(task) = &self.task {
            task.wake_by_ref();
        }
    }
}

//! Deadlines: the due actions of a socket, and its next tick of the clock.
//!
//! A socket has at most one tick pending at the clock. Every received byte moves deadlines later,
//! but not the tick: it fires early, finds nothing due, and is scheduled again. So a busy socket
//! does not touch the clock.

use std::sync::{Arc, Weak};

use super::{Ended, Socket};
use crate::clock::{Millis, NEVER, Tick, TimerKey};
use crate::websocket::close::Ending;
use crate::websocket::frame::{Opcode, encode};
use crate::websocket::inspection::SocketReport;
use crate::websocket::keepalive::{Due, Reading, millis};
use crate::websocket::thread_buffers;

impl Socket {
    /// Ends the socket if another task requested it or a deadline has passed; pings a silent
    /// client.
    pub(super) fn check_deadlines(&mut self) {
        let is_timer_outdated = std::mem::take(&mut self.is_timer_outdated);
        if let Some(ending) = self.handle.take_end_request() {
            return self.end_at_once(ending);
        }
        let now = self.handle.services().clock.now();
        if let Some(to) = self.handle.take_report_request() {
            let _ = to.send(self.report(now));
        }
        let due = match self.due(now) {
            Due::Ping => {
                self.keepalive.pinged(now);
                thread_buffers::with(|buffers| encode(Opcode::Ping, &[], &mut buffers.output));
                self.due(now)
            }
            other => other,
        };
        match due {
            Due::End(ending) => self.end_at_once(ending),
            Due::Nothing(next) => {
                if is_timer_outdated || now >= self.tick_at() || next < self.tick_at() {
                    self.set_timer(next);
                }
            }
            Due::Ping => {}
        }
    }

    /// Schedules a tick for the deadline of a blocked write, if that is earlier than the next tick.
    pub(super) fn keep_write_deadline(&mut self) {
        let wait = millis(self.handle.route().settings.write_timeout);
        let at = self.handle.blocked_since().saturating_add(wait);
        if wait > 0 && at < self.tick_at() {
            self.set_timer(at);
        }
    }

    /// If the client has already ended the socket, its ending stays; only the messages read before
    /// it are dropped.
    fn end_at_once(&mut self, ending: Ending) {
        let known = self.take_ended().map(Ended::into_ending);
        self.set_ended(Ended::AtOnce(known.unwrap_or(ending)));
        self.handle.end_drained();
    }

    /// Returns the facts that only the socket's own task knows.
    fn report(&self, now: Millis) -> SocketReport {
        SocketReport {
            messages: self.received.messages + u64::from(self.uncounted_messages),
            bytes_received: self.received.bytes,
            silent: self.keepalive.silent(now),
            pinged: self.keepalive.pinged_since(now),
            is_reading: !self.has_undecoded(),
        }
    }

    fn due(&self, now: Millis) -> Due {
        let blocked_since = self.handle.blocked_since();
        let reading = if self.is_paused() {
            Reading::Paused
        } else if self.has_undecoded() || blocked_since != NEVER {
            Reading::Blocked
        } else {
            Reading::Yes
        };
        let settings = &self.handle.route().settings;
        self.keepalive.due(now, settings, blocked_since, reading)
    }

    fn tick_at(&self) -> Millis {
        self.timer.map_or(NEVER, TimerKey::at)
    }

    fn set_timer(&mut self, at: Millis) {
        let clock = &self.handle.services().clock;
        let timer = (at < NEVER).then(|| {
            let handle: Weak<dyn Tick> = Arc::downgrade(&(self.handle.clone() as Arc<dyn Tick>));
            clock.wake_at(at, handle)
        });
        if let Some(before) = std::mem::replace(&mut self.timer, timer) {
            clock.cancel(before);
        }
    }
}

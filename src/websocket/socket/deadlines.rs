//! Deadlines: what is due for a socket, and when the clock calls it.

use std::sync::{Arc, Weak};

use super::Socket;
use crate::clock::{Millis, NEVER, Tick, TimerKey};
use crate::websocket::frame::{Opcode, encode};
use crate::websocket::keepalive::{Due, millis};
use crate::websocket::thread_buffers;

impl Socket {
    pub(super) fn keep_deadlines(&mut self, is_first: bool) {
        let now = self.handle.services().clock.now();
        let settings = &self.handle.route().settings;
        let is_reading = !self.has_undecoded() && self.handle.blocked_since() == NEVER;
        let due = match self
            .keepalive
            .due(now, settings, self.handle.blocked_since(), is_reading)
        {
            Due::Ping => {
                self.keepalive.pinged(now);
                thread_buffers::with(|buffers| encode(Opcode::Ping, &[], &mut buffers.output));
                self.keepalive
                    .due(now, settings, self.handle.blocked_since(), is_reading)
            }
            other => other,
        };
        match due {
            Due::End(ending) => {
                self.at_once = true;
                self.ending.get_or_insert_with(|| Box::new(ending));
            }
            Due::Nothing(at) if is_first || now >= self.called_at() || at < self.called_at() => {
                self.call_at(at);
            }
            Due::Nothing(_) | Due::Ping => {}
        }
    }

    fn called_at(&self) -> Millis {
        self.call.map_or(NEVER, TimerKey::at)
    }

    fn call_at(&mut self, at: Millis) {
        let clock = &self.handle.services().clock;
        let call = (at < NEVER).then(|| {
            let waiting: Weak<dyn Tick> = Arc::downgrade(&(self.handle.clone() as Arc<dyn Tick>));
            clock.wake_at(at, waiting)
        });
        if let Some(before) = std::mem::replace(&mut self.call, call) {
            clock.cancel(before);
        }
    }

    pub(super) fn keep_write_deadline(&mut self) {
        let wait = millis(self.handle.route().settings.write_timeout);
        let at = self.handle.blocked_since().saturating_add(wait);
        if wait > 0 && at < self.called_at() {
            self.call_at(at);
        }
    }
}

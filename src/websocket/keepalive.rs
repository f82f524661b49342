//! KeepAlive: the deadlines of one socket. It takes `now` and does no I/O.

use std::time::Duration;

use super::close::{Cause, Ending};
use super::settings::SocketSettings;
use crate::clock::{Millis, NEVER};

/// The next action, if any is due.
#[derive(Debug, Eq, PartialEq)]
pub(super) enum Due {
    /// Nothing is due until this instant.
    Nothing(Millis),
    /// Send a ping.
    Ping,
    /// End the socket.
    End(Ending),
}

/// Whether a socket reads what its client sends.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Reading {
    Yes,
    /// Input waits for the consumer, or output for the client: a pong could not be seen.
    Blocked,
    /// A limit delays the client. Its silence does not count, but pings go on: writing to a client
    /// that is gone fails.
    Paused,
}

/// The instants from which a socket's deadlines are computed.
#[derive(Clone, Copy, Debug)]
pub(super) struct KeepAlive {
    lifetime_ends: Millis,
    /// `NEVER` once a message has arrived.
    first_message_ends: Millis,
    last_received: Millis,
    /// The time of the pending ping; `NEVER` if there is none.
    pinged: Millis,
}

impl KeepAlive {
    /// Creates the deadlines of a socket that opens now. `jitter`, from 0 to 1, spreads the ends of
    /// sockets that opened together.
    pub(super) fn new(now: Millis, settings: &SocketSettings, jitter: f64) -> Self {
        let lifetime_ends = match millis(settings.max_lifetime) {
            0 => NEVER,
            // Up to a tenth earlier, so that clients that connected together do not reconnect
            // together.
            lifetime => now + lifetime - (lifetime as f64 * 0.1 * jitter) as Millis,
        };
        Self {
            lifetime_ends,
            first_message_ends: after(now, settings.first_message_timeout),
            last_received: now,
            pinged: NEVER,
        }
    }

    /// Records that bytes arrived. Returns whether a ping was waiting for them, so that the next
    /// deadline changes.
    pub(super) fn received(&mut self, now: Millis) -> bool {
        self.last_received = now;
        std::mem::replace(&mut self.pinged, NEVER) != NEVER
    }

    /// Records the end of a pause of some length: neither the client's silence nor its reply to a
    /// ping could be seen in it.
    pub(super) fn resumed(&mut self, now: Millis, paused: Millis) {
        let later = |at: Millis| at.saturating_add(paused).min(now);
        self.last_received = later(self.last_received);
        if self.pinged != NEVER {
            self.pinged = later(self.pinged);
        }
    }

    /// Gives the client longer for its first message, of which nothing was taken meanwhile.
    pub(super) fn first_message_waited(&mut self, waited: Millis) {
        self.first_message_ends = self.first_message_ends.saturating_add(waited);
    }

    /// Records that a whole message arrived.
    pub(super) fn message(&mut self) {
        self.first_message_ends = NEVER;
    }

    /// Records that a ping was sent.
    pub(super) fn pinged(&mut self, now: Millis) {
        self.pinged = now;
    }

    /// Returns how long no byte has arrived.
    pub(super) fn silent(&self, now: Millis) -> Duration {
        Duration::from_millis(now.saturating_sub(self.last_received))
    }

    /// Returns how long a ping has been waiting for its reply.
    pub(super) fn pinged_since(&self, now: Millis) -> Option<Duration> {
        let is_pinged = self.pinged != NEVER;
        is_pinged.then(|| Duration::from_millis(now.saturating_sub(self.pinged)))
    }

    /// Returns the next action. `blocked_since`: the time since which a write makes no progress.
    pub(super) fn due(
        &self,
        now: Millis,
        settings: &SocketSettings,
        blocked_since: Millis,
        reading: Reading,
    ) -> Due {
        let ping = match (self.pinged, reading) {
            (NEVER, _) => after(self.last_received, settings.ping_interval),
            (pinged, Reading::Paused) => after(pinged, settings.ping_interval),
            _ => NEVER,
        };
        self.due_with(ping, now, settings, blocked_since, reading)
    }

    /// Returns the next action while no ping can be sent.
    pub(super) fn due_without_ping(
        &self,
        now: Millis,
        settings: &SocketSettings,
        blocked_since: Millis,
        reading: Reading,
    ) -> Due {
        self.due_with(NEVER, now, settings, blocked_since, reading)
    }

    fn due_with(
        &self,
        ping: Millis,
        now: Millis,
        settings: &SocketSettings,
        blocked_since: Millis,
        reading: Reading,
    ) -> Due {
        let write = after(blocked_since, settings.write_timeout);
        let is_pinged = self.pinged != NEVER;
        let (idle, first) = match reading {
            Reading::Paused => (NEVER, NEVER),
            _ => (
                after(self.last_received, settings.idle_timeout),
                self.first_message_ends,
            ),
        };
        let pong = match reading {
            Reading::Yes if is_pinged => after(self.pinged, settings.pong_timeout),
            _ => NEVER,
        };
        let end = |cause| Due::End(Ending::of(cause));
        if now >= write {
            end(Cause::WriteTimeout)
        } else if now >= self.lifetime_ends {
            end(Cause::Lifetime)
        } else if now >= pong {
            end(Cause::PingTimeout)
        } else if now >= first {
            end(Cause::FirstMessageTimeout)
        } else if now >= idle {
            end(Cause::IdleTimeout)
        } else if now >= ping {
            Due::Ping
        } else {
            let next = [write, self.lifetime_ends, pong, first, idle, ping]
                .into_iter()
                .min()
                .unwrap_or(NEVER);
            // The pong cannot be read now; check again after another `pong_timeout`.
            let again = if is_pinged && reading == Reading::Blocked {
                next.min(now + millis(settings.pong_timeout))
            } else {
                next
            };
            Due::Nothing(again)
        }
    }
}

/// Returns when a timeout expires; one of zero never does.
fn after(since: Millis, wait: Duration) -> Millis {
    if wait.is_zero() {
        NEVER
    } else {
        since.saturating_add(millis(wait))
    }
}

pub(super) fn millis(duration: Duration) -> Millis {
    Millis::try_from(duration.as_millis()).unwrap_or(NEVER)
}

#[cfg(test)]
mod tests;

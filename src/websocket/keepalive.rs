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
    /// `is_reading`: whether a pong would be read; the socket does not read while input waits for
    /// the consumer, or output for the client.
    pub(super) fn due(
        &self,
        now: Millis,
        settings: &SocketSettings,
        blocked_since: Millis,
        is_reading: bool,
    ) -> Due {
        let ping = match self.pinged {
            NEVER => after(self.last_received, settings.ping_interval),
            _ => NEVER,
        };
        self.due_with(ping, now, settings, blocked_since, is_reading)
    }

    /// Returns the next action while no ping can be sent.
    pub(super) fn due_without_ping(
        &self,
        now: Millis,
        settings: &SocketSettings,
        blocked_since: Millis,
        is_reading: bool,
    ) -> Due {
        self.due_with(NEVER, now, settings, blocked_since, is_reading)
    }

    fn due_with(
        &self,
        ping: Millis,
        now: Millis,
        settings: &SocketSettings,
        blocked_since: Millis,
        is_reading: bool,
    ) -> Due {
        let write = after(blocked_since, settings.write_timeout);
        let idle = after(self.last_received, settings.idle_timeout);
        let is_pinged = self.pinged != NEVER;
        let pong = if is_pinged && is_reading {
            after(self.pinged, settings.pong_timeout)
        } else {
            NEVER
        };
        let end = |cause| Due::End(Ending::of(cause));
        if now >= write {
            end(Cause::WriteTimeout)
        } else if now >= self.lifetime_ends {
            end(Cause::Lifetime)
        } else if now >= pong {
            end(Cause::PingTimeout)
        } else if now >= self.first_message_ends {
            end(Cause::FirstMessageTimeout)
        } else if now >= idle {
            end(Cause::IdleTimeout)
        } else if now >= ping {
            Due::Ping
        } else {
            let first = self.first_message_ends;
            let next = [write, self.lifetime_ends, pong, first, idle, ping]
                .into_iter()
                .min()
                .unwrap_or(NEVER);
            // The pong cannot be read now; check again after another `pong_timeout`.
            let again = if is_pinged && !is_reading {
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
mod tests {
    use super::*;
    use crate::websocket::CloseCode;

    fn settings() -> SocketSettings {
        SocketSettings {
            max_lifetime: Duration::from_secs(1000),
            idle_timeout: Duration::from_secs(100),
            ..SocketSettings::default()
        }
    }

    #[test]
    fn silent_client_is_pinged_and_then_ended() {
        let mut table = KeepAlive::new(0, &settings(), 0.0);
        assert_eq!(table.due(0, &settings(), NEVER, true), Due::Nothing(25_000));
        assert_eq!(table.due(25_000, &settings(), NEVER, true), Due::Ping);
        table.pinged(25_000);
        assert_eq!(
            table.due(25_000, &settings(), NEVER, true),
            Due::Nothing(35_000)
        );
        assert!(matches!(
            table.due(35_000, &settings(), NEVER, true),
            Due::End(Ending {
                cause: Cause::PingTimeout,
                ..
            })
        ));
        table.received(34_000);
        assert_eq!(
            table.due(35_000, &settings(), NEVER, true),
            Due::Nothing(59_000)
        );
    }

    #[test]
    fn other_deadlines_go_on_while_no_ping_can_be_sent() {
        let table = KeepAlive::new(0, &settings(), 0.0);
        let due = |now| table.due_without_ping(now, &settings(), NEVER, true);
        assert_eq!(table.due(25_000, &settings(), NEVER, true), Due::Ping);
        assert_eq!(due(25_000), Due::Nothing(100_000));
        assert_eq!(due(100_000), Due::End(Ending::of(Cause::IdleTimeout)));
    }

    #[test]
    fn pong_that_cannot_be_read_is_not_missed() {
        let mut table = KeepAlive::new(0, &settings(), 0.0);
        table.pinged(25_000);
        assert_eq!(
            table.due(36_000, &settings(), NEVER, false),
            Due::Nothing(46_000)
        );
    }

    #[test]
    fn each_deadline_has_its_cause() {
        let mut table = KeepAlive::new(0, &settings(), 1.0);
        table.received(899_999);
        assert!(matches!(
            table.due(5_000, &settings(), 0, true),
            Due::End(Ending {
                cause: Cause::WriteTimeout,
                ..
            })
        ));
        assert!(matches!(
            table.due(900_000, &settings(), NEVER, true),
            Due::End(Ending {
                cause: Cause::Lifetime,
                ..
            })
        ));
        let settings = || SocketSettings {
            ping_interval: Duration::ZERO,
            ..settings()
        };
        let table = KeepAlive::new(0, &settings(), 0.0);
        assert!(matches!(
            table.due(100_000, &settings(), NEVER, true),
            Due::End(Ending {
                cause: Cause::IdleTimeout,
                ..
            })
        ));
    }

    #[test]
    fn silence_from_the_start_has_a_deadline_of_its_own() {
        let settings = SocketSettings {
            first_message_timeout: Duration::from_secs(3),
            ..settings()
        };
        let mut table = KeepAlive::new(0, &settings, 0.0);
        assert_eq!(table.due(0, &settings, NEVER, true), Due::Nothing(3_000));
        table.received(2_000); // a pong is not a message
        let Due::End(ending) = table.due(3_000, &settings, NEVER, true) else {
            panic!("nothing was due");
        };
        assert_eq!(
            (ending.code, ending.cause),
            (CloseCode::POLICY, Cause::FirstMessageTimeout)
        );
        table.message();
        assert_eq!(
            table.due(3_000, &settings, NEVER, true),
            Due::Nothing(27_000)
        );
    }
}

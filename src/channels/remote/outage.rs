//! Outage: how the log and the metrics tell of a time without Redis.
//!
//! ```text
//!   Starting ─── connected ──▶ Connected ◀─── settled ─── OnTrial
//!       │                       │     ▲                   │    ▲
//!       │                       │     │              lost │    │ connected, it was refused
//!       │ lost             lost │     │ connected         ▼    │
//!       └───────────────────────┴─────┴─────────────────▶ Away ┘
//! ```
//!
//! A Redis that refuses a command lets the process connect, and refuses it again. Such an outage
//! ends only when a connection has lasted (`settled`): until then the log would tell of a loss and
//! a return several times a second.

use std::time::{Duration, Instant};

use metrics::counter;
use redis::RedisError;

use super::Remote;
use super::refusal_log::Consequence;
use super::refusals::is_denied;
use crate::telemetry::LOG_INTERVAL;

/// The state of the link to Redis, as the log has told it.
#[derive(Default)]
pub(super) struct Outage {
    state: State,
    /// When a loss was last logged.
    last_logged: Option<Instant>,
}

#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
enum State {
    /// Not connected yet, and no attempt has failed.
    #[default]
    Starting,
    Connected,
    /// Not connected.
    Away {
        began: Instant,
        /// When the last connection was lost: later than `began` if connections were refused.
        lost_at: Instant,
        cause: Cause,
        loss: Loss,
    },
    /// Connected after a refusal, and not for long.
    OnTrial {
        began: Instant,
        connected_at: Instant,
        loss: Loss,
    },
}

/// Why there is no connection.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Cause {
    /// Redis does not answer.
    Unreachable,
    /// Redis replied that it does not serve.
    Refused,
}

/// Whether the log has told of a loss. Only then does it tell of the return.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Loss {
    Unlogged,
    Logged,
}

/// An outage that is over.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Ended {
    duration: Duration,
    loss: Loss,
}

impl Outage {
    /// Called when a connection was lost or could not be made.
    fn lost(&mut self, now: Instant, cause: Cause) {
        let (began, lost_at, loss) = match self.state {
            State::Starting | State::Connected => (now, now, Loss::Unlogged),
            State::Away {
                began,
                lost_at,
                loss,
                ..
            } => (began, lost_at, loss),
            State::OnTrial { began, loss, .. } => (began, now, loss),
        };
        self.state = State::Away {
            began,
            lost_at,
            cause,
            loss,
        };
    }

    /// Returns whether to log the loss: once per outage. If Redis refuses to serve, once per
    /// interval at most, whatever the number of outages.
    fn is_due(&self, now: Instant) -> bool {
        let State::Away { cause, loss, .. } = self.state else {
            return false;
        };
        let is_long_ago = |last| now - last >= LOG_INTERVAL;
        loss == Loss::Unlogged
            && (cause == Cause::Unreachable || self.last_logged.is_none_or(is_long_ago))
    }

    /// Called when the loss was logged.
    fn logged(&mut self, now: Instant) {
        self.last_logged = Some(now);
        if let State::Away { loss, .. } = &mut self.state {
            *loss = Loss::Logged;
        }
    }

    /// Called when a connection was made. Returns the outage if it is over.
    fn connected(&mut self, now: Instant) -> Option<Ended> {
        let (ended, state) = match self.state {
            State::Away {
                began,
                cause: Cause::Refused,
                loss,
                ..
            } => {
                let connected_at = now;
                let state = State::OnTrial {
                    began,
                    connected_at,
                    loss,
                };
                (None, state)
            }
            State::Away { began, loss, .. } => {
                let duration = now - began;
                (Some(Ended { duration, loss }), State::Connected)
            }
            _ => (None, State::Connected),
        };
        self.state = state;
        ended
    }

    /// Called when a connection has lasted. Returns the outage that is over with it.
    fn settled(&mut self) -> Option<Ended> {
        let State::OnTrial {
            began,
            connected_at,
            loss,
        } = self.state
        else {
            return None;
        };
        self.state = State::Connected;
        let duration = connected_at - began;
        Some(Ended { duration, loss })
    }
}

impl Remote {
    fn shown_urls(&self) -> String {
        let urls = self.0.urls.iter().map(ToString::to_string);
        urls.collect::<Vec<_>>().join(", ")
    }

    /// Called when a connection was lost or could not be made.
    pub(super) fn log_disconnected(&self, outage: &mut Outage, error: &RedisError) {
        let now = Instant::now();
        let cause = match error.is_io_error() {
            true => Cause::Unreachable,
            false => Cause::Refused,
        };
        outage.lost(now, cause);
        // A right that is missing is logged once per interval, by the task that meets it first.
        let is_due = match is_denied(error) {
            true => self.0.refusals.count(now, Consequence::Loss).is_some(),
            false => outage.is_due(now),
        };
        if !is_due {
            tracing::debug!(%error, "still not connected to Redis");
            return;
        }
        outage.logged(now);
        let redis = self.shown_urls();
        let cause = match error.detail() {
            Some(detail) if is_denied(error) => detail.to_owned(),
            _ => error.to_string(),
        };
        tracing::error!(
            redis,
            "the channel layer lost Redis: {cause}; members of this process still receive its events"
        );
    }

    /// Called when a connection was made.
    pub(super) fn log_connected(&self, outage: &mut Outage, resubscribed: usize) {
        let now = Instant::now();
        match outage.state {
            State::Away { lost_at, .. } => {
                counter!("oneport_layer_reconnects_total").increment(1);
                let seconds = (now - lost_at).as_secs_f64();
                #[expect(
                    clippy::cast_possible_truncation,
                    clippy::cast_sign_loss,
                    reason = "a few seconds"
                )]
                counter!("oneport_layer_outage_seconds_total").increment(seconds.ceil() as u64);
            }
            _ => {
                tracing::info!(redis = self.shown_urls(), format = %self.0.format, "the channel layer is connected to Redis");
            }
        }
        if let Some(ended) = outage.connected(now) {
            self.log_return(ended, resubscribed);
        }
    }

    /// Called when a connection has lasted longer than the longest pause between attempts.
    pub(super) fn log_settled(&self, outage: &mut Outage, resubscribed: usize) {
        self.0.refusals.settled();
        if let Some(ended) = outage.settled() {
            self.log_return(ended, resubscribed);
        }
    }

    fn log_return(&self, Ended { duration, loss }: Ended, resubscribed: usize) {
        let lost = self.0.outbox.take_lost();
        if loss == Loss::Logged {
            tracing::warn!(
                seconds = duration.as_secs_f64(),
                lost,
                resubscribed,
                "the channel layer is connected to Redis again"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn second(number: u64) -> Duration {
        Duration::from_secs(number)
    }

    #[test]
    fn an_unreachable_redis_is_logged_once_per_outage() {
        let mut outage = Outage::default();
        let start = Instant::now();
        assert_eq!(outage.connected(start), None);
        for at in [0, 1, 100] {
            let now = start + second(at);
            outage.lost(now, Cause::Unreachable);
            assert_eq!(outage.is_due(now), at == 0);
            outage.logged(now);
        }
        let ended = outage.connected(start + second(101));
        let (duration, loss) = (second(101), Loss::Logged);
        assert_eq!(ended, Some(Ended { duration, loss }));
        outage.lost(start + second(102), Cause::Unreachable);
        assert!(outage.is_due(start + second(102)));
    }

    #[test]
    fn a_refusal_is_over_when_a_connection_has_lasted() {
        let mut outage = Outage::default();
        let start = Instant::now();
        let mut logged = 0;
        for at in 0..25 {
            let now = start + second(at);
            outage.lost(now, Cause::Refused);
            if outage.is_due(now) {
                outage.logged(now);
                logged += 1;
            }
            assert_eq!(outage.connected(now), None);
        }
        assert_eq!(logged, 1);
        let (duration, loss) = (second(24), Loss::Logged);
        assert_eq!(outage.settled(), Some(Ended { duration, loss }));
        assert_eq!(outage.settled(), None);
        // Another one that is over at once is not logged: the last one was a moment ago.
        let now = start + second(5);
        outage.lost(now, Cause::Refused);
        assert!(!outage.is_due(now));
        outage.connected(now);
        let (duration, loss) = (Duration::ZERO, Loss::Unlogged);
        assert_eq!(outage.settled(), Some(Ended { duration, loss }));
    }
}

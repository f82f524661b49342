//! Phase: what a connection is doing, derived from the instants of its last events.

use std::sync::atomic::Ordering;

use super::{ConnectionTimeouts, LINGERING, load};
use crate::clock::{Millis, NEVER};
use crate::http::read_rate::allowed_wait;

/// The phase of a connection, with the instant from which its deadline counts.
#[derive(Clone, Copy, Debug)]
enum Phase {
    FirstHead { since: Millis },
    Head { since: Millis },
    Answering,
    Blocked { since: Millis },
    Idle { since: Millis },
    Lingering { since: Millis },
    Draining { since: Millis },
}

impl ConnectionTimeouts {
    fn phase(&self) -> Phase {
        let lingering = load(&self.lingering_since);
        if lingering != NEVER {
            return Phase::Lingering { since: lingering };
        }
        let blocked = load(&self.blocked_since);
        if blocked != NEVER {
            return Phase::Blocked { since: blocked };
        }
        if self.in_flight.load(Ordering::Relaxed) > 0 {
            return Phase::Answering;
        }
        let idle = load(&self.idle_since);
        let draining = load(&self.draining_since);
        if draining != NEVER {
            let since = idle.max(draining);
            return Phase::Draining { since };
        }
        if !self.has_served.load(Ordering::Relaxed) {
            return Phase::FirstHead { since: idle };
        }
        let head = load(&self.head_since);
        if head != NEVER && !self.is_http2() {
            return Phase::Head { since: head };
        }
        Phase::Idle { since: idle }
    }

    /// Returns the instant at which the connection ends if it stays in its phase.
    pub(super) fn deadline(&self) -> Millis {
        let durations = &self.durations;
        match self.phase() {
            Phase::Answering => NEVER,
            Phase::FirstHead { since } | Phase::Head { since } => {
                since.saturating_add(durations.handshake)
            }
            Phase::Idle { since } => since.saturating_add(durations.keep_alive),
            Phase::Lingering { since } => since.saturating_add(LINGERING),
            // HTTP/2 shuts down in two steps, and a dead client answers neither (RFC 9113 §6.8).
            Phase::Draining { since } => since.saturating_add(durations.handshake),
            Phase::Blocked { since } => {
                let earned = allowed_wait(load(&self.written), durations.min_rate);
                let left = durations.write.saturating_add(earned);
                let left = left.saturating_sub(load(&self.blocked));
                since.saturating_add(left.min(durations.write))
            }
        }
    }

    /// Returns how many requests over HTTP/2 are in flight.
    pub(in crate::server) fn streams(&self) -> u32 {
        match self.is_http2() {
            true => self.in_flight.load(Ordering::Relaxed),
            false => 0,
        }
    }

    /// Returns the word of the phase, for the metrics.
    pub(in crate::server) fn phase_word(&self) -> &'static str {
        match self.phase() {
            Phase::Lingering { .. } => "closing",
            _ if !self.has_begun.load(Ordering::Relaxed) => "handshake",
            Phase::Answering | Phase::Blocked { .. } => match self.client.is_reading_body() {
                true => "body",
                false => "response",
            },
            Phase::FirstHead { .. } | Phase::Head { .. } => "head",
            Phase::Idle { .. } | Phase::Draining { .. } => "idle",
        }
    }
}

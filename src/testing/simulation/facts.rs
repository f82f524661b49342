//! Facts: what follows from a record, for the rules of the promise.

use std::time::Duration;

use super::record::{Fault, Record, Send, Visit};
use super::schedule::{CLIENTS, PATHS};
use crate::config::LayerFormat;

/// Within this time an event is everywhere, if nothing is disturbed.
pub(super) const EVERYWHERE: Duration = Duration::from_millis(500);

/// The visits of one client in which it continued where it had been: the first one, and those that
/// it returned to and heard `recovered: true`.
pub(super) struct Stay<'r> {
    pub(super) visits: Vec<&'r Visit>,
}

impl Stay<'_> {
    pub(super) fn client(&self) -> usize {
        self.visits[0].client
    }

    pub(super) fn events(&self) -> impl Iterator<Item = u64> + '_ {
        self.visits.iter().flat_map(|visit| visit.events())
    }

    /// Whether the client is connected at the end of the run.
    pub(super) fn is_open(&self) -> bool {
        let last = self.visits.last();
        last.is_some_and(|last| last.opened_at.is_some() && last.ended_at.is_none())
    }
}

impl Record {
    pub(super) fn group_of(client: usize) -> &'static str {
        match PATHS[client] {
            "/kept/" | "/live/" => "kept",
            "/room/" => "room",
            "/short/" => "short",
            _ => "bare",
        }
    }

    /// Whether a client asks for the history.
    pub(super) fn has_history(client: usize) -> bool {
        matches!(PATHS[client], "/kept/" | "/room/" | "/short/")
    }

    /// Whether the history that a client asks for is long enough for all events of a run.
    pub(super) fn has_whole_history(client: usize) -> bool {
        Self::has_history(client) && PATHS[client] != "/short/"
    }

    /// Whether Redis keeps the events of a client's group for all processes.
    pub(super) fn is_shared(&self, client: usize) -> bool {
        self.format == LayerFormat::Oneport && Self::group_of(client) != "bare"
    }

    pub(super) fn has(&self, fault: Fault) -> bool {
        self.faults.iter().any(|(_, found)| *found == fault)
    }

    /// Whether nothing was disturbed between two times, and shortly before.
    pub(super) fn is_calm(&self, from: Duration, to: Duration) -> bool {
        // The links need some time to be as before.
        let settles = Duration::from_secs(8);
        self.faults.is_empty() || (from > self.repaired_at + settles && to >= from)
    }

    pub(super) fn stays(&self) -> Vec<Stay<'_>> {
        let mut stays: Vec<Stay<'_>> = Vec::new();
        for client in 0..CLIENTS {
            let mut continues = false;
            for visit in self.visits.iter().filter(|visit| visit.client == client) {
                match stays
                    .last_mut()
                    .filter(|_| continues && visit.recovered() == Some(true))
                {
                    Some(stay) => stay.visits.push(visit),
                    None => stays.push(Stay {
                        visits: vec![visit],
                    }),
                }
                // A client that saw no position returns as a new one.
                continues = true;
            }
        }
        stays
    }

    pub(super) fn send(&self, n: u64) -> &Send {
        &self.sends[usize::try_from(n).unwrap()]
    }

    /// Whether an event was kept. A group keeps a history from when a client has asked for one: the
    /// process of that client knows while it is connected, all know when Redis does.
    pub(super) fn is_kept(&self, send: &Send) -> bool {
        let asks = |visit: &&Visit| {
            Self::has_history(visit.client) && Self::group_of(visit.client) == send.group
        };
        let is_known_here = |visit: &Visit| {
            let is_here = visit.process == send.process
                && visit
                    .ended_at
                    .is_none_or(|ended_at| ended_at >= send.begun_at);
            let opened_at = visit
                .opened_at
                .filter(|_| is_here || self.is_calm(visit.begun_at, visit.begun_at));
            opened_at.is_some_and(|opened_at| opened_at < send.begun_at)
        };
        // A position with an offset shows that Redis knows, until it loses that too.
        let losses = self.faults.iter().filter(|(at, fault)| {
            matches!(fault, Fault::Loss | Fault::Flush) && *at < send.begun_at + EVERYWHERE
        });
        let lost_at = losses.map(|(at, _)| *at + EVERYWHERE).max();
        let is_old = |position: &str| {
            let frames = self.visits.iter().flat_map(|visit| &visit.frames);
            let mut frames = frames.filter(|frame| Some(frame.at) <= lost_at);
            frames.any(|frame| frame.offset() == Some(position))
        };
        // Redis knows, but a process that has no connection to it may not.
        let is_calm = self.is_calm(send.begun_at, send.begun_at);
        let is_known_everywhere = |visit: &Visit| {
            let mut frames = visit.frames.iter();
            let is_told = is_calm || visit.process == send.process;
            is_told
                && frames.any(|frame| {
                    let position = frame.offset().unwrap_or_default();
                    let offset = confirmed(position).map_or(0, |(_, offset)| offset);
                    offset > 0 && frame.at < send.begun_at && !is_old(position)
                })
        };
        let mut visits = self.visits.iter().filter(asks);
        send.is_kept && visits.any(|visit| is_known_here(visit) || is_known_everywhere(visit))
    }

    /// Whether an event may be lost for good: its process died before Redis certainly had it, or
    /// Redis was emptied without a process noticing.
    pub(super) fn may_be_lost(&self, send: &Send) -> bool {
        let is_emptied =
            |(at, fault): &(Duration, Fault)| *fault == Fault::Flush && send.begun_at <= *at;
        if self.faults.iter().any(is_emptied) {
            return true;
        }
        let (Some(died_at), Some(accepted_at)) =
            (self.lives[send.process].died_at, send.accepted_at)
        else {
            return false;
        };
        let is_disturbed =
            |(at, fault): &(Duration, Fault)| *fault != Fault::Death && *at <= died_at;
        let is_calm =
            send.begun_at > Duration::from_secs(1) && !self.faults.iter().any(is_disturbed);
        let has_lost = self.has(Fault::Loss); // and no process is left to send it again
        !is_calm || has_lost || accepted_at + EVERYWHERE > died_at
    }
}

/// Reads a position that is not early: its epoch and offset.
pub(super) fn confirmed(position: &str) -> Option<(&str, u64)> {
    let (epoch, offset) = position.split_once('.')?;
    Some((epoch, offset.parse().ok()?))
}

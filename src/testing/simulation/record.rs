//! Record: what was sent and what clients saw in one run. It is all that the promise is checked
//! against, and holds nothing that could not be seen from outside.

use std::fmt;
use std::time::Duration;

use serde_json::Value;

use crate::config::LayerFormat;

/// One run. All times are since its start.
pub(super) struct Record {
    pub(super) format: LayerFormat,
    pub(super) sends: Vec<Send>,
    /// By client, in order.
    pub(super) visits: Vec<Visit>,
    pub(super) lives: Vec<Life>,
    pub(super) faults: Vec<(Duration, Fault)>,
    /// When everything was repaired.
    pub(super) repaired_at: Duration,
    /// When the run ended.
    pub(super) ended_at: Duration,
}

/// An event that a process was asked to send.
#[derive(Clone, Debug)]
pub(super) struct Send {
    /// Its number in the run, which its JSON has as `n`.
    pub(super) n: u64,
    pub(super) process: usize,
    pub(super) group: &'static str,
    pub(super) is_kept: bool,
    /// When the process began to send it, and when it had accepted it.
    pub(super) begun_at: Duration,
    pub(super) accepted_at: Option<Duration>,
}

/// One connection of a client.
#[derive(Clone, Debug)]
pub(super) struct Visit {
    pub(super) client: usize,
    pub(super) process: usize,
    /// The position that it returned with.
    pub(super) since: Option<String>,
    pub(super) begun_at: Duration,
    /// When the client had the response to its handshake.
    pub(super) opened_at: Option<Duration>,
    pub(super) ended_at: Option<Duration>,
    /// Whether the server ended it or refused the handshake.
    pub(super) was_ended_by_server: bool,
    pub(super) frames: Vec<Frame>,
}

/// A frame that a client received.
#[derive(Clone, Debug)]
pub(super) struct Frame {
    pub(super) at: Duration,
    pub(super) json: Value,
}

/// A process, which has a number of its own among all that ever ran.
#[derive(Clone, Debug)]
pub(super) struct Life {
    pub(super) died_at: Option<Duration>,
}

/// What disturbed the run.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Fault {
    /// Redis, or the link of a process to it, was away, silent or slow, or is again as it should
    /// be.
    Link,
    /// A process stood still, or goes on.
    Pause,
    /// A process died.
    Death,
    /// Redis was away and has less than before.
    Loss,
    /// Redis was emptied, and its connections live on.
    Flush,
}

impl Frame {
    pub(super) fn kind(&self) -> &str {
        self.json["type"].as_str().unwrap_or_default()
    }

    /// The number of an event that was sent.
    pub(super) fn n(&self) -> Option<u64> {
        (self.kind() == "sim.event").then(|| self.json["n"].as_u64())?
    }

    pub(super) fn offset(&self) -> Option<&str> {
        self.json["offset"].as_str()
    }
}

impl Visit {
    /// Called when the server has ended the connection.
    pub(super) fn end(&mut self, at: Duration) {
        if self.ended_at.is_none() {
            self.ended_at = Some(at);
            self.was_ended_by_server = true;
        }
    }

    /// Returns the last position that the client saw.
    pub(super) fn last_position(&self) -> Option<&str> {
        self.frames.iter().rev().find_map(Frame::offset)
    }

    /// Returns whether the client was told that it misses nothing since `since`.
    pub(super) fn recovered(&self) -> Option<bool> {
        let joined = self
            .frames
            .iter()
            .find(|frame| frame.kind() == "oneport.joined")?;
        joined.json["recovered"].as_bool()
    }

    /// Returns the numbers of the events, in the order in which they came.
    pub(super) fn events(&self) -> impl Iterator<Item = u64> + '_ {
        self.frames.iter().filter_map(Frame::n)
    }
}

/// What was sent and seen, for `ONEPORT_TRACE`.
impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, fault) in &self.faults {
            writeln!(f, "{at:?} {fault:?}")?;
        }
        for send in &self.sends {
            let Send {
                n,
                process,
                group,
                begun_at,
                accepted_at,
                ..
            } = send;
            writeln!(
                f,
                "event {n} to {group} by process {process}: {begun_at:?} to {accepted_at:?}"
            )?;
        }
        for visit in &self.visits {
            let Visit {
                client,
                process,
                since,
                begun_at,
                opened_at,
                ended_at,
                ..
            } = visit;
            writeln!(
                f,
                "client {client} at process {process} since {since:?}: begun {begun_at:?}, open {opened_at:?} to {ended_at:?}"
            )?;
            for frame in &visit.frames {
                writeln!(f, "    {:?} {}", frame.at, frame.json)?;
            }
        }
        writeln!(
            f,
            "repaired at {:?}, ended at {:?}",
            self.repaired_at, self.ended_at
        )
    }
}

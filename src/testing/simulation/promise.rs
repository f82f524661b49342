//! Promise: what each client may and must see. It is the model of the channel layer.
//!
//! With format `oneport`, a group with a history:
//! - *once*: no client sees an event twice, unless it was told that it could not recover.
//! - *complete*: a client that is connected at the end has every event that was sent since it first
//!   connected, and those that were kept before. Redis may lose what it has: processes send it again.
//!   A short history keeps less than is sent
//!   while a process is disturbed. Exempt is what only a process that has died could send again, and what was sent before somebody
//!   emptied a Redis whose connections live on.
//! - *sender's order*: the events of one process come in the order in which they were sent: those
//!   that are sent while the client is a member, and those that Redis has given an offset. Events that
//!   are not kept may overtake kept ones, and come in their own order.
//! - *one order*: events come in the order of their offsets; an offset is that of the same event for
//!   all clients. An event that is shown before it has an offset (`~` in its position) is exempt.
//! - *positions*: no two events of one client have the same position.
//! - *no gap*: a client that hears `recovered: true` has every event that was sent while it was
//!   away.
//! - *recovers*: it hears `recovered: true` whenever nothing was disturbed.
//! - *at once*: members of the sender's process have an event within `AT_ONCE`, whatever Redis does.
//!
//! A group without a history, and all groups of Django's formats:
//! - *once*, *sender's order*, and:
//! - *own*: members of the sender's process have every event that was sent while they were members.
//! - *all*: so have all others, if nothing was disturbed.
//! - *no gap* for clients that hear `recovered: true`.
//! - *epoch*: a client that returns to another process does not hear `recovered: true`.
//!
//! In all formats:
//! - *open*: handshakes are accepted, and connections end only with their process or by the client.
//!
//! Presence, in all formats:
//! - *sum*: each `chat.join` and `chat.leave` has one member more or less than the one before it.
//! - *present*: at the end, `members` of the last one is the number of members, and `who` says the
//!   same.
//!
//! What follows are these rules, each a function from a run to the differences that it finds.
//! Everything is told by what clients saw: nothing of the implementation is read.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::record::{Fault, Record, Send, Visit};
use super::schedule::{CLIENTS, PATHS};
use crate::config::LayerFormat;

/// Within this time members of the sender's process have an event.
const AT_ONCE: Duration = Duration::from_millis(2500);

/// Within this time an event is everywhere, if nothing is disturbed.
const EVERYWHERE: Duration = Duration::from_millis(500);

/// A rule of the promise: its name, and the differences that it finds.
pub(super) type Rule = (&'static str, fn(&Record) -> Vec<String>);

/// All rules.
pub(super) const RULES: [Rule; 13] = [
    ("once", once),
    ("complete", complete),
    ("sender's order", senders_order),
    ("one order", one_order),
    ("positions", positions),
    ("no gap", no_gap),
    ("recovers", recovers),
    ("own", own),
    ("all", all),
    ("epoch", epoch),
    ("open", open),
    ("sum", sum),
    ("present", present),
];

/// The visits of one client in which it continued where it had been: the first one, and those that
/// it returned to and heard `recovered: true`.
struct Stay<'r> {
    visits: Vec<&'r Visit>,
}

impl Stay<'_> {
    fn client(&self) -> usize {
        self.visits[0].client
    }

    fn events(&self) -> impl Iterator<Item = u64> + '_ {
        self.visits.iter().flat_map(|visit| visit.events())
    }

    /// Whether the client is connected at the end of the run.
    fn is_open(&self) -> bool {
        let last = self.visits.last();
        last.is_some_and(|last| last.opened_at.is_some() && last.ended_at.is_none())
    }
}

impl Record {
    fn group_of(client: usize) -> &'static str {
        match PATHS[client] {
            "/kept/" | "/live/" => "kept",
            "/room/" => "room",
            "/short/" => "short",
            _ => "bare",
        }
    }

    /// Whether a client asks for the history.
    fn has_history(client: usize) -> bool {
        matches!(PATHS[client], "/kept/" | "/room/" | "/short/")
    }

    /// Whether the history that a client asks for is long enough for all events of a run.
    fn has_whole_history(client: usize) -> bool {
        Self::has_history(client) && PATHS[client] != "/short/"
    }

    /// Whether Redis keeps the events of a client's group for all processes.
    fn is_shared(&self, client: usize) -> bool {
        self.format == LayerFormat::Oneport && Self::group_of(client) != "bare"
    }

    fn has(&self, fault: Fault) -> bool {
        self.faults.iter().any(|(_, found)| *found == fault)
    }

    /// Whether nothing was disturbed between two times, and shortly before.
    fn is_calm(&self, from: Duration, to: Duration) -> bool {
        // The links need some time to be as before.
        let settles = Duration::from_secs(8);
        self.faults.is_empty() || (from > self.repaired_at + settles && to >= from)
    }

    fn stays(&self) -> Vec<Stay<'_>> {
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

    fn send(&self, n: u64) -> &Send {
        &self.sends[usize::try_from(n).unwrap()]
    }

    /// Whether an event was kept. A group keeps a history from when a client has asked for one: the
    /// process of that client knows while it is connected, all know when Redis does.
    fn is_kept(&self, send: &Send) -> bool {
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
        let is_known_everywhere = |visit: &Visit| {
            visit.frames.iter().any(|frame| {
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
    fn may_be_lost(&self, send: &Send) -> bool {
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
        let has_lost = self.has(Fault::Loss); // and nobody is there to send it again
        !is_calm || has_lost || accepted_at + EVERYWHERE > died_at
    }
}

// --- Groups ----------------------------------------------------------------------------------------------------------

fn once(run: &Record) -> Vec<String> {
    let mut found = Vec::new();
    for stay in run.stays() {
        let mut seen = BTreeSet::new();
        for n in stay.events() {
            if !seen.insert(n) {
                found.push(format!("client {} has event {n} twice", stay.client()));
            }
        }
    }
    found
}

fn complete(run: &Record) -> Vec<String> {
    let mut found = Vec::new();
    for stay in run.stays() {
        let client = stay.client();
        if !run.is_shared(client) || !stay.is_open() {
            continue;
        }
        let opened_at = stay.visits[0].opened_at.unwrap_or_default();
        let has: BTreeSet<u64> = stay.events().collect();
        for send in &run.sends {
            let is_due = send.accepted_at.is_some()
                && run.is_kept(send)
                && send.group == Record::group_of(client)
                && !run.may_be_lost(send)
                && (Record::has_whole_history(client)
                    || (send.begun_at > opened_at
                        && (!Record::has_history(client) || run.faults.is_empty())));
            if is_due && !has.contains(&send.n) {
                found.push(format!("client {client} lacks event {}", send.n));
            }
        }
    }
    found
}

fn senders_order(run: &Record) -> Vec<String> {
    let mut found = Vec::new();
    for stay in run.stays() {
        let client = stay.client();
        let is_shared = run.is_shared(client);
        // The newest event of each process: among those that the client was a member for, and
        // among those that Redis has ordered.
        let mut newest: BTreeMap<(usize, &str), u64> = BTreeMap::new();
        for visit in &stay.visits {
            let opened_at = visit.opened_at.unwrap_or_default();
            for frame in &visit.frames {
                let Some(n) = frame.n() else { continue };
                let send = run.send(n);
                let is_live = send.begun_at > opened_at;
                let is_ordered = frame.offset().and_then(confirmed).is_some();
                let kinds = match (is_shared, send.is_kept) {
                    (true, false) => [("transient", true), ("", false)],
                    (true, true) => [("live", is_live), ("ordered", is_ordered)],
                    (false, _) => [("live", is_live), ("", false)],
                };
                for (kind, counts) in kinds {
                    let newest = newest.entry((send.process, kind)).or_default();
                    if counts && n < *newest {
                        found.push(format!(
                            "client {client} has event {n} after {newest} of the same process ({kind})"
                        ));
                    }
                    if counts {
                        *newest = n.max(*newest);
                    }
                }
            }
        }
    }
    found
}

/// Reads a position that is not early: its epoch and offset.
fn confirmed(position: &str) -> Option<(&str, u64)> {
    let (epoch, offset) = position.split_once('.')?;
    Some((epoch, offset.parse().ok()?))
}

fn one_order(run: &Record) -> Vec<String> {
    let mut found = Vec::new();
    let mut at: BTreeMap<String, u64> = BTreeMap::new();
    for stay in run.stays() {
        let client = stay.client();
        if !run.is_shared(client) {
            continue;
        }
        let mut newest: BTreeMap<&str, u64> = BTreeMap::new();
        let frames = stay.visits.iter().flat_map(|visit| &visit.frames);
        for frame in frames {
            let (Some(n), Some(position)) = (frame.n(), frame.offset()) else {
                continue;
            };
            let Some((epoch, offset)) = confirmed(position).filter(|_| run.is_kept(run.send(n)))
            else {
                continue;
            };
            let newest = newest.entry(epoch).or_default();
            if offset <= *newest {
                found.push(format!(
                    "client {client} has event {n} at {position} after offset {newest}"
                ));
            }
            *newest = offset.max(*newest);
            let key = format!("{} {position}", Record::group_of(client));
            let other = *at.entry(key).or_insert(n);
            if other != n {
                found.push(format!(
                    "client {client} has event {n} at {position}, another has {other} there"
                ));
            }
        }
    }
    found
}

fn positions(run: &Record) -> Vec<String> {
    let mut found = Vec::new();
    for stay in run.stays() {
        let mut seen: BTreeMap<&str, u64> = BTreeMap::new();
        for frame in stay.visits.iter().flat_map(|visit| &visit.frames) {
            if let (Some(n), Some(position)) = (frame.n(), frame.offset())
                && run.is_kept(run.send(n))
                && let Some(other) = seen.insert(position, n)
                && other != n
            {
                let client = stay.client();
                found.push(format!(
                    "client {client} has events {other} and {n} at {position}"
                ));
            }
        }
    }
    found
}

fn no_gap(run: &Record) -> Vec<String> {
    let mut found = Vec::new();
    for stay in run.stays() {
        let client = stay.client();
        for (before, after) in stay.visits.iter().zip(stay.visits.iter().skip(1)) {
            let (Some(left_at), Some(returned_at)) = (before.ended_at, after.opened_at) else {
                continue;
            };
            // An event that is sent shortly before the return may come after it, if the client
            // stays for long enough.
            let stays =
                after.ended_at.unwrap_or(run.ended_at) > returned_at + Duration::from_secs(8);
            let has: BTreeSet<u64> = stay.events().collect();
            for send in &run.sends {
                let is_due = run.is_kept(send)
                    && send.group == Record::group_of(client)
                    && send.begun_at > left_at
                    && send
                        .accepted_at
                        .is_some_and(|at| at + EVERYWHERE < after.begun_at)
                    && !run.may_be_lost(send)
                    && (stays || run.is_calm(before.begun_at, run.ended_at));
                if is_due && !has.contains(&send.n) {
                    found.push(format!(
                        "client {client} recovered, but lacks event {}, sent while it was away",
                        send.n
                    ));
                }
            }
        }
    }
    found
}

fn recovers(run: &Record) -> Vec<String> {
    let mut found = Vec::new();
    for visit in &run.visits {
        // A history without events is forgotten soon after its last member has left.
        let has_seen_some = |since: &String| confirmed(since).is_some_and(|(_, offset)| offset > 0);
        if visit.since.as_ref().is_some_and(has_seen_some)
            && visit.recovered() == Some(false)
            && run.is_shared(visit.client)
            && Record::has_whole_history(visit.client)
            && run.is_calm(visit.begun_at, run.ended_at)
        {
            found.push(format!(
                "client {} did not recover from {:?}",
                visit.client, visit.since
            ));
        }
    }
    found
}

/// Events of the sender's own process reach its members whatever happens.
fn own(run: &Record) -> Vec<String> {
    let mut found = Vec::new();
    for visit in &run.visits {
        let has: BTreeMap<u64, Duration> = visit
            .frames
            .iter()
            .filter_map(|frame| Some((frame.n()?, frame.at)))
            .collect();
        let Some(opened_at) = visit.opened_at else {
            continue;
        };
        let is_shared = run.is_shared(visit.client);
        for send in &run.sends {
            let Some(accepted_at) = send.accepted_at else {
                continue;
            };
            let is_due = send.group == Record::group_of(visit.client)
                && send.process == visit.process
                && send.begun_at > opened_at + Duration::from_millis(100)
                && visit
                    .ended_at
                    .is_none_or(|ended_at| ended_at > accepted_at + AT_ONCE)
                && (send.is_kept || !is_shared || run.faults.is_empty())
                && !(run.has(Fault::Pause) && is_shared);
            if !is_due {
                continue;
            }
            match has.get(&send.n) {
                None => found.push(format!(
                    "client {} lacks event {} of its own process",
                    visit.client, send.n
                )),
                Some(at) if *at > accepted_at + AT_ONCE && !run.has(Fault::Pause) => {
                    let late = *at - accepted_at;
                    found.push(format!(
                        "client {} has event {} of its own process after {late:?}",
                        visit.client, send.n
                    ));
                }
                Some(_) => {}
            }
        }
    }
    found
}

/// If nothing is disturbed, each event reaches all members.
fn all(run: &Record) -> Vec<String> {
    let mut found = Vec::new();
    for visit in &run.visits {
        let has: BTreeSet<u64> = visit.events().collect();
        let Some(opened_at) = visit.opened_at else {
            continue;
        };
        for send in &run.sends {
            let Some(accepted_at) = send.accepted_at else {
                continue;
            };
            let is_due = send.group == Record::group_of(visit.client)
                && send.begun_at > opened_at
                && visit
                    .ended_at
                    .is_none_or(|ended_at| ended_at > accepted_at + EVERYWHERE)
                && run.is_calm(send.begun_at, accepted_at);
            if is_due && !has.contains(&send.n) {
                found.push(format!(
                    "client {} lacks event {}, though nothing was disturbed",
                    visit.client, send.n
                ));
            }
        }
    }
    found
}

/// In Django's formats each process has a history of its own.
fn epoch(run: &Record) -> Vec<String> {
    let mut found = Vec::new();
    for stay in run.stays() {
        for (before, after) in stay.visits.iter().zip(stay.visits.iter().skip(1)) {
            if !run.is_shared(stay.client()) && before.process != after.process {
                found.push(format!(
                    "client {} recovered at another process than it had been at",
                    stay.client()
                ));
            }
        }
    }
    found
}

fn open(run: &Record) -> Vec<String> {
    let is_cut = |visit: &&Visit| visit.was_ended_by_server;
    let cut = run.visits.iter().filter(is_cut);
    cut.map(|visit| {
        let refused = visit.frames.iter().find(|frame| frame.kind() == "refused");
        let refused = refused.map_or("", |_| ", it was refused");
        let at = visit.ended_at.unwrap_or_default();
        format!(
            "client {} lost its connection at {at:?}{refused}",
            visit.client
        )
    })
    .collect()
}

// --- Presence --------------------------------------------------------------------------------------------------------

fn sum(run: &Record) -> Vec<String> {
    let mut found = Vec::new();
    for visit in &run.visits {
        let mut before: Option<i64> = None;
        for frame in &visit.frames {
            let change = match frame.kind() {
                "chat.join" => 1,
                "chat.leave" => -1,
                _ => continue,
            };
            let members = frame.json["members"].as_i64().unwrap_or_default();
            if let Some(before) = before
                && before + change != members
            {
                found.push(format!(
                    "client {} at {:?}: {} with members {members} after {before}",
                    visit.client,
                    frame.at,
                    frame.kind()
                ));
            }
            before = Some(members);
        }
    }
    found
}

fn present(run: &Record) -> Vec<String> {
    let is_open = |visit: &&Visit| visit.opened_at.is_some() && visit.ended_at.is_none();
    let mut found = Vec::new();
    for visit in run.visits.iter().filter(is_open) {
        let group = Record::group_of(visit.client);
        // A chat counts the members that others can see; those of `feed` are not.
        let is_counted = |other: &&Visit| {
            matches!(PATHS[other.client], "/room/" | "/talk/")
                && Record::group_of(other.client) == group
        };
        if !is_counted(&visit) {
            continue;
        }
        let members = run.visits.iter().filter(is_open).filter(is_counted).count() as i64;
        let last = visit
            .frames
            .iter()
            .rev()
            .find(|frame| frame.kind().starts_with("chat.j") || frame.kind() == "chat.leave");
        let last = last.and_then(|frame| frame.json["members"].as_i64());
        if last != Some(members) {
            found.push(format!(
                "client {} saw {last:?} members last, {members} are there",
                visit.client
            ));
        }
        let who = visit
            .frames
            .iter()
            .rev()
            .find(|frame| frame.kind() == "chat.who");
        let who = who.and_then(|frame| frame.json["members"].as_i64());
        if who != Some(members) {
            found.push(format!(
                "client {} hears {who:?} members, {members} are there",
                visit.client
            ));
        }
    }
    found
}

//! Promise: what each client may and must see. It is the model of the channel layer.
//!
//! With format `oneport`, a group with a history:
//! - *once*: no client sees an event twice, unless it was told that it could not recover.
//! - *complete*: a client that is connected at the end has every event that was sent since it first
//!   connected, and those that were kept before. Redis may lose what it has: processes send it
//!   again. A short history keeps less than is sent while a process is disturbed, and a process in
//!   which no member asks for the history may miss what was sent before it knows of one. Exempt is
//!   what only a process that has died could send again, and what was sent before an administrator
//!   emptied a Redis whose connections live on.
//! - *sender's order*: the events of one process come in the order in which they were sent: those
//!   that are sent while the client is a member, and those that Redis has given an offset. Events
//!   that are not kept may overtake kept ones, and come in their own order.
//! - *one order*: events come in the order of their offsets; an offset is that of the same event
//!   for all clients. An event that is shown before it has an offset (`~` in its position) is
//!   exempt.
//! - *positions*: no two events of one client have the same position.
//! - *no gap*: a client that hears `recovered: true` has every event that was sent while it was
//!   away.
//! - *recovers*: it hears `recovered: true` whenever nothing was disturbed.
//! - *at once*: members of the sender's process have an event within `AT_ONCE`, whatever Redis
//!   does.
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
//! - *sum*: each `chat.join` and `chat.leave` that a member of `chat` hears has one member more or
//!   less than the one before it.
//! - *present*: at the end, `members` of the last one is the number of members, and `who` says the
//!   same.
//!
//! What follows are these rules, each a function from a run to the differences that it finds.
//! The rules use only what clients saw, nothing of the implementation.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::facts::{EVERYWHERE, confirmed};
use super::record::{Fault, Record, Visit};
use super::schedule::PATHS;

/// Within this time members of the sender's process have an event.
const AT_ONCE: Duration = Duration::from_millis(2500);

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
                    || (send.begun_at > opened_at && run.faults.is_empty()));
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
    let chats = run.visits.iter();
    for visit in chats.filter(|visit| is_announced(visit.client)) {
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

/// Returns whether a client is a member of `chat`, which others are told of. A process that has only
/// members of `feed` passes on what other processes say.
fn is_announced(client: usize) -> bool {
    matches!(PATHS[client], "/room/" | "/talk/")
}

fn present(run: &Record) -> Vec<String> {
    let is_open = |visit: &&Visit| visit.opened_at.is_some() && visit.ended_at.is_none();
    let mut found = Vec::new();
    for visit in run.visits.iter().filter(is_open) {
        let group = Record::group_of(visit.client);
        let is_counted =
            |other: &&Visit| is_announced(other.client) && Record::group_of(other.client) == group;
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

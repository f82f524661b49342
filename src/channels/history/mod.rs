//! Past: what a group remembers, alone or together with other processes.

mod bounds;

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use self::bounds::{forget_early, kept, memory_of};
use super::batch::Entry;
use super::history_budget::{Account, EMPTY_KEPT};
use super::{GroupOptions, Position};

/// Processes whose newest event is remembered, in one group. Of more, the one longest silent is forgotten.
const NODES_MAX: usize = 64;

/// Where in a group's history a member starts.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Start {
    /// With all that is kept.
    History,
    /// With what comes from now on.
    Now,
    /// With what came after a position that it has seen.
    After(Position),
}

/// Where in a group's history a member starts.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Joined {
    /// The position before the first event that it gets. A client that comes back with it misses nothing since.
    pub from: Position,
    /// Whether nothing is missing after the position that it asked for.
    pub is_complete: bool,
}

/// What a member that joins gets of the past.
pub(super) struct Replay {
    /// The position before the first of them.
    pub(super) from: Position,
    pub(super) entries: Vec<Entry>,
    /// Is nothing missing in between?
    pub(super) is_complete: bool,
}

/// Where an event stands that has its place in a shared history.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum PositionCheck {
    /// Right behind the newest that is here.
    Next,
    /// It is here already.
    Duplicate,
    /// Further on, or in another life of the history.
    Gap,
}

/// What a group remembers: its newest events, the position of the newest.
///
/// A history that is shared is this process's copy of the one in Redis: it is read once when the first member comes, and kept up
/// by the events that follow. Each of them has the number that its sender gave it (`seq`), by which it is known again when it
/// comes twice.
pub(super) struct GroupHistory {
    position: Position,
    events: VecDeque<(Instant, Entry)>,
    /// What the events take, of `history` and of those without a position.
    bytes: usize,
    pub(super) account: Account,
    max: usize,
    expiry: Duration,
    shared: Option<Box<SharedHistory>>,
}

#[derive(Default)]
struct SharedHistory {
    /// It was read, from its beginning on, if not to its end.
    is_begun: bool,
    /// This process has sent it an event, which may still be on its way.
    is_used: bool,
    /// It was read to its end.
    is_loaded: bool,
    /// Members joined before it was read, and wait for it.
    is_awaited: bool,
    /// Events came that there is a gap before.
    is_behind: bool,
    /// The newest event of each process.
    seen: VecDeque<(u64, u64)>,
    /// The process and number of the event at the position.
    newest: Option<(u64, u64)>,
    /// Events of this process that its members have and that have no position yet.
    early: VecDeque<EarlyEvent>,
}

struct EarlyEvent {
    node: u64,
    seq: u64,
    entry: Entry,
}

impl SharedHistory {
    fn newest(&self, node: u64) -> u64 {
        let found = self.seen.iter().find(|(seen, _)| *seen == node);
        found.map_or(0, |(_, seq)| *seq)
    }

    fn mark_seen(&mut self, node: u64, seq: u64) {
        if let Some((last, newest)) = self.seen.back_mut()
            && *last == node
        {
            *newest = seq;
            return;
        }
        self.seen.retain(|(seen, _)| *seen != node);
        if self.seen.len() >= NODES_MAX {
            self.seen.pop_front();
        }
        self.seen.push_back((node, seq));
    }
}

impl GroupHistory {
    /// An empty history that goes on behind a position. A shared one learns its own from Redis.
    pub(super) fn new(position: Position, is_shared: bool, account: Account) -> Self {
        Self {
            position,
            events: VecDeque::new(),
            bytes: 0,
            account,
            max: 0,
            expiry: Duration::ZERO,
            shared: is_shared.then(Box::default),
        }
    }

    pub(super) fn keep(&mut self, options: &GroupOptions) {
        self.max = options.history;
        self.expiry = options.history_expiry;
    }

    pub(super) fn position(&self) -> Position {
        self.position
    }

    /// Tells whether other processes keep it too: then an event has its position from Redis.
    pub(super) fn is_shared(&self) -> bool {
        self.shared.is_some() && self.max > 0
    }

    /// An event is sent that the shared history will keep.
    pub(super) fn will_keep(&mut self) {
        if let Some(shared) = &mut self.shared {
            shared.is_used = true;
        }
    }

    /// Tells whether Redis keeps an event of it, or is about to.
    pub(super) fn has_shared_events(&self) -> bool {
        let shared = self.shared.as_ref().filter(|_| self.max > 0);
        shared.is_some_and(|shared| shared.is_used || self.position.offset > 0)
    }

    /// Returns what is kept: how many events, and for how long.
    pub(super) fn bounds(&self) -> (usize, Duration) {
        (self.max, self.expiry)
    }

    /// Tells whether a shared history was read to its end and nothing is known to be missing, or there is none to read.
    pub(super) fn is_complete(&self) -> bool {
        self.is_loaded() && !self.is_behind()
    }

    /// Tells whether a shared history was read, or there is none to read.
    pub(super) fn is_loaded(&self) -> bool {
        !self.is_shared() || self.shared.as_ref().is_some_and(|shared| shared.is_loaded)
    }

    /// It was read to its end.
    pub(super) fn loaded(&mut self) {
        if let Some(shared) = &mut self.shared {
            shared.is_loaded = true;
            shared.is_awaited = false;
        }
    }

    /// A member joins that wants it; tells whether it has to wait.
    pub(super) fn wanted(&mut self) -> bool {
        let is_loaded = self.is_loaded();
        if let Some(shared) = &mut self.shared {
            shared.is_awaited |= !is_loaded;
        }
        !is_loaded
    }

    /// Tells whether members wait for it.
    pub(super) fn is_awaited(&self) -> bool {
        self.shared.as_ref().is_some_and(|shared| shared.is_awaited)
    }

    /// It is asked for: what comes from now on may not be in the answer.
    pub(super) fn catch_up(&mut self) {
        if let Some(shared) = &mut self.shared {
            shared.is_behind = false;
        }
    }

    /// It may have missed something. A history of this process alone cannot tell what: another life of it begins.
    pub(super) fn mark_behind(&mut self) {
        match &mut self.shared {
            Some(shared) => shared.is_behind = true,
            None => self.position.epoch = super::position::new_epoch(),
        }
    }

    /// Tells whether it may have missed something.
    pub(super) fn is_behind(&self) -> bool {
        self.is_shared() && self.shared.as_ref().is_some_and(|shared| shared.is_behind)
    }

    /// It was read: the epoch is this one, and nothing before an offset is to be had. Returns how many events were lost.
    pub(super) fn read_from(&mut self, epoch: u64, before: u64) -> u64 {
        let was_loaded = match &mut self.shared {
            Some(shared) => std::mem::replace(&mut shared.is_begun, true),
            None => return 0,
        };
        let is_same_life = self.position.epoch == epoch;
        if !is_same_life {
            self.position = Position { epoch, offset: 0 };
        }
        let lost = before.saturating_sub(self.position.offset);
        if lost > 0 {
            self.position.offset = before;
            if let Some(shared) = &mut self.shared {
                shared.newest = None;
            }
        }
        if was_loaded && is_same_life { lost } else { 0 }
    }

    /// Returns the position up to which a shared history is here, and the process and number of the event there.
    pub(super) fn known(&self) -> Option<(Position, Option<(u64, u64)>)> {
        let shared = self.shared.as_ref().filter(|_| self.max > 0)?;
        Some((self.position, shared.newest))
    }

    /// Tells whether somebody may come back to a group without members: as long as there are events, and for a moment when there are
    /// none yet.
    pub(super) fn is_worth_keeping(&self, touched: Instant, now: Instant) -> bool {
        self.max > 0
            && self.shared.is_none()
            && (!self.events.is_empty() || now.saturating_duration_since(touched) < EMPTY_KEPT)
    }

    /// Tells whether no event is here.
    pub(super) fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// Returns what a member gets that starts there.
    pub(super) fn resume(&self, start: Start, wants_history: bool) -> Replay {
        let since = match start {
            Start::Now => None,
            Start::History if !wants_history => None,
            Start::History => Some(None),
            Start::After(position) => Some(Some(position)),
        };
        let Some(since) = since else {
            return Replay {
                from: self.position,
                entries: Vec::new(),
                is_complete: true,
            };
        };
        let known = since
            .filter(|since| self.shared.is_some() || since.epoch == self.position.epoch)
            .and_then(|since| self.index_after(since));
        let kept = self.events.iter().skip(known.unwrap_or(0));
        let mut entries: Vec<Entry> = kept.map(|(_, entry)| entry.clone()).collect();
        let from = match (known, since, entries.first()) {
            (Some(_), Some(since), _) => since,
            (_, _, Some(first)) => Position {
                offset: first.position.offset.saturating_sub(1),
                ..first.position
            },
            _ => self.position,
        };
        if let Some(shared) = &self.shared {
            entries.extend(shared.early.iter().map(|early| early.entry.clone()));
        }
        for entry in &mut entries {
            entry.event = entry.event.compact(); // fields that are read of it do not stay in the history
        }
        Replay {
            from,
            entries,
            is_complete: since.is_none() || (known.is_some() && self.is_complete()),
        }
    }

    /// Returns the index of the first entry after a position, if nothing between them was forgotten.
    fn index_after(&self, since: Position) -> Option<usize> {
        if since == self.position {
            return Some(self.events.len());
        }
        let follows = |(_, entry): &(Instant, Entry)| {
            entry.position.epoch == since.epoch && entry.position.offset == since.offset + 1
        };
        self.events.iter().position(follows).or_else(|| {
            let is = |(_, entry): &(Instant, Entry)| entry.position == since;
            self.events.iter().position(is).map(|at| at + 1)
        })
    }

    /// Gives an event of this process its position, and keeps it.
    pub(super) fn append(&mut self, entry: &mut Entry) {
        if self.is_shared() {
            return; // it has its place from Redis, or none
        }
        self.position.offset += 1;
        entry.position = self.position;
        self.push(entry, Duration::ZERO);
    }

    /// Keeps an event of this process that has no position yet.
    pub(super) fn append_early(&mut self, node: u64, seq: u64, entry: &Entry) {
        if let Some(shared) = &mut self.shared {
            shared.mark_seen(node, seq);
            let entry = kept(entry);
            self.bytes += memory_of(&entry);
            shared.early.push_back(EarlyEvent { node, seq, entry });
            while shared.early.len() > self.max {
                forget_early(shared, &mut self.bytes);
            }
            self.trim(self.account.group_size_max());
            self.settle();
        }
    }

    /// Tells whether the members have an event.
    pub(super) fn is_seen(&self, node: u64, seq: u64) -> bool {
        let shared = self.shared.as_ref();
        shared.is_some_and(|shared| shared.newest(node) >= seq)
    }

    /// Takes note of an event that the members have from elsewhere than the history; tells whether it is news to them.
    pub(super) fn mark_seen(&mut self, node: u64, seq: u64) -> bool {
        let is_news = !self.is_seen(node, seq);
        if let Some(shared) = &mut self.shared
            && is_news
        {
            shared.mark_seen(node, seq);
        }
        is_news
    }

    /// Tells whether a position comes after all that is known.
    pub(super) fn follows(&self, position: Position) -> bool {
        position.epoch != self.position.epoch || position.offset > self.position.offset
    }

    /// Says where a position stands.
    pub(super) fn check_position(&mut self, position: Position) -> PositionCheck {
        let Some(shared) = &mut self.shared else {
            return PositionCheck::Next;
        };
        if position.epoch == self.position.epoch && position.offset <= self.position.offset {
            return PositionCheck::Duplicate;
        }
        let is_next =
            position.epoch == self.position.epoch && position.offset == self.position.offset + 1;
        if is_next && shared.is_begun {
            return PositionCheck::Next;
        }
        shared.is_behind = true;
        PositionCheck::Gap
    }

    /// Keeps an event of a history that is read for the first time. Tells whether those who wait for it have it not yet: they have
    /// what this process said while Redis was away.
    pub(super) fn append_loaded(
        &mut self,
        node: u64,
        seq: u64,
        position: Position,
        age: Duration,
        entry: &mut Entry,
    ) -> bool {
        let is_same = |early: &EarlyEvent| early.node == node && early.seq == seq;
        let shared = self.shared.as_ref();
        let is_early = shared.is_some_and(|shared| shared.early.iter().any(is_same));
        self.append_shared(node, seq, position, age, entry);
        !is_early
    }

    /// Keeps an event at its position. Tells whether it is news to the members.
    pub(super) fn append_shared(
        &mut self,
        node: u64,
        seq: u64,
        position: Position,
        age: Duration,
        entry: &mut Entry,
    ) -> bool {
        self.position = position;
        entry.position = position;
        let Some(shared) = &mut self.shared else {
            return true;
        };
        shared.newest = Some((node, seq));
        let early = shared.early.len();
        shared.early.retain(|early| {
            let is_left = early.node != node || early.seq > seq;
            if !is_left {
                self.bytes -= memory_of(&early.entry);
            }
            is_left
        });
        let was_early = shared.early.len() < early;
        let is_news = shared.newest(node) < seq;
        if is_news {
            shared.mark_seen(node, seq);
        }
        let first = self.events.front();
        let has_older_life = first.is_some_and(|(_, first)| first.position.epoch != position.epoch);
        if is_news || was_early || !has_older_life {
            self.push(entry, age);
        } // else it is here already, with its position in the older life
        self.settle();
        is_news
    }
}

#[cfg(test)]
mod tests;

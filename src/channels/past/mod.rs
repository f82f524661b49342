//! Past: what a group remembers, alone or together with other processes.

mod bounds;

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use self::bounds::{forget_early, kept, memory_of};
use super::batch::Entry;
use super::histories::{Account, EMPTY_KEPT};
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
pub(super) struct Resumed {
    /// The position before the first of them.
    pub(super) from: Position,
    pub(super) entries: Vec<Entry>,
    /// Is nothing missing in between?
    pub(super) is_complete: bool,
}

/// Where an event stands that has its place in a shared history.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Place {
    /// Right behind the newest that is here.
    Next,
    /// It is here already.
    Known,
    /// Further on, or in another life of the history.
    Behind,
}

/// What a group remembers: its newest events, the position of the newest.
///
/// A history that is shared is this process's copy of the one in Redis: it is read once when the first member comes, and kept up
/// by the events that follow. Each of them has the number that its sender gave it (`seq`), by which it is known again when it
/// comes twice.
pub(super) struct Past {
    position: Position,
    history: VecDeque<(Instant, Entry)>,
    /// What the events take, of `history` and of those without a position.
    bytes: usize,
    pub(super) account: Account,
    max: usize,
    expiry: Duration,
    shared: Option<Box<SharedPast>>,
}

#[derive(Default)]
struct SharedPast {
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
    early: VecDeque<Early>,
}

struct Early {
    node: u64,
    seq: u64,
    entry: Entry,
}

impl SharedPast {
    fn newest(&self, node: u64) -> u64 {
        let found = self.seen.iter().find(|(seen, _)| *seen == node);
        found.map_or(0, |(_, seq)| *seq)
    }

    fn see(&mut self, node: u64, seq: u64) {
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

impl Past {
    /// An empty history that goes on behind a position. A shared one learns its own from Redis.
    pub(super) fn new(position: Position, is_shared: bool, account: Account) -> Self {
        Self {
            position,
            history: VecDeque::new(),
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
    pub(super) fn fall_behind(&mut self) {
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
            && (!self.history.is_empty() || now.saturating_duration_since(touched) < EMPTY_KEPT)
    }

    /// Tells whether no event is here.
    pub(super) fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// Returns what a member gets that starts there.
    pub(super) fn resume(&self, start: Start, wants_history: bool) -> Resumed {
        let since = match start {
            Start::Now => None,
            Start::History if !wants_history => None,
            Start::History => Some(None),
            Start::After(position) => Some(Some(position)),
        };
        let Some(since) = since else {
            return Resumed {
                from: self.position,
                entries: Vec::new(),
                is_complete: true,
            };
        };
        let known = since
            .filter(|since| self.shared.is_some() || since.epoch == self.position.epoch)
            .and_then(|since| self.index_after(since));
        let kept = self.history.iter().skip(known.unwrap_or(0));
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
        Resumed {
            from,
            entries,
            is_complete: since.is_none() || (known.is_some() && self.is_complete()),
        }
    }

    /// Returns the index of the first entry after a position, if nothing between them was forgotten.
    fn index_after(&self, since: Position) -> Option<usize> {
        if since == self.position {
            return Some(self.history.len());
        }
        let follows = |(_, entry): &(Instant, Entry)| {
            entry.position.epoch == since.epoch && entry.position.offset == since.offset + 1
        };
        self.history.iter().position(follows).or_else(|| {
            let is = |(_, entry): &(Instant, Entry)| entry.position == since;
            self.history.iter().position(is).map(|at| at + 1)
        })
    }

    /// Gives an event of this process its position, and keeps it.
    pub(super) fn remember(&mut self, entry: &mut Entry) {
        if self.is_shared() {
            return; // it has its place from Redis, or none
        }
        self.position.offset += 1;
        entry.position = self.position;
        self.push(entry, Duration::ZERO);
    }

    /// Keeps an event of this process that has no position yet.
    pub(super) fn remember_early(&mut self, node: u64, seq: u64, entry: &Entry) {
        if let Some(shared) = &mut self.shared {
            shared.see(node, seq);
            let entry = kept(entry);
            self.bytes += memory_of(&entry);
            shared.early.push_back(Early { node, seq, entry });
            while shared.early.len() > self.max {
                forget_early(shared, &mut self.bytes);
            }
            self.trim(self.account.group_size_max());
            self.settle();
        }
    }

    /// Tells whether the members have an event.
    pub(super) fn has_seen(&self, node: u64, seq: u64) -> bool {
        let shared = self.shared.as_ref();
        shared.is_some_and(|shared| shared.newest(node) >= seq)
    }

    /// Takes note of an event that the members have from elsewhere than the history; tells whether it is news to them.
    pub(super) fn see(&mut self, node: u64, seq: u64) -> bool {
        let is_news = !self.has_seen(node, seq);
        if let Some(shared) = &mut self.shared
            && is_news
        {
            shared.see(node, seq);
        }
        is_news
    }

    /// Tells whether a position comes after all that is known.
    pub(super) fn follows(&self, position: Position) -> bool {
        position.epoch != self.position.epoch || position.offset > self.position.offset
    }

    /// Says where a position stands.
    pub(super) fn place(&mut self, position: Position) -> Place {
        let Some(shared) = &mut self.shared else {
            return Place::Next;
        };
        if position.epoch == self.position.epoch && position.offset <= self.position.offset {
            return Place::Known;
        }
        let is_next =
            position.epoch == self.position.epoch && position.offset == self.position.offset + 1;
        if is_next && shared.is_begun {
            return Place::Next;
        }
        shared.is_behind = true;
        Place::Behind
    }

    /// Keeps an event of a history that is read for the first time. Tells whether those who wait for it have it not yet: they have
    /// what this process said while Redis was away.
    pub(super) fn remember_read(
        &mut self,
        node: u64,
        seq: u64,
        position: Position,
        age: Duration,
        entry: &mut Entry,
    ) -> bool {
        let is_same = |early: &Early| early.node == node && early.seq == seq;
        let shared = self.shared.as_ref();
        let is_early = shared.is_some_and(|shared| shared.early.iter().any(is_same));
        self.remember_shared(node, seq, position, age, entry);
        !is_early
    }

    /// Keeps an event at its position. Tells whether it is news to the members.
    pub(super) fn remember_shared(
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
            shared.see(node, seq);
        }
        let first = self.history.front();
        let has_older_life = first.is_some_and(|(_, first)| first.position.epoch != position.epoch);
        if is_news || was_early || !has_older_life {
            self.push(entry, age);
        } // else it is here already, with its position in the older life
        self.settle();
        is_news
    }
}

#[cfg(test)]
mod tests {
    use super::super::batch::Audience;
    use super::super::histories::Histories;
    use super::super::{Event, GroupName};
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn past(is_shared: bool, history: usize) -> Past {
        let account = Account::new(
            Histories::new(usize::MAX, usize::MAX),
            GroupName::new("room").unwrap(),
        );
        let mut past = Past::new(
            Position {
                epoch: 1,
                offset: 0,
            },
            is_shared,
            account,
        );
        past.keep(&GroupOptions {
            history,
            history_expiry: HOUR,
            ..GroupOptions::default()
        });
        past
    }

    fn entry(text: &str) -> Entry {
        Entry {
            number: 0,
            position: Position::default(),
            event: Event::text(text),
            except: None,
            audience: Audience::All,
            tally: None,
        }
    }

    fn at(epoch: u64, offset: u64) -> Position {
        Position { epoch, offset }
    }

    fn texts(resumed: &Resumed) -> Vec<String> {
        let text = |entry: &Entry| entry.event.fields()["text"].as_str().map(str::to_owned);
        resumed.entries.iter().filter_map(text).collect()
    }

    fn shared(past: &mut Past, seq: u64, position: Position, text: &str) -> bool {
        assert_eq!(past.place(position), Place::Next);
        past.remember_shared(7, seq, position, Duration::ZERO, &mut entry(text))
    }

    #[test]
    fn member_goes_on_where_it_was_or_is_told_that_it_cannot() {
        let mut past = past(false, 3);
        for text in ["a", "b", "c", "d"] {
            past.remember(&mut entry(text));
        }
        for (since, wanted, is_complete) in [
            (at(1, 4), vec![], true),
            (at(1, 3), vec!["d"], true),
            (at(1, 1), vec!["b", "c", "d"], true),
            (at(1, 0), vec!["b", "c", "d"], false),
            (at(1, 9), vec!["b", "c", "d"], false),
            (at(2, 3), vec!["b", "c", "d"], false),
        ] {
            let resumed = past.resume(Start::After(since), true);
            assert_eq!(
                (texts(&resumed), resumed.is_complete),
                (
                    wanted.iter().map(ToString::to_string).collect(),
                    is_complete
                ),
                "{since}"
            );
        }
        assert_eq!(past.resume(Start::After(at(1, 0)), true).from, at(1, 1));
        assert_eq!(past.resume(Start::History, true).from, at(1, 1));
        assert_eq!(past.resume(Start::Now, true).from, at(1, 4));
    }

    #[test]
    fn old_events_are_forgotten() {
        let mut past = past(true, 9);
        past.read_from(5, 0);
        past.loaded();
        past.remember_shared(7, 1, at(5, 1), 2 * HOUR, &mut entry("old"));
        past.remember_shared(7, 2, at(5, 2), Duration::ZERO, &mut entry("new"));
        past.forget_old(Instant::now());
        assert_eq!(texts(&past.resume(Start::History, true)), ["new"]);
    }

    #[test]
    fn gap_and_another_life_mean_that_it_has_to_be_read() {
        let mut past = past(true, 9);
        assert_eq!(past.place(at(5, 1)), Place::Behind); // it was never read
        assert!(past.is_behind());
        past.catch_up();
        assert_eq!(past.read_from(5, 0), 0);
        assert!(shared(&mut past, 1, at(5, 1), "a"));
        assert_eq!(past.place(at(5, 1)), Place::Known);
        assert_eq!(past.place(at(5, 3)), Place::Behind);
        assert_eq!(past.place(at(6, 1)), Place::Behind);
        // What the history does not have any more is lost, and counted.
        assert_eq!(past.read_from(5, 4), 3);
        assert!(shared(&mut past, 9, at(5, 5), "b"));
    }

    #[test]
    fn event_that_comes_twice_is_delivered_once_and_kept_at_its_place() {
        let mut past = past(true, 9);
        past.read_from(5, 0);
        past.loaded();
        past.remember_early(7, 1, &entry("a"));
        past.remember_early(7, 2, &entry("b"));
        assert!(past.has_seen(7, 2) && !past.has_seen(7, 3) && !past.has_seen(8, 1));
        // A member that joins meanwhile gets them too.
        let resumed = past.resume(Start::After(at(5, 0)), true);
        assert_eq!(
            (texts(&resumed), resumed.is_complete),
            (vec!["a".into(), "b".into()], true)
        );
        assert!(!shared(&mut past, 1, at(5, 1), "a"));
        let resumed = past.resume(Start::After(at(5, 0)), true);
        assert_eq!(texts(&resumed), ["a", "b"]);
        assert!(!shared(&mut past, 2, at(5, 2), "b"));
        assert!(shared(&mut past, 3, at(5, 3), "c"));
        let resumed = past.resume(Start::After(at(5, 1)), true);
        assert_eq!(texts(&resumed), ["b", "c"]);
    }

    #[test]
    fn client_goes_on_over_the_end_of_a_life() {
        let mut past = past(true, 9);
        past.read_from(5, 0);
        past.loaded();
        shared(&mut past, 1, at(5, 1), "a");
        shared(&mut past, 2, at(5, 2), "b");
        past.read_from(6, 0); // Redis lost everything
        shared(&mut past, 3, at(6, 1), "c");
        let resumed = past.resume(Start::After(at(5, 1)), true);
        assert_eq!(
            (texts(&resumed), resumed.is_complete),
            (vec!["b".into(), "c".into()], true)
        );
    }

    #[test]
    fn what_a_new_life_repeats_is_not_kept_twice() {
        let mut past = past(true, 9);
        past.read_from(5, 0);
        past.loaded();
        shared(&mut past, 1, at(5, 1), "a");
        shared(&mut past, 2, at(5, 2), "b");
        assert_eq!(past.known(), Some((at(5, 2), Some((7, 2)))));
        past.remember_early(7, 3, &entry("c"));
        assert_eq!(past.read_from(6, 0), 0); // Redis came back without it
        assert!(!shared(&mut past, 2, at(6, 1), "b"));
        assert!(!shared(&mut past, 3, at(6, 2), "c"));
        assert!(shared(&mut past, 4, at(6, 3), "d"));
        let resumed = past.resume(Start::After(at(5, 1)), true);
        assert_eq!(
            (texts(&resumed), resumed.is_complete),
            (vec!["b".into(), "c".into(), "d".into()], true)
        );
        assert_eq!(past.known(), Some((at(6, 3), Some((7, 4)))));
    }

    #[test]
    fn an_event_takes_its_text_and_some_350_bytes() {
        let (short, long) = (memory_of(&entry("")), memory_of(&entry(&"x".repeat(1000))));
        assert!((300..400).contains(&short), "{short} bytes");
        assert_eq!(long - short, 1000);
    }

    #[test]
    fn a_history_is_bounded_in_bytes_and_an_event_that_is_longer_alone_is_not_kept() {
        let histories = Histories::new(usize::MAX, 100_000);
        let account = Account::new(histories.clone(), GroupName::new("room").unwrap());
        let mut past = Past::new(at(1, 0), false, account);
        past.keep(&GroupOptions {
            history: 1000,
            history_expiry: HOUR,
            ..GroupOptions::default()
        });
        for _ in 0..100 {
            past.remember(&mut entry(&"x".repeat(9000)));
            assert!(past.recount() <= 100_000);
        }
        assert!(past.count() >= 8, "{} events", past.count());
        past.remember(&mut entry(&"x".repeat(200_000)));
        assert_eq!((past.count(), past.position()), (0, at(1, 101)));
        assert_eq!(histories.audit(), (0, 0));
        // Who was there before it learns that something is missing.
        assert!(!past.resume(Start::After(at(1, 100)), true).is_complete);
        assert!(past.resume(Start::After(at(1, 101)), true).is_complete);
    }

    proptest::proptest! {
        #[test]
        fn bytes_of_a_shared_history_are_those_of_what_is_there(
            steps in proptest::collection::vec((0_u8..6, 1_usize..3000), 1..120)
        ) {
            let histories = Histories::new(usize::MAX, 20_000);
            let account = Account::new(histories.clone(), GroupName::new("room").unwrap());
            let mut past = Past::new(at(1, 0), true, account);
            past.keep(&GroupOptions { history: 20, history_expiry: HOUR, ..GroupOptions::default() });
            past.read_from(5, 0);
            let (mut epoch, mut offset, mut seq) = (5, 0, 0);
            for (step, size) in steps {
                let mut said = entry(&"x".repeat(size));
                match step {
                    0 | 1 => {
                        (offset, seq) = (offset + 1, seq + 1);
                        past.remember_shared(7, seq, at(epoch, offset), Duration::ZERO, &mut said);
                    }
                    2 => {
                        seq += 1;
                        past.remember_early(7, seq, &said);
                    }
                    3 => past.forget_old(Instant::now() + HOUR * u32::from(size % 7 == 0)),
                    4 => {
                        past.evict(size);
                    }
                    _ if size % 5 == 0 => {
                        (epoch, offset) = (epoch + 1, 0);
                        past.read_from(epoch, 0);
                    }
                    _ => {
                        past.keep(&GroupOptions { history: size % 40 + 1, history_expiry: HOUR, ..GroupOptions::default() });
                    }
                }
                let memory = past.recount();
                proptest::prop_assert!(memory <= 20_000);
                proptest::prop_assert_eq!(histories.audit().0, crate::channels::histories::charge_for(memory));
            }
            drop(past);
            proptest::prop_assert_eq!(histories.audit(), (0, 0));
        }
    }

    #[test]
    fn silent_processes_are_forgotten_first() {
        let mut shared = SharedPast::default();
        for node in 0..=NODES_MAX as u64 {
            shared.see(node, 1);
            shared.see(0, node + 1);
        }
        assert_eq!(shared.newest(0), NODES_MAX as u64 + 1);
        assert_eq!((shared.newest(1), shared.newest(2)), (0, 1));
    }
}

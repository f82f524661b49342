//! Tests of a group's history.

use super::senders::{SENDERS_MAX, Senders};
use super::*;
use crate::channels::history_budget::HistoryBudget;
use crate::channels::membership::{AwaitedStart, Awaiting};
use crate::channels::{Event, GroupName};

const HOUR: Duration = Duration::from_secs(3600);

/// This process.
const OWN: u64 = 1;

/// Another one.
const OTHER: u64 = 7;

fn history(is_shared: bool, max: usize) -> GroupHistory {
    let account = Account::new(
        HistoryBudget::new(usize::MAX, usize::MAX),
        GroupName::new("room").unwrap(),
    );
    let mut history = GroupHistory::new(at(OWN, 0), is_shared, account);
    history.set_bounds(&keep(max), 0);
    history
}

/// A shared history that has been read and is empty.
fn loaded(max: usize) -> GroupHistory {
    let mut history = history(true, max);
    history.mark_requested();
    history.read_from(5, 0);
    history.read_to_end();
    history
}

fn keep(max: usize) -> GroupOptions {
    GroupOptions {
        history: max,
        history_expiry: HOUR,
        ..GroupOptions::default()
    }
}

fn entry(text: &str) -> Entry {
    Entry::new(Event::text(text))
}

fn id(seq: u64) -> EventId {
    EventId { node: OTHER, seq }
}

fn own(seq: u64) -> EventId {
    EventId { node: OWN, seq }
}

fn at(epoch: u64, offset: u64) -> Position {
    Position { epoch, offset }
}

/// What a client returns with.
fn after(text: &str) -> Start {
    Start::After(text.parse().unwrap())
}

fn texts(replay: &Replay) -> Vec<String> {
    replay.entries.iter().map(text).collect()
}

fn text(entry: &Entry) -> String {
    entry
        .event
        .field("text")
        .unwrap()
        .as_str()
        .unwrap()
        .to_owned()
}

/// Appends an event that came with its offset; returns which members lack it.
fn arrives(history: &mut GroupHistory, id: EventId, position: Position, text: &str) -> LackedBy {
    assert_eq!(history.check_position(position), PositionCheck::Next);
    let entry = &mut Entry { id, ..entry(text) };
    history.append_shared(position, Duration::ZERO, entry)
}

fn shared(history: &mut GroupHistory, seq: u64, position: Position, text: &str) -> bool {
    arrives(history, id(seq), position, text) == LackedBy::Followers
}

/// Shows an event of this process without an offset.
fn early(history: &mut GroupHistory, seq: u64, text: &str) -> Seen {
    let mut entry = Entry {
        number: seq,
        is_early: true,
        id: own(seq),
        position: history.shown_position(),
        ..entry(text)
    };
    history.append_early(&mut entry);
    entry.seen()
}

/// Returns what a client gets that returns: the events, and whether all that it missed.
fn returns(history: &mut GroupHistory, since: &str) -> (Vec<String>, bool) {
    let replay = history.replay(after(since), true);
    (texts(&replay), replay.is_complete)
}

fn list(words: &str) -> Vec<String> {
    words.split_whitespace().map(str::to_owned).collect()
}

#[test]
fn member_goes_on_where_it_was_or_is_told_that_it_cannot() {
    let mut history = history(false, 3);
    for text in ["a", "b", "c", "d"] {
        history.append(&mut entry(text));
    }
    for (since, wanted, is_complete) in [
        ("1.4", "", true),
        ("1.3", "d", true),
        ("1.1", "b c d", true),
        ("1.0", "b c d", false),
        ("1.9", "b c d", false),
        ("2.3", "b c d", false),
        ("0.0", "b c d", false),
        ("1.4~7.9", "", true),
    ] {
        assert_eq!(
            returns(&mut history, since),
            (list(wanted), is_complete),
            "{since}"
        );
    }
    let mut from = |start| history.replay(start, true).from.to_string();
    assert_eq!(from(after("1.0")), "1.1");
    assert_eq!(from(after("1.3")), "1.3");
    assert_eq!(from(Start::History), "1.1");
    assert_eq!(from(Start::Now), "1.4");
}

#[test]
fn old_events_are_forgotten() {
    let mut history = loaded(9);
    history.append_shared(at(5, 1), 2 * HOUR, &mut entry("old"));
    history.append_shared(at(5, 2), Duration::ZERO, &mut entry("new"));
    history.forget_old(Instant::now());
    assert_eq!(texts(&history.replay(Start::History, true)), ["new"]);
}

#[test]
fn a_history_is_read_to_its_end_then_again_after_each_gap() {
    let mut history = history(true, 9);
    // Unread: it was never read.
    assert_eq!(history.check_position(at(5, 2)), PositionCheck::Gap);
    assert!(!history.is_loaded());
    history.mark_requested();
    // Reading: the next event is kept, but members await the history.
    assert_eq!(history.read_from(5, 0), 0);
    assert_eq!(arrives(&mut history, id(1), at(5, 1), "a"), LackedBy::None);
    assert!(!history.is_loaded());
    assert!(history.read_to_end().is_some());
    // Current.
    assert!(history.is_loaded() && history.is_current());
    assert!(shared(&mut history, 2, at(5, 2), "b"));
    assert_eq!(history.check_position(at(5, 2)), PositionCheck::Duplicate);
    assert!(history.is_current());
    assert_eq!(history.check_position(at(5, 4)), PositionCheck::Gap);
    // Behind, Rereading, and a gap meanwhile.
    assert!(history.is_loaded() && !history.is_current());
    history.mark_requested();
    assert_eq!(history.check_position(at(6, 1)), PositionCheck::Gap);
    assert!(history.read_to_end().is_none());
    assert!(!history.is_current());
    history.mark_requested();
    assert!(history.read_to_end().is_none());
    assert!(history.is_current());
    // Events that Redis no longer has are lost, and counted.
    assert_eq!(history.read_from(5, 4), 2);
    assert!(shared(&mut history, 9, at(5, 5), "c"));
}

#[test]
fn a_history_with_a_gap_while_it_was_read_is_loaded_and_behind() {
    let mut history = history(true, 9);
    history.mark_requested();
    assert_eq!(history.check_position(at(5, 2)), PositionCheck::Gap);
    history.read_from(5, 0);
    assert!(history.read_to_end().is_some());
    assert!(history.is_loaded() && !history.is_current());
    assert!(history.read_to_end().is_none());
}

#[test]
fn nothing_that_is_missing_is_recovered_over() {
    let mut history = loaded(9);
    shared(&mut history, 1, at(5, 1), "a");
    assert_eq!(history.read_from(5, 3), 2);
    shared(&mut history, 4, at(5, 4), "d");
    assert_eq!(returns(&mut history, "5.1"), (list("d"), false));
    assert_eq!(returns(&mut history, "5.3"), (list("d"), true));
}

#[test]
fn early_events_keep_their_place_and_their_marks_end_with_their_offsets() {
    let mut history = loaded(9);
    assert!(shared(&mut history, 1, at(5, 1), "a"));
    assert_eq!(early(&mut history, 6, "x").to_string(), "5.1~1.6");
    assert_eq!(early(&mut history, 7, "y").to_string(), "5.1~1.7");
    assert!(history.is_known(own(7)) && !history.is_known(own(8)) && !history.is_known(id(2)));
    // Each client gets what it has not seen.
    for (since, wanted) in [
        ("5.0", "a x y"),
        ("5.1", "x y"),
        ("5.1~1.6", "y"),
        ("5.1~1.7", ""),
        ("5.0~1.6", "a y"),
        ("5.0~7.1~1.6", "y"),
    ] {
        assert_eq!(
            returns(&mut history, since),
            (list(wanted), true),
            "{since}"
        );
    }
    // Redis is back. Others come in the order of their offsets, with a mark as long as there are
    // early events without one.
    let seen = |id, offset, text: &str, history: &mut GroupHistory| {
        let lacked = arrives(history, id, at(5, offset), text);
        (lacked, history.seen().to_string())
    };
    for (id, offset, text, lacked, shown) in [
        (id(2), 2, "b", LackedBy::Followers, "5.2~1.7"),
        (own(6), 3, "x", LackedBy::None, "5.3~1.7"),
        (id(3), 4, "c", LackedBy::Followers, "5.4~1.7"),
        (own(7), 5, "y", LackedBy::None, "5.5"),
        (own(8), 6, "z", LackedBy::Followers, "5.6"),
    ] {
        assert_eq!(
            seen(id, offset, text, &mut history),
            (lacked, shown.to_owned())
        );
    }
    for (since, wanted) in [
        ("5.1", "b x c y z"),
        ("5.1~1.7", "b c z"),
        ("5.2~1.7", "c z"),
        ("5.4~1.7", "z"),
        ("5.5", "z"),
    ] {
        assert_eq!(
            returns(&mut history, since),
            (list(wanted), true),
            "{since}"
        );
    }
}

#[test]
fn positions_of_a_replay_cover_what_the_client_saw_early_elsewhere() {
    let mut history = loaded(9);
    shared(&mut history, 1, at(5, 1), "a");
    arrives(&mut history, EventId { node: 8, seq: 4 }, at(5, 2), "seen");
    shared(&mut history, 2, at(5, 3), "b");
    early(&mut history, 6, "x");
    let mut replay = history.replay(after("5.0~8.4~9.9"), true);
    replay.set_positions();
    let shown: Vec<String> = replay
        .entries
        .iter()
        .map(|entry| entry.seen().to_string())
        .collect();
    assert_eq!(shown, ["5.1~9.9~8.4", "5.3~9.9~8.4", "5.3~9.9~1.6~8.4"]);
    // What has its offset needs no mark from then on.
    assert!(replay.marked.marks.cover(EventId { node: 9, seq: 9 }));
    assert!(!replay.marked.marks.cover(EventId { node: 8, seq: 4 }));
}

#[test]
fn forgotten_early_events_cannot_be_recovered() {
    let mut history = loaded(2);
    shared(&mut history, 1, at(5, 1), "a");
    for (seq, text) in [(1, "x"), (2, "y"), (3, "z")] {
        early(&mut history, seq, text);
    }
    assert_eq!(returns(&mut history, "5.1~1.1"), (list("y z"), true));
    assert_eq!(returns(&mut history, "5.1"), (list("a y z"), false));
    // Members have them all the same.
    assert_eq!(arrives(&mut history, own(1), at(5, 2), "x"), LackedBy::None);
}

#[test]
fn an_early_event_that_is_given_up_leaves_no_mark() {
    let mut history = loaded(9);
    early(&mut history, 1, "x");
    early(&mut history, 2, "y");
    history.give_up_early(own(2));
    assert_eq!(history.seen().to_string(), "5.0~1.1");
    history.give_up_early(own(1));
    assert_eq!(history.seen().to_string(), "5.0");
    assert!(history.is_empty());
}

#[test]
fn early_events_that_redis_has_trimmed_leave_no_mark() {
    let mut history = loaded(9);
    early(&mut history, 1, "x");
    early(&mut history, 2, "y");
    early(&mut history, 3, "z");
    history.found_in_redis(2);
    history.mark_behind();
    history.mark_requested();
    history.read_from(5, 7);
    shared(&mut history, 1, at(5, 8), "a");
    assert_eq!(history.seen().to_string(), "5.8~1.3");
    history.read_to_end();
    assert_eq!(texts(&history.replay(Start::History, true)), ["a", "z"]);
    assert_eq!(arrives(&mut history, own(3), at(5, 9), "z"), LackedBy::None);
    assert_eq!(history.seen().to_string(), "5.9");
}

#[test]
fn a_group_that_was_left_is_kept_while_it_has_early_events() {
    let mut history = loaded(9);
    let now = Instant::now();
    assert!(!history.is_worth_keeping(now, now));
    early(&mut history, 1, "x");
    assert!(history.is_worth_keeping(now, now + HOUR / 2));
    assert!(!history.is_worth_keeping(now, now + HOUR));
    arrives(&mut history, own(1), at(5, 1), "x");
    assert!(!history.is_worth_keeping(now, now));
}

// --- Members that await the history -------------------------------------------------------------------------------------

/// Reads a history with these events, oldest first, to its end.
fn reads(history: &mut GroupHistory, events: &[(EventId, &str)]) -> AwaitedHistory {
    history.mark_requested();
    history.read_from(5, 0);
    for (offset, (id, text)) in events.iter().enumerate() {
        arrives(history, *id, at(5, offset as u64 + 1), text);
    }
    history.read_to_end().unwrap()
}

fn gets(awaited: &AwaitedHistory, start: AwaitedStart, early_from: u64) -> Vec<(String, String)> {
    let part = awaited.part(&Awaiting { start, early_from });
    let entries = awaited.entries(&part);
    let shown = |entry: &Entry| (text(entry), entry.seen().to_string());
    entries.iter().map(shown).collect()
}

fn pairs(words: &[(&str, &str)]) -> Vec<(String, String)> {
    let pair = |(text, seen): &(&str, &str)| ((*text).to_owned(), (*seen).to_owned());
    words.iter().map(pair).collect()
}

#[test]
fn until_it_is_loaded_a_history_has_no_position_to_return_to() {
    let mut history = history(true, 9);
    assert_eq!(early(&mut history, 6, "x").to_string(), "0.0~1.6");
    assert_eq!(returns(&mut history, "0.0~1.6"), (list("x"), false));
    assert_eq!(returns(&mut history, "5.3"), (list("x"), false));
    history.mark_requested();
    history.read_from(5, 0);
    arrives(&mut history, id(1), at(5, 1), "a");
    assert_eq!(history.replay(Start::History, true).from.to_string(), "0.0");
    assert_eq!(returns(&mut history, "5.1"), (list("x"), false));
}

#[test]
fn members_get_what_they_await_without_the_early_events_that_they_have() {
    let mut history = history(true, 9);
    early(&mut history, 6, "x");
    early(&mut history, 7, "y");
    early(&mut history, 8, "z");
    let events = [
        (id(1), "a"),
        (own(6), "x"),
        (id(2), "b"),
        (own(7), "y"),
        (id(3), "c"),
    ];
    let awaited = reads(&mut history, &events);
    assert_eq!(
        gets(&awaited, AwaitedStart::History, 6),
        pairs(&[("a", "5.1~1.8"), ("b", "5.3~1.8"), ("c", "5.5~1.8")])
    );
    // One that joined when the first had been forgotten.
    assert_eq!(
        gets(&awaited, AwaitedStart::History, 7),
        pairs(&[
            ("a", "0.1~1.8"),
            ("x", "0.2~1.8"),
            ("b", "5.3~1.8"),
            ("c", "5.5~1.8")
        ])
    );
    // The early event without an offset is still one.
    assert_eq!(history.seen().to_string(), "5.5~1.8");
    assert_eq!(arrives(&mut history, own(8), at(5, 6), "z"), LackedBy::None);
    assert_eq!(history.seen().to_string(), "5.6");
    assert_eq!(returns(&mut history, "5.3~1.8"), (list("c"), true));
}

/// Marks say that all lower numbers were seen.
#[test]
fn no_position_covers_an_event_that_was_sent_before_there_was_a_member() {
    let mut history = history(true, 9);
    early(&mut history, 6, "x");
    let events = [
        (id(1), "a"),
        (own(5), "before"),
        (own(6), "x"),
        (id(2), "b"),
    ];
    let awaited = reads(&mut history, &events);
    assert_eq!(
        gets(&awaited, AwaitedStart::History, 6),
        pairs(&[("a", "0.1~1.6"), ("before", "0.2~1.6"), ("b", "5.4")])
    );
}

#[test]
fn members_that_want_no_history_get_what_was_sent_since_they_joined() {
    let mut history = history(true, 9);
    history.mark_requested();
    history.read_from(5, 0);
    for (offset, age, text) in [(1, 9, "old"), (2, 1, "new"), (3, 0, "newest")] {
        let age = Duration::from_secs(age);
        history.append_shared(at(5, offset), age, &mut entry(text));
    }
    let awaited = history.read_to_end().unwrap();
    let joined = tokio::time::Instant::now() - Duration::from_secs(5);
    assert_eq!(
        gets(&awaited, AwaitedStart::Now(joined), u64::MAX),
        pairs(&[("new", "5.2"), ("newest", "5.3")])
    );
}

#[test]
fn members_that_want_no_history_get_no_early_event_from_before_they_joined() {
    let mut history = history(true, 9);
    early(&mut history, 6, "x");
    early(&mut history, 7, "y");
    let awaited = reads(
        &mut history,
        &[(own(5), "w"), (own(6), "x"), (own(7), "y"), (own(8), "z")],
    );
    let start = AwaitedStart::Now(tokio::time::Instant::now());
    assert_eq!(gets(&awaited, start, 7), pairs(&[("z", "5.4")]));
}

#[test]
fn members_from_before_the_history_get_what_follows_the_newest_event_that_they_have() {
    let mut history = history(true, 0);
    assert_eq!(history.mark_delivered(id(1), at(4, 9)), (true, 0));
    assert_eq!(history.mark_delivered(id(1), at(4, 12)), (false, 2));
    assert_eq!(history.mark_delivered(id(1), at(5, 1)), (false, 0));
    assert_eq!(history.mark_delivered(id(1), at(5, 1)), (false, 0));
    history.mark_sent(own(2)); // it has no offset yet
    history.set_bounds(&keep(9), 4);
    assert_eq!(history.kept_from(), 4);
    let awaited = reads(&mut history, &[(id(1), "a"), (own(2), "b"), (id(3), "c")]);
    assert_eq!(
        gets(&awaited, AwaitedStart::Kept, 0),
        pairs(&[("c", "5.3")])
    );
}

#[test]
fn members_from_before_the_history_get_nothing_again_in_another_epoch() {
    let mut history = history(true, 0);
    history.mark_delivered(id(1), at(4, 1));
    history.set_bounds(&keep(9), 1);
    let awaited = reads(&mut history, &[(id(1), "a"), (id(2), "b")]);
    assert_eq!(
        gets(&awaited, AwaitedStart::Kept, 0),
        pairs(&[("b", "5.2")])
    );
    let of_new = gets(&awaited, AwaitedStart::History, u64::MAX);
    assert_eq!(of_new.len(), 2);
}

// --- Another epoch ------------------------------------------------------------------------------------------------------

#[test]
fn client_goes_on_over_the_end_of_an_epoch() {
    let mut history = loaded(9);
    shared(&mut history, 1, at(5, 1), "a");
    shared(&mut history, 2, at(5, 2), "b");
    history.read_from(6, 0); // Redis lost everything
    shared(&mut history, 3, at(6, 1), "c");
    assert_eq!(returns(&mut history, "5.0"), (list("a b c"), true));
    assert_eq!(returns(&mut history, "5.1"), (list("b c"), true));
    assert_eq!(returns(&mut history, "5.2"), (list("c"), true));
    assert_eq!(returns(&mut history, "5.3"), (list("a b c"), false));
    assert_eq!(returns(&mut history, "6.0"), (list("c"), true));
}

#[test]
fn what_another_epoch_repeats_is_for_clients_that_know_only_this_one() {
    let mut history = loaded(9);
    shared(&mut history, 1, at(5, 1), "a");
    shared(&mut history, 2, at(5, 2), "b");
    assert_eq!(history.shared_position(), Some((at(5, 2), Some(id(2)))));
    early(&mut history, 3, "c");
    assert_eq!(history.read_from(6, 0), 0); // Redis returned without it
    let one = EventId { node: 9, seq: 1 };
    assert_eq!(arrives(&mut history, id(2), at(6, 1), "b"), LackedBy::None);
    assert_eq!(arrives(&mut history, own(3), at(6, 2), "c"), LackedBy::None);
    assert_eq!(
        arrives(&mut history, one, at(6, 3), "d"),
        LackedBy::Followers
    );
    assert_eq!(history.shared_position(), Some((at(6, 3), Some(one))));
    assert_eq!(
        texts(&history.replay(Start::History, true)),
        ["a", "b", "c", "d"]
    );
    for (since, wanted) in [
        ("5.1", "b c d"),
        ("5.2", "c d"),
        ("5.2~1.3", "d"),
        ("6.0", "b c d"),
        ("6.0~7.2", "c d"),
        ("6.1", "c d"),
        ("6.3", ""),
    ] {
        assert_eq!(
            returns(&mut history, since),
            (list(wanted), true),
            "{since}"
        );
    }
    // A client from another process still gets repeats; members that saw them do not.
    assert_eq!(
        arrives(&mut history, id(1), at(6, 4), "a"),
        LackedBy::PresentEpoch
    );
}

#[test]
fn positions_in_another_epoch_cover_what_was_seen_in_the_one_before() {
    let mut history = loaded(9);
    shared(&mut history, 1, at(5, 1), "a");
    shared(&mut history, 2, at(5, 2), "b");
    history.read_from(6, 0);
    assert_eq!(history.seen().to_string(), "6.0~7.2");
    shared(&mut history, 1, at(6, 1), "a");
    assert_eq!(history.seen().to_string(), "6.1~7.2");
    shared(&mut history, 2, at(6, 2), "b");
    assert_eq!(history.seen().to_string(), "6.2");
}

#[test]
fn an_epoch_after_another_repeats_nothing_to_clients_that_knew_the_one_before() {
    let mut history = loaded(9);
    shared(&mut history, 1, at(5, 1), "a");
    shared(&mut history, 2, at(5, 2), "b");
    history.read_from(6, 0);
    shared(&mut history, 1, at(6, 1), "a");
    assert_eq!(returns(&mut history, "6.1"), (list(""), true));
    history.read_from(7, 0);
    assert_eq!(arrives(&mut history, id(1), at(7, 1), "a"), LackedBy::None);
    assert_eq!(
        arrives(&mut history, id(2), at(7, 2), "b"),
        LackedBy::PresentEpoch
    );
    assert_eq!(
        arrives(&mut history, id(3), at(7, 3), "c"),
        LackedBy::Followers
    );
}

#[test]
fn an_epoch_that_begins_before_the_history_is_loaded_begins_it_anew() {
    let mut history = history(true, 9);
    history.mark_requested();
    history.read_from(5, 0);
    arrives(&mut history, id(1), at(5, 1), "a");
    history.read_from(6, 0);
    arrives(&mut history, id(1), at(6, 1), "a");
    let awaited = history.read_to_end().unwrap();
    assert_eq!(
        gets(&awaited, AwaitedStart::History, u64::MAX),
        pairs(&[("a", "6.1")])
    );
}

#[test]
fn an_event_takes_its_text_and_some_300_bytes() {
    let (short, long) = (entry("").memory(), entry(&"x".repeat(1000)).memory());
    assert!((250..350).contains(&short), "{short} bytes");
    assert_eq!(long - short, 1000);
}

#[test]
fn a_history_is_bounded_in_bytes_and_an_event_that_is_longer_alone_is_not_kept() {
    let history_budget = HistoryBudget::new(usize::MAX, 100_000);
    let account = Account::new(history_budget.clone(), GroupName::new("room").unwrap());
    let mut history = GroupHistory::new(at(1, 0), false, account);
    history.set_bounds(&keep(1000), 0);
    for _ in 0..100 {
        history.append(&mut entry(&"x".repeat(9000)));
        assert!(history.recount() <= 100_000);
    }
    assert!(history.count() >= 8, "{} events", history.count());
    history.append(&mut entry(&"x".repeat(200_000)));
    assert_eq!((history.count(), history.position()), (0, at(1, 101)));
    assert_eq!(history_budget.audit(), (0, 0));
    // A member that was there before the event sees that it is missing.
    assert!(!returns(&mut history, "1.100").1);
    assert!(returns(&mut history, "1.101").1);
}

proptest::proptest! {
    #[test]
    fn bytes_of_a_shared_history_are_those_of_what_is_there(
        steps in proptest::collection::vec((0_u8..6, 1_usize..3000), 1..120)
    ) {
        let history_budget = HistoryBudget::new(usize::MAX, 20_000);
        let account = Account::new(history_budget.clone(), GroupName::new("room").unwrap());
        let mut history = GroupHistory::new(at(1, 0), true, account);
        history.set_bounds(&keep(20), 0);
        history.mark_requested();
        history.read_from(5, 0);
        history.read_to_end();
        let (mut epoch, mut offset, mut seq) = (5, 0, 0);
        for (step, size) in steps {
            let mut said = entry(&"x".repeat(size));
            match step {
                0 | 1 => {
                    (offset, seq) = (offset + 1, seq + 1);
                    said.id = own(seq);
                    history.append_shared(at(epoch, offset), Duration::ZERO, &mut said);
                }
                2 => {
                    seq += 1;
                    said.id = own(seq);
                    history.append_early(&mut said);
                }
                3 => history.forget_old(Instant::now() + HOUR * u32::from(size % 7 == 0)),
                4 => {
                    history.evict(size);
                }
                _ if size % 5 == 0 => {
                    (epoch, offset) = (epoch + 1, 0);
                    history.read_from(epoch, 0);
                }
                _ => {
                    history.set_bounds(&keep(size % 40 + 1), 0);
                }
            }
            let memory = history.recount();
            proptest::prop_assert!(memory <= 20_000);
            proptest::prop_assert_eq!(history_budget.audit().0, crate::channels::history_budget::charge_for(memory));
        }
        drop(history);
        proptest::prop_assert_eq!(history_budget.audit(), (0, 0));
    }
}

#[test]
fn silent_processes_are_forgotten_first() {
    let mut senders = Senders::default();
    for node in 1..=SENDERS_MAX as u64 + 1 {
        senders.mark(EventId { node, seq: 1 });
        senders.mark(EventId {
            node: 99,
            seq: node,
        });
        senders.mark(EventId { node: 99, seq: 1 });
    }
    assert_eq!(senders.newest_of(99), SENDERS_MAX as u64 + 1);
    assert_eq!((senders.newest_of(2), senders.newest_of(3)), (0, 1));
}

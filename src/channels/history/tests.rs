//! Tests of a group's history.

use super::shared::{SENDERS_MAX, SharedHistory};
use super::*;
use crate::channels::batch::Audience;
use crate::channels::history_budget::HistoryBudget;
use crate::channels::{Event, GroupName};

const HOUR: Duration = Duration::from_secs(3600);

fn history(is_shared: bool, max: usize) -> GroupHistory {
    let account = Account::new(
        HistoryBudget::new(usize::MAX, usize::MAX),
        GroupName::new("room").unwrap(),
    );
    let mut history = GroupHistory::new(
        Position {
            epoch: 1,
            offset: 0,
        },
        is_shared,
        account,
    );
    history.set_bounds(&GroupOptions {
        history: max,
        history_expiry: HOUR,
        ..GroupOptions::default()
    });
    history
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

fn id(seq: u64) -> EventId {
    EventId { node: 7, seq }
}

fn at(epoch: u64, offset: u64) -> Position {
    Position { epoch, offset }
}

fn texts(replay: &Replay) -> Vec<String> {
    let text = |entry: &Entry| entry.event.field("text")?.as_str().map(str::to_owned);
    replay.entries.iter().filter_map(text).collect()
}

fn shared(history: &mut GroupHistory, seq: u64, position: Position, text: &str) -> bool {
    assert_eq!(history.check_position(position), PositionCheck::Next);
    history.append_shared(id(seq), position, Duration::ZERO, &mut entry(text))
}

#[test]
fn member_goes_on_where_it_was_or_is_told_that_it_cannot() {
    let mut history = history(false, 3);
    for text in ["a", "b", "c", "d"] {
        history.append(&mut entry(text));
    }
    for (since, wanted, is_complete) in [
        (at(1, 4), vec![], true),
        (at(1, 3), vec!["d"], true),
        (at(1, 1), vec!["b", "c", "d"], true),
        (at(1, 0), vec!["b", "c", "d"], false),
        (at(1, 9), vec!["b", "c", "d"], false),
        (at(2, 3), vec!["b", "c", "d"], false),
    ] {
        let replay = history.replay(Start::After(since), true);
        assert_eq!(
            (texts(&replay), replay.is_complete),
            (
                wanted.iter().map(ToString::to_string).collect(),
                is_complete
            ),
            "{since}"
        );
    }
    assert_eq!(history.replay(Start::After(at(1, 0)), true).from, at(1, 1));
    assert_eq!(history.replay(Start::History, true).from, at(1, 1));
    assert_eq!(history.replay(Start::Now, true).from, at(1, 4));
}

#[test]
fn old_events_are_forgotten() {
    let mut history = history(true, 9);
    history.read_from(5, 0);
    history.loaded();
    history.append_shared(id(1), at(5, 1), 2 * HOUR, &mut entry("old"));
    history.append_shared(id(2), at(5, 2), Duration::ZERO, &mut entry("new"));
    history.forget_old(Instant::now());
    assert_eq!(texts(&history.replay(Start::History, true)), ["new"]);
}

#[test]
fn gap_and_another_life_mean_that_it_has_to_be_read() {
    let mut history = history(true, 9);
    assert_eq!(history.check_position(at(5, 1)), PositionCheck::Gap); // it was never read
    assert!(history.is_behind());
    history.clear_behind();
    assert_eq!(history.read_from(5, 0), 0);
    assert!(shared(&mut history, 1, at(5, 1), "a"));
    assert_eq!(history.check_position(at(5, 1)), PositionCheck::Duplicate);
    assert_eq!(history.check_position(at(5, 3)), PositionCheck::Gap);
    assert_eq!(history.check_position(at(6, 1)), PositionCheck::Gap);
    // Events that the history no longer has are lost, and counted.
    assert_eq!(history.read_from(5, 4), 3);
    assert!(shared(&mut history, 9, at(5, 5), "b"));
}

#[test]
fn event_that_comes_twice_is_delivered_once_and_kept_at_its_place() {
    let mut history = history(true, 9);
    history.read_from(5, 0);
    history.loaded();
    history.append_early(id(1), &entry("a"));
    history.append_early(id(2), &entry("b"));
    assert!(
        history.is_seen(EventId { node: 7, seq: 2 })
            && !history.is_seen(EventId { node: 7, seq: 3 })
            && !history.is_seen(EventId { node: 8, seq: 1 })
    );
    // A member that joins in the meantime gets them too.
    let replay = history.replay(Start::After(at(5, 0)), true);
    assert_eq!(
        (texts(&replay), replay.is_complete),
        (vec!["a".into(), "b".into()], true)
    );
    assert!(!shared(&mut history, 1, at(5, 1), "a"));
    let replay = history.replay(Start::After(at(5, 0)), true);
    assert_eq!(texts(&replay), ["a", "b"]);
    assert!(!shared(&mut history, 2, at(5, 2), "b"));
    assert!(shared(&mut history, 3, at(5, 3), "c"));
    let replay = history.replay(Start::After(at(5, 1)), true);
    assert_eq!(texts(&replay), ["b", "c"]);
}

#[test]
fn client_goes_on_over_the_end_of_a_life() {
    let mut history = history(true, 9);
    history.read_from(5, 0);
    history.loaded();
    shared(&mut history, 1, at(5, 1), "a");
    shared(&mut history, 2, at(5, 2), "b");
    history.read_from(6, 0); // Redis lost everything
    shared(&mut history, 3, at(6, 1), "c");
    let replay = history.replay(Start::After(at(5, 1)), true);
    assert_eq!(
        (texts(&replay), replay.is_complete),
        (vec!["b".into(), "c".into()], true)
    );
}

#[test]
fn what_a_new_life_repeats_is_not_kept_twice() {
    let mut history = history(true, 9);
    history.read_from(5, 0);
    history.loaded();
    shared(&mut history, 1, at(5, 1), "a");
    shared(&mut history, 2, at(5, 2), "b");
    assert_eq!(history.shared_position(), Some((at(5, 2), Some(id(2)))));
    history.append_early(id(3), &entry("c"));
    assert_eq!(history.read_from(6, 0), 0); // Redis returned without it
    assert!(!shared(&mut history, 2, at(6, 1), "b"));
    assert!(!shared(&mut history, 3, at(6, 2), "c"));
    assert!(shared(&mut history, 4, at(6, 3), "d"));
    let replay = history.replay(Start::After(at(5, 1)), true);
    assert_eq!(
        (texts(&replay), replay.is_complete),
        (vec!["b".into(), "c".into(), "d".into()], true)
    );
    assert_eq!(history.shared_position(), Some((at(6, 3), Some(id(4)))));
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
    history.set_bounds(&GroupOptions {
        history: 1000,
        history_expiry: HOUR,
        ..GroupOptions::default()
    });
    for _ in 0..100 {
        history.append(&mut entry(&"x".repeat(9000)));
        assert!(history.recount() <= 100_000);
    }
    assert!(history.count() >= 8, "{} events", history.count());
    history.append(&mut entry(&"x".repeat(200_000)));
    assert_eq!((history.count(), history.position()), (0, at(1, 101)));
    assert_eq!(history_budget.audit(), (0, 0));
    // A member that was there before the event sees that it is missing.
    assert!(!history.replay(Start::After(at(1, 100)), true).is_complete);
    assert!(history.replay(Start::After(at(1, 101)), true).is_complete);
}

proptest::proptest! {
    #[test]
    fn bytes_of_a_shared_history_are_those_of_what_is_there(
        steps in proptest::collection::vec((0_u8..6, 1_usize..3000), 1..120)
    ) {
        let history_budget = HistoryBudget::new(usize::MAX, 20_000);
        let account = Account::new(history_budget.clone(), GroupName::new("room").unwrap());
        let mut history = GroupHistory::new(at(1, 0), true, account);
        history.set_bounds(&GroupOptions { history: 20, history_expiry: HOUR, ..GroupOptions::default() });
        history.read_from(5, 0);
        let (mut epoch, mut offset, mut seq) = (5, 0, 0);
        for (step, size) in steps {
            let mut said = entry(&"x".repeat(size));
            match step {
                0 | 1 => {
                    (offset, seq) = (offset + 1, seq + 1);
                    history.append_shared(id(seq), at(epoch, offset), Duration::ZERO, &mut said);
                }
                2 => {
                    seq += 1;
                    history.append_early(id(seq), &said);
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
                    history.set_bounds(&GroupOptions { history: size % 40 + 1, history_expiry: HOUR, ..GroupOptions::default() });
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
    let mut shared = SharedHistory::default();
    for node in 0..=SENDERS_MAX as u64 {
        shared.mark_seen(EventId { node, seq: 1 });
        shared.mark_seen(EventId {
            node: 0,
            seq: node + 1,
        });
    }
    assert_eq!(shared.newest_of(0), SENDERS_MAX as u64 + 1);
    assert_eq!((shared.newest_of(1), shared.newest_of(2)), (0, 1));
}

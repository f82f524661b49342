//! Tests of members that join a group with a shared history, before it is loaded, during an outage,
//! and after it.

use std::time::Duration;

use futures_util::FutureExt;

use super::*;
use crate::channels::append::{NewEvent, Retention, SharedAppend};
use crate::channels::event_id::EventId;
use crate::channels::history_budget::HistoryBudget;
use crate::channels::{Event, GroupName, Mailbox, Position};

const OWN: u64 = 1;
const EPOCH: u64 = 5;

const KEEP: GroupOptions = GroupOptions {
    history: 20,
    history_expiry: Duration::from_secs(3600),
    recover: true,
    presence: crate::channels::Presence::Untracked,
};

fn group() -> Group {
    let first = Position {
        epoch: OWN,
        offset: 0,
    };
    let budget = HistoryBudget::new(usize::MAX, usize::MAX);
    Group::new(GroupName::new("room").unwrap(), first, true, budget)
}

/// A member, its mailbox, and whether it could recover.
struct Client(Arc<Mailbox>, Option<Joined>);

impl Client {
    fn joins(group: &Group, number: u64, start: Start, options: GroupOptions) -> Self {
        let mailbox = Arc::new(Mailbox::new(1000, 1 << 20, Duration::from_secs(3600)));
        let subscriber: Arc<dyn Subscriber> = mailbox.clone();
        let joined = group.join(number, &subscriber, None, &options, start);
        Self(mailbox, joined)
    }

    fn returns(group: &Group, number: u64, since: &str) -> Self {
        Self::joins(group, number, Start::After(since.parse().unwrap()), KEEP)
    }

    /// Returns the texts and the positions that it has received.
    fn received(&self) -> Vec<(String, String)> {
        let next = || self.0.receive().now_or_never();
        let shown = |received: crate::channels::Received| {
            let text = received.event.field("text").unwrap();
            (
                text.as_str().unwrap().to_owned(),
                received.seen().to_string(),
            )
        };
        std::iter::from_fn(next).map(shown).collect()
    }

    fn texts(&self) -> String {
        let texts = self.received().into_iter().map(|(text, _)| text);
        texts.collect::<Vec<_>>().join(" ")
    }
}

fn id(node: u64, seq: u64) -> EventId {
    EventId { node, seq }
}

fn early(group: &Group, seq: u64, text: &str) {
    let event = Event::text(text);
    group.append_early(&NewEvent::new(&event, None), id(OWN, seq));
    group.deliver_now();
}

fn transient(group: &Group, text: &str) {
    let event = Event::text(text);
    group.append(&NewEvent::new(&event, None), Retention::Transient);
    group.deliver_now();
}

fn arrives(group: &Group, id: EventId, offset: u64, text: &str) -> SharedAppend {
    let position = Position {
        epoch: EPOCH,
        offset,
    };
    let event = Event::text(text);
    let appended = group.append_shared(&NewEvent::new(&event, None), id, position, Duration::ZERO);
    group.deliver_now();
    appended
}

fn reads(group: &Group, before: u64) {
    group.with_history(|history| {
        history.mark_requested();
        history.read_from(EPOCH, before);
    });
}

fn loaded() -> Group {
    let group = group();
    group.set_options(&KEEP);
    reads(&group, 0);
    group.history_read();
    group
}

/// Issue: a group that began while Redis was away lost the events that were published while its
/// history was read.
#[test]
fn a_group_that_begins_in_an_outage_loses_nothing_and_repeats_nothing() {
    let group = group();
    let feed = Client::joins(&group, 1, Start::History, KEEP);
    let live = Client::joins(&group, 2, Start::Now, KEEP);
    early(&group, 1, "x1");
    early(&group, 2, "x2");
    let late = Client::joins(&group, 3, Start::History, KEEP);
    assert_eq!(feed.texts(), "x1 x2");
    assert_eq!(live.texts(), "x1 x2");
    assert_eq!(late.texts(), "x1 x2");
    // Redis is back: published events arrive before, while and after the history is read.
    assert_eq!(arrives(&group, id(7, 1), 2, "a"), SharedAppend::Gap);
    reads(&group, 0);
    arrives(&group, id(OWN, 1), 1, "x1");
    assert_eq!(arrives(&group, id(7, 1), 2, "a"), SharedAppend::Kept);
    transient(&group, "joined");
    assert_eq!(arrives(&group, id(7, 3), 4, "c"), SharedAppend::Gap);
    arrives(&group, id(7, 2), 3, "b");
    assert_eq!(feed.texts(), "joined");
    group.history_read();
    assert_eq!(
        feed.received(),
        [
            ("a".to_owned(), "5.2~1.2".to_owned()),
            ("b".to_owned(), "5.3~1.2".to_owned())
        ]
    );
    assert_eq!(live.texts(), "joined a b");
    assert_eq!(late.texts(), "joined a b");
    for (id, offset, text) in [
        (id(7, 3), 4, "c"),
        (id(OWN, 2), 5, "x2"),
        (id(OWN, 3), 6, "x3"),
    ] {
        arrives(&group, id, offset, text);
    }
    for client in [&feed, &live, &late] {
        assert_eq!(client.texts(), "c x3");
    }
}

#[test]
fn what_waits_for_delivery_while_a_history_is_loaded_is_delivered_once() {
    let group = group();
    let feed = Client::joins(&group, 1, Start::History, KEEP);
    let event = Event::text("x1");
    group.append_early(&NewEvent::new(&event, None), id(OWN, 1));
    let event = Event::text("joined");
    group.append(&NewEvent::new(&event, None), Retention::Transient);
    reads(&group, 0);
    let event = Event::text("a");
    let position = Position {
        epoch: EPOCH,
        offset: 1,
    };
    group.append_shared(
        &NewEvent::new(&event, None),
        id(7, 1),
        position,
        Duration::ZERO,
    );
    group.history_read();
    assert_eq!(feed.texts(), "a");
    group.deliver_now();
    assert_eq!(feed.texts(), "x1 joined");
    arrives(&group, id(OWN, 1), 2, "x1");
    assert_eq!(feed.texts(), "");
}

#[test]
fn a_client_that_drops_in_an_outage_returns_without_a_repetition() {
    let group = loaded();
    arrives(&group, id(7, 1), 1, "a");
    let feed = Client::joins(&group, 1, Start::History, KEEP);
    early(&group, 1, "x1");
    early(&group, 2, "x2");
    assert_eq!(
        feed.received(),
        [("a", "5.1"), ("x1", "5.1~1.1"), ("x2", "5.1~1.2")]
            .map(|(text, at)| (text.into(), at.into()))
    );
    group.leave(1);
    early(&group, 3, "x3");
    assert_eq!(Client::returns(&group, 2, "5.1~1.2").texts(), "x3");
    for (node, seq, offset, text) in [
        (OWN, 1, 2, "x1"),
        (7, 2, 3, "b"),
        (OWN, 2, 4, "x2"),
        (OWN, 3, 5, "x3"),
        (OWN, 4, 6, "x4"),
    ] {
        arrives(&group, id(node, seq), offset, text);
    }
    let again = Client::returns(&group, 3, "5.1~1.2");
    assert!(again.1.unwrap().is_complete);
    assert_eq!(again.texts(), "b x3 x4");
}

/// It was connected to another process, whose early events have no offset yet.
#[test]
fn a_client_that_moves_in_an_outage_gets_the_events_of_the_other_process_once() {
    let group = loaded();
    arrives(&group, id(7, 1), 1, "a");
    let moved = Client::returns(&group, 1, "5.1~7.3");
    let other = Client::joins(&group, 2, Start::History, KEEP);
    early(&group, 1, "x1");
    assert_eq!(
        moved.received(),
        [("x1".to_owned(), "5.1~7.3~1.1".to_owned())]
    );
    for (node, seq, offset, text) in [
        (7, 2, 2, "b"),
        (9, 1, 3, "c"),
        (7, 3, 4, "d"),
        (OWN, 1, 5, "x1"),
        (7, 4, 6, "e"),
    ] {
        arrives(&group, id(node, seq), offset, text);
    }
    assert_eq!(
        moved.received(),
        [
            ("c".to_owned(), "5.3~7.3~1.1".to_owned()),
            ("e".to_owned(), "5.6".to_owned())
        ]
    );
    assert_eq!(other.texts(), "a x1 b c d e");
    let members = group.members.lock();
    assert!(
        members
            .slots
            .iter()
            .flatten()
            .all(|member| member.membership.view.is_none())
    );
}

#[test]
fn an_event_that_is_retained_for_a_join_comes_once() {
    let group = loaded();
    group.add_pending_join(1);
    early(&group, 1, "x1");
    arrives(&group, id(OWN, 1), 1, "x1");
    arrives(&group, id(7, 3), 2, "seen");
    arrives(&group, id(7, 4), 3, "b");
    assert_eq!(Client::returns(&group, 1, "5.0~7.3").texts(), "x1 b");
    group.remove_pending_join(1);
}

#[test]
fn members_from_before_the_history_get_nothing_of_the_past_and_nothing_twice() {
    let group = group();
    let plain = Client::joins(
        &group,
        1,
        Start::History,
        GroupOptions { history: 0, ..KEEP },
    );
    let position = Position {
        epoch: EPOCH,
        offset: 1,
    };
    let delivered = group.with_history(|history| history.mark_delivered(id(7, 1), position));
    assert_eq!(delivered, (true, 0));
    transient(&group, "a");
    transient(&group, "sent"); // by this process, before Redis
    let feed = Client::joins(&group, 2, Start::History, KEEP);
    reads(&group, 0);
    group.with_history(|history| history.mark_sent(id(OWN, 1)));
    arrives(&group, id(7, 1), 1, "a");
    arrives(&group, id(OWN, 1), 2, "sent");
    arrives(&group, id(7, 2), 3, "b");
    group.history_read();
    assert_eq!(plain.texts(), "a sent b");
    assert_eq!(feed.texts(), "a sent b");
    // One more event that this process had sent before.
    let event = Event::text("late");
    let new = NewEvent {
        is_delivered: true,
        ..NewEvent::new(&event, None)
    };
    let position = Position {
        epoch: EPOCH,
        offset: 4,
    };
    group.append_shared(&new, id(OWN, 2), position, Duration::ZERO);
    group.deliver_now();
    assert_eq!(plain.texts(), "");
    assert_eq!(feed.texts(), "late");
}

#[test]
fn a_process_follows_a_history_that_none_of_its_members_has_asked_for() {
    let group = group();
    let plain = Client::joins(
        &group,
        1,
        Start::History,
        GroupOptions { history: 0, ..KEEP },
    );
    let deliver = |seq, text: &str| {
        let position = Position {
            epoch: EPOCH,
            offset: seq,
        };
        group.with_history(|history| history.mark_delivered(id(7, seq), position));
        transient(&group, text);
    };
    deliver(1, "a");
    assert!(group.with_history(|history| history.is_kept_elsewhere()));
    group.with_history(GroupHistory::mark_requested);
    deliver(2, "b");
    // The reply is from before the second event.
    assert!(group.adopt_history((20, KEEP.history_expiry), 1));
    reads(&group, 0);
    arrives(&group, id(7, 1), 1, "a");
    reads(&group, 1);
    assert!(!group.adopt_history((20, KEEP.history_expiry), 2));
    for (seq, text) in [(2, "b"), (3, "c")] {
        arrives(&group, id(7, seq), seq, text);
    }
    group.history_read();
    arrives(&group, id(7, 4), 4, "d");
    assert_eq!(plain.texts(), "a b c d");
    assert_eq!(
        Client::joins(&group, 2, Start::History, KEEP).texts(),
        "a b c d"
    );
}

#[test]
fn a_client_from_a_process_that_knows_only_the_present_epoch_gets_what_is_repeated() {
    let group = loaded();
    arrives(&group, id(7, 1), 1, "a");
    arrives(&group, id(7, 2), 2, "b");
    let before = Client::joins(&group, 1, Start::History, KEEP);
    let at = |offset| Position { epoch: 6, offset };
    group.with_history(|history| history.read_from(6, 0));
    let repeats = |offset, id, text: &str| {
        let event = Event::text(text);
        group.append_shared(&NewEvent::new(&event, None), id, at(offset), Duration::ZERO);
        group.deliver_now();
    };
    repeats(1, id(7, 1), "a");
    let moved = Client::returns(&group, 2, "6.1");
    let own = Client::returns(&group, 3, "6.1~7.2");
    repeats(2, id(7, 2), "b");
    repeats(3, id(9, 1), "c");
    assert_eq!(before.texts(), "a b c");
    assert_eq!(moved.texts(), "b c");
    assert_eq!(own.texts(), "c");
    let late = Client::returns(&group, 4, "6.1");
    assert!(late.1.unwrap().is_complete);
    assert_eq!(late.texts(), "b c");
}

#[test]
fn a_client_that_joins_between_a_reconnect_and_the_first_offsets_resumes_exactly() {
    let group = loaded();
    group.add_pending_join(7);
    // Redis is back, and gives an offset to an event of another process first.
    early(&group, 1, "a1");
    arrives(&group, id(2, 1), 1, "b1");
    transient(&group, "t");
    let client = Client::joins(&group, 7, Start::History, KEEP);
    let received = client.received();
    let texts: Vec<&str> = received.iter().map(|(text, _)| text.as_str()).collect();
    assert_eq!(texts, ["b1", "a1", "t"]);
    // Wherever it drops, it gets the rest, each once.
    for (at, (_, position)) in received.iter().enumerate() {
        let rest = Client::returns(&group, 100 + at as u64, position);
        let is_complete = rest.1.as_ref().map(|joined| joined.is_complete);
        assert_eq!(is_complete, Some(true), "{position}");
        let mut all: Vec<&str> = texts[..=at].to_vec();
        let more = rest.received();
        all.extend(more.iter().map(|(text, _)| text.as_str()));
        all.retain(|text| *text != "t"); // not kept
        all.sort_unstable();
        let mut expected = texts.clone();
        expected.retain(|text| *text != "t");
        expected.sort_unstable();
        assert_eq!(all, expected, "after {position}");
    }
    arrives(&group, id(OWN, 1), 2, "a1");
    assert_eq!(client.received(), []);
}

//! Groups with a history against a naive list: members join, send, leave and return, and histories
//! expire and are evicted.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use proptest::prelude::*;

use super::ChannelLayer;
use crate::channels::{
    Event, GroupName, GroupOptions, LayerSettings, Mailbox, Seen, Start, Subscriber,
};
use crate::tasks::Tasks;

const GROUPS: usize = 3;
const CLIENTS: usize = 4;

const EXPIRY: Duration = Duration::from_secs(3600);

#[derive(Clone, Debug)]
enum Step {
    /// A client joins a group that keeps so many events: anew, from now on, or where it was.
    Join {
        client: usize,
        group: usize,
        history: usize,
        from: From,
    },
    Leave {
        client: usize,
        group: usize,
    },
    /// An event with so many bytes.
    Send {
        group: usize,
        bytes: usize,
    },
    /// All that has been kept so far expires.
    Expire,
    /// The sweep finds nothing old.
    Sweep,
}

#[derive(Clone, Copy, Debug)]
enum From {
    History,
    Now,
    Last,
}

fn step(bytes_max: usize) -> impl Strategy<Value = Step> {
    let from = prop_oneof![1 => Just(From::History), 1 => Just(From::Now), 4 => Just(From::Last)];
    prop_oneof![
        6 => (0..CLIENTS, 0..GROUPS, 0..6_usize, from).prop_map(
            |(client, group, history, from)| Step::Join { client, group, history, from }
        ),
        4 => (0..CLIENTS, 0..GROUPS).prop_map(|(client, group)| Step::Leave { client, group }),
        10 => (0..GROUPS, 0..=bytes_max).prop_map(|(group, bytes)| Step::Send { group, bytes }),
        1 => Just(Step::Expire),
        1 => Just(Step::Sweep),
    ]
}

/// What a group has, by the rules that users read.
#[derive(Default)]
struct Model {
    /// How many events were sent to it.
    sent: usize,
    /// The newest ones, by their numbers.
    kept: VecDeque<usize>,
    max: usize,
    members: usize,
    exists: bool,
    /// How often it was removed.
    removals: usize,
}

impl Model {
    fn join(&mut self, history: usize) {
        self.exists = true;
        self.members += 1;
        if history > 0 {
            self.max = history;
        }
    }

    /// A group that keeps events is there for those who return, also before the first event.
    fn leave(&mut self) {
        self.members -= 1;
        if self.members == 0 && self.max == 0 {
            self.remove();
        }
    }

    fn send(&mut self) -> usize {
        let number = self.sent;
        self.sent += 1;
        if self.exists && self.max > 0 {
            while self.kept.len() >= self.max {
                self.kept.pop_front();
            }
            self.kept.push_back(number);
        }
        number
    }

    fn expire(&mut self) {
        self.kept.clear();
        if self.members == 0 {
            self.remove();
        }
    }

    fn remove(&mut self) {
        *self = Self {
            sent: self.sent,
            removals: self.removals + 1,
            ..Self::default()
        };
    }
}

/// A client's place in one group.
#[derive(Default)]
struct Place {
    /// Its membership.
    member: Option<(u64, Arc<Mailbox>)>,
    /// What it has seen, the number of the next event, and the removals of the group by then.
    last: Option<(Seen, usize, usize)>,
}

struct World {
    layer: ChannelLayer,
    groups: Vec<(GroupName, Model)>,
    places: Vec<Vec<Place>>,
    /// Whether nothing is evicted, so that the model knows what is kept.
    is_exact: bool,
}

impl World {
    fn new(history_size: usize, group_history_size: usize, is_exact: bool) -> Self {
        let settings = LayerSettings {
            history_size,
            group_history_size,
            capacity: 1000,
            ..LayerSettings::default()
        };
        let name = |number| GroupName::new(&format!("group_{number}")).unwrap();
        let places = || (0..GROUPS).map(|_| Place::default()).collect();
        Self {
            layer: ChannelLayer::new(settings, Tasks::default()),
            groups: (0..GROUPS).map(|n| (name(n), Model::default())).collect(),
            places: (0..CLIENTS).map(|_| places()).collect(),
            is_exact,
        }
    }

    async fn run(&mut self, step: &Step) -> Result<(), TestCaseError> {
        match *step {
            Step::Join {
                client,
                group,
                history,
                from,
            } => self.join(client, group, history, from)?,
            Step::Leave { client, group } => {
                if let Some((member, _)) = self.places[client][group].member.take() {
                    let (name, model) = &mut self.groups[group];
                    self.layer.group_discard(name, member);
                    model.leave();
                }
            }
            Step::Send { group, bytes } => {
                let (name, model) = &mut self.groups[group];
                let text = format!("{} {}", model.send(), "x".repeat(bytes));
                let sent = self.layer.group_send(name, Event::text(text), None);
                prop_assert_eq!(sent.await.unwrap().matched, model.members);
            }
            Step::Expire => {
                self.layer.sweep_expired(Instant::now() + 2 * EXPIRY);
                for (_, model) in &mut self.groups {
                    model.expire();
                }
            }
            Step::Sweep => self.layer.sweep_expired(Instant::now()),
        }
        self.follow()
    }

    fn join(
        &mut self,
        client: usize,
        group: usize,
        history: usize,
        from: From,
    ) -> Result<(), TestCaseError> {
        let place = &mut self.places[client][group];
        if place.member.is_some() {
            return Ok(());
        }
        let (name, model) = &mut self.groups[group];
        let options = GroupOptions {
            history,
            history_expiry: EXPIRY,
            recover: true,
            ..GroupOptions::default()
        };
        let start = match (from, place.last) {
            (From::Now, _) => Start::Now,
            (From::Last, Some((seen, ..))) => Start::After(seen),
            _ => Start::History,
        };
        let mailbox = self.layer.mailbox();
        let subscriber: Arc<dyn Subscriber> = mailbox.clone();
        let member = self.layer.next_member();
        let joined = self
            .layer
            .group_resume(name, member, &subscriber, None, options, start);
        let joined = joined.unwrap();
        model.join(history);
        let got = numbers(&mailbox);
        let first = got.first().map_or(model.sent, |(number, _)| *number);
        let all: Vec<usize> = (first..model.sent).collect();
        let got_numbers: Vec<usize> = got.iter().map(|(number, _)| *number).collect();
        prop_assert_eq!(&got_numbers, &all, "not the newest events in their order");
        let kept = Vec::from_iter(model.kept.iter().copied());
        match (start, place.last) {
            (Start::Now, _) => prop_assert!(got_numbers.is_empty()),
            (Start::After(_), Some((_, next, removals))) => {
                let missing: Vec<usize> = (next..model.sent).collect();
                if joined.is_complete {
                    prop_assert_eq!(&got_numbers, &missing, "told that nothing is missing");
                } else if self.is_exact {
                    prop_assert_eq!(&got_numbers, &kept, "gets what is kept");
                }
                if self.is_exact {
                    let is_known = removals == model.removals && missing.len() <= kept.len();
                    prop_assert_eq!(joined.is_complete, is_known, "whether something is missing");
                }
            }
            // A member that wants no history gets none.
            _ if history == 0 => prop_assert!(got_numbers.is_empty()),
            _ if self.is_exact => prop_assert_eq!(&got_numbers, &kept),
            _ => {}
        }
        let seen = got.last().map_or(joined.from, |(_, seen)| *seen);
        place.last = Some((seen, model.sent, model.removals));
        place.member = Some((member, mailbox));
        Ok(())
    }

    /// Every member gets what was sent, once and in order.
    fn follow(&mut self) -> Result<(), TestCaseError> {
        for places in &mut self.places {
            for (place, (_, model)) in places.iter_mut().zip(&self.groups) {
                let Some((_, mailbox)) = &place.member else {
                    continue;
                };
                let Some((seen, next, removals)) = &mut place.last else {
                    continue;
                };
                for (number, position) in numbers(mailbox) {
                    prop_assert_eq!(number, *next);
                    (*seen, *next, *removals) = (position, number + 1, model.removals);
                }
                prop_assert_eq!(*next, model.sent);
            }
        }
        Ok(())
    }
}

/// Takes the events that a mailbox has: their numbers, and what a client has seen with each.
fn numbers(mailbox: &Mailbox) -> Vec<(usize, Seen)> {
    let next = || mailbox.receive().now_or_never();
    let number = |received: crate::channels::Received| {
        let text = received.event.field("text").unwrap();
        let number = text.as_str().unwrap().split(' ').next().unwrap();
        (number.parse().unwrap(), received.seen())
    };
    std::iter::from_fn(next).map(number).collect()
}

fn check(mut world: World, steps: &[Step]) -> Result<(), TestCaseError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build();
    runtime.unwrap().block_on(async {
        for step in steps {
            world.run(step).await?;
        }
        Ok(())
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn history_is_the_newest_events_and_a_client_that_returns_lacks_none(
        steps in proptest::collection::vec(step(20), 1..80),
    ) {
        check(World::new(usize::MAX, usize::MAX, true), &steps)?;
    }

    /// What is evicted is not known to the model, but a client that lacks something is told.
    #[test]
    fn client_of_an_evicted_history_is_told_that_it_lacks_something(
        steps in proptest::collection::vec(step(3000), 1..80),
    ) {
        check(World::new(12_000, 8_000, false), &steps)?;
    }
}

#[tokio::test]
async fn largest_of_many_groups_are_those_of_a_sorted_copy() {
    let layer = ChannelLayer::new(LayerSettings::default(), Tasks::default());
    let mailbox = Mailbox::new(1, 1, EXPIRY);
    let subscriber: Arc<dyn Subscriber> = Arc::new(mailbox);
    let mut sorted = Vec::new();
    for number in 0..100_000_u64 {
        let name = GroupName::new(&format!("room_{number}")).unwrap();
        let members = 1 + usize::from(number % 997 == 0) + usize::from(number % 9_973 == 0);
        for member in 0..members as u64 {
            let (member, options) = (3 * number + member, GroupOptions::default());
            layer
                .local()
                .join(&name, member, &subscriber, None, &options, Start::Now);
        }
        sorted.push((name, members));
    }
    sorted.sort_by_key(|(name, members)| (std::cmp::Reverse(*members), name.clone()));
    for contains in ["", "77", "none"] {
        let expected = sorted
            .iter()
            .filter(|(name, _)| name.as_str().contains(contains));
        let (found, matched) = layer.largest_groups(contains, 200).await;
        assert_eq!(matched, expected.clone().count(), "{contains:?}");
        let expected: Vec<_> = expected.take(200).cloned().collect();
        assert_eq!(found, expected, "{contains:?}");
    }
}

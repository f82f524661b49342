//! Tests of the history budget: the bytes of all histories are counted, and the right ones are
//! evicted.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use proptest::prelude::*;

use super::{EMPTY_KEPT, charge_for};
use crate::channels::{
    ChannelLayer, Event, GroupName, GroupOptions, LayerSettings, Position, Start, Subscriber,
};
use crate::tasks::Tasks;

const HOUR: Duration = Duration::from_secs(3600);
const SIZE: usize = 64 << 10;
const GROUP_SIZE: usize = 16 << 10;

const KEEP: GroupOptions = GroupOptions {
    history: 50,
    history_expiry: HOUR,
    recover: true,
    presence: crate::channels::Presence::Untracked,
};

fn layer() -> ChannelLayer {
    let settings = LayerSettings {
        history_size: SIZE,
        group_history_size: GROUP_SIZE,
        max_rooms: 1000,
        ..LayerSettings::default()
    };
    ChannelLayer::new(settings, Tasks::default())
}

fn name(number: usize) -> GroupName {
    GroupName::new(&format!("room_{number}")).unwrap()
}

fn ip(number: u8) -> IpAddr {
    [192, 0, 2, number].into()
}

fn enter(layer: &ChannelLayer, group: &GroupName, member: u64, client: Option<IpAddr>) -> bool {
    let Ok(held) = layer
        .begin(group, &KEEP, member, client)
        .now_or_never()
        .unwrap()
    else {
        return false;
    };
    let mailbox: Arc<dyn Subscriber> = layer.mailbox();
    layer.group_resume(group, member, &mailbox, None, KEEP, Start::Now);
    drop(held);
    true
}

fn send(layer: &ChannelLayer, group: &GroupName, bytes: usize) {
    let event = Event::text("x".repeat(bytes));
    let sent = layer.group_send(group, event, None);
    sent.now_or_never().unwrap().unwrap();
}

/// Opens a room, sends a message, leaves.
fn visit(layer: &ChannelLayer, group: &GroupName, bytes: usize, client: Option<IpAddr>) {
    assert!(enter(layer, group, 1, client));
    send(layer, group, bytes);
    layer.group_discard(group, 1);
}

fn kept(layer: &ChannelLayer, group: &GroupName) -> usize {
    let found = layer.local().find(group.as_str());
    found.map_or(0, |found| found.with_history(|history| history.count()))
}

/// Returns the charged bytes, after checking them against a recount.
fn audit(layer: &ChannelLayer) -> usize {
    let groups = layer.local().all();
    let memory = groups
        .iter()
        .map(|(_, found)| found.with_history(|history| history.recount()));
    let charges: Vec<usize> = memory
        .map(charge_for)
        .filter(|charge| *charge > 0)
        .collect();
    let sum = charges.iter().sum();
    assert_eq!(layer.local().history_budget().audit(), (sum, charges.len()));
    sum
}

#[derive(Clone, Debug)]
enum Step {
    Enter(usize, u64, u8),
    Leave(usize, u64),
    Send(usize, usize),
    Sweep,
    Expire,
}

fn step() -> impl Strategy<Value = Step> {
    let (group, member) = (0_usize..12, 1_u64..4);
    prop_oneof![
        3 => (group.clone(), member.clone(), 0_u8..4).prop_map(|(group, member, client)| Step::Enter(group, member, client)),
        2 => (group.clone(), member).prop_map(|(group, member)| Step::Leave(group, member)),
        8 => (group, 1_usize..6000).prop_map(|(group, bytes)| Step::Send(group, bytes)),
        1 => Just(Step::Sweep),
        1 => Just(Step::Expire),
    ]
}

proptest! {
    #[test]
    fn what_is_charged_is_what_is_there_and_groups_with_members_give_way_last(
        steps in proptest::collection::vec(step(), 1..150)
    ) {
        let layer = layer();
        let mut members: BTreeMap<(usize, u64), ()> = BTreeMap::new();
        for step in steps {
            let has_members = |members: &BTreeMap<(usize, u64), ()>, group| members.range((group, 0)..(group + 1, 0)).next().is_some();
            let before: Vec<usize> = (0..12).map(|group| kept(&layer, &name(group))).collect();
            let mut sent_to = None;
            let mut may_expire = false;
            match step {
                Step::Enter(group, member, client) => {
                    enter(&layer, &name(group), member, (client > 0).then(|| ip(client)));
                    members.insert((group, member), ());
                }
                Step::Leave(group, member) => {
                    layer.group_discard(&name(group), member);
                    members.remove(&(group, member));
                }
                Step::Send(group, bytes) => {
                    send(&layer, &name(group), bytes);
                    sent_to = Some(group);
                }
                Step::Sweep => layer.sweep_expired(Instant::now()),
                Step::Expire => {
                    layer.sweep_expired(Instant::now() + 2 * HOUR);
                    may_expire = true;
                }
            }
            prop_assert!(audit(&layer) <= SIZE);
            for (group, before) in before.into_iter().enumerate() {
                let after = kept(&layer, &name(group));
                prop_assert!(after == 0 || layer.local().find(name(group).as_str()).is_some());
                // Only an event to the group itself shortens it, or a lack of memory when no group
                // without members is left to evict from.
                let gave_way = after < before && sent_to != Some(group) && !may_expire;
                prop_assert!(!gave_way || !has_members(&members, group) || !layer.local().history_budget().has_left());
            }
        }
        for ((group, member), ()) in members {
            layer.group_discard(&name(group), member);
        }
        layer.sweep_expired(Instant::now() + 2 * HOUR);
        prop_assert_eq!((audit(&layer), layer.groups()), (0, 0));
    }
}

#[test]
fn many_small_rooms_of_one_address_take_from_each_other_before_they_take_from_others() {
    let layer = layer();
    let real = name(1000);
    visit(&layer, &real, 5000, Some(ip(1)));
    for number in 0..500 {
        visit(&layer, &name(number), 10, Some(ip(2)));
        assert!(audit(&layer) <= SIZE);
    }
    assert_eq!(kept(&layer, &real), 1);
    // For the same address, the least recently used goes first.
    assert_eq!((kept(&layer, &name(0)), kept(&layer, &name(499))), (0, 1));
}

#[test]
fn many_addresses_do_not_evict_the_rooms_of_the_site_and_these_leave_half_to_addresses() {
    let layer = layer();
    for number in 0..5 {
        visit(&layer, &name(number), 4000, None);
    }
    assert!(audit(&layer) <= SIZE / 2);
    for number in 0..100 {
        let client = Some(ip(1 + number as u8));
        visit(&layer, &name(1000 + number), 2000, client);
    }
    for number in 0..5 {
        assert_eq!(kept(&layer, &name(number)), 1, "room {number}");
    }
    // Half is the most they have to themselves: beyond it they evict each other, the least recently
    // used first.
    for number in 5..100 {
        visit(&layer, &name(number), 4000, None);
    }
    let of_addresses = (0..100).map(|number| kept(&layer, &name(1000 + number)));
    assert!(of_addresses.sum::<usize>() > 5);
    assert_eq!((kept(&layer, &name(0)), kept(&layer, &name(99))), (0, 1));
    // Without rooms of addresses, they may use the whole limit.
    let layer = self::layer();
    for number in 0..100 {
        visit(&layer, &name(number), 4000, None);
    }
    assert!(audit(&layer) > SIZE / 4 * 3);
    assert_eq!((kept(&layer, &name(0)), kept(&layer, &name(99))), (0, 1));
}

#[test]
fn rooms_without_members_give_way_before_one_with_members_and_then_the_largest_does() {
    let layer = layer();
    let (small, large) = (name(1000), name(1001));
    enter(&layer, &small, 7, Some(ip(2)));
    send(&layer, &small, 100);
    for number in 0..100 {
        visit(&layer, &name(number), 4000, Some(ip(3 + number as u8 % 50)));
    }
    assert_eq!(kept(&layer, &small), 1);
    // If all groups have members, the large ones lose their oldest events.
    enter(&layer, &large, 7, Some(ip(2)));
    for number in 0..10 {
        enter(&layer, &name(number), 7, Some(ip(2)));
    }
    for _ in 0..50 {
        for number in 0..10 {
            send(&layer, &name(number), 3000);
        }
    }
    assert!(audit(&layer) <= SIZE && !layer.local().history_budget().has_left());
    assert_eq!(kept(&layer, &small), 1);
}

#[test]
fn groups_that_never_had_an_event_leave_nothing_and_take_nothing_from_others() {
    let layer = layer();
    let real = name(100_000);
    visit(&layer, &real, 5000, Some(ip(1)));
    for number in 0..12_000 {
        assert!(
            enter(&layer, &name(number), 1, Some(ip(2))),
            "room {number}"
        );
        layer.group_discard(&name(number), 1);
    }
    assert_eq!(kept(&layer, &real), 1);
    assert!(layer.groups() <= 4097, "{} groups", layer.groups());
    layer.sweep_expired(Instant::now() + EMPTY_KEPT);
    assert_eq!((layer.groups(), kept(&layer, &real)), (1, 1));
}

#[test]
fn a_client_that_lost_its_connection_before_the_first_event_goes_on_where_it_was() {
    let layer = layer();
    let room = name(1);
    enter(&layer, &room, 1, None);
    let position = layer.group_position(&room);
    layer.group_discard(&room, 1);
    send(&layer, &room, 100);
    layer.sweep_expired(Instant::now() + EMPTY_KEPT); // it has an event now, and stays
    let mailbox: Arc<dyn Subscriber> = layer.mailbox();
    let joined = layer.group_resume(
        &room,
        2,
        &mailbox,
        None,
        KEEP,
        Start::After(position.into()),
    );
    assert!(joined.unwrap().is_complete);
}

#[test]
fn positions_are_never_reused_after_an_eviction() {
    let layer = layer();
    let room = name(1);
    let mut last = Position::default();
    for round in 0..20 {
        visit(&layer, &room, 100, Some(ip(1)));
        let position = layer.group_position(&room);
        assert!(
            position.epoch == layer.node() && position.offset > last.offset,
            "round {round}"
        );
        last = position;
        for number in 0..40 {
            visit(&layer, &name(1000 + number), 4000, Some(ip(1)));
        }
        assert_eq!(kept(&layer, &room), 0);
    }
}

#[test]
fn clients_of_an_address_begin_so_many_rooms_and_no_more() {
    let settings = LayerSettings {
        max_rooms: 3,
        ..LayerSettings::default()
    };
    let layer = ChannelLayer::new(settings, Tasks::default());
    for number in 0..3 {
        visit(&layer, &name(number), 10, Some(ip(1)));
    }
    assert!(!enter(&layer, &name(3), 1, Some(ip(1))));
    assert_eq!(layer.groups(), 3, "a room that was refused leaves nothing");
    // Existing rooms are open to all, regardless of who began them; so are the rooms that others
    // begin.
    assert!(enter(&layer, &name(0), 1, Some(ip(1))));
    assert!(enter(&layer, &name(3), 1, Some(ip(2))));
    assert!(enter(&layer, &name(3), 2, Some(ip(1))));
    assert!(enter(&layer, &name(4), 1, None));
    // Once one is removed, there is room for another.
    layer.group_discard(&name(0), 1);
    layer.sweep_expired(Instant::now() + 2 * HOUR);
    assert!(enter(&layer, &name(5), 1, Some(ip(1))));
}

#[test]
fn addresses_of_one_ipv6_network_count_together() {
    let settings = LayerSettings {
        max_rooms: 1,
        ..LayerSettings::default()
    };
    let layer = ChannelLayer::new(settings, Tasks::default());
    let client = |text: &str| Some(text.parse::<IpAddr>().unwrap());
    visit(&layer, &name(0), 10, client("2001:db8:0:1::1"));
    visit(&layer, &name(1), 10, client("192.0.2.1"));
    for (address, wanted) in [
        ("2001:db8:0:1:ffff::2", false),
        ("::ffff:192.0.2.1", false),
        ("2001:db8:0:2::1", true),
        ("192.0.2.2", true),
    ] {
        assert_eq!(
            enter(&layer, &name(2), 1, client(address)),
            wanted,
            "{address}"
        );
        layer.group_discard(&name(2), 1);
    }
}

//! Tests of a socket's groups: at, below and above both limits, and against naive sets.

use std::collections::BTreeSet;

use proptest::prelude::{Strategy, prop_assert_eq, prop_oneof, proptest};

use super::*;
use crate::channels::GroupLimit;
use crate::config::LimitsConfig;
use crate::net::ClientLimit;

const ONE: [u8; 4] = [192, 0, 2, 1];
const OTHER: [u8; 4] = [192, 0, 2, 2];

fn limits(groups_per_socket: usize, groups_per_ip: usize) -> LimitsConfig {
    LimitsConfig {
        groups_per_socket,
        groups_per_ip,
        ..LimitsConfig::default()
    }
}

struct World {
    clients: ClientLimit,
    limits: GroupLimits,
}

impl World {
    fn new(per_socket: usize, per_ip: usize) -> Self {
        let clients = ClientLimit::new(1);
        let limits = GroupLimits::new(&limits(per_socket, per_ip), clients.clone());
        Self { clients, limits }
    }

    fn socket(&self, ip: impl Into<IpAddr>) -> TestSocket<'_> {
        TestSocket {
            world: self,
            ip: ip.into(),
            groups: SocketGroups::default(),
        }
    }

    fn counted(&self, ip: impl Into<IpAddr>) -> usize {
        self.clients.groups(ip.into())
    }
}

struct TestSocket<'a> {
    world: &'a World,
    ip: IpAddr,
    groups: SocketGroups,
}

impl TestSocket<'_> {
    fn join(&mut self, number: usize) -> Result<(), GroupLimit> {
        let joined = self
            .groups
            .join(&name(number), &self.world.limits, Some(self.ip));
        joined.map_err(|reached| reached.limit)
    }

    fn leave(&mut self, number: usize) {
        let name = name(number);
        self.groups
            .leave(name.as_str(), &self.world.limits, Some(self.ip));
    }

    fn end(&mut self) -> usize {
        let left = self.groups.leave_all(&self.world.limits, Some(self.ip));
        left.len()
    }
}

fn name(number: usize) -> GroupName {
    GroupName::new(&format!("room_{number}")).unwrap()
}

#[test]
fn socket_joins_as_many_groups_as_it_may_and_another_one_when_it_has_left_one() {
    let world = World::new(2, 100);
    let mut socket = world.socket(ONE);
    assert_eq!((socket.join(1), socket.join(2)), (Ok(()), Ok(())));
    assert_eq!(socket.join(1), Ok(()), "the same group counts once");
    let reached = socket.groups.join(&name(3), &world.limits, None);
    let reached = reached.unwrap_err();
    assert_eq!(
        reached.to_string(),
        "expected at most 2 groups (server.limits.groups_per_socket), found 2 before \"room_3\""
    );
    assert_eq!(world.counted(ONE), 2, "a refused group is not counted");
    socket.leave(3);
    assert_eq!(socket.join(3), Err(GroupLimit::PerSocket));
    socket.leave(1);
    assert_eq!(socket.join(3), Ok(()));
    assert_eq!((socket.end(), world.counted(ONE)), (2, 0));
    assert_eq!(socket.end(), 0, "the second time it is in none");
}

#[test]
fn sockets_of_one_address_share_its_groups_and_others_have_their_own() {
    let world = World::new(100, 2);
    let (mut first, mut second, mut other) =
        (world.socket(ONE), world.socket(ONE), world.socket(OTHER));
    assert_eq!((first.join(1), second.join(1)), (Ok(()), Ok(())));
    assert_eq!(second.join(2), Err(GroupLimit::PerIp));
    assert_eq!((other.join(1), other.join(2)), (Ok(()), Ok(())));
    assert_eq!((first.end(), second.join(2)), (1, Ok(())));
    let without_address = second.groups.join(&name(3), &world.limits, None);
    assert_eq!(without_address, Ok(()), "on a unix socket");
}

#[test]
fn other_limits_apply_to_the_next_group_and_end_no_membership() {
    let world = World::new(3, 3);
    let mut socket = world.socket(ONE);
    assert!((0..3).all(|number| socket.join(number).is_ok()));
    world.limits.set(&limits(1, 3));
    assert_eq!(socket.join(3), Err(GroupLimit::PerSocket));
    assert_eq!((socket.groups.len(), socket.join(0)), (3, Ok(())));
    world.limits.set(&limits(10, 1));
    assert_eq!(socket.join(3), Err(GroupLimit::PerIp));
    world.limits.set(&limits(10, 4));
    assert_eq!(socket.join(3), Ok(()));
    assert_eq!((socket.end(), world.counted(ONE)), (4, 0));
}

#[test]
fn groups_of_a_socket_that_opens_are_checked_together() {
    let world = World::new(3, 4);
    let mut earlier = world.socket(ONE);
    assert_eq!((earlier.join(1), earlier.join(2)), (Ok(()), Ok(())));
    let check = |ip: [u8; 4], numbers: &[usize]| {
        let named = |number: &usize| (name(*number), crate::channels::GroupOptions::default());
        let groups: Vec<_> = numbers.iter().map(named).collect();
        let checked = world.limits.check_all(Some(ip.into()), &groups);
        let allowed = world.limits.allowed(Some(ip.into()), &groups);
        (checked.map_err(|reached| reached.limit), allowed)
    };
    assert_eq!(check(OTHER, &[]), (Ok(()), 0));
    assert_eq!(check(OTHER, &[1, 2, 3]), (Ok(()), 3));
    assert_eq!(check(OTHER, &[1, 1, 2, 3, 2]), (Ok(()), 5));
    let refused = Err(GroupLimit::PerSocket);
    assert_eq!(check(OTHER, &[1, 1, 2, 3, 4]), (refused, 4));
    assert_eq!(check(ONE, &[5, 6]), (Ok(()), 2));
    assert_eq!(check(ONE, &[5, 6, 7]), (Err(GroupLimit::PerIp), 2));
    assert_eq!(world.counted(ONE), 2, "nothing is counted yet");
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Join(usize, usize),
    Leave(usize, usize),
    End(usize),
    SetLimits(usize, usize),
}

const SOCKETS: usize = 6;

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let (sockets, groups) = (0..SOCKETS, 0..60_usize);
    let step = prop_oneof![
        12 => (sockets.clone(), groups.clone()).prop_map(|(at, group)| Step::Join(at, group)),
        6 => (sockets.clone(), groups).prop_map(|(at, group)| Step::Leave(at, group)),
        1 => sockets.prop_map(Step::End),
        1 => (1..50_usize, 1..80_usize).prop_map(|(a, b)| Step::SetLimits(a, b)),
    ];
    proptest::collection::vec(step, 0..400)
}

proptest! {
    /// Three addresses with two sockets each, against a set of groups for each socket.
    #[test]
    fn groups_and_counts_are_those_of_naive_sets(steps in steps()) {
        let world = World::new(45, 70);
        let ip = |at: usize| -> IpAddr { [192, 0, 2, u8::try_from(at % 3).unwrap()].into() };
        let mut sockets: Vec<_> = (0..SOCKETS).map(|at| world.socket(ip(at))).collect();
        let mut model = vec![BTreeSet::<usize>::new(); SOCKETS];
        let (mut per_socket, mut per_ip) = (45, 70);
        for step in steps {
            match step {
                Step::Join(at, group) => {
                    let of_ip = model[at].len() + model[(at + 3) % SOCKETS].len();
                    let expected = match () {
                        () if model[at].contains(&group) => Ok(()),
                        () if model[at].len() >= per_socket => Err(GroupLimit::PerSocket),
                        () if of_ip >= per_ip => Err(GroupLimit::PerIp),
                        () => Ok(()),
                    };
                    if expected.is_ok() {
                        model[at].insert(group);
                    }
                    prop_assert_eq!(sockets[at].join(group), expected);
                }
                Step::Leave(at, group) => {
                    model[at].remove(&group);
                    sockets[at].leave(group);
                }
                Step::End(at) => {
                    prop_assert_eq!(sockets[at].end(), model[at].len());
                    model[at].clear();
                }
                Step::SetLimits(socket, address) => {
                    (per_socket, per_ip) = (socket, address);
                    world.limits.set(&limits(socket, address));
                }
            }
            for (at, socket) in sockets.iter().enumerate() {
                let expected: BTreeSet<_> = model[at].iter().map(|one| format!("room_{one}")).collect();
                let found: BTreeSet<_> = socket.groups.names(usize::MAX).into_iter().collect();
                prop_assert_eq!(found, expected);
                prop_assert_eq!(socket.groups.len(), model[at].len());
                let is_few = matches!(socket.groups, SocketGroups::Few(_));
                prop_assert_eq!(is_few || model[at].len() > FEW_MAX / 2, true);
                prop_assert_eq!(!is_few || model[at].len() <= FEW_MAX, true);
            }
            for at in 0..3 {
                let expected = model[at].len() + model[at + 3].len();
                prop_assert_eq!(world.counted(ip(at)), expected);
            }
        }
        for socket in &mut sockets {
            socket.end();
        }
        prop_assert_eq!((0..3).map(|at| world.counted(ip(at))).sum::<usize>(), 0);
    }
}

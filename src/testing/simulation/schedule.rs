//! Schedule: what happens in one simulation, and when.
//!
//! There are three places for processes, one Redis, and ten clients, each with a group and a
//! consumer of its own:
//!
//! | client | path | group | consumer | history, recovery | presence |
//! |---|---|---|---|---|---|
//! | 0, 1, 2 | `/kept/` | `kept` | `feed` | yes | |
//! | 3 | `/live/` | `kept` | `feed` | no | |
//! | 4, 5 | `/room/` | `room` | `chat` | yes | yes |
//! | 6 | `/bare/` | `bare` | `feed` | no | |
//! | 7 | `/talk/` | `bare` | `chat` | no | yes |
//! | 8, 9 | `/short/` | `short` | `feed` | of 3 events | |
//!
//! A step that makes no sense is skipped: to disconnect a client that is not connected, to freeze a
//! process that is dead. So every part of a schedule is a schedule, which lets proptest shrink it.
//! At the end everything is repaired: Redis is up, reachable and quick, and all processes run.

use std::fmt;

use proptest::prelude::*;

use super::redis::Keeps;
use crate::config::LayerFormat;

/// The number of places for processes.
pub(super) const PROCESSES: usize = 3;

/// The number of clients.
pub(super) const CLIENTS: usize = 10;

/// After this time in milliseconds all processes are connected to Redis, if it is up.
const START: u64 = 1000;

/// The groups.
pub(super) const GROUPS: [&str; 4] = ["kept", "room", "bare", "short"];

/// The path of each client.
pub(super) const PATHS: [&str; CLIENTS] = [
    "/kept/", "/kept/", "/kept/", "/live/", "/room/", "/room/", "/bare/", "/talk/", "/short/",
    "/short/",
];

/// One run of the simulation.
#[derive(Clone, Debug)]
pub(super) struct Schedule {
    pub(super) format: LayerFormat,
    /// The number of processes that run.
    pub(super) processes: usize,
    /// The time between the start of the processes and the first step, in milliseconds. Connecting
    /// to Redis takes them some of it.
    pub(super) start: u64,
    pub(super) steps: Vec<Step>,
}

/// A pause in milliseconds, and what happens after it.
#[derive(Clone, Debug)]
pub(super) struct Step(pub(super) u64, pub(super) Action);

/// What happens.
#[derive(Clone, Debug)]
pub(super) enum Action {
    /// A client connects to a process. If it has been connected before, it returns with the last
    /// position that it saw (`?since=`), if any. If it is connected, its connection ends first.
    Connect {
        client: usize,
        process: usize,
    },
    /// A client connects as one that has never been connected.
    ConnectAnew {
        client: usize,
        process: usize,
    },
    /// A client's connection ends without a close frame.
    Disconnect {
        client: usize,
    },
    /// A process sends events to a group, one after the other, with a pause in milliseconds.
    Send {
        process: usize,
        group: usize,
        events: usize,
        pause: u64,
    },
    /// A process sends an event that is not kept.
    SendTransient {
        process: usize,
        group: usize,
    },
    /// Redis ends, and later starts again.
    StopRedis,
    StartRedis(Keeps),
    /// What `StartRedis(Keeps::Saved)` returns to.
    SaveRedis,
    /// All keys are deleted; connections stay.
    FlushRedis,
    /// Redis accepts connections but does not reply.
    FreezeRedis,
    ThawRedis,
    /// Each reply and message takes so many milliseconds more.
    SlowRedis(u64),
    /// The connections of a process to Redis are closed, and none is accepted.
    Cut {
        process: usize,
    },
    /// The connections of a process to Redis are open, but no byte passes.
    Stall {
        process: usize,
    },
    /// Ends both.
    Mend {
        process: usize,
    },
    /// A process stops (SIGSTOP) and goes on.
    Freeze {
        process: usize,
    },
    Thaw {
        process: usize,
    },
    /// A process dies (SIGKILL), and a new one starts in its place.
    Kill {
        process: usize,
    },
    Start {
        process: usize,
    },
}

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "format {}, {} processes", self.format, self.processes)?;
        let mut at = self.start;
        for Step(pause, action) in &self.steps {
            at += pause;
            writeln!(f, "{at:>7} ms  {action:?}")?;
        }
        Ok(())
    }
}

/// Which faults a schedule may have.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) enum Faults {
    /// None: Redis is up all the time.
    None,
    /// Redis is away, silent or slow, for all processes or for one. It loses nothing.
    Outages,
    /// Processes stand still as well, for less than their lease or longer.
    Pauses,
    /// Processes die as well.
    Deaths,
    /// Redis loses data as well.
    Losses,
}

/// Returns the schedules with some faults.
pub(super) fn schedules(format: LayerFormat, faults: Faults) -> impl Strategy<Value = Schedule> {
    (1..=PROCESSES).prop_flat_map(move |processes| {
        let step =
            (pauses(), actions(processes, faults)).prop_map(|(pause, action)| Step(pause, action));
        let start = match faults {
            Faults::None => Just(START).boxed(),
            _ => prop_oneof![Just(START), 0..START].boxed(),
        };
        let steps = proptest::collection::vec(step, 1..40);
        (start, steps).prop_map(move |(start, steps)| Schedule {
            format,
            processes,
            start,
            steps,
        })
    })
}

fn pauses() -> impl Strategy<Value = u64> {
    prop_oneof![
        3 => Just(0_u64),
        4 => 1..20_u64,
        3 => 20..300_u64,
        2 => 300..2500_u64,
    ]
}

fn actions(processes: usize, faults: Faults) -> BoxedStrategy<Action> {
    use Action::*;
    let process = move || 0..processes;
    let client = || 0..CLIENTS;
    let group = || 0..GROUPS.len();
    let mut all: Vec<(u32, BoxedStrategy<Action>)> = vec![
        (
            10,
            (client(), process())
                .prop_map(|(client, process)| Connect { client, process })
                .boxed(),
        ),
        (
            2,
            (client(), process())
                .prop_map(|(client, process)| ConnectAnew { client, process })
                .boxed(),
        ),
        (5, client().prop_map(|client| Disconnect { client }).boxed()),
        (
            12,
            (
                process(),
                group(),
                1..6_usize,
                prop_oneof![Just(0_u64), 1..8_u64, 50..200_u64],
            )
                .prop_map(|(process, group, events, pause)| Send {
                    process,
                    group,
                    events,
                    pause,
                })
                .boxed(),
        ),
        (
            2,
            (process(), group())
                .prop_map(|(process, group)| SendTransient { process, group })
                .boxed(),
        ),
    ];
    if faults >= Faults::Outages {
        all.extend([
            (3, Just(StopRedis).boxed()),
            (4, Just(StartRedis(Keeps::All)).boxed()),
            (1, Just(FreezeRedis).boxed()),
            (2, Just(ThawRedis).boxed()),
            (
                1,
                prop_oneof![Just(0_u64), 5..400_u64]
                    .prop_map(SlowRedis)
                    .boxed(),
            ),
            (2, process().prop_map(|process| Cut { process }).boxed()),
            (1, process().prop_map(|process| Stall { process }).boxed()),
            (3, process().prop_map(|process| Mend { process }).boxed()),
        ]);
    }
    if faults >= Faults::Pauses {
        all.extend([
            (2, process().prop_map(|process| Freeze { process }).boxed()),
            (3, process().prop_map(|process| Thaw { process }).boxed()),
        ]);
    }
    if faults >= Faults::Deaths {
        all.extend([
            (1, process().prop_map(|process| Kill { process }).boxed()),
            (2, process().prop_map(|process| Start { process }).boxed()),
        ]);
    }
    if faults >= Faults::Losses {
        all.extend([
            (2, Just(SaveRedis).boxed()),
            (1, Just(FlushRedis).boxed()),
            (2, Just(StartRedis(Keeps::Saved)).boxed()),
            (1, Just(StartRedis(Keeps::Nothing)).boxed()),
        ]);
    }
    proptest::strategy::Union::new_weighted(all).boxed()
}

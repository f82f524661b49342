//! The deadlines of a connection against a naive state machine, on a clock that the test turns.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Wake, Waker};
use std::time::Duration;

use proptest::prelude::*;

use super::{ConnectionTimeouts, InFlight, LINGERING};
use crate::clock::{Clock, Millis, NEVER};
use crate::config::{ServerConfig, Size};

/// What happens to an HTTP/1.1 connection.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// Time passes.
    Wait(Millis),
    /// A byte of a head arrives.
    Byte,
    /// A head is whole.
    Head,
    /// A write has to wait.
    Block,
    /// Bytes are written.
    Write(usize),
    /// hyper has taken the response.
    Respond,
    /// The server stops.
    Drain,
    /// Our side is closed.
    Close,
}

/// The phase of a connection, as the diagram of the module has it.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Phase {
    FirstHead(Millis),
    Head(Millis),
    Answering,
    /// Since when, and whether hyper has taken the whole response.
    Blocked(Millis, bool),
    Idle(Millis),
    Lingering(Millis),
}

/// A connection that stores its phase.
struct Naive {
    handshake: Millis,
    keep_alive: Millis,
    write: Millis,
    min_rate: u64,
    phase: Phase,
    draining: Option<Millis>,
    /// When the last response was flushed.
    idle: Millis,
    /// The waits of this response that are over, and the bytes written after the first.
    waited: Millis,
    taken: u64,
}

impl Naive {
    /// Returns whether the step can happen in this phase, and makes it.
    fn step(&mut self, step: Step, now: Millis) -> bool {
        let phase = match (step, self.phase) {
            (Step::Wait(_), phase) => phase,
            // The first head has its deadline from the start on, a byte of it changes nothing.
            (Step::Byte, Phase::FirstHead(since)) => Phase::FirstHead(since),
            (Step::Byte, Phase::Head(since)) => Phase::Head(since),
            (Step::Byte, Phase::Idle(_)) => Phase::Head(now),
            (Step::Head, Phase::FirstHead(_) | Phase::Head(_)) => {
                (self.waited, self.taken) = (0, 0);
                Phase::Answering
            }
            (Step::Block, Phase::Answering) => Phase::Blocked(now, false),
            (Step::Write(bytes), Phase::Answering) => {
                self.take(bytes);
                Phase::Answering
            }
            (Step::Write(bytes), Phase::Blocked(since, is_taken)) => {
                self.waited += (now - since).max(1);
                self.take(bytes);
                match is_taken {
                    true => Phase::Idle(now),
                    false => Phase::Answering,
                }
            }
            (Step::Respond, Phase::Answering) => Phase::Idle(now),
            (Step::Respond, Phase::Blocked(since, false)) => Phase::Blocked(since, true),
            (Step::Drain, phase) if self.draining.is_none() => {
                self.draining = Some(now);
                phase
            }
            (Step::Close, Phase::Idle(since)) if self.draining.is_none_or(|at| since >= at) => {
                Phase::Lingering(now)
            }
            _ => return false,
        };
        if let Phase::Idle(since) = phase {
            self.idle = since;
        }
        self.phase = phase;
        true
    }

    fn take(&mut self, bytes: usize) {
        if self.waited > 0 {
            self.taken += bytes as u64;
        }
    }

    fn deadline(&self) -> Millis {
        // A server that stops gives a connection the time of a handshake for its last request.
        let stops = self.draining.map(|at| at.max(self.idle) + self.handshake);
        match self.phase {
            Phase::Lingering(since) => since + LINGERING,
            Phase::Answering => NEVER,
            Phase::Blocked(since, _) => {
                let earned = (self.taken * 1000)
                    .checked_div(self.min_rate)
                    .unwrap_or(NEVER);
                let left = self
                    .write
                    .saturating_add(earned)
                    .saturating_sub(self.waited);
                since + left.min(self.write)
            }
            Phase::FirstHead(since) | Phase::Head(since) => stops.unwrap_or(since + self.handshake),
            Phase::Idle(since) => stops.unwrap_or(since + self.keep_alive),
        }
    }
}

#[derive(Default)]
struct Flag(AtomicBool);

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => prop_oneof![1..400_u64, 1..3000_u64].prop_map(Step::Wait),
        2 => Just(Step::Byte),
        4 => Just(Step::Head),
        2 => Just(Step::Block),
        3 => (1..5000_usize).prop_map(Step::Write),
        3 => Just(Step::Respond),
        1 => Just(Step::Drain),
        1 => Just(Step::Close),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    /// The connection ends at the first tick at or after the deadline of the state machine, though
    /// nothing looks at it in between: requests do not poll the deadline, only the clock and what
    /// wakes it do.
    #[test]
    fn connection_ends_when_the_state_machine_says_so(
        (handshake, keep_alive, write) in (1..3000_u64, 1..3000_u64, 1..3000_u64),
        min_rate in prop_oneof![Just(0), 1..5000_u64],
        steps in proptest::collection::vec(step(), 1..60),
    ) {
        let mut config = ServerConfig::default();
        config.timeouts.handshake = Duration::from_millis(handshake);
        config.timeouts.keep_alive = Duration::from_millis(keep_alive);
        config.timeouts.request = Duration::from_millis(write);
        config.limits.min_rate = Size(min_rate);
        let clock = Clock::default();
        let timeouts = ConnectionTimeouts::new(clock.clone(), &config);
        let mut naive = Naive {
            handshake,
            keep_alive,
            write,
            min_rate,
            phase: Phase::FirstHead(0),
            draining: None,
            idle: 0,
            waited: 0,
            taken: 0,
        };
        let mut in_flight: Option<InFlight> = None;
        let flag = Arc::new(Flag::default());
        let waker = Waker::from(flag.clone());
        let mut cx = Context::from_waker(&waker);
        let mut expired = pin!(timeouts.expired());
        prop_assert!(expired.as_mut().poll(&mut cx).is_pending());
        for step in steps {
            if !naive.step(step, clock.now()) {
                continue;
            }
            match step {
                Step::Wait(wait) => {
                    let until = clock.now() + wait;
                    while clock.now() < until {
                        clock.turn((clock.now() + 100).min(until));
                        if flag.0.swap(false, Ordering::Relaxed) {
                            let is_due = clock.now() >= naive.deadline();
                            let polled = expired.as_mut().poll(&mut cx);
                            prop_assert_eq!(polled.is_ready(), is_due, "{:?}", naive.phase);
                            if is_due {
                                return Ok(());
                            }
                        }
                        // A timer is called at a whole tick, at most one after its instant.
                        let last_tick = clock.now() - clock.now() % 100;
                        let is_late = last_tick >= naive.deadline().saturating_add(100);
                        prop_assert!(!is_late, "sleeps at {} in {:?}", clock.now(), naive.phase);
                    }
                    continue;
                }
                Step::Byte => timeouts.record_read(1),
                Step::Head => {
                    timeouts.record_read(1);
                    in_flight = Some(timeouts.start_request(http::Version::HTTP_11, false));
                }
                Step::Block => timeouts.record_blocked(),
                Step::Write(bytes) => timeouts.record_written(bytes),
                Step::Respond => drop(in_flight.take()),
                Step::Drain => {
                    timeouts.start_drain();
                    // The drain is polled together with the deadline.
                    flag.0.store(true, Ordering::Relaxed);
                }
                Step::Close => prop_assert!(timeouts.start_linger()),
            }
            if let Phase::Idle(_) = naive.phase {
                timeouts.record_flushed(); // hyper flushes what it has
            }
            if flag.0.swap(false, Ordering::Relaxed) {
                let is_due = clock.now() >= naive.deadline();
                let polled = expired.as_mut().poll(&mut cx);
                prop_assert_eq!(polled.is_ready(), is_due, "{:?}", naive.phase);
                if is_due {
                    return Ok(());
                }
            }
        }
    }
}

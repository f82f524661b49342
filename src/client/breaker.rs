//! Breaker: stops requests to an endpoint that fails, and lets one through to find out whether it
//! is back.
//!
//! ```text
//!            `failures` in a row               `open` has passed, and a request comes
//!  Closed ───────────────────────────► Open ───────────────────────────────────────► HalfOpen
//!    ▲  ▲                              ▲  ▲                                            │  │
//!    │  └──── a success, from ─────────┘  ├──────────── a failure ─────────────────────┘  │
//!    │        before it opened            └──────────── the probe is dropped (due at once)│
//!    └───────────────────────────────────────────────── a success ────────────────────────┘
//! ```
//!
//! In `HalfOpen`, one request, the probe, is in flight; all others are refused. Requests that began
//! before the circuit opened may end in any state; their outcomes also count, except a failure in
//! `HalfOpen`.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use super::ClientError;

/// The wait suggested to a request that comes while the probe is in flight.
const PROBE_WAIT: Duration = Duration::from_millis(50);

/// When to stop sending requests.
#[derive(Clone, Debug)]
pub struct BreakerSettings {
    /// The failures in a row that open the circuit.
    pub failures: u32,
    /// How long the circuit stays open, plus or minus a tenth so that not all processes try again
    /// at once.
    pub open: Duration,
}

/// The outcome of a request, as evidence of whether the endpoint works.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Outcome {
    /// The endpoint works.
    Success,
    /// The endpoint is down or overloaded.
    Failure,
}

impl Outcome {
    /// Returns [`Outcome::Failure`] for `true`.
    #[must_use]
    pub fn from_failure(has_failed: bool) -> Self {
        if has_failed {
            Self::Failure
        } else {
            Self::Success
        }
    }
}

/// A change that operators need to know about.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Transition {
    /// The circuit has opened.
    Opened,
    /// The circuit has closed.
    Closed,
}

/// The role of an admitted request.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Admission {
    Normal,
    Probe,
}

impl Admission {
    pub(super) fn is_probe(self) -> bool {
        self == Self::Probe
    }
}

#[derive(Debug)]
pub(super) struct Breaker {
    settings: BreakerSettings,
    state: Mutex<State>,
}

#[derive(Clone, Copy, Debug)]
enum State {
    Closed { failures: u32 },
    Open { until: Instant },
    HalfOpen,
}

impl Breaker {
    pub(super) fn new(settings: BreakerSettings) -> Self {
        Self {
            settings,
            state: Mutex::new(State::Closed { failures: 0 }),
        }
    }

    /// Admits a request, or refuses it while the circuit is open.
    pub(super) fn admit(&self, now: Instant) -> Result<Admission, ClientError> {
        let mut state = self.state.lock();
        match *state {
            State::Closed { .. } => Ok(Admission::Normal),
            State::Open { until } if now < until => {
                let left = until - now;
                Err(ClientError::CircuitOpen { left })
            }
            State::Open { .. } => {
                *state = State::HalfOpen;
                Ok(Admission::Probe)
            }
            State::HalfOpen => Err(ClientError::CircuitOpen { left: PROBE_WAIT }),
        }
    }

    /// Counts an outcome. While the probe is in flight, a failure of an older request tells nothing
    /// new, and the circuit waits for the probe.
    pub(super) fn record(
        &self,
        outcome: Outcome,
        is_probe: bool,
        now: Instant,
    ) -> Option<Transition> {
        let mut state = self.state.lock();
        let was_closed = matches!(*state, State::Closed { .. });
        *state = match (outcome, *state) {
            (Outcome::Success, _) => State::Closed { failures: 0 },
            (Outcome::Failure, State::Closed { failures })
                if failures + 1 < self.settings.failures =>
            {
                let failures = failures + 1;
                State::Closed { failures }
            }
            (Outcome::Failure, State::HalfOpen) if !is_probe => State::HalfOpen,
            (Outcome::Failure, _) => {
                let open = self.settings.open.mul_f64(0.9 + 0.2 * fastrand::f64());
                State::Open { until: now + open }
            }
        };
        match (was_closed, matches!(*state, State::Closed { .. })) {
            (true, false) => Some(Transition::Opened),
            (false, true) => Some(Transition::Closed),
            _ => None,
        }
    }

    /// Ends the probe without an outcome: the next request becomes the probe.
    pub(super) fn abandon_probe(&self) {
        let mut state = self.state.lock();
        if let State::HalfOpen = *state {
            *state = State::Open {
                until: Instant::now(),
            };
        }
    }

    /// Returns whether requests are sent: a success was the last that was seen, or few failures in a
    /// row.
    pub(super) fn is_closed(&self) -> bool {
        matches!(*self.state.lock(), State::Closed { .. })
    }

    /// Returns how long the circuit stays open. `None`: a request may go through.
    pub(super) fn open_for(&self, now: Instant) -> Option<Duration> {
        match *self.state.lock() {
            State::Open { until } => until.checked_duration_since(now),
            State::Closed { .. } | State::HalfOpen => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn breaker() -> Breaker {
        Breaker::new(BreakerSettings {
            failures: 2,
            open: Duration::from_secs(10),
        })
    }

    #[test]
    fn opens_after_failures_in_a_row_and_closes_after_a_good_probe() {
        let (breaker, now) = (breaker(), Instant::now());
        assert_eq!(breaker.record(Outcome::Failure, false, now), None);
        assert_eq!(breaker.record(Outcome::Success, false, now), None);
        assert_eq!(breaker.record(Outcome::Failure, false, now), None);
        assert_eq!(breaker.admit(now).unwrap(), Admission::Normal);
        assert_eq!(
            breaker.record(Outcome::Failure, false, now),
            Some(Transition::Opened)
        );
        let error = breaker.admit(now).unwrap_err();
        assert!(matches!(error, ClientError::CircuitOpen { .. }), "{error}");
        assert!(breaker.open_for(now).unwrap() >= Duration::from_secs(9));

        let later = now + Duration::from_secs(11);
        assert_eq!(breaker.open_for(later), None);
        assert_eq!(breaker.admit(later).unwrap(), Admission::Probe);
        assert!(breaker.admit(later).is_err(), "one probe at a time");
        assert_eq!(
            breaker.record(Outcome::Success, true, later),
            Some(Transition::Closed)
        );
        assert_eq!(breaker.admit(later).unwrap(), Admission::Normal);
    }

    #[test]
    fn a_bad_probe_opens_it_again_and_an_abandoned_one_passes_the_turn_on() {
        let (breaker, now) = (breaker(), Instant::now());
        breaker.record(Outcome::Failure, false, now);
        breaker.record(Outcome::Failure, false, now);
        let later = now + Duration::from_secs(11);
        assert_eq!(breaker.admit(later).unwrap(), Admission::Probe);
        breaker.abandon_probe();
        assert_eq!(breaker.admit(later).unwrap(), Admission::Probe);
        assert_eq!(breaker.record(Outcome::Failure, true, later), None);
        assert!(breaker.open_for(later).is_some());
    }

    #[test]
    fn failure_of_an_older_request_does_not_admit_a_second_probe() {
        let (breaker, now) = (breaker(), Instant::now());
        breaker.record(Outcome::Failure, false, now);
        breaker.record(Outcome::Failure, false, now);
        let later = now + Duration::from_secs(11);
        assert_eq!(breaker.admit(later).unwrap(), Admission::Probe);
        assert_eq!(breaker.record(Outcome::Failure, false, later), None);
        assert!(breaker.admit(later + Duration::from_secs(60)).is_err());
        let closed = breaker.record(Outcome::Success, true, later);
        assert_eq!(closed, Some(Transition::Closed));
    }
}

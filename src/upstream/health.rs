//! Health: whether a server gets requests.
//!
//! Two observations decide. Requests that fail (passive), and health checks, if there are any:
//!
//! ```text
//!        `max_fails` requests in a row fail                 the pause is over
//!   Up ────────────────────────────────────► Paused ───────────────────────────► Trial
//!    ▲                                        ▲  │                                │  │
//!    │                                        └──┼───── it fails: twice as long ──┘  │
//!    │◄── a check succeeds ──────────────────────┘                                   │
//!    └◄── it succeeds ───────────────────────────────────────────────────────────────┘
//!
//!   Up, Paused, Trial ── CHECKS_FAILED_MAX checks in a row fail ──► Down ── a check succeeds ──► Up
//! ```
//!
//! In `Trial`, one request is in flight; if it gets no answer, the next trial comes after another
//! pause.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// The checks in a row that take a server out: a single one may be lost.
const CHECKS_FAILED_MAX: u32 = 2;

/// How many times the pause doubles.
const DOUBLINGS_MAX: u32 = 5;

/// When a server is paused.
#[derive(Clone, Copy, Debug)]
pub(super) struct PauseSettings {
    /// The failures in a row. 0: never.
    pub(super) max_fails: u32,
    /// The first pause.
    pub(super) fail_timeout: Duration,
}

/// A change that operators need to know about.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Transition {
    Out,
    Back,
}

/// Whether a server may get a request.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Availability {
    Up,
    /// The pause is over: [`Health::begin_trial`] decides who tries.
    Due,
    /// Paused until then.
    Paused(Instant),
    /// Its health checks fail.
    Down,
}

#[derive(Debug)]
pub(super) struct Health {
    settings: PauseSettings,
    /// False while there is nothing to know: no lock is needed then.
    has_failed: AtomicBool,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Requests in a row.
    fails: u32,
    /// Pauses in a row.
    pauses: u32,
    paused_until: Option<Instant>,
    /// Checks in a row.
    failed_checks: u32,
}

impl State {
    fn is_out(&self) -> bool {
        self.paused_until.is_some() || self.failed_checks >= CHECKS_FAILED_MAX
    }
}

impl Health {
    pub(super) fn new(settings: PauseSettings) -> Self {
        Self {
            settings,
            has_failed: AtomicBool::new(false),
            state: Mutex::default(),
        }
    }

    pub(super) fn availability(&self, now: Instant) -> Availability {
        if !self.has_failed.load(Ordering::Relaxed) {
            return Availability::Up;
        }
        let state = self.state.lock();
        if state.failed_checks >= CHECKS_FAILED_MAX {
            return Availability::Down;
        }
        match state.paused_until {
            None => Availability::Up,
            Some(until) if until <= now => Availability::Due,
            Some(until) => Availability::Paused(until),
        }
    }

    /// Makes a request the trial, if it is due and there is no other. Others wait another pause.
    pub(super) fn begin_trial(&self, now: Instant) -> bool {
        let mut state = self.state.lock();
        match state.paused_until {
            Some(until) if until <= now => {
                state.paused_until = Some(now + self.settings.fail_timeout);
                true
            }
            Some(_) => false,
            None => true,
        }
    }

    /// A request was answered, whatever its status.
    pub(super) fn request_succeeded(&self) -> Option<Transition> {
        if !self.has_failed.load(Ordering::Relaxed) {
            return None;
        }
        self.change(|state| {
            (state.fails, state.pauses, state.paused_until) = (0, 0, None);
        })
    }

    /// A request was not answered. Requests that were sent before a pause may fail within it; only
    /// the trial's failure puts off its end.
    pub(super) fn request_failed(&self, is_trial: bool, now: Instant) -> Option<Transition> {
        let PauseSettings {
            max_fails,
            fail_timeout,
        } = self.settings;
        if max_fails == 0 {
            return None;
        }
        self.change(|state| {
            state.fails = state.fails.saturating_add(1);
            let begins = state.paused_until.is_none() && state.fails >= max_fails;
            if begins || is_trial {
                let pause = fail_timeout * 2_u32.pow(state.pauses.min(DOUBLINGS_MAX));
                state.pauses = state.pauses.saturating_add(1);
                // Not all processes try again at once.
                let pause = pause.mul_f64(0.9 + 0.2 * fastrand::f64());
                state.paused_until = Some(now + pause);
            }
        })
    }

    /// A check has ended. A good one also ends a pause.
    pub(super) fn checked(&self, is_good: bool) -> Option<Transition> {
        if is_good && !self.has_failed.load(Ordering::Relaxed) {
            return None;
        }
        self.change(|state| match is_good {
            true => *state = State::default(),
            false => state.failed_checks = state.failed_checks.saturating_add(1),
        })
    }

    fn change(&self, change: impl FnOnce(&mut State)) -> Option<Transition> {
        let mut state = self.state.lock();
        let was_out = state.is_out();
        change(&mut state);
        let is_clean = state.fails == 0 && state.failed_checks == 0 && !state.is_out();
        self.has_failed.store(!is_clean, Ordering::Relaxed);
        match (was_out, state.is_out()) {
            (false, true) => Some(Transition::Out),
            (true, false) => Some(Transition::Back),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAUSE: Duration = Duration::from_secs(10);

    fn health() -> Health {
        Health::new(PauseSettings {
            max_fails: 2,
            fail_timeout: PAUSE,
        })
    }

    #[test]
    fn failures_in_a_row_pause_a_server_and_a_good_trial_brings_it_back() {
        let (health, now) = (health(), Instant::now());
        assert_eq!(health.request_failed(false, now), None);
        assert_eq!(health.request_succeeded(), None);
        assert_eq!(health.request_failed(false, now), None);
        assert_eq!(health.availability(now), Availability::Up);
        assert_eq!(health.request_failed(false, now), Some(Transition::Out));
        assert!(matches!(health.availability(now), Availability::Paused(_)));
        assert!(!health.begin_trial(now));

        let later = now + PAUSE * 2;
        assert_eq!(health.availability(later), Availability::Due);
        assert!(health.begin_trial(later));
        assert!(!health.begin_trial(later), "one trial at a time");
        assert_eq!(health.request_succeeded(), Some(Transition::Back));
        assert_eq!(health.availability(later), Availability::Up);
    }

    #[test]
    fn each_failed_trial_doubles_the_pause_up_to_a_limit() {
        let (health, mut now) = (health(), Instant::now());
        health.request_failed(false, now);
        health.request_failed(false, now);
        let mut pauses = Vec::new();
        for _ in 0..8 {
            let Availability::Paused(until) = health.availability(now) else {
                panic!("not paused");
            };
            pauses.push((until - now).as_secs_f64() / PAUSE.as_secs_f64());
            now = until;
            assert!(health.begin_trial(now));
            assert_eq!(health.request_failed(true, now), None);
        }
        for (pause, expected) in pauses
            .iter()
            .zip([1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 32.0, 32.0])
        {
            assert!((pause / expected - 1.0).abs() < 0.11, "{pauses:?}");
        }
    }

    #[test]
    fn a_trial_without_an_outcome_is_followed_by_another_one() {
        let (health, now) = (health(), Instant::now());
        health.request_failed(false, now);
        health.request_failed(false, now);
        let later = now + PAUSE * 2;
        assert!(health.begin_trial(later));
        assert!(health.begin_trial(later + PAUSE));
    }

    #[test]
    fn failures_of_requests_that_began_before_the_pause_do_not_double_it() {
        let (health, now) = (health(), Instant::now());
        for _ in 0..10 {
            health.request_failed(false, now);
        }
        assert_eq!(health.availability(now + PAUSE * 2), Availability::Due);
    }

    #[test]
    fn two_failed_checks_take_a_server_out_and_a_good_one_brings_it_back() {
        let (health, now) = (health(), Instant::now());
        assert_eq!(health.checked(true), None);
        assert_eq!(health.checked(false), None);
        assert_eq!(health.availability(now), Availability::Up);
        assert_eq!(health.checked(false), Some(Transition::Out));
        assert_eq!(health.availability(now), Availability::Down);
        assert_eq!(health.request_succeeded(), None);
        assert_eq!(health.availability(now), Availability::Down);
        assert_eq!(health.checked(true), Some(Transition::Back));
        health.request_failed(false, now);
        health.request_failed(false, now);
        assert_eq!(health.checked(true), Some(Transition::Back), "ends a pause");
        assert_eq!(health.availability(now), Availability::Up);
    }

    #[test]
    fn without_a_limit_failures_do_not_pause() {
        let health = Health::new(PauseSettings {
            max_fails: 0,
            fail_timeout: PAUSE,
        });
        let now = Instant::now();
        for _ in 0..100 {
            assert_eq!(health.request_failed(false, now), None);
        }
        assert_eq!(health.availability(now), Availability::Up);
    }
}

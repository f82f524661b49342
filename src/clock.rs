//! Clock: one coarse timer for all connections of the process.
//!
//! The clock stops while the process is paused (SIGSTOP, a frozen container, a machine that is moved), so a pause expires no
//! deadlines: nothing could be read in it.
//!
//! A wheel of slots, one tick a slot. Whoever waits asks to be woken at an instant; it may be woken too early (it looks at its own
//! deadlines and asks again) but never more than a tick too late.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::tasks::Tasks;

/// The length of a tick.
pub const TICK: Duration = Duration::from_millis(100);

const SLOTS: usize = 512;

/// Between two ticks no more than this passes. What took longer was a pause.
const PASSES_MAX: Duration = Duration::from_secs(1);

/// Waits for the clock.
pub trait Tick: Send + Sync {
    /// The instant came, or an earlier one.
    fn tick(&self);
}

/// Milliseconds since the clock was made, without pauses of the process.
pub type Millis = u64;

/// No instant.
pub const NEVER: Millis = Millis::MAX;

/// The coarse time of a process and those that wait for it (cheap to clone).
#[derive(Clone)]
pub struct Clock(Arc<Inner>);

/// One promised tick, by which it can be called off.
#[derive(Clone, Copy, Debug)]
pub struct TimerKey {
    /// In ticks.
    at: u32,
    index: u32,
    stamp: u32,
}

impl TimerKey {
    /// Returns the instant.
    #[must_use]
    pub fn at(self) -> Millis {
        Millis::from(self.at) * tick_millis()
    }

    fn slot(self) -> usize {
        (self.at % SLOTS as u32) as usize
    }
}

/// Those that wait for one tick of each turn of the wheel.
#[derive(Default)]
struct Slot {
    entries: Vec<Entry>,
    free: Vec<u32>,
    stamp: u32,
}

struct Entry {
    /// In ticks; the wheel turns for 13 years before it overflows.
    at: u32,
    stamp: u32,
    waiting: Option<Weak<dyn Tick>>,
}

struct Inner {
    started: Instant,
    now: AtomicU64,
    slots: Vec<Mutex<Slot>>,
}

impl std::fmt::Debug for Clock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Clock")
            .field("now", &self.now())
            .finish_non_exhaustive()
    }
}

impl Default for Clock {
    fn default() -> Self {
        let slots = (0..SLOTS).map(|_| Mutex::default()).collect();
        Self(Arc::new(Inner {
            started: Instant::now(),
            now: AtomicU64::new(0),
            slots,
        }))
    }
}

impl Clock {
    /// Returns the time of the last tick.
    #[must_use]
    pub fn now(&self) -> Millis {
        self.0.now.load(Ordering::Relaxed)
    }

    /// Returns since how long there is this clock, to the moment and not to the tick.
    #[must_use]
    pub fn age(&self) -> Duration {
        self.0.started.elapsed()
    }

    /// Has somebody woken at an instant.
    pub fn wake_at(&self, at: Millis, waiting: Weak<dyn Tick>) -> TimerKey {
        let at = ticks(at.max(self.now() + tick_millis()) + tick_millis() - 1); // never before the instant
        let mut slot = self.0.slots[(at % SLOTS as u32) as usize].lock();
        slot.stamp = slot.stamp.wrapping_add(1);
        let stamp = slot.stamp;
        let new = Entry {
            at,
            stamp,
            waiting: Some(waiting),
        };
        let index = match slot.free.pop() {
            Some(index) => {
                slot.entries[index as usize] = new;
                index
            }
            None => {
                slot.entries.push(new);
                u32::try_from(slot.entries.len() - 1).unwrap_or(u32::MAX)
            }
        };
        TimerKey { at, index, stamp }
    }

    /// Calls a tick off, if it did not come yet; what waited is let go.
    pub fn cancel(&self, key: TimerKey) {
        let mut slot = self.0.slots[key.slot()].lock();
        if let Some(entry) = slot.entries.get_mut(key.index as usize)
            && entry.stamp == key.stamp
            && entry.waiting.take().is_some()
        {
            slot.free(key.index);
        }
    }

    /// Turns the wheel until all other tasks are over.
    pub async fn run(self, tasks: Tasks) {
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let (mut passed, mut done, mut age) = (Duration::ZERO, self.now(), self.age());
        loop {
            tokio::select! {
                _ = ticks.tick() => {
                    let before = std::mem::replace(&mut age, self.age());
                    passed += passes(age.saturating_sub(before));
                    let now = u64::try_from(passed.as_millis()).unwrap_or(Millis::MAX);
                    done = self.turn_to(now, done);
                }
                () = tasks.ended() => return,
            }
        }
    }

    /// Wakes all whose instant came since `done`; returns the new time.
    fn turn_to(&self, now: Millis, done: Millis) -> Millis {
        self.0.now.store(now, Ordering::Relaxed);
        let (from, to) = (ticks(done), ticks(now));
        for tick in from.max((to + 1).saturating_sub(SLOTS as u32))..=to {
            let mut due = Vec::new();
            {
                let mut slot = self.0.slots[(tick % SLOTS as u32) as usize].lock();
                for index in 0..u32::try_from(slot.entries.len()).unwrap_or(u32::MAX) {
                    if let Some(waiting) = slot.take_due(index, to) {
                        due.push(waiting);
                    }
                }
            }
            for waiting in due.iter().filter_map(Weak::upgrade) {
                waiting.tick();
            }
        }
        now
    }
}

impl Slot {
    /// Takes who waits at an index, if it is due. The last one takes all entries with it.
    fn take_due(&mut self, index: u32, now: u32) -> Option<Weak<dyn Tick>> {
        let entry = self.entries.get_mut(index as usize)?;
        if entry.at > now {
            return None;
        }
        let waiting = entry.waiting.take()?;
        self.free(index);
        Some(waiting)
    }

    fn free(&mut self, index: u32) {
        self.free.push(index);
        if self.free.len() == self.entries.len() {
            // Empty again: a slot that was full once holds no memory for ever.
            self.entries = Vec::new();
            self.free = Vec::new();
        }
    }
}

/// Returns how much of the time between two ticks passes.
fn passes(between: Duration) -> Duration {
    between.min(PASSES_MAX)
}

fn ticks(at: Millis) -> u32 {
    u32::try_from(at / tick_millis()).unwrap_or(u32::MAX)
}

const fn tick_millis() -> Millis {
    TICK.as_millis() as Millis
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    #[derive(Default)]
    struct Bell(AtomicUsize);

    impl Tick for Bell {
        fn tick(&self) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn waiting(bell: &Arc<Bell>) -> Weak<dyn Tick> {
        Arc::downgrade(&(bell.clone() as Arc<dyn Tick>))
    }

    #[test]
    fn ticks_come_once_and_not_before_their_instant() {
        let clock = Clock::default();
        let bell = Arc::new(Bell::default());
        clock.wake_at(250, waiting(&bell));
        let mut done = 0;
        for (now, rung) in [(100, 0), (249, 0), (299, 0), (300, 1), (60_000, 1)] {
            done = clock.turn_to(now, done);
            assert_eq!(bell.0.load(Ordering::Relaxed), rung, "{now}");
        }
        // Far beyond one turn of the wheel, and late.
        clock.wake_at(200_000, waiting(&bell));
        done = clock.turn_to(199_900, done);
        assert_eq!(bell.0.load(Ordering::Relaxed), 1);
        clock.turn_to(900_000, done);
        assert_eq!(bell.0.load(Ordering::Relaxed), 2);
    }

    #[test]
    fn a_pause_is_not_time() {
        let passed =
            [100, 120, 100, 5_000, 100].map(|between| passes(Duration::from_millis(between)));
        assert_eq!(
            passed.iter().sum::<Duration>(),
            Duration::from_millis(1_420)
        );
    }

    #[test]
    fn places_that_became_free_behind_the_last_one_due_are_passed_over() {
        let clock = Clock::default();
        let bells: Vec<_> = (0..3).map(|_| Arc::new(Bell::default())).collect();
        let calls: Vec<_> = bells
            .iter()
            .map(|bell| clock.wake_at(1_000, waiting(bell)))
            .collect();
        clock.cancel(calls[1]);
        clock.cancel(calls[2]);
        clock.turn_to(1_000, 0);
        assert_eq!(bells[0].0.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn what_is_called_off_is_let_go_and_nobody_else_is() {
        let clock = Clock::default();
        let (gone, other) = (Arc::new(Bell::default()), Arc::new(Bell::default()));
        let key = clock.wake_at(1_000, waiting(&gone));
        clock.cancel(key);
        assert_eq!(Arc::weak_count(&gone), 0);
        clock.wake_at(1_000, waiting(&other)); // in the entry that became free
        clock.cancel(key);
        assert_eq!(Arc::weak_count(&other), 1);
        clock.turn_to(1_000, 0);
        assert_eq!(
            (
                gone.0.load(Ordering::Relaxed),
                other.0.load(Ordering::Relaxed)
            ),
            (0, 1)
        );
        assert_eq!(Arc::weak_count(&other), 0);
    }
}

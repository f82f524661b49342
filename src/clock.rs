//! Clock: one coarse timer for all connections of the process.
//!
//! A timer wheel of 512 slots, one per tick of 100 ms. A timer goes into the slot of its instant,
//! even if that is many turns away:
//!
//! ```text
//!             now
//!              ▼
//! ┌────┬────┬────┬────┬────┬────┐   wake_at   puts an entry into slot `at % 512`
//! │    │ ·· │    │ ·  │    │    │   cancel    drops the target of an entry with the key's stamp
//! └────┴────┴────┴────┴────┴────┘   tick      takes the slot's entries with `at <= now`, calls them
//! ```
//!
//! A target is called once, never before its instant, and at most one tick after it. The clock
//! holds a weak reference; [`Clock::cancel`] also frees the memory that this reference keeps.
//!
//! The clock stops while the process is paused (SIGSTOP, a frozen container, a migrated machine),
//! so that a pause expires no deadline: the process could read nothing during it.
//!
//! Races: targets are called without the lock of their slot, so a target may set or cancel timers.
//! A timer that is cancelled after it was taken still fires once, so targets check their own
//! deadlines when called. Cancelling a key whose entry was reused does nothing, because the stamps
//! differ.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::tasks::Tasks;

/// The length of a tick.
pub const TICK: Duration = Duration::from_millis(100);

/// The number of slots of the wheel. One turn takes 51.2 s.
const SLOTS: usize = 512;

/// The maximum that the clock advances between two ticks. A longer time counts as a pause.
const ADVANCE_MAX: Duration = Duration::from_secs(1);

/// The target of a timer.
pub trait Tick: Send + Sync {
    /// Called at or after the timer's instant. Must not block.
    fn tick(&self);
}

/// Milliseconds since the clock was created, excluding pauses of the process.
pub type Millis = u64;

/// An instant that is never reached.
pub const NEVER: Millis = Millis::MAX;

/// A process's coarse time and its timers (cheap to clone).
#[derive(Clone)]
pub struct Clock(Arc<Inner>);

/// The key of a timer, for [`Clock::cancel`].
#[derive(Clone, Copy, Debug)]
pub struct TimerKey {
    /// The instant, in ticks.
    at: u32,
    /// The index of the entry in its slot.
    index: u32,
    /// Distinguishes the timer from a later one in the same entry.
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

/// The timers of one slot.
#[derive(Default)]
struct Slot {
    entries: Vec<Entry>,
    free: Vec<u32>,
    stamp: u32,
}

struct Entry {
    /// The instant, in ticks, which overflow after 13 years.
    at: u32,
    stamp: u32,
    target: Option<Weak<dyn Tick>>,
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

    /// Returns the exact time since the clock was created, including pauses.
    #[must_use]
    pub fn age(&self) -> Duration {
        self.0.started.elapsed()
    }

    /// Calls `target` once at an instant.
    pub fn wake_at(&self, at: Millis, target: Weak<dyn Tick>) -> TimerKey {
        let at = ticks(at.max(self.now() + tick_millis()) + tick_millis() - 1); // never before the instant
        let mut slot = self.0.slots[(at % SLOTS as u32) as usize].lock();
        slot.stamp = slot.stamp.wrapping_add(1);
        let stamp = slot.stamp;
        let new = Entry {
            at,
            stamp,
            target: Some(target),
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

    /// Cancels a timer that has not fired yet, and drops its target.
    pub fn cancel(&self, key: TimerKey) {
        let mut slot = self.0.slots[key.slot()].lock();
        if let Some(entry) = slot.entries.get_mut(key.index as usize)
            && entry.stamp == key.stamp
            && entry.target.take().is_some()
        {
            slot.free(key.index);
        }
    }

    /// Turns the wheel until all other tasks have ended.
    pub async fn run(self, tasks: Tasks) {
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let lag = metrics::histogram!("oneport_clock_lag_seconds");
        let (mut passed, mut done, mut age) = (Duration::ZERO, self.now(), self.age());
        loop {
            tokio::select! {
                _ = ticks.tick() => {
                    let before = std::mem::replace(&mut age, self.age());
                    let between = age.saturating_sub(before);
                    lag.record(between.saturating_sub(TICK).as_secs_f64());
                    passed += advance(between);
                    let now = u64::try_from(passed.as_millis()).unwrap_or(Millis::MAX);
                    done = self.turn_to(now, done);
                }
                () = tasks.ended() => return,
            }
        }
    }

    /// Turns the wheel to an instant, in place of [`Clock::run`].
    #[cfg(test)]
    pub(crate) fn turn(&self, now: Millis) {
        self.turn_to(now, self.now());
    }

    /// Calls the targets of all instants since `done` and returns the new time.
    fn turn_to(&self, now: Millis, done: Millis) -> Millis {
        self.0.now.store(now, Ordering::Relaxed);
        let (from, to) = (ticks(done), ticks(now));
        for tick in from.max((to + 1).saturating_sub(SLOTS as u32))..=to {
            let mut due = Vec::new();
            {
                let mut slot = self.0.slots[(tick % SLOTS as u32) as usize].lock();
                for index in 0..u32::try_from(slot.entries.len()).unwrap_or(u32::MAX) {
                    if let Some(target) = slot.take_due(index, to) {
                        due.push(target);
                    }
                }
            }
            for target in due.iter().filter_map(Weak::upgrade) {
                target.tick();
            }
        }
        now
    }
}

impl Slot {
    /// Takes the target of an entry that is due. Frees the slot's memory when its last entry is
    /// taken.
    fn take_due(&mut self, index: u32, now: u32) -> Option<Weak<dyn Tick>> {
        let entry = self.entries.get_mut(index as usize)?;
        if entry.at > now {
            return None;
        }
        let target = entry.target.take()?;
        self.free(index);
        Some(target)
    }

    fn free(&mut self, index: u32) {
        self.free.push(index);
        if self.free.len() == self.entries.len() {
            // The slot is empty. If it was full once, it must not keep that memory forever.
            self.entries = Vec::new();
            self.free = Vec::new();
        }
    }
}

/// Returns by how much the clock advances between two ticks.
fn advance(between: Duration) -> Duration {
    between.min(ADVANCE_MAX)
}

fn ticks(at: Millis) -> u32 {
    u32::try_from(at / tick_millis()).unwrap_or(u32::MAX)
}

const fn tick_millis() -> Millis {
    TICK.as_millis() as Millis
}

#[cfg(test)]
mod tests;

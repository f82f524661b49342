//! Clock: one coarse timer for all connections of the process.
//!
//! A wheel of slots, one tick a slot. Whoever waits asks to be woken at an instant; it may be woken too early (it looks at its own
//! deadlines and asks again) but never more than a tick too late.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use crate::tasks::Tasks;

/// The length of a tick.
pub const TICK: Duration = Duration::from_millis(100);

const SLOTS: usize = 512;

/// Waits for the clock.
pub trait Tick: Send + Sync {
    /// The instant came, or an earlier one.
    fn tick(&self);
}

/// Milliseconds since the clock was made.
pub type Millis = u64;

/// The coarse time of a process and those that wait for it (cheap to clone).
#[derive(Clone)]
pub struct Clock(Arc<Inner>);

/// Those that wait for one tick of each turn of the wheel.
type Slot = Mutex<Vec<(Millis, Weak<dyn Tick>)>>;

struct Inner {
    started: Instant,
    now: AtomicU64,
    slots: Vec<Slot>,
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

    /// Has somebody woken at an instant.
    pub fn wake_at(&self, at: Millis, waiting: Weak<dyn Tick>) {
        let at = at.max(self.now() + tick_millis());
        self.slot(at)
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push((at, waiting));
    }

    /// Turns the wheel until the server stops.
    pub async fn run(self, tasks: Tasks) {
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut done = self.now();
        loop {
            tokio::select! {
                _ = ticks.tick() => done = self.turn(done),
                () = tasks.stopping() => return,
            }
        }
    }

    /// Wakes all whose instant came since `done`; returns the new time.
    fn turn(&self, done: Millis) -> Millis {
        let now = u64::try_from(self.0.started.elapsed().as_millis()).unwrap_or(Millis::MAX);
        self.0.now.store(now, Ordering::Relaxed);
        let slots = ((now / tick_millis()).saturating_sub(done / tick_millis())).min(SLOTS as u64);
        for back in 0..=slots {
            let mut slot = self
                .slot(now - (back * tick_millis()).min(now))
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            let due: Vec<_> = slot.extract_if(.., |(at, _)| *at <= now).collect();
            drop(slot);
            for waiting in due.iter().filter_map(|(_, waiting)| waiting.upgrade()) {
                waiting.tick();
            }
        }
        now
    }

    fn slot(&self, at: Millis) -> &Slot {
        let slot = usize::try_from(at / tick_millis()).unwrap_or(0) % SLOTS;
        &self.0.slots[slot]
    }
}

const fn tick_millis() -> Millis {
    TICK.as_millis() as Millis
}

//! An open loop: when each message is due, whether or not the earlier ones were answered.
//!
//! Latencies count from the moment a message was due. One that was sent late because something
//! paused is late itself, which a closed loop never sees ("coordinated omission").

use std::time::{Duration, Instant};

pub struct Schedule {
    next: Instant,
    interval: Duration,
}

impl Schedule {
    /// `rate` messages in each second, evenly spread; none for a rate that is not above zero.
    pub fn new(rate: Option<f64>) -> Option<Self> {
        let interval = Duration::try_from_secs_f64(1.0 / rate?).ok()?;
        (!interval.is_zero()).then(|| Self {
            next: Instant::now(),
            interval,
        })
    }

    /// When the next message was due, once that is past.
    pub fn due(&mut self, now: Instant) -> Option<Instant> {
        (self.next <= now).then(|| {
            let due = self.next;
            self.next += self.interval;
            due
        })
    }

    /// How long until the next message is due.
    pub fn wait(&self, now: Instant) -> Duration {
        self.next.saturating_duration_since(now)
    }
}

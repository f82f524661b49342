//! The measured time: it starts after the warm-up, and records the resources used within it.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::client::Failures;
use crate::histogram::Histogram;
use crate::process::Cpu;

pub struct Window {
    server: Vec<u32>,
    warm_up_end: Instant,
    measured: Duration,
    start: Option<Used>,
}

/// An instant, and the server's resources until then.
#[derive(Clone, Copy)]
struct Used {
    at: Instant,
    server: Cpu,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Still warming up, or being measured.
    Running,
    /// The measured time starts now: counters are reset.
    Begins,
    Over,
}

/// The result of a window.
pub struct Usage {
    pub seconds: f64,
    pub server: Cpu,
}

impl Window {
    /// `server` are the processes that count.
    pub fn new(server: Vec<u32>, warm_up: Duration, measured: Duration) -> Self {
        Self {
            server,
            warm_up_end: Instant::now() + warm_up,
            measured,
            start: None,
        }
    }

    /// Called in every iteration of a loop.
    pub fn phase(&mut self, now: Instant) -> Phase {
        match self.start {
            None if now >= self.warm_up_end => {
                self.start = Some(self.used());
                Phase::Begins
            }
            Some(start) if now >= start.at + self.measured => Phase::Over,
            _ => Phase::Running,
        }
    }

    /// Whether `at` is not before the measured time.
    pub fn holds(&self, at: Instant) -> bool {
        self.start.is_some_and(|start| at >= start.at)
    }

    /// The measured time until now.
    pub fn usage(&self) -> Usage {
        let now = self.used();
        let start = self.start.unwrap_or(now);
        Usage {
            seconds: (now.at - start.at).as_secs_f64(),
            server: now.server - start.server,
        }
    }

    fn used(&self) -> Used {
        Used {
            server: Cpu::of(&self.server),
            at: Instant::now(),
        }
    }
}

impl Usage {
    /// Adds the figures of every load: the cost of one of its `units`, their rate, the failures.
    pub fn report(
        &self,
        units: u64,
        latencies: &Histogram,
        failures: &Failures,
        result: &mut Value,
    ) {
        let each = |microseconds: f64| (units > 0).then(|| microseconds / units as f64);
        result["units"] = json!(units);
        result["rate"] = json!(units as f64 / self.seconds);
        result["cpu_us"] = json!(each(self.server.total()));
        result["user_us"] = json!(each(self.server.user));
        result["cores"] = json!(self.server.total() / 1e6 / self.seconds);
        for (name, percent) in [("p50_us", 50.0), ("p99_us", 99.0), ("p999_us", 99.9)] {
            result[name] = json!(latencies.percentile(percent));
        }
        result["failures"] = json!(failures.count);
        result["first_failure"] = json!(failures.first);
    }
}

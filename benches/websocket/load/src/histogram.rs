//! Latencies: a histogram of nanoseconds with 64 steps for each power of two, exact to 1.6 %.

use std::time::Duration;

const STEPS: usize = 64;

pub struct Histogram {
    counts: Vec<u64>,
    total: u64,
}

impl Histogram {
    pub fn new() -> Self {
        Self {
            counts: vec![0; 60 * STEPS],
            total: 0,
        }
    }

    pub fn add(&mut self, latency: Duration) {
        let nanoseconds = u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX);
        self.counts[step(nanoseconds)] += 1;
        self.total += 1;
    }

    pub fn clear(&mut self) {
        self.counts.fill(0);
        self.total = 0;
    }

    /// Microseconds that `percent` of all latencies do not exceed; none without a latency.
    pub fn percentile(&self, percent: f64) -> Option<f64> {
        let wanted = ((self.total as f64 * percent / 100.0).ceil() as u64).max(1);
        let mut seen = 0;
        let step = self.counts.iter().position(|count| {
            seen += count;
            seen >= wanted
        })?;
        Some(nanoseconds(step) as f64 / 1000.0)
    }
}

fn step(nanoseconds: u64) -> usize {
    if nanoseconds < STEPS as u64 {
        return nanoseconds as usize;
    }
    let power = nanoseconds.ilog2() as usize;
    (power - 5) * STEPS + (nanoseconds >> (power - 6)) as usize % STEPS
}

/// The least value of a step.
fn nanoseconds(step: usize) -> u64 {
    if step < STEPS {
        return step as u64;
    }
    let power = step / STEPS + 5;
    ((STEPS + step % STEPS) as u64) << (power - 6)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_holds_what_it_says() {
        for value in [0, 1, 63, 64, 65, 1_000, 123_456_789, u64::MAX] {
            let least = nanoseconds(step(value));
            assert!(least <= value && value - least <= value / 64, "{value}");
        }
    }

    #[test]
    fn half_of_all_latencies_are_at_most_the_median() {
        let mut histogram = Histogram::new();
        assert_eq!(histogram.percentile(50.0), None);
        for microseconds in 1..=3 {
            histogram.add(Duration::from_micros(microseconds * 64));
        }
        assert_eq!(histogram.percentile(50.0), Some(128.0));
    }
}

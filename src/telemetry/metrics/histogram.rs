//! Histogram: values counted by buckets, for any number of writers.
//!
//! A value is two relaxed atomic operations: its bucket, and the sum. The number of values is not
//! stored, but added up when it is read, so that the buckets of a reading always agree with it. The
//! sum may lack values that are being recorded.

use std::fmt::Display;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use metrics::HistogramFn;
use parking_lot::Mutex;

/// The buckets of one series.
#[derive(Debug)]
pub(super) struct Buckets {
    /// Their upper bounds, ascending.
    bounds: &'static [f64],
    /// The number of values by bucket; the last one has no bound.
    counts: Box<[AtomicU64]>,
    /// The bits of an `f64`.
    sum: AtomicU64,
    /// The last value with a trace of each bucket; allocated for the first one.
    exemplars: OnceLock<Box<[Mutex<Option<Exemplar>>]>>,
}

/// A value, and the trace of what took it.
#[derive(Clone, Debug, PartialEq)]
pub struct Exemplar {
    /// The trace's id, in hexadecimal digits.
    pub trace_id: String,
    /// The value.
    pub value: f64,
    /// When it was recorded.
    pub at: SystemTime,
}

/// What the buckets of one series have counted.
#[derive(Clone, Debug, PartialEq)]
pub struct HistogramValue {
    /// The upper bounds of the buckets, ascending. Above the last one is one more bucket.
    pub bounds: &'static [f64],
    /// The number of values in each bucket, not in those below it.
    pub counts: Vec<u64>,
    /// The sum of all values.
    pub sum: f64,
    /// The last value with a trace of each bucket; empty if no value had one.
    pub exemplars: Vec<Option<Exemplar>>,
}

impl Buckets {
    pub(super) fn new(bounds: &'static [f64]) -> Self {
        Self {
            bounds,
            counts: (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect(),
            sum: AtomicU64::new(0_f64.to_bits()),
            exemplars: OnceLock::new(),
        }
    }

    pub(super) fn value(&self) -> HistogramValue {
        let counts = self.counts.iter();
        HistogramValue {
            bounds: self.bounds,
            sum: f64::from_bits(self.sum.load(Ordering::Relaxed)),
            counts: counts.map(|count| count.load(Ordering::Relaxed)).collect(),
            exemplars: match self.exemplars.get() {
                Some(exemplars) => exemplars.iter().map(|slot| slot.lock().clone()).collect(),
                None => Vec::new(),
            },
        }
    }

    /// Records a value with its trace, which its bucket keeps until the next one.
    pub(super) fn record_traced(&self, value: f64, trace_id: impl Display) {
        self.add(value, 1);
        let exemplars = self.exemplars.get_or_init(|| {
            let slots = self.counts.iter().map(|_| Mutex::default());
            slots.collect()
        });
        // A writer that finds another one leaves it: any recent value will do.
        if let Some(mut slot) = exemplars[self.bucket(value)].try_lock() {
            *slot = Some(Exemplar {
                trace_id: trace_id.to_string(),
                value,
                at: SystemTime::now(),
            });
        }
    }

    /// Returns the index of a value's bucket.
    fn bucket(&self, value: f64) -> usize {
        // Most values are small, so that this finds them sooner than a binary search.
        let found = self.bounds.iter().position(|bound| value <= *bound);
        found.unwrap_or(self.bounds.len())
    }

    fn add(&self, value: f64, count: u64) {
        if value.is_nan() {
            return; // the sum would never be a number again
        }
        self.counts[self.bucket(value)].fetch_add(count, Ordering::Relaxed);
        let add = |sum| Some((f64::from_bits(sum) + value * count as f64).to_bits());
        let _ = self
            .sum
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, add);
    }
}

impl HistogramFn for Buckets {
    fn record(&self, value: f64) {
        self.add(value, 1);
    }

    fn record_many(&self, value: f64, count: usize) {
        self.add(value, count as u64);
    }
}

impl HistogramValue {
    /// Returns the number of values.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// Returns an estimate of the value that a share of all values does not exceed:
    /// `quantile(0.99)` is p99. It assumes that values are spread evenly within their bucket, as
    /// `histogram_quantile` does; above the last bound it is that bound. `None` without values.
    #[must_use]
    pub fn quantile(&self, share: f64) -> Option<f64> {
        let rank = share.clamp(0.0, 1.0) * self.count() as f64;
        let (mut below, mut lower) = (0.0, 0.0);
        for (bound, count) in self.bounds.iter().zip(&self.counts) {
            let count = *count as f64;
            if count > 0.0 && below + count >= rank {
                return Some(lower + (bound - lower) * ((rank - below) / count).max(0.0));
            }
            below += count;
            lower = *bound;
        }
        (self.count() > 0).then_some(lower)
    }

    /// Adds the values of another series with the same bounds, such as another route's.
    pub fn add(&mut self, other: &Self) {
        debug_assert_eq!(self.bounds, other.bounds);
        for (count, more) in self.counts.iter_mut().zip(&other.counts) {
            *count += more;
        }
        self.sum += other.sum;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: &[f64] = &[0.1, 1.0, 10.0];

    #[test]
    fn values_are_counted_in_the_bucket_whose_bound_they_do_not_exceed() {
        let buckets = Buckets::new(BOUNDS);
        for value in [-1.0, 0.0, 0.1, 0.11, 1.0, 10.0, 10.1, f64::INFINITY] {
            buckets.record(value);
        }
        assert_eq!(buckets.value().counts, [3, 2, 1, 2]);
        assert_eq!(buckets.value().count(), 8);
    }

    #[test]
    fn sum_is_exact_and_is_not_spoiled_by_what_is_no_number() {
        let buckets = Buckets::new(BOUNDS);
        buckets.record(0.5);
        buckets.record(f64::NAN);
        buckets.record_many(0.25, 4);
        assert_eq!(buckets.value().sum, 1.5);
        assert_eq!(buckets.value().counts, [0, 5, 0, 0]);
    }

    #[test]
    fn each_bucket_keeps_the_trace_of_its_last_value() {
        let buckets = Buckets::new(BOUNDS);
        buckets.record(0.05);
        assert!(buckets.value().exemplars.is_empty());
        for (value, trace_id) in [(0.2, "a"), (0.3, "b"), (20.0, "c")] {
            buckets.record_traced(value, trace_id);
        }
        let value = buckets.value();
        assert_eq!(value.count(), 4);
        let kept: Vec<_> = value
            .exemplars
            .iter()
            .map(|kept| kept.as_ref().map(|kept| (kept.value, &*kept.trace_id)))
            .collect();
        assert_eq!(kept, [None, Some((0.3, "b")), None, Some((20.0, "c"))]);
    }

    #[test]
    fn no_value_of_several_writers_is_lost() {
        let buckets = Buckets::new(BOUNDS);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..10_000).for_each(|_| buckets.record(2.0)));
            }
        });
        assert_eq!(buckets.value().counts, [0, 0, 40_000, 0]);
        assert_eq!(buckets.value().sum, 80_000.0);
    }

    #[test]
    fn quantiles_are_within_their_bucket() {
        let buckets = Buckets::new(BOUNDS);
        assert_eq!(buckets.value().quantile(0.5), None);
        (0..10).for_each(|_| buckets.record(0.5));
        assert!((buckets.value().quantile(0.5).unwrap() - 0.55).abs() < 1e-9);
        assert_eq!(buckets.value().quantile(1.0), Some(1.0));
        buckets.record(100.0);
        assert_eq!(buckets.value().quantile(1.0), Some(10.0));
    }
}

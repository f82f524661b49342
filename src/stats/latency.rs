//! Latency: a histogram of latencies, and its percentiles.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// How many of the calls took how long.
///
/// The buckets are cumulative, as Prometheus has them: each counts the calls that took at most so
/// many seconds.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct Latency {
    /// The number of calls.
    pub count: u64,
    /// The seconds that all calls took together.
    pub sum: f64,
    /// The number of calls by upper bound in seconds, without the infinite one.
    pub buckets: BTreeMap<String, u64>,
}

impl Latency {
    /// Adds the calls of another histogram with the same bounds.
    pub(super) fn add(&mut self, other: &Self) {
        self.count += other.count;
        self.sum += other.sum;
        for (bound, count) in &other.buckets {
            *self.buckets.entry(bound.clone()).or_default() += count;
        }
    }

    /// Returns the calls since an earlier state. A histogram that has started again counts in full.
    #[must_use]
    pub fn since(&self, before: &Self) -> Self {
        if self.count < before.count {
            return self.clone();
        }
        let earlier = |bound: &String| before.buckets.get(bound).copied().unwrap_or_default();
        let buckets = self
            .buckets
            .iter()
            .map(|(bound, count)| (bound.clone(), count.saturating_sub(earlier(bound))));
        Self {
            count: self.count - before.count,
            sum: (self.sum - before.sum).max(0.0),
            buckets: buckets.collect(),
        }
    }

    /// Returns the seconds within which this share of the calls ended, from 0 to 1, interpolated
    /// within its bucket as Prometheus' `histogram_quantile` does. `None` without a call. Above the
    /// highest bound it is that bound.
    #[must_use]
    pub fn quantile(&self, share: f64) -> Option<f64> {
        if self.count == 0 {
            return None;
        }
        let mut bounds: Vec<(f64, u64)> = self
            .buckets
            .iter()
            .filter_map(|(bound, count)| Some((bound.parse().ok()?, *count)))
            .collect();
        bounds.sort_by(|one, other| one.0.total_cmp(&other.0));
        let wanted = share * self.count as f64;
        let (mut low, mut below) = (0.0, 0.0);
        for (bound, count) in bounds {
            let count = count as f64;
            if count >= wanted && count > below {
                return Some(low + (bound - low) * ((wanted - below) / (count - below)).max(0.0));
            }
            (low, below) = (bound, count);
        }
        Some(low)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn latency(buckets: &[(&str, u64)], count: u64) -> Latency {
        Latency {
            count,
            sum: 0.0,
            buckets: buckets
                .iter()
                .map(|(bound, count)| ((*bound).to_owned(), *count))
                .collect(),
        }
    }

    #[test]
    fn quantile_is_interpolated_in_its_bucket() {
        // In the order of texts, "0.05" comes after "0.005" and before "0.1", and "10" before "5".
        let found = latency(&[("0.1", 90), ("1", 100), ("0.01", 50)], 100);
        assert_eq!(found.quantile(0.5), Some(0.01));
        let is = |share, wanted: f64| {
            let value = found.quantile(share).unwrap();
            assert!((value - wanted).abs() < 1e-9, "{value} {wanted}");
        };
        is(0.7, 0.055);
        is(0.95, 0.55);
        assert_eq!(latency(&[("0.1", 0)], 0).quantile(0.5), None);
        assert_eq!(
            latency(&[("0.1", 0), ("10", 0)], 3).quantile(0.5),
            Some(10.0)
        );
    }

    #[test]
    fn change_is_that_of_each_bucket() {
        let before = latency(&[("1", 10), ("2", 20)], 20);
        let after = latency(&[("1", 10), ("2", 25)], 25);
        let change = after.since(&before);
        assert_eq!(change, latency(&[("1", 0), ("2", 5)], 5));
        assert_eq!(change.quantile(0.5), Some(1.5));
        assert_eq!(before.since(&after), before, "a process that started again");
    }
}

//! Series: the metrics, added up by the values of their labels.

use std::collections::{BTreeMap, HashMap};

use super::latency::Latency;
use crate::services::Services;
use crate::telemetry::{Snapshot, Value};

/// The values of all metrics at one instant.
#[derive(Debug, Default)]
pub(super) struct Series(Snapshot);

impl Series {
    /// Reads the metrics; empty if the process collects none.
    pub(super) fn read(services: &Services) -> Self {
        Self(services.read_metrics().unwrap_or_default())
    }

    /// Returns the sum of the series of a metric.
    pub(super) fn sum(&self, name: &str) -> u64 {
        whole(self.0.sum(name, &[]))
    }

    /// Returns the sums of the series of a metric, by the values of a label.
    pub(super) fn by(&self, name: &str, label: &str) -> BTreeMap<String, u64> {
        let mut sums: BTreeMap<String, u64> = BTreeMap::new();
        for series in self.0.series(name) {
            if let Some(value) = series.label(label) {
                *sums.entry(value.to_owned()).or_default() += whole(series.number());
            }
        }
        sums
    }

    /// Returns the sums of the series of a metric, by the values of two labels.
    pub(super) fn by_two(
        &self,
        name: &str,
        first: &str,
        second: &str,
    ) -> HashMap<String, BTreeMap<String, u64>> {
        let mut sums: HashMap<String, BTreeMap<String, u64>> = HashMap::new();
        for series in self.0.series(name) {
            if let (Some(one), Some(two)) = (series.label(first), series.label(second)) {
                let of_one = sums.entry(one.to_owned()).or_default();
                *of_one.entry(two.to_owned()).or_default() += whole(series.number());
            }
        }
        sums
    }

    /// Returns the histograms of a metric, by the values of a label.
    pub(super) fn latencies(&self, name: &str, label: &str) -> HashMap<String, Latency> {
        let mut found: HashMap<String, Latency> = HashMap::new();
        for series in self.0.series(name) {
            let Value::Histogram(values) = &series.value else {
                continue;
            };
            let label = series.label(label).unwrap_or_default();
            let latency = found.entry(label.to_owned()).or_default();
            latency.count += values.count();
            latency.sum += values.sum;
            let mut below = 0;
            for (bound, count) in values.bounds.iter().zip(&values.counts) {
                below += count;
                *latency.buckets.entry(bound.to_string()).or_default() += below;
            }
        }
        found
    }
}

/// Returns a count, which a gauge that is being changed may not be for a moment.
fn whole(number: f64) -> u64 {
    number.max(0.0).round() as u64
}

//! Snapshot: the values of all metrics at one instant.

use metrics::Key;

use super::histogram::HistogramValue;
use super::metric::Kind;

/// The values of all metrics at one instant.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// The metrics that have a value, ascending by name.
    pub families: Vec<Family>,
}

/// All series of one metric.
#[derive(Clone, Debug)]
pub struct Family {
    /// The name of the metric.
    pub name: String,
    /// What it counts or measures with.
    pub kind: Kind,
    /// What it means, in a sentence.
    pub help: String,
    /// Its series, ascending by their labels.
    pub series: Vec<Series>,
}

/// The value of a metric for one set of labels.
#[derive(Clone, Debug)]
pub struct Series {
    /// The name and the labels.
    key: Key,
    /// The value.
    pub value: Value,
}

/// The value of one series.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// The value of a counter or a gauge.
    Number(f64),
    /// The values of a histogram.
    Histogram(HistogramValue),
}

impl Snapshot {
    /// Returns the series of a metric; none if it has no value yet.
    #[must_use]
    pub fn series(&self, name: &str) -> &[Series] {
        let found = self
            .families
            .binary_search_by(|family| family.name.as_str().cmp(name));
        found.map_or(&[], |index| &self.families[index].series)
    }

    /// Returns the sum of a counter or a gauge over the series that have all these labels.
    #[must_use]
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let series = self.series(name).iter();
        series
            .filter(|series| series.has(labels))
            .map(Series::number)
            .sum()
    }

    /// Returns the values of a histogram over the series that have all these labels; `None` if
    /// there are none.
    #[must_use]
    pub fn histogram(&self, name: &str, labels: &[(&str, &str)]) -> Option<HistogramValue> {
        let series = self.series(name).iter();
        let mut found =
            series
                .filter(|series| series.has(labels))
                .filter_map(|series| match &series.value {
                    Value::Histogram(values) => Some(values),
                    Value::Number(_) => None,
                });
        let mut sum = found.next()?.clone();
        found.for_each(|values| sum.add(values));
        Some(sum)
    }
}

impl Series {
    pub(super) fn new(key: Key, value: Value) -> Self {
        Self { key, value }
    }

    /// Returns the labels, with their names.
    pub fn labels(&self) -> impl Iterator<Item = (&str, &str)> {
        self.key.labels().map(|label| (label.key(), label.value()))
    }

    /// Returns the value of a label.
    #[must_use]
    pub fn label(&self, name: &str) -> Option<&str> {
        self.labels()
            .find_map(|(found, value)| (found == name).then_some(value))
    }

    /// Returns whether it has all these labels.
    #[must_use]
    pub fn has(&self, labels: &[(&str, &str)]) -> bool {
        let mut labels = labels.iter();
        labels.all(|(name, value)| self.label(name) == Some(value))
    }

    /// Returns the value of a counter or a gauge; the number of values of a histogram.
    #[must_use]
    pub fn number(&self) -> f64 {
        match &self.value {
            Value::Number(number) => *number,
            Value::Histogram(values) => values.count() as f64,
        }
    }
}

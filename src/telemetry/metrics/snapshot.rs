//! Snapshot: the values of all metrics at one instant.

use metrics::{Key, Label};

use super::histogram::HistogramValue;
use super::metric::Kind;
use super::registry::{is_of_table, row};

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

impl Snapshot {
    /// Adds to the value of a counter or a gauge: for figures that are read when they are asked
    /// for.
    pub(crate) fn add(&mut self, name: &'static str, labels: &[(&'static str, &str)], value: f64) {
        let family = match self
            .families
            .binary_search_by(|family| family.name.as_str().cmp(name))
        {
            Ok(found) => &mut self.families[found],
            Err(place) => {
                self.families.insert(place, Family::of_row(name));
                &mut self.families[place]
            }
        };
        let wanted = labels.iter().copied();
        match family
            .series
            .binary_search_by(|series| series.labels().cmp(wanted.clone()))
        {
            Ok(found) => {
                if let Value::Number(number) = &mut family.series[found].value {
                    *number += value;
                }
            }
            Err(place) => {
                let labels: Vec<_> = wanted
                    .map(|(name, value)| Label::new(name, value.to_owned()))
                    .collect();
                let key = Key::from_parts(name, labels);
                debug_assert!(is_of_table(&key, family.kind), "{key:?} is in no table");
                let series = Series::new(key, Value::Number(value));
                family.series.insert(place, series);
            }
        }
    }

    /// Calls `act` with each value of a counter or a gauge.
    pub(crate) fn each_number(&mut self, name: &str, mut act: impl FnMut(&Key, &mut f64)) {
        let found = self
            .families
            .binary_search_by(|family| family.name.as_str().cmp(name));
        let Ok(found) = found else { return };
        for Series { key, value } in &mut self.families[found].series {
            if let Value::Number(number) = value {
                act(key, number);
            }
        }
    }
}

impl Family {
    /// Creates the family of a row without series.
    fn of_row(name: &'static str) -> Self {
        let row = row(name);
        Self {
            name: name.to_owned(),
            kind: row.map_or(Kind::Gauge, |row| row.kind),
            help: row.map_or("", |row| row.help).to_owned(),
            series: Vec::new(),
        }
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

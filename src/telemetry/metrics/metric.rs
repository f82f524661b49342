//! Metric: the row of one metric: its name, kind, labels and help.

/// One metric that the server has.
#[derive(Debug)]
pub struct Metric {
    /// Its name in the text format.
    pub name: &'static str,
    /// What it counts or measures with.
    pub kind: Kind,
    /// Its labels, in the order in which they are printed.
    pub labels: &'static [Label],
    /// The upper bounds of a histogram's buckets, ascending; empty for other kinds.
    pub bounds: &'static [f64],
    /// The text of `# HELP`.
    pub help: &'static str,
}

/// The kind of a metric.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    /// A value that only increases.
    Counter,
    /// A value that goes up and down.
    Gauge,
    /// Values counted by buckets, with their sum.
    Histogram,
}

/// A label of a metric.
#[derive(Debug)]
pub struct Label {
    /// Its name.
    pub name: &'static str,
    /// The values that it may have.
    pub values: Values,
}

/// The values of a label: a set that no client can extend.
#[derive(Debug)]
pub enum Values {
    /// Some of these words.
    Words(&'static [&'static str]),
    /// Named by the configuration, such as a route, or by the build.
    Named,
}

impl Kind {
    /// Returns the word after the name in `# TYPE`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

impl Metric {
    /// Adds the labels.
    pub(super) const fn by(self, labels: &'static [Label]) -> Self {
        Self { labels, ..self }
    }

    /// Returns whether a series with these labels is one of the metric's.
    pub(super) fn allows<'k>(&self, mut labels: impl Iterator<Item = (&'k str, &'k str)>) -> bool {
        let mut own = self.labels.iter();
        let are_own = labels.all(|(name, value)| {
            own.next().is_some_and(|label| {
                label.name == name
                    && match label.values {
                        Values::Words(words) => words.contains(&value),
                        Values::Named => true,
                    }
            })
        });
        are_own && own.next().is_none()
    }
}

pub(super) const fn counter(name: &'static str, help: &'static str) -> Metric {
    metric(name, Kind::Counter, &[], help)
}

pub(super) const fn gauge(name: &'static str, help: &'static str) -> Metric {
    metric(name, Kind::Gauge, &[], help)
}

pub(super) const fn histogram(
    name: &'static str,
    bounds: &'static [f64],
    help: &'static str,
) -> Metric {
    metric(name, Kind::Histogram, bounds, help)
}

const fn metric(
    name: &'static str,
    kind: Kind,
    bounds: &'static [f64],
    help: &'static str,
) -> Metric {
    Metric {
        name,
        kind,
        labels: &[],
        bounds,
        help,
    }
}

/// A label whose values the configuration or the build names.
pub(super) const fn named(name: &'static str) -> Label {
    let values = Values::Named;
    Label { name, values }
}

/// A label with one of a few words.
pub(super) const fn words(name: &'static str, words: &'static [&'static str]) -> Label {
    let values = Values::Words(words);
    Label { name, values }
}

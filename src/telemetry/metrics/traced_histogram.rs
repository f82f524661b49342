//! Traced histogram: a histogram of a route, whose buckets keep the trace of a recent value.

use std::fmt::Display;
use std::sync::Arc;

use metrics::{Histogram, Key, Label, histogram};

use super::histogram::Buckets;
use super::start_metrics;

/// A histogram of a route. A value with a trace becomes the exemplar of its bucket.
#[derive(Clone, Debug)]
pub(crate) struct TracedHistogram {
    plain: Histogram,
    /// `None` if the program has a recorder of its own, which knows no exemplars.
    buckets: Option<Arc<Buckets>>,
}

impl TracedHistogram {
    pub(crate) fn of_route(name: &'static str, route: &str) -> Self {
        let key = Key::from_parts(name, vec![Label::new("route", route.to_owned())]);
        let metrics = start_metrics();
        match metrics.and_then(|metrics| metrics.0.buckets(&key)) {
            Some(buckets) => Self {
                plain: Histogram::from_arc(buckets.clone()),
                buckets: Some(buckets),
            },
            None => Self {
                plain: histogram!(name, "route" => route.to_owned()),
                buckets: None,
            },
        }
    }

    /// Records a value with the trace of its request, if there is one.
    pub(crate) fn record(&self, value: f64, trace_id: Option<impl Display>) {
        match (trace_id, &self.buckets) {
            (Some(trace_id), Some(buckets)) => buckets.record_traced(value, trace_id),
            _ => self.plain.record(value),
        }
    }
}

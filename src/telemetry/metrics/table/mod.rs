//! The table of all metrics. Each has a row in docs/OPERATING.md; a test compares them.

mod channels;
mod connections;
mod outbound;
mod process;
mod requests;
mod websockets;

use super::metric::{Label, Metric, named, words};

/// The name of a route in the file, or its path; "" for what has no route.
const ROUTE: Label = named("route");

/// The class of a status.
const STATUS: Label = words("status", &["1xx", "2xx", "3xx", "4xx", "5xx"]);

/// The methods that are counted by name; `other` are all that a client makes up.
const METHOD: Label = words(
    "method",
    &[
        "GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "other",
    ],
);

/// A store that is queried, or the application of `[auth.forward]`.
const STORE: Label = words("store", &["session", "users", "forward"]);

/// Buckets for short times, in seconds: from half a millisecond to ten seconds.
const SECONDS: &[f64] = &[
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
];

/// Returns the rows of all metrics of the server.
pub fn all_metrics() -> impl Iterator<Item = &'static Metric> {
    let tables = [
        connections::METRICS,
        requests::METRICS,
        websockets::METRICS,
        channels::METRICS,
        outbound::METRICS,
        process::METRICS,
    ];
    tables.into_iter().flatten()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::super::metric::Kind;
    use super::*;

    #[test]
    fn names_follow_the_conventions_and_are_unique() {
        let mut names = BTreeSet::new();
        for Metric {
            name, kind, help, ..
        } in all_metrics()
        {
            // OpenMetrics names the family of a counter without its suffix.
            let title = name.strip_suffix("_total").unwrap_or(name);
            assert!(names.insert(title), "{title} stands twice");
            assert_eq!(name.ends_with("_total"), *kind == Kind::Counter, "{name}");
            assert!(help.ends_with('.'), "{name}");
        }
    }

    #[test]
    fn histograms_have_a_unit_and_ascending_bounds() {
        for metric in all_metrics() {
            let is_histogram = metric.kind == Kind::Histogram;
            assert_eq!(is_histogram, !metric.bounds.is_empty(), "{}", metric.name);
            assert!(metric.bounds.is_sorted_by(|one, next| one < next));
            let has_unit = metric.name.ends_with("_seconds") || metric.name.ends_with("_bytes");
            assert!(!is_histogram || has_unit, "{}", metric.name);
        }
    }
}

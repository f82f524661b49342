//! Route series: metrics with the label `route`, which are dropped with their route.
//!
//! A route and its open sockets hold their series. A reload may rename routes, so an unused series
//! is dropped, but only after a while, so that a scraper still gets its last value. Histograms are
//! not dropped; do not give them the label `route`.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use metrics::{Counter, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit};
use metrics_exporter_prometheus::formatting::{sanitize_description, sanitize_label_value};
use metrics_exporter_prometheus::{PrometheusHandle, PrometheusRecorder};
use parking_lot::{Mutex, MutexGuard};

/// How long a series is kept after its route is removed.
const GONE_KEPT: Duration = Duration::from_secs(300);

/// The maximum number of series kept without a route.
const GONE_MAX: usize = 1_000;

/// Prints the metrics of the process (cheap to clone).
#[derive(Clone, Debug)]
pub struct Metrics {
    pub(super) process: PrometheusHandle,
    pub(super) routes: RouteSeries,
}

impl Metrics {
    /// Returns all metrics in Prometheus' text format.
    #[must_use]
    pub fn render(&self) -> String {
        self.process.run_upkeep();
        self.routes.forget_gone(Instant::now());
        let mut text = self.process.render();
        self.routes.render(&mut text);
        text
    }

    /// Drops series whose route was removed some time ago.
    pub(crate) fn forget_gone(&self) {
        self.routes.forget_gone(Instant::now());
    }
}

/// Records the series with the label `route`, and passes all others to the recorder of the process.
#[derive(Debug)]
pub(super) struct ByRoute {
    pub(super) process: PrometheusRecorder,
    pub(super) routes: RouteSeries,
}

/// The series of all routes (cheap to clone).
#[derive(Clone, Debug, Default)]
pub(super) struct RouteSeries(Arc<Mutex<BTreeMap<String, Family>>>);

/// All series of one name.
#[derive(Debug, Default)]
struct Family {
    description: SharedString,
    is_gauge: bool,
    /// The series by their labels in printed form.
    series: BTreeMap<String, Series>,
}

#[derive(Debug, Default)]
struct Series {
    /// A count, or the bits of an `f64` for a gauge.
    value: Arc<AtomicU64>,
    /// When a scan first found that neither a route nor a socket holds the series.
    gone_since: Option<Instant>,
}

impl RouteSeries {
    fn describe(&self, name: &KeyName, description: SharedString) {
        self.lock()
            .entry(name.as_str().to_owned())
            .or_default()
            .description = description;
    }

    fn register(&self, key: &Key, is_gauge: bool) -> Arc<AtomicU64> {
        let mut families = self.lock();
        let family = families.entry(key.name().to_owned()).or_default();
        family.is_gauge = is_gauge;
        let labels: Vec<String> = key
            .labels()
            .map(|label| {
                format!(
                    "{}=\"{}\"",
                    label.key(),
                    sanitize_label_value(label.value())
                )
            })
            .collect();
        let series = family.series.entry(labels.join(",")).or_default();
        series.gone_since = None;
        series.value.clone()
    }

    fn forget_gone(&self, now: Instant) {
        let mut families = self.lock();
        let mut gone = Vec::new();
        for family in families.values_mut() {
            family.series.retain(|_, series| {
                if Arc::strong_count(&series.value) > 1 {
                    series.gone_since = None;
                    return true;
                }
                let since = *series.gone_since.get_or_insert(now);
                let is_kept = now.saturating_duration_since(since) < GONE_KEPT;
                if is_kept {
                    gone.push(since);
                }
                is_kept
            });
        }
        let surplus = gone.len().saturating_sub(GONE_MAX);
        if surplus == 0 {
            return;
        }
        // The oldest are dropped first, in any order among those of the same instant.
        gone.sort_unstable();
        let newest_to_go = gone[surplus - 1];
        let before = gone.partition_point(|since| *since < newest_to_go);
        let mut ties = surplus - before;
        for family in families.values_mut() {
            family.series.retain(|_, series| match series.gone_since {
                Some(since) if since < newest_to_go => false,
                Some(since) if since == newest_to_go && ties > 0 => {
                    ties -= 1;
                    false
                }
                _ => true,
            });
        }
    }

    fn render(&self, text: &mut String) {
        for (name, family) in &*self.lock() {
            if family.series.is_empty() {
                continue;
            }
            let kind = if family.is_gauge { "gauge" } else { "counter" };
            let _ = write!(
                text,
                "# HELP {name} {}\n# TYPE {name} {kind}\n",
                sanitize_description(&family.description)
            );
            for (labels, series) in &family.series {
                let value = series.value.load(Ordering::Relaxed);
                let _ = if family.is_gauge {
                    writeln!(text, "{name}{{{labels}}} {}", f64::from_bits(value))
                } else {
                    writeln!(text, "{name}{{{labels}}} {value}")
                };
            }
            text.push('\n');
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Family>> {
        self.0.lock()
    }
}

fn is_of_route(key: &Key) -> bool {
    key.labels().any(|label| label.key() == "route")
}

impl Recorder for ByRoute {
    fn describe_counter(&self, key: KeyName, unit: Option<Unit>, description: SharedString) {
        self.routes.describe(&key, description.clone());
        self.process.describe_counter(key, unit, description);
    }

    fn describe_gauge(&self, key: KeyName, unit: Option<Unit>, description: SharedString) {
        self.routes.describe(&key, description.clone());
        self.process.describe_gauge(key, unit, description);
    }

    fn describe_histogram(&self, key: KeyName, unit: Option<Unit>, description: SharedString) {
        self.process.describe_histogram(key, unit, description);
    }

    fn register_counter(&self, key: &Key, metadata: &Metadata<'_>) -> Counter {
        match is_of_route(key) {
            true => Counter::from_arc(self.routes.register(key, false)),
            false => self.process.register_counter(key, metadata),
        }
    }

    fn register_gauge(&self, key: &Key, metadata: &Metadata<'_>) -> Gauge {
        match is_of_route(key) {
            true => Gauge::from_arc(self.routes.register(key, true)),
            false => self.process.register_gauge(key, metadata),
        }
    }

    fn register_histogram(&self, key: &Key, metadata: &Metadata<'_>) -> Histogram {
        self.process.register_histogram(key, metadata)
    }
}

#[cfg(test)]
mod tests {
    use metrics::Label;

    use super::*;

    fn counter(series: &RouteSeries, route: &str) -> Arc<AtomicU64> {
        let labels = vec![
            Label::new("route", route.to_owned()),
            Label::new("status", "2xx"),
        ];
        series.register(&Key::from_parts("requests_total", labels), false)
    }

    fn rendered(series: &RouteSeries) -> String {
        let mut text = String::new();
        series.render(&mut text);
        text
    }

    #[test]
    fn series_are_printed_with_their_labels_escaped() {
        let series = RouteSeries::default();
        series.describe(&"requests_total".into(), "Requests.".into());
        counter(&series, "a \"b\"\\").store(3, Ordering::Relaxed);
        let open = series.register(
            &Key::from_parts("open", vec![Label::new("route", "x")]),
            true,
        );
        Gauge::from_arc(open).set(2.0);
        let text = rendered(&series);
        let expected = "# HELP requests_total Requests.\n# TYPE requests_total counter\n\
                        requests_total{route=\"a \\\"b\\\"\\\\\",status=\"2xx\"} 3\n";
        assert!(text.contains(expected), "{text}");
        assert!(
            text.contains("# TYPE open gauge\nopen{route=\"x\"} 2\n"),
            "{text}"
        );
    }

    #[test]
    fn series_go_some_time_after_their_route() {
        let series = RouteSeries::default();
        let start = Instant::now();
        let kept = counter(&series, "kept");
        drop(counter(&series, "gone"));
        series.forget_gone(start);
        assert!(rendered(&series).contains("gone"));
        // A series that is used again keeps its count.
        let again = counter(&series, "gone");
        series.forget_gone(start + GONE_KEPT);
        assert!(rendered(&series).contains("gone"));
        drop(again);
        series.forget_gone(start + GONE_KEPT);
        series.forget_gone(start + GONE_KEPT * 2);
        assert!(!rendered(&series).contains("gone"));
        assert!(rendered(&series).contains("kept"));
        drop(kept);
    }

    #[test]
    fn no_more_than_a_thousand_of_gone_routes_are_kept() {
        let series = RouteSeries::default();
        let start = Instant::now();
        for number in 0..3_000_u32 {
            drop(counter(&series, &number.to_string()));
            series.forget_gone(start + Duration::from_millis(number.into()));
        }
        let kept = rendered(&series).matches("status=").count();
        assert_eq!(kept, GONE_MAX);
        assert!(rendered(&series).contains("\"2999\""));
        // Many series that lose their route at once.
        let routes: Vec<_> = (0..1_500)
            .map(|number| counter(&series, &format!("other{number}")))
            .collect();
        drop(routes);
        series.forget_gone(start + Duration::from_secs(4));
        assert_eq!(rendered(&series).matches("status=").count(), GONE_MAX);
    }
}

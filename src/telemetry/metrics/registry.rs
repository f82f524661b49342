//! Registry: the series of all metrics, and the recorder that the macros of `metrics` write to.
//!
//! The first use registers a series and returns its handle, which then counts without a lock.
//!
//! Series with the label `route` are dropped with their route. A route and its open sockets hold
//! their series. A reload may rename routes, so an unused series is dropped, but only after a
//! while, so that a scraper still gets its last value. The last value of a gauge of an upstream or of
//! a backend would be untrue: such a gauge goes at once.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use metrics::{Counter, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit};
use parking_lot::RwLock;

use super::histogram::Buckets;
use super::metric::{Kind, Metric};
use super::snapshot::{Family, Series, Snapshot, Value};
use super::table::all_metrics;

/// How long a series is kept after its route is removed.
const GONE_KEPT: Duration = Duration::from_secs(300);

/// The maximum number of series kept without a route.
const GONE_MAX: usize = 1_000;

/// The buckets of an application's own histograms: Prometheus' defaults.
const DEFAULT_BOUNDS: &[f64] = &[
    0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
];

/// The rows of the server's metrics by their names.
static ROWS: LazyLock<HashMap<&'static str, &'static Metric>> =
    LazyLock::new(|| all_metrics().map(|metric| (metric.name, metric)).collect());

/// The series of all metrics (cheap to clone).
#[derive(Clone, Debug, Default)]
pub(super) struct Registry(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    series: RwLock<HashMap<Key, Registered>>,
    /// The help of an application's own metrics.
    help: RwLock<HashMap<String, SharedString>>,
}

/// A registered series.
#[derive(Debug)]
struct Registered {
    cell: Cell,
    /// When a scan first found that neither a route nor a socket holds the series: milliseconds
    /// since [`EPOCH`]; 0 if it is held, and for a series that is kept for ever.
    gone_since: AtomicU64,
}

/// The value of a series.
#[derive(Clone, Debug)]
enum Cell {
    Counter(Arc<AtomicU64>),
    /// The bits of an `f64`.
    Gauge(Arc<AtomicU64>),
    Histogram(Arc<Buckets>),
}

static EPOCH: LazyLock<Instant> = LazyLock::new(Instant::now);

impl Cell {
    fn new(kind: Kind, name: &str) -> Self {
        match kind {
            Kind::Counter => Self::Counter(Arc::default()),
            Kind::Gauge => Self::Gauge(Arc::default()),
            Kind::Histogram => {
                let bounds = row(name).map_or(DEFAULT_BOUNDS, |row| row.bounds);
                Self::Histogram(Arc::new(Buckets::new(bounds)))
            }
        }
    }

    fn kind(&self) -> Kind {
        match self {
            Self::Counter(_) => Kind::Counter,
            Self::Gauge(_) => Kind::Gauge,
            Self::Histogram(_) => Kind::Histogram,
        }
    }

    fn value(&self) -> Value {
        match self {
            Self::Counter(count) => Value::Number(count.load(Ordering::Relaxed) as f64),
            Self::Gauge(bits) => Value::Number(f64::from_bits(bits.load(Ordering::Relaxed))),
            Self::Histogram(buckets) => Value::Histogram(buckets.value()),
        }
    }

    /// Returns whether anything but the registry holds it.
    fn is_held(&self) -> bool {
        match self {
            Self::Counter(value) | Self::Gauge(value) => Arc::strong_count(value) > 1,
            Self::Histogram(buckets) => Arc::strong_count(buckets) > 1,
        }
    }
}

impl Registry {
    /// Returns the cell of a series. A name has one kind: a cell of another is counted by nothing.
    fn register(&self, key: &Key, kind: Kind) -> Cell {
        if let Some(found) = self.0.series.read().get(key) {
            if found.gone_since.load(Ordering::Relaxed) != 0 {
                found.gone_since.store(0, Ordering::Relaxed);
            }
            if found.cell.kind() == kind {
                return found.cell.clone();
            }
            return Cell::new(kind, key.name());
        }
        debug_assert!(
            is_of_table(key, kind),
            "expected a series of the table of metrics, found {kind:?} {key:?}"
        );
        let cell = Cell::new(kind, key.name());
        let registered = |cell| Registered {
            cell,
            gone_since: AtomicU64::new(0),
        };
        let mut series = self.0.series.write();
        let entry = series.entry(key.to_retained());
        let found = &entry.or_insert_with(|| registered(cell.clone())).cell;
        match found.kind() == kind {
            true => found.clone(),
            false => cell,
        }
    }

    /// Returns the buckets of a histogram.
    pub(super) fn buckets(&self, key: &Key) -> Option<Arc<Buckets>> {
        match self.register(key, Kind::Histogram) {
            Cell::Histogram(buckets) => Some(buckets),
            _ => None,
        }
    }

    /// Marks the series that nothing holds. Returns whether some are to be dropped.
    fn has_gone(&self, now: u64) -> bool {
        let (mut has_gone, mut waiting) = (false, 0);
        for (key, series) in &*self.0.series.read() {
            let Some(kept) = kept_for(key, series.cell.kind()) else {
                continue;
            };
            let since = series.gone_since.load(Ordering::Relaxed);
            if series.cell.is_held() {
                if since != 0 {
                    series.gone_since.store(0, Ordering::Relaxed);
                }
                continue;
            }
            if since == 0 {
                series.gone_since.store(now, Ordering::Relaxed);
            }
            let since = if since == 0 { now } else { since };
            match now.saturating_sub(since) < kept {
                true => waiting += 1,
                false => has_gone = true,
            }
        }
        has_gone || waiting > GONE_MAX
    }

    /// Returns the sum of a counter over all its series.
    pub(super) fn sum(&self, name: &str) -> f64 {
        let all = self.0.series.read();
        let counted = all.iter().filter(|(key, _)| key.name() == name);
        let numbers = counted.map(|(_, series)| match series.cell.value() {
            Value::Number(number) => number,
            Value::Histogram(_) => 0.0,
        });
        numbers.sum()
    }

    /// Drops series whose route was removed some time ago.
    pub(super) fn forget_gone(&self, now: Instant) {
        let now = u64::try_from(now.saturating_duration_since(*EPOCH).as_millis())
            .unwrap_or(u64::MAX)
            .max(1);
        if !self.has_gone(now) {
            return; // the usual case does not keep others from registering series
        }
        let mut series = self.0.series.write();
        let mut gone = Vec::new();
        series.retain(|key, series| {
            let Some(kept) = kept_for(key, series.cell.kind()) else {
                return true;
            };
            if series.cell.is_held() {
                *series.gone_since.get_mut() = 0;
                return true;
            }
            let since = series.gone_since.get_mut();
            if *since == 0 {
                *since = now;
            }
            let is_kept = now.saturating_sub(*since) < kept;
            if is_kept {
                gone.push(*since);
            }
            is_kept
        });
        let surplus = gone.len().saturating_sub(GONE_MAX);
        if surplus == 0 {
            return;
        }
        // The oldest are dropped first, in any order among those of the same instant.
        gone.sort_unstable();
        let newest_to_go = gone[surplus - 1];
        let before = gone.partition_point(|since| *since < newest_to_go);
        let mut ties = surplus - before;
        series.retain(|_, series| match *series.gone_since.get_mut() {
            0 => true,
            since if since < newest_to_go => false,
            since if since == newest_to_go && ties > 0 => {
                ties -= 1;
                false
            }
            _ => true,
        });
    }

    /// Returns the values of all series.
    pub(super) fn snapshot(&self) -> Snapshot {
        let mut families: BTreeMap<String, Family> = BTreeMap::new();
        {
            let all = self.0.series.read();
            for (key, series) in &*all {
                let value = Series::new(key.clone(), series.cell.value());
                if let Some(family) = families.get_mut(key.name()) {
                    if family.kind == series.cell.kind() {
                        family.series.push(value);
                    }
                    continue;
                }
                let family = Family {
                    name: key.name().to_owned(),
                    kind: series.cell.kind(),
                    help: self.help(key.name()),
                    series: vec![value],
                };
                families.insert(key.name().to_owned(), family);
            }
        }
        let mut families: Vec<Family> = families.into_values().collect();
        for family in &mut families {
            let series = &mut family.series;
            series.sort_unstable_by(|one, other| one.labels().cmp(other.labels()));
        }
        Snapshot { families }
    }

    fn help(&self, name: &str) -> String {
        match row(name) {
            Some(row) => row.help.to_owned(),
            None => {
                let help = self.0.help.read();
                help.get(name).map(ToString::to_string).unwrap_or_default()
            }
        }
    }

    fn describe(&self, name: &KeyName, help: SharedString) {
        self.0.help.write().insert(name.as_str().to_owned(), help);
    }
}

/// Returns the row of a name; `None` for a metric of the application.
pub(super) fn row(name: &str) -> Option<&'static Metric> {
    ROWS.get(name).copied()
}

/// Returns whether a series has the kind and the labels of its row, if its name has one.
pub(super) fn is_of_table(key: &Key, kind: Kind) -> bool {
    row(key.name()).is_none_or(|row| row.kind == kind && row.allows(labels_of(key)))
}

fn labels_of(key: &Key) -> impl Iterator<Item = (&str, &str)> {
    key.labels().map(|label| (label.key(), label.value()))
}

/// Returns for how many milliseconds a series is kept once nothing holds it; `None`: for ever.
fn kept_for(key: &Key, kind: Kind) -> Option<u64> {
    let has = |name: &str| key.labels().any(|label| label.key() == name);
    if has("route") {
        return Some(u64::try_from(GONE_KEPT.as_millis()).unwrap_or(u64::MAX));
    }
    // An application looks its gauges up each time, and holds none.
    let is_ours = row(key.name()).is_some();
    let is_held_while_used = is_ours && kind == Kind::Gauge && (has("upstream") || has("endpoint"));
    is_held_while_used.then_some(0)
}

impl Recorder for Registry {
    fn describe_counter(&self, name: KeyName, _: Option<Unit>, help: SharedString) {
        self.describe(&name, help);
    }

    fn describe_gauge(&self, name: KeyName, _: Option<Unit>, help: SharedString) {
        self.describe(&name, help);
    }

    fn describe_histogram(&self, name: KeyName, _: Option<Unit>, help: SharedString) {
        self.describe(&name, help);
    }

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        match self.register(key, Kind::Counter) {
            Cell::Counter(cell) => Counter::from_arc(cell),
            _ => Counter::noop(),
        }
    }

    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        match self.register(key, Kind::Gauge) {
            Cell::Gauge(cell) => Gauge::from_arc(cell),
            _ => Gauge::noop(),
        }
    }

    fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
        match self.register(key, Kind::Histogram) {
            Cell::Histogram(cell) => Histogram::from_arc(cell),
            _ => Histogram::noop(),
        }
    }
}

#[cfg(test)]
mod tests {
    use metrics::Label;

    use super::*;

    fn register(registry: &Registry, kind: Kind, route: &str) -> Cell {
        let labels = vec![
            Label::new("route", route.to_owned()),
            Label::new("status", "2xx"),
        ];
        registry.register(&Key::from_parts("of_an_application", labels), kind)
    }

    fn routes(registry: &Registry) -> Vec<String> {
        let snapshot = registry.snapshot();
        let series = snapshot.series("of_an_application").iter();
        series
            .filter_map(|series| series.label("route").map(str::to_owned))
            .collect()
    }

    #[test]
    fn each_kind_has_its_value() {
        let registry = Registry::default();
        metrics::with_local_recorder(&registry, || {
            metrics::describe_counter!("a_total", "Counts.");
            metrics::counter!("a_total").increment(2);
            metrics::counter!("a_total").increment(1);
            metrics::gauge!("b", "x" => "1").increment(3.5);
            metrics::gauge!("b", "x" => "2").set(4.0);
            metrics::histogram!("c_seconds").record(0.3);
        });
        let snapshot = registry.snapshot();
        let names: Vec<_> = snapshot
            .families
            .iter()
            .map(|family| &family.name)
            .collect();
        assert_eq!(names, ["a_total", "b", "c_seconds"]);
        assert_eq!(snapshot.families[0].help, "Counts.");
        assert_eq!(snapshot.sum("a_total", &[]), 3.0);
        assert_eq!(snapshot.sum("b", &[]), 7.5);
        assert_eq!(snapshot.sum("b", &[("x", "2")]), 4.0);
        assert_eq!(snapshot.sum("none", &[]), 0.0);
        let values = snapshot.histogram("c_seconds", &[]).unwrap();
        assert_eq!((values.count(), values.sum), (1, 0.3));
        assert_eq!(values.bounds, DEFAULT_BOUNDS);
    }

    #[test]
    fn name_of_another_kind_is_counted_by_nothing() {
        let registry = Registry::default();
        metrics::with_local_recorder(&registry, || {
            metrics::counter!("mine").increment(2);
            metrics::gauge!("mine").set(7.0);
        });
        assert_eq!(registry.snapshot().sum("mine", &[]), 2.0);
        assert_eq!(registry.snapshot().families[0].kind, Kind::Counter);
    }

    #[test]
    #[cfg(debug_assertions)]
    #[should_panic(expected = "a series of the table of metrics")]
    fn label_that_the_table_lacks_is_a_defect() {
        let registry = Registry::default();
        metrics::with_local_recorder(&registry, || {
            metrics::counter!("oneport_reloads_total", "outcome" => "other").increment(1);
        });
    }

    #[test]
    fn series_go_some_time_after_their_route() {
        for kind in [Kind::Counter, Kind::Gauge, Kind::Histogram] {
            let registry = Registry::default();
            let start = *EPOCH + Duration::from_secs(1);
            let kept = register(&registry, kind, "kept");
            drop(register(&registry, kind, "gone"));
            registry.forget_gone(start);
            assert_eq!(routes(&registry), ["gone", "kept"]);
            // A series that is used again keeps its count.
            let again = register(&registry, kind, "gone");
            registry.forget_gone(start + GONE_KEPT);
            assert_eq!(routes(&registry), ["gone", "kept"]);
            drop(again);
            registry.forget_gone(start + GONE_KEPT);
            registry.forget_gone(start + GONE_KEPT * 2);
            assert_eq!(routes(&registry), ["kept"]);
            drop(kept);
        }
    }

    #[test]
    fn gauge_of_an_upstream_goes_with_it_and_its_counters_stay() {
        let registry = Registry::default();
        let start = *EPOCH + Duration::from_secs(1);
        let gauge = metrics::with_local_recorder(&registry, || {
            metrics::counter!("oneport_upstream_retries_total", "upstream" => "a").increment(1);
            metrics::gauge!("mine", "upstream" => "a").set(2.0);
            metrics::gauge!("oneport_upstream_active", "upstream" => "a")
        });
        gauge.set(1.0);
        registry.forget_gone(start);
        let active = "oneport_upstream_active";
        assert_eq!(registry.snapshot().sum(active, &[]), 1.0);
        drop(gauge);
        registry.forget_gone(start);
        assert!(registry.snapshot().series(active).is_empty());
        assert_eq!(registry.sum("oneport_upstream_retries_total"), 1.0);
        assert_eq!(registry.sum("mine"), 2.0, "an application's stays");
    }

    #[test]
    fn series_without_a_route_stay() {
        let registry = Registry::default();
        drop(registry.register(&Key::from_name("mine"), Kind::Counter));
        registry.forget_gone(*EPOCH + GONE_KEPT);
        registry.forget_gone(*EPOCH + GONE_KEPT * 3);
        assert_eq!(registry.snapshot().families.len(), 1);
    }

    #[test]
    fn no_more_than_a_thousand_of_gone_routes_are_kept() {
        let registry = Registry::default();
        let start = *EPOCH + Duration::from_secs(1);
        for number in 0..3_000_u32 {
            drop(register(&registry, Kind::Counter, &number.to_string()));
            registry.forget_gone(start + Duration::from_millis(number.into()));
        }
        assert_eq!(routes(&registry).len(), GONE_MAX);
        assert!(routes(&registry).contains(&"2999".to_owned()));
        // Many series that lose their route at once.
        let held: Vec<_> = (0..1_500)
            .map(|number| register(&registry, Kind::Counter, &format!("other{number}")))
            .collect();
        drop(held);
        registry.forget_gone(start + Duration::from_secs(4));
        assert_eq!(routes(&registry).len(), GONE_MAX);
    }
}

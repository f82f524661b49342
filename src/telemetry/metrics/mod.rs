//! Metrics: the table of all metrics, and the recorder that collects them.
//!
//! Each metric has a row in `table/`. The code that handles the event counts it with `counter!`,
//! `gauge!` or `histogram!` of the crate `metrics`; debug builds panic if a name of the table comes
//! with other labels than its row's.
//!
//! | file | subject |
//! |---|---|
//! | `table/` | the rows of all metrics, by area |
//! | `metric.rs` | a row: name, kind, labels, buckets, help |
//! | `registry.rs` | the series that are counted, and when those of a route end |
//! | `histogram.rs` | the buckets of one series |
//! | `traced_histogram.rs` | a histogram whose buckets keep the trace of a recent value |
//! | `snapshot.rs` | the values of all series at one instant |
//! | `process.rs` | figures of the process and its runtime, which are read for a snapshot |
//! | `text_format.rs` | a snapshot as a scraper reads it |

mod histogram;
mod metric;
mod process;
mod registry;
mod snapshot;
mod table;
mod text_format;
mod traced_histogram;

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use metrics::counter;

pub use histogram::{Exemplar, HistogramValue};
pub use metric::{Kind, Label, Metric, Values};
use registry::Registry;
pub use snapshot::{Family, Series, Snapshot, Value};
pub use table::all_metrics;
pub use text_format::TextFormat;
pub(crate) use traced_histogram::TracedHistogram;

/// The metrics of this process (cheap to clone).
#[derive(Clone, Debug)]
pub struct Metrics(Registry);

impl Metrics {
    /// Returns the values of all metrics. From the first call on, durations of requests are
    /// measured.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        IS_READ.store(true, Ordering::Relaxed);
        self.forget_gone();
        let mut snapshot = self.0.snapshot();
        process::add(&mut snapshot);
        snapshot
    }

    /// Returns the sum of a counter over all its series. Does not count as a reading: no duration is
    /// measured for it.
    pub(crate) fn sum(&self, name: &str) -> f64 {
        self.0.sum(name)
    }

    /// Drops series whose route was removed some time ago.
    pub(crate) fn forget_gone(&self) {
        self.0.forget_gone(Instant::now());
    }
}

/// Whether the metrics of this process were ever read.
static IS_READ: AtomicBool = AtomicBool::new(false);

/// Returns whether to take the time of what is not timed for another reason. A server whose metrics
/// were never read does not look at the clock for them; a scraper's first reading is the one that
/// the later ones are compared with.
#[inline]
pub(crate) fn measures_time() -> bool {
    IS_READ.load(Ordering::Relaxed)
}

/// Starts collecting metrics for the whole process and returns the handle that reads them. Later
/// calls return the same handle.
///
/// Call this before compiling a table, because routes look up their metrics at that point. Returns
/// `None` if the program has installed its own recorder.
pub fn start_metrics() -> Option<Metrics> {
    static METRICS: OnceLock<Option<Metrics>> = OnceLock::new();
    let start = || {
        let registry = Registry::default();
        metrics::set_global_recorder(registry.clone()).ok()?;
        Some(Metrics(registry))
    };
    METRICS.get_or_init(start).clone()
}

/// Counts one dropped delivery of an event.
pub fn event_dropped(reason: &'static str) {
    events_dropped(reason, 1);
}

/// Counts dropped deliveries of events.
pub fn events_dropped(reason: &'static str, events: u64) {
    counter!("oneport_events_dropped_total", "reason" => reason).increment(events);
}

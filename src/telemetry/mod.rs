//! Telemetry: the log, and the table of all metrics.
//!
//! | file | subject |
//! |---|---|
//! | `metrics/` | the table of all metrics, their recorder, and their text formats |
//! | `log.rs` | starting the log, and its level |
//! | `log_format/` | a line as text or JSON |
//! | `log_queue.rs` | the thread that writes lines |
//! | `log_throttle.rs` | lines that are logged once per interval |
//! | `recent_ends.rs` | the last sockets that ended, and requests that were refused |

mod log;
mod log_format;
mod log_queue;
mod log_throttle;
mod metrics;
pub mod recent_ends;

pub use log::{ACCESS, Format, Log, check_level, start_log};
pub(crate) use log_queue::{Flush, LogQueue};
pub use log_queue::{log_lines_dropped, reopen_logs};
pub(crate) use log_throttle::{LOG_INTERVAL, LogThrottle};
pub(crate) use metrics::measures_time;
pub use metrics::{
    Family, HistogramValue, Kind, Label, Metric, Metrics, Series, Snapshot, TextFormat, Value,
    Values, all_metrics, event_dropped, events_dropped, start_metrics,
};

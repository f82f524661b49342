//! Telemetry: the log, and the table of all metrics.
//!
//! | file | subject |
//! |---|---|
//! | `metrics/` | the table of all metrics, their recorder, and their text formats |
//! | `log.rs` | starting the log, and its settings |
//! | `access_log/` | the lines of requests and sockets |
//! | `log_format/` | a line as text or JSON |
//! | `log_queue.rs` | the thread that writes lines |
//! | `log_file.rs` | the file that it writes to |
//! | `log_throttle.rs` | lines that are logged once per interval |
//! | `ratio.rs` | a share of all requests |
//! | `trace/` | spans |
//! | `recent_ends.rs` | the last sockets that ended, and requests that were refused |

pub(crate) mod access_log;
mod log;
mod log_file;
mod log_format;
mod log_queue;
mod log_throttle;
mod metrics;
mod ratio;
pub mod recent_ends;
pub(crate) mod trace;

pub use access_log::{AccessField, AccessFormat, AccessRule, AccessTemplate};
pub use log::{
    ACCESS, AccessSettings, Format, Log, LogFileError, LogSettings, check_level, reconfigure_log,
    start_log, start_log_with,
};
pub(crate) use log_queue::{Flush, LogQueue};
pub use log_queue::{log_lines_dropped, reopen_logs};
pub(crate) use log_throttle::{LOG_INTERVAL, LogThrottle};
pub use metrics::{
    Exemplar, Family, HistogramValue, Kind, Label, Metric, Metrics, Series, Snapshot, TextFormat,
    Value, Values, all_metrics, event_dropped, events_dropped, start_metrics,
};
pub(crate) use metrics::{TracedHistogram, measures_time};
pub use ratio::Ratio;
pub use trace::{SpanId, TraceId};

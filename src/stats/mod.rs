//! Stats: the figures of one process, for the server API, the dashboard and `oneport top`.
//!
//! | file | subject |
//! |---|---|
//! | `snapshot.rs` | all figures at one instant: counts since the start, and what is open now |
//! | `rates.rs` | the change between two snapshots, per second |
//! | `latency.rs` | a histogram of latencies, and its percentiles |
//! | `series.rs` | the metrics, looked up by name and labels |
//! | `process.rs` | what the system knows about the process |
//!
//! A snapshot is taken when something asks for it: the metrics are counted anyway, and nothing is
//! sampled in between.

mod latency;
mod process;
mod rates;
mod series;
mod snapshot;

pub use latency::Latency;
pub use process::ProcessStats;
pub use rates::Rates;
pub use snapshot::{
    ConnectionStats, HttpRouteStats, LayerStats, MessageStats, RuntimeStats, Snapshot, SocketStats,
    UpstreamStats, WebsocketRouteStats,
};

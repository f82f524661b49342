//! Tracer: which traces are sampled, and the queue of spans that have ended.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arc_swap::{ArcSwapOption, Guard};
use metrics::counter;
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::context::TraceId;
use super::span::SpanData;
use crate::telemetry::Ratio;

/// The most spans that wait for the exporter; further ones are dropped and counted.
pub(crate) const QUEUE_MAX: usize = 2048;

/// The most spans of one batch. The exporter is woken when so many wait.
pub(crate) const BATCH_MAX: usize = 512;

static IS_ON: AtomicBool = AtomicBool::new(false);
static TRACER: ArcSwapOption<Tracer> = ArcSwapOption::const_empty();

/// Which traces are sampled, and where their spans go.
#[derive(Debug)]
pub(crate) struct Tracer {
    /// The share of new traces that is recorded. A trace that comes with a request keeps the
    /// decision of its sender.
    pub(crate) sample: Ratio,
    pub(crate) queue: Arc<SpanQueue>,
}

impl Tracer {
    pub(super) fn samples(&self, trace_id: TraceId) -> bool {
        self.sample.includes(trace_id.number())
    }
}

/// Starts tracing, or stops it.
pub(crate) fn set_tracer(tracer: Option<Tracer>) {
    let is_on = tracer.is_some();
    TRACER.store(tracer.map(Arc::new));
    IS_ON.store(is_on, Ordering::Release);
}

/// Returns whether anything is traced. The one branch that all others pay.
#[inline]
pub(crate) fn is_on() -> bool {
    IS_ON.load(Ordering::Relaxed)
}

pub(super) fn tracer() -> Option<TracerGuard> {
    is_on().then(|| TRACER.load()).and_then(TracerGuard::new)
}

/// A borrowed tracer.
pub(super) struct TracerGuard(Guard<Option<Arc<Tracer>>>);

impl TracerGuard {
    fn new(guard: Guard<Option<Arc<Tracer>>>) -> Option<Self> {
        guard.is_some().then_some(Self(guard))
    }
}

impl std::ops::Deref for TracerGuard {
    type Target = Tracer;

    #[expect(clippy::expect_used, reason = "it is made only of one that is there")]
    fn deref(&self) -> &Tracer {
        self.0.as_deref().expect("a tracer")
    }
}

/// The spans that wait for the exporter.
#[derive(Debug, Default)]
pub(crate) struct SpanQueue {
    spans: Mutex<VecDeque<SpanData>>,
    /// Notified when a batch is full.
    full: Notify,
}

impl SpanQueue {
    /// Queues a span, or drops and counts it.
    pub(super) fn push(&self, span: SpanData) {
        let mut spans = self.spans.lock();
        if spans.len() >= QUEUE_MAX {
            drop(spans);
            counter!("oneport_spans_total", "outcome" => "dropped").increment(1);
            return;
        }
        spans.push_back(span);
        let is_full = spans.len() == BATCH_MAX;
        drop(spans);
        if is_full {
            self.full.notify_one();
        }
    }

    /// Takes the oldest spans, at most a batch.
    pub(crate) fn take(&self) -> Vec<SpanData> {
        let mut spans = self.spans.lock();
        let count = spans.len().min(BATCH_MAX);
        spans.drain(..count).collect()
    }

    /// Returns whether a whole batch waits.
    pub(crate) fn has_batch(&self) -> bool {
        self.spans.lock().len() >= BATCH_MAX
    }

    /// Waits until a batch becomes full.
    pub(crate) async fn batch(&self) {
        self.full.notified().await;
    }
}

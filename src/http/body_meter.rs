//! BodyMeter: measures the body of a streamed response while the connection takes it.
//!
//! The gateway puts one into the response's extensions, and the server takes it out again. A body
//! in memory needs none.

use std::any::Any;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use metrics::{Counter, Histogram};

/// Measures one body, until its last clone is dropped: extensions of a response must be cloneable.
#[derive(Clone)]
pub(crate) struct BodyMeter(Arc<Measured>);

struct Measured {
    bytes: Counter,
    duration: Histogram,
    /// When the head was ready.
    started: Instant,
    /// Dropped at the end of the body.
    held: OnceLock<Box<dyn Any + Send + Sync>>,
}

impl BodyMeter {
    pub(crate) fn new(bytes: Counter, duration: Histogram) -> Self {
        Self(Arc::new(Measured {
            bytes,
            duration,
            started: Instant::now(),
            held: OnceLock::new(),
        }))
    }

    /// Keeps a value until the end of the body.
    pub(crate) fn hold(&self, held: impl Any + Send + Sync) {
        let _ = self.0.held.set(Box::new(held));
    }

    /// Counts bytes that the connection has taken.
    pub(crate) fn count(&self, bytes: usize) {
        self.0.bytes.increment(bytes as u64);
    }
}

impl Drop for Measured {
    fn drop(&mut self) {
        self.duration.record(self.started.elapsed().as_secs_f64());
    }
}

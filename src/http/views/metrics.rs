//! Metrics: the server's metrics in Prometheus' text format.

use http::StatusCode;

use crate::config::OptionErrors;
use crate::http::{Failure, OnDisconnect, Request, Response, View, respond};
use crate::queued_bytes;

/// `view = "metrics"`: the server's metrics in Prometheus' text format. No options.
#[derive(Debug)]
pub struct Metrics;

impl View for Metrics {
    type Options = ();

    fn new((): ()) -> Result<Self, OptionErrors> {
        Ok(Self)
    }

    fn on_disconnect() -> OnDisconnect {
        OnDisconnect::Cancel
    }

    async fn call(&self, request: Request) -> Result<Response, Failure> {
        let Some(metrics) = &request.services.metrics else {
            return Err(Failure::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "this process collects no metrics",
            ));
        };
        ::metrics::gauge!("oneport_tasks").set(request.services.tasks.alive() as f64);
        ::metrics::gauge!("oneport_send_queue_bytes").set(queued_bytes::total() as f64);
        Ok(respond(
            200,
            "text/plain; version=0.0.4; charset=utf-8",
            metrics.render(),
        ))
    }
}

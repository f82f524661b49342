//! Metrics: the server's metrics as a scraper reads them.

use http::{HeaderValue, StatusCode, header};

use crate::config::OptionErrors;
use crate::http::{Failure, OnDisconnect, Request, Response, View, respond};
use crate::queued_bytes;
use crate::telemetry::TextFormat;

/// `view = "metrics"`: the server's metrics in Prometheus' text format, or in that of OpenMetrics if
/// the scraper prefers it. No options.
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
        let accept = request.scope.headers.all(&header::ACCEPT);
        let format = TextFormat::preferred(accept);
        let text = metrics.snapshot().to_text(format);
        let mut response = respond(200, format.content_type(), text);
        let vary = HeaderValue::from_static("accept");
        response.headers_mut().insert(header::VARY, vary);
        Ok(response)
    }
}

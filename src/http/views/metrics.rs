//! Metrics: the server's metrics as a scraper reads them.

use crate::config::OptionErrors;
use crate::http::exposition::exposition;
use crate::http::{Failure, OnDisconnect, Request, Response, View};

/// `view = "metrics"`: the server's metrics in Prometheus' text format, or in that of OpenMetrics
/// if the scraper prefers it. No options.
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
        exposition(&request.services, &request.scope.headers).await
    }
}

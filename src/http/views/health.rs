//! Health: reports whether the server is up and accepts new work.

use crate::config::OptionErrors;
use crate::http::{Failure, OnDisconnect, Request, Response, View, respond};
use crate::telemetry;

/// `view = "health"`: 200 `{"status":"ok"}`, or 503 `{"status":"draining"}` once the server stops;
/// with `log_lines_dropped` if log lines were dropped. No options.
#[derive(Debug)]
pub struct Health;

impl View for Health {
    type Options = ();

    fn new((): ()) -> Result<Self, OptionErrors> {
        Ok(Self)
    }

    fn on_disconnect() -> OnDisconnect {
        OnDisconnect::Cancel
    }

    async fn call(&self, request: Request) -> Result<Response, Failure> {
        let (status, word) = if request.services.tasks.is_draining() {
            (503, "draining")
        } else {
            (200, "ok")
        };
        let dropped = match telemetry::log_lines_dropped() {
            0 => String::new(),
            lines => format!(",\"log_lines_dropped\":{lines}"),
        };
        let mut response = respond(
            status,
            "application/json",
            format!("{{\"status\":\"{word}\"{dropped}}}\n"),
        );
        response.headers_mut().insert(
            http::header::CACHE_CONTROL,
            http::HeaderValue::from_static("no-store"),
        );
        Ok(response)
    }
}

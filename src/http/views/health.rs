//! Health: reports whether the server is up, and whether it wants new clients.

use serde::Deserialize;

use crate::config::OptionErrors;
use crate::http::{Failure, OnDisconnect, Request, Response, View, respond};
use crate::services::Services;
use crate::telemetry;

/// `view = "health"`: 200 `{"status":"ok"}`, or 503 `{"status":"draining"}` once the server is about
/// to stop; with `log_lines_dropped` if log lines were dropped.
#[derive(Debug)]
pub struct Health {
    probe: Probe,
}

/// The options of `health`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Options {
    /// The question that the view answers.
    probe: Probe,
}

/// The question of a probe, in Kubernetes' terms.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Probe {
    /// Whether the server wants new clients: not once it is about to stop.
    #[default]
    Ready,
    /// Whether the server works: always, as it answers.
    Live,
}

impl View for Health {
    type Options = Options;

    fn new(Options { probe }: Options) -> Result<Self, OptionErrors> {
        Ok(Self { probe })
    }

    fn on_disconnect() -> OnDisconnect {
        OnDisconnect::Cancel
    }

    async fn call(&self, request: Request) -> Result<Response, Failure> {
        Ok(self.response(&request.services))
    }
}

impl Health {
    /// The question whether the server wants new clients.
    pub(crate) const READY: Self = Self {
        probe: Probe::Ready,
    };

    /// The question whether the server works.
    pub(crate) const LIVE: Self = Self { probe: Probe::Live };

    /// Returns the answer.
    pub(crate) fn response(&self, services: &Services) -> Response {
        let tasks = &services.tasks;
        // The process that has taken the place of this one wants new clients.
        let is_leaving = tasks.is_leaving() && !tasks.is_replaced();
        let (status, word) = match (self.probe, is_leaving) {
            (_, false) => (200, "ok"),
            (Probe::Live, true) => (200, "draining"),
            (Probe::Ready, true) => (503, "draining"),
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
        response
    }
}

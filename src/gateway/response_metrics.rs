//! Response metrics: the responses of a route, counted, and the time that they took.

use std::sync::{Arc, OnceLock};
use std::time::Instant;

use http::{Method, StatusCode};
use metrics::{Counter, Gauge, Histogram, counter, gauge, histogram};

use crate::http::{Body, BodyMeter, Response};
use crate::scope::{Scope, ScopeType};
use crate::telemetry::{self, TracedHistogram};

const CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];

/// The methods that are counted by name, and one for all others: a client can make up any.
const METHODS: [&str; 10] = [
    "GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "other",
];

/// The metrics of a route's responses. A series is registered with its first response, so that a
/// large table has no more of them than are used.
pub(crate) struct ResponseMetrics {
    /// The route's.
    label: Arc<str>,
    table: ScopeType,
    /// By method, then by class of status; handshakes have one method.
    counters: Box<[OnceLock<Counter>]>,
    duration: OnceLock<TracedHistogram>,
    bodies: OnceLock<Bodies>,
}

/// The metrics of the bodies of HTTP.
struct Bodies {
    active: Gauge,
    request_bytes: Counter,
    response_bytes: Counter,
    duration: Histogram,
}

/// A request whose response has not ended. Dropping it is the end.
pub(crate) struct ActiveRequest(Gauge);

impl Drop for ActiveRequest {
    fn drop(&mut self) {
        self.0.decrement(1.0);
    }
}

impl ResponseMetrics {
    pub(crate) fn new(table: ScopeType, label: &Arc<str>) -> Self {
        let methods = match table {
            ScopeType::Http => METHODS.len(),
            ScopeType::Websocket => 1,
        };
        let counters = (0..methods * CLASSES.len()).map(|_| OnceLock::new());
        Self {
            label: label.clone(),
            table,
            counters: counters.collect(),
            duration: OnceLock::new(),
            bodies: OnceLock::new(),
        }
    }

    /// Counts the response to a request that began at `started`, if that is known. A streamed body
    /// gets a meter that counts the rest.
    pub(crate) fn count(&self, scope: &Scope, response: &mut Response, started: Option<Instant>) {
        self.count_status(&scope.method, response.status());
        if !telemetry::measures_time() {
            return;
        }
        if let Some(started) = started {
            let duration = self.duration.get_or_init(|| self.duration());
            duration.record(started.elapsed().as_secs_f64(), scope.sampled_trace_id());
        }
        if scope.scope_type == ScopeType::Websocket || scope.method == Method::HEAD {
            return; // without a body
        }
        let bodies = self.bodies();
        match response.body().is_in_memory() {
            true => {
                let bytes = http_body::Body::size_hint(response.body()).lower();
                bodies.response_bytes.increment(bytes);
            }
            false => {
                let meter = BodyMeter::new(bodies.response_bytes.clone(), bodies.duration.clone());
                response.extensions_mut().insert(meter);
            }
        }
    }

    /// Begins a request that is not answered at once, and has its body counted.
    pub(crate) fn begin(&self, body: &mut Body) -> ActiveRequest {
        let bodies = self.bodies();
        body.count_into(&bodies.request_bytes);
        bodies.active.increment(1.0);
        ActiveRequest(bodies.active.clone())
    }

    fn count_status(&self, method: &Method, status: StatusCode) {
        let method = match self.table {
            ScopeType::Http => index(method),
            ScopeType::Websocket => 0,
        };
        let class = usize::from(status.as_u16() / 100).wrapping_sub(1);
        if class < CLASSES.len() {
            let counter = &self.counters[method * CLASSES.len() + class];
            counter
                .get_or_init(|| self.counter(METHODS[method], CLASSES[class]))
                .increment(1);
        }
    }

    fn bodies(&self) -> &Bodies {
        self.bodies.get_or_init(|| {
            let route = || self.label.to_string();
            Bodies {
                active: gauge!("oneport_requests_active", "route" => route()),
                request_bytes: counter!("oneport_request_body_bytes_total", "route" => route()),
                response_bytes: counter!("oneport_response_body_bytes_total", "route" => route()),
                duration: histogram!("oneport_response_body_duration_seconds", "route" => route()),
            }
        })
    }

    #[cold]
    fn counter(&self, method: &'static str, class: &'static str) -> Counter {
        let route = self.label.to_string();
        match self.table {
            ScopeType::Http => {
                counter!("oneport_requests_total", "route" => route, "method" => method, "status" => class)
            }
            ScopeType::Websocket => {
                counter!("oneport_handshakes_total", "route" => route, "status" => class)
            }
        }
    }

    #[cold]
    fn duration(&self) -> TracedHistogram {
        let name = match self.table {
            ScopeType::Http => "oneport_request_duration_seconds",
            ScopeType::Websocket => "oneport_handshake_duration_seconds",
        };
        TracedHistogram::of_route(name, &self.label)
    }
}

/// Returns the index of a method in [`METHODS`].
fn index(method: &Method) -> usize {
    match *method {
        Method::GET => 0,
        Method::HEAD => 1,
        Method::POST => 2,
        Method::PUT => 3,
        Method::PATCH => 4,
        Method::DELETE => 5,
        Method::OPTIONS => 6,
        Method::TRACE => 7,
        Method::CONNECT => 8,
        _ => 9,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_method_has_its_name() {
        for (at, name) in METHODS.iter().enumerate() {
            let method = Method::from_bytes(name.as_bytes()).unwrap();
            assert_eq!(index(&method), at, "{name}");
        }
        for name in ["get", "GETS", "PROPFIND", "A-METHOD-THAT-A-CLIENT-MADE-UP"] {
            assert_eq!(
                METHODS[index(&Method::from_bytes(name.as_bytes()).unwrap())],
                "other"
            );
        }
    }
}

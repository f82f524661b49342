//! Checks: requests that find out whether the servers of an upstream work.

use std::sync::{Arc, Weak};
use std::time::Duration;

use futures_util::future::join_all;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Limited};
use metrics::{Gauge, counter, gauge};
use tokio::time::Instant;

use super::health::Availability;
use super::options::HealthCheckOptions;
use super::server::Server;
use super::set::Set;
use crate::client::RequestBody;
use crate::tasks::Tasks;

/// The longest body of a response that is read. A longer one only costs the connection.
const BODY_BYTES_MAX: usize = 64 * 1024;

/// The time between two updates of the gauges without health checks.
const GAUGES_INTERVAL: Duration = Duration::from_secs(5);

/// Starts the task of a set that checks its servers, and keeps its gauges.
pub(super) fn start(set: &Arc<Set>, tasks: &Tasks) {
    let dropped = set.dropped.clone();
    let set = Arc::downgrade(set);
    let stopping = tasks.clone();
    tasks.spawn("upstream checks", async move {
        tokio::select! {
            () = run(&set) => {}
            () = dropped.cancelled() => {}
            () = stopping.stopping() => {}
        }
    });
}

async fn run(set: &Weak<Set>) {
    loop {
        let Some(set) = set.upgrade() else { return };
        let pause = match &set.options.health_check {
            Some(check) => {
                let servers = set.servers();
                join_all(servers.iter().map(|server| run_check(server, check))).await;
                // Not all processes check at the same time.
                check.interval.0.mul_f64(0.9 + 0.2 * fastrand::f64())
            }
            None => GAUGES_INTERVAL,
        };
        set_gauges(&set);
        drop(set);
        tokio::time::sleep(pause).await;
    }
}

async fn run_check(server: &Arc<Server>, check: &HealthCheckOptions) {
    let timeout = check.timeout.0;
    let failure = match tokio::time::timeout(timeout, request(server, check)).await {
        Ok(Ok(())) => None,
        Ok(Err(cause)) => Some(cause),
        Err(_) => Some(format!("no answer to the health check within {timeout:?}")),
    };
    let outcome = if failure.is_none() { "ok" } else { "failed" };
    let upstream = server.url.to_string();
    counter!("oneport_upstream_checks_total", "upstream" => upstream, "outcome" => outcome)
        .increment(1);
    let transition = server.health.checked(failure.is_none());
    server.log(transition, &failure.unwrap_or_default());
}

async fn request(server: &Arc<Server>, check: &HealthCheckOptions) -> Result<(), String> {
    let request = Request::get(check.path.as_str())
        .header(http::header::USER_AGENT, "oneport (health check)")
        .body(RequestBody::empty())
        .map_err(|error| error.to_string())?;
    let response = server
        .check(request)
        .await
        .map_err(|error| error.to_string())?;
    let status = response.status();
    // Read to its end, so that the connection can be used again.
    let body = Limited::new(response.into_body(), BODY_BYTES_MAX);
    let _ = body.collect().await;
    match is_good(status, &check.status) {
        true => Ok(()),
        false => Err(format!("the health check was answered with {status}")),
    }
}

fn is_good(status: StatusCode, expected: &[u16]) -> bool {
    match expected {
        [] => (200..400).contains(&status.as_u16()),
        some => some.contains(&status.as_u16()),
    }
}

/// The gauges of one URL. Held as long as they have values.
#[derive(Debug)]
pub(super) struct UpstreamGauges {
    servers: Gauge,
    up: Gauge,
    active: Gauge,
}

impl UpstreamGauges {
    fn new(upstream: &str) -> Self {
        let upstream = upstream.to_owned();
        Self {
            servers: gauge!("oneport_upstream_servers", "upstream" => upstream.clone()),
            up: gauge!("oneport_upstream_servers_up", "upstream" => upstream.clone()),
            active: gauge!("oneport_upstream_active", "upstream" => upstream),
        }
    }
}

fn set_gauges(set: &Set) {
    let (servers, now) = (set.servers(), Instant::now());
    let urls = set.urls.iter();
    let gauges = set.gauges.get_or_init(|| {
        let gauges = urls.map(|url| UpstreamGauges::new(&url.text));
        gauges.collect()
    });
    for (url, gauges) in set.urls.iter().zip(gauges) {
        let own = || servers.iter().filter(|server| server.url == url.text);
        let is_up = |server: &&Arc<Server>| {
            let availability = server.health.availability(now);
            matches!(availability, Availability::Up | Availability::Due)
        };
        gauges.servers.set(own().count() as f64);
        gauges.up.set(own().filter(is_up).count() as f64);
        let active: usize = own().map(|server| server.active()).sum();
        gauges.active.set(active as f64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_are_those_of_the_option_or_200_to_399() {
        let check = |status: u16, expected: &[u16], is_expected| {
            let status = StatusCode::from_u16(status).unwrap();
            assert_eq!(
                is_good(status, expected),
                is_expected,
                "{status} {expected:?}"
            );
        };
        check(200, &[], true);
        check(302, &[], true);
        check(404, &[], false);
        check(503, &[], false);
        check(404, &[200, 404], true);
        check(302, &[200, 404], false);
    }
}

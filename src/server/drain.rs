//! Drain: a graceful shutdown that its clients do not answer with a storm.
//!
//! ```text
//! Serving ── stop ──> Leaving ── drain.delay is over ──> Draining ── all ended, or ──> ended
//!                        │                                  │     timeouts.drain is over
//!                        └────────── a second stop ─────────┴────────────────────────> ended
//! ```
//!
//! | state | listeners | `health` | requests | sockets and event streams |
//! |---|---|---|---|---|
//! | `Serving` | open | 200 | served | open |
//! | `Leaving` | open | 503 | served; over HTTP/1.1 their connections close | open, also new ones |
//! | `Draining` | closed | | those in flight are served | end in batches; handshakes get 503 |
//!
//! A load balancer that asks `health` sends no new clients once it has seen the 503; that takes it
//! some intervals, for which `drain.delay` leaves time.

use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use crate::config::ServerConfig;
use crate::gateway::Gateway;
use crate::http::event_streams::EventStreams;
use crate::pace::Pace;
use crate::websocket::{Cause, Ending};

/// The outcome of a drain.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Drained {
    /// WebSockets closed with 1001.
    pub sockets: usize,
    /// Tasks aborted at the deadline.
    pub cut_off: usize,
}

/// Announces that the server is about to stop, and serves on for `delay`.
pub(super) async fn leave(gateway: &Gateway, delay: Duration) {
    gateway.services().tasks.leave();
    if delay.is_zero() {
        return;
    }
    tracing::info!(
        seconds = delay.as_secs_f64(),
        "about to stop: health says 503; a second signal exits at once"
    );
    tokio::time::sleep(delay).await;
}

/// Lets requests finish, ends all WebSockets with a cause, and aborts the remaining tasks after
/// `timeouts.drain`. The listeners are closed.
pub(super) async fn drain(gateway: &Gateway, server: &ServerConfig, cause: Cause) -> Drained {
    let deadline = Instant::now() + server.timeouts.drain;
    let services = gateway.services();
    let pace = pace(server);
    let (ending, pace) = match cause {
        Cause::ServerDrain => (
            Ending::chosen(cause, server.drain.code, cause.reason()),
            pace,
        ),
        // The successor listens already.
        cause => (Ending::of(cause), without_wait(pace)),
    };
    services.shared::<EventStreams>().drain(pace);
    gateway.sockets().drain(ending, pace);
    services.tasks.drain();
    let sockets = gateway.sockets().end_all().await;
    let _ = timeout_at(deadline, gateway.sockets().all_ended()).await;
    let left = deadline.saturating_duration_since(Instant::now());
    let cut_off = services.tasks.finish(left).await;
    Drained { sockets, cut_off }
}

/// Returns the pace of a reload, whose clients find the server as it was.
pub(super) fn reload_pace(server: &ServerConfig) -> Pace {
    without_wait(pace(server))
}

/// Returns the pace of `[server.drain]`: the last socket ends in half of `timeouts.drain`, which
/// leaves the other half for the close frames of the clients.
fn pace(server: &ServerConfig) -> Pace {
    let settings = &server.drain;
    Pace {
        batch: settings.batch,
        every: settings.every,
        jitter: settings.jitter,
        within: server.timeouts.drain / 2,
        retry_after: settings.retry_after,
    }
}

fn without_wait(pace: Pace) -> Pace {
    Pace {
        retry_after: Duration::ZERO,
        ..pace
    }
}

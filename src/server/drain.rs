//! Drain: a graceful shutdown that its clients do not answer with a storm.
//!
//! ```text
//! Serving ── stop ──> Leaving ── drain.delay is over ──> Draining ── all ended, or ──> ended
//!    │                   │                                  ▲ │   timeouts.drain is over
//!    │                   └────────── a second stop ─────────│─┴────────────────────────> ended
//!    └── another process serves ──> HandingOver ────────────┘
//!                                        all connections closed, or the last second
//! ```
//!
//! | state | listeners | `health` | requests | sockets and event streams |
//! |---|---|---|---|---|
//! | `Serving` | open | 200 | served | open |
//! | `Leaving` | open | 503 | served; over HTTP/1.1 their connections close | open, also new ones |
//! | `HandingOver` | another process's | 200 | served; over HTTP/1.1 their connections close | end in batches, also new ones |
//! | `Draining` | closed | | those in flight are served | end in batches; handshakes get 503 |
//!
//! A load balancer that asks `health` sends no new clients once it has seen the 503; that takes it
//! some intervals, for which `drain.delay` leaves time.
//!
//! When clients are asked to come back:
//!
//! ```text
//! stop ── first batch ── ... ── last batch ── drain.retry_after ──┬── spread ──┐
//!              │                                                  ▼            ▼
//!              └── retry_after=6 ── from here to a time of its own in between ─┘
//! ```
//!
//! The spread is as long as all batches take, so that clients come back no faster than they were
//! sent away, and at least `drain.retry_after`. At a handover the new process is there: the spread
//! alone, of `drain.retry_after`, begins with each close. A reload asks for no wait.

use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use crate::config::ServerConfig;
use crate::gateway::Gateway;
use crate::http::event_streams::EventStreams;
use crate::net::Admission;
use crate::pace::{Pace, RetryAfter};
use crate::websocket::{Cause, Ending};

/// How long before its deadline a handover closes the connections that wait for a request.
const LAST_MOMENT: Duration = Duration::from_secs(1);

/// The outcome of a drain.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Drained {
    /// WebSockets closed with 1001, or with 1012 by a restart.
    pub sockets: usize,
    /// Tasks aborted at the deadline.
    pub cut_off: usize,
}

/// Announces that the server is about to stop, and serves on for `delay`. `exits` says for the log
/// which signal ends it before, if one does.
pub(super) async fn leave(gateway: &Gateway, delay: Duration, exits: &str) {
    gateway.services().tasks.leave();
    if delay.is_zero() {
        return;
    }
    tracing::info!(
        seconds = delay.as_secs_f64(),
        "about to stop: health says 503{exits}"
    );
    tokio::time::sleep(delay).await;
}

/// Lets requests finish, ends all WebSockets, and aborts the remaining tasks after
/// `timeouts.drain`. The listeners are closed.
pub(super) async fn drain(gateway: &Gateway, server: &ServerConfig) -> Drained {
    let deadline = Instant::now() + server.timeouts.drain;
    let cause = Cause::ServerDrain;
    let ending = Ending::chosen(cause, server.drain.code, cause.reason());
    let tasks = &gateway.services().tasks;
    announce(gateway, ending, pace_of_end(gateway, server));
    tasks.drain();
    let sockets = gateway.sockets().end_all().await;
    finish(gateway, sockets, deadline).await
}

/// Lets the clients go to the process that has taken the place of this one, within
/// `timeouts.drain`: WebSockets at once, and no connection over HTTP/1.1 that waits for a request
/// before the last moment.
pub(super) async fn hand_over(
    gateway: &Gateway,
    server: &ServerConfig,
    admission: &Admission,
) -> Drained {
    let within = server.timeouts.drain;
    let deadline = Instant::now() + within;
    let last_moment = deadline - LAST_MOMENT.min(within / 4);
    let tasks = &gateway.services().tasks;
    let pace = Pace {
        retry_after: match server.drain.retry_after {
            Duration::ZERO => RetryAfter::Unasked,
            spread => RetryAfter::Spread(spread),
        },
        ..pace(server)
    };
    announce(gateway, Ending::of(Cause::Restart), pace);
    tasks.hand_over();
    let (sockets, _) = tokio::join!(
        gateway.sockets().end_all(),
        timeout_at(last_moment, all_closed(admission))
    );
    tasks.drain();
    finish(gateway, sockets, deadline).await
}

/// Prepares the end of all sockets and event streams; those that open from now on end too.
fn announce(gateway: &Gateway, ending: Ending, pace: Pace) {
    let services = gateway.services();
    services.shared::<EventStreams>().drain(pace);
    gateway.sockets().drain(ending, pace);
}

async fn finish(gateway: &Gateway, sockets: usize, deadline: Instant) -> Drained {
    let _ = timeout_at(deadline, gateway.sockets().all_ended()).await;
    let left = deadline.saturating_duration_since(Instant::now());
    let cut_off = gateway.services().tasks.finish(left).await;
    Drained { sockets, cut_off }
}

/// Waits until no connection is open.
async fn all_closed(admission: &Admission) {
    while admission.open() > 0 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Returns the pace of a server that ends now.
fn pace_of_end(gateway: &Gateway, server: &ServerConfig) -> Pace {
    let (pace, wait) = (pace(server), server.drain.retry_after);
    if wait.is_zero() {
        return pace;
    }
    let streams = gateway.services().shared::<EventStreams>().len();
    let length = pace.length_of(gateway.sockets().len().max(streams));
    Pace {
        retry_after: RetryAfter::Ends {
            back_at: Instant::now() + length.saturating_add(wait),
            spread: length.max(wait),
        },
        ..pace
    }
}

/// Returns the pace of `[server.drain]`, which asks for no wait, as a reload does: the last socket
/// ends in half of `timeouts.drain`, which leaves the other half for the close frames of the
/// clients.
pub(super) fn pace(server: &ServerConfig) -> Pace {
    let settings = &server.drain;
    Pace {
        batch: settings.batch,
        every: settings.every,
        jitter: settings.jitter,
        within: server.timeouts.drain / 2,
        retry_after: RetryAfter::Unasked,
    }
}

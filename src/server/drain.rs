//! Drain: how a server ends without cutting anybody off.

use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use crate::gateway::Gateway;
use crate::websocket::{Cause, Ending};

/// How long one socket's end is put off behind another's, at the most.
const BETWEEN_SOCKETS: Duration = Duration::from_millis(2);

/// How a drain went.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Drained {
    /// How many sockets were closed with 1001.
    pub sockets: usize,
    /// How many tasks were cut off at the deadline.
    pub cut_off: usize,
}

/// Lets requests finish, closes all sockets with 1001, waits at most `drain` for all of it.
pub(super) async fn drain(gateway: &Gateway, drain: Duration) -> Drained {
    let deadline = Instant::now() + drain;
    let tasks = &gateway.services().tasks;
    tasks.drain();
    let ending = Ending::of(Cause::ServerDrain);
    let sockets = gateway
        .sockets()
        .end(|_| true, &ending, spread(gateway.sockets().len(), drain))
        .await;
    let _ = timeout_at(deadline, gateway.sockets().all_ended()).await;
    let cut_off = tasks
        .finish(deadline.saturating_duration_since(Instant::now()))
        .await;
    Drained { sockets, cut_off }
}

/// Returns the time over which that many sockets are ended: a moment for a few, at most half of the drain for many, so that
/// those who come back do not come all at once.
pub(super) fn spread(sockets: usize, drain: Duration) -> Duration {
    BETWEEN_SOCKETS
        .saturating_mul(u32::try_from(sockets).unwrap_or(u32::MAX))
        .min(drain / 2)
}

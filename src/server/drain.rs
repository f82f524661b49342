//! Drain: a graceful shutdown.

use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use crate::gateway::Gateway;
use crate::websocket::{Cause, Ending};

/// The longest pause between closing two WebSockets.
const BETWEEN_SOCKETS: Duration = Duration::from_millis(2);

/// The outcome of a drain.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Drained {
    /// WebSockets closed with 1001.
    pub sockets: usize,
    /// Tasks aborted at the deadline.
    pub cut_off: usize,
}

/// Lets requests finish, closes all WebSockets with 1001, and aborts the remaining tasks after
/// `drain`.
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

/// Returns the time over which to spread closing `sockets` WebSockets: 2 ms each, at most half of
/// the drain. Their clients then reconnect one after the other instead of all at once.
pub(super) fn spread(sockets: usize, drain: Duration) -> Duration {
    BETWEEN_SOCKETS
        .saturating_mul(u32::try_from(sockets).unwrap_or(u32::MAX))
        .min(drain / 2)
}

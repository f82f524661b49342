//! Pause: the time for which a limit that delays does not read a client.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use super::socket_handle::SocketHandle;
use crate::clock::Millis;

/// The time for which a limit that delays does not read a client.
///
/// A client that leaves ends it: the bytes that it sent before are not read any more, so that its
/// socket neither keeps its place nor uses up a counter that others share.
pub(super) struct Pause {
    since: Millis,
    end: Pin<Box<dyn Future<Output = PauseEnd> + Send>>,
}

/// How a pause ends.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum PauseEnd {
    /// Its time has passed.
    Elapsed,
    /// The client has closed its side, or the connection was reset.
    ClientGone,
}

impl Pause {
    /// Begins a pause.
    pub(super) fn new(handle: &Arc<SocketHandle>, wait: Duration) -> Self {
        let since = handle.services().clock.now();
        let handle = handle.clone();
        let end = async move {
            match tokio::time::timeout(wait, handle.stream().closed()).await {
                Ok(()) => PauseEnd::ClientGone,
                Err(_) => PauseEnd::Elapsed,
            }
        };
        Self {
            since,
            end: Box::pin(end),
        }
    }

    /// Returns when it began.
    pub(super) fn since(&self) -> Millis {
        self.since
    }

    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<PauseEnd> {
        self.end.as_mut().poll(cx)
    }
}

//! EventStreams: the open event streams of this process, with their logins.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use metrics::gauge;
use parking_lot::{Mutex, MutexGuard};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::auth::Login;
use crate::pace::Pace;

/// The open event streams, by member number; one value per server (`Services::shared`). An entry
/// lives as long as its response body, so the map is bounded by the requests in flight.
#[derive(Debug, Default)]
pub(crate) struct EventStreams {
    /// The streams with a login. An anonymous stream has no login that could end.
    of_logins: Mutex<HashMap<u64, Entry>>,
    /// How many there are, with a login and without.
    open: AtomicUsize,
    /// Set when the server drains.
    draining: OnceLock<Draining>,
}

/// How a drain ends the streams.
#[derive(Debug)]
struct Draining {
    pace: Pace,
    /// How many streams end together.
    batch: usize,
    /// How many have asked for their turn.
    asked: AtomicUsize,
}

/// When a stream ends in a drain, and when its client is asked to come back.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Turn {
    /// The time until its end.
    pub(crate) after: Duration,
    /// The time from its end until the client reconnects; `None`: as the stream said at its start.
    pub(crate) retry: Option<Duration>,
}

#[derive(Debug)]
struct Entry {
    login: Arc<Login>,
    ended: CancellationToken,
}

/// One open stream; dropped with the response body.
#[derive(Debug)]
pub(crate) struct OpenEventStream {
    streams: Arc<EventStreams>,
    member: u64,
    ended: CancellationToken,
}

impl EventStreams {
    /// Registers a stream. Its token is cancelled when its login ends.
    pub(crate) fn open(
        self: Arc<Self>,
        member: u64,
        login: Option<&Arc<Login>>,
    ) -> OpenEventStream {
        let ended = CancellationToken::new();
        if let Some(login) = login {
            let entry = Entry {
                login: login.clone(),
                ended: ended.clone(),
            };
            self.lock().insert(member, entry);
        }
        self.open.fetch_add(1, Ordering::Relaxed);
        gauge!("oneport_event_streams").increment(1.0);
        OpenEventStream {
            streams: self,
            member,
            ended,
        }
    }

    /// Returns the logins of all streams.
    pub(crate) fn logins(&self) -> HashSet<Arc<Login>> {
        let of_logins = self.lock();
        of_logins
            .values()
            .map(|entry| entry.login.clone())
            .collect()
    }

    /// Ends the streams whose login is over.
    pub(crate) fn end(&self, is_over: impl Fn(&Login) -> bool) {
        for entry in self.lock().values().filter(|entry| is_over(&entry.login)) {
            entry.ended.cancel();
        }
    }

    /// Returns how many are open.
    pub(crate) fn len(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// Begins the drain: each stream ends at its [`Turn`]. Only the first call counts.
    pub(crate) fn drain(&self, pace: Pace) {
        let _ = self.draining.set(Draining {
            pace,
            batch: pace.batch_of(self.len()),
            asked: AtomicUsize::new(0),
        });
    }

    /// Returns the pace of the drain, once it has begun.
    pub(crate) fn draining(&self) -> Option<&Pace> {
        self.draining.get().map(|draining| &draining.pace)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Entry>> {
        self.of_logins.lock()
    }
}

impl OpenEventStream {
    /// Returns the next turn of a drain that has begun.
    pub(crate) fn turn(&self) -> Turn {
        let Some(Draining { pace, batch, asked }) = self.streams.draining.get() else {
            return Turn {
                after: Duration::ZERO,
                retry: None,
            };
        };
        let number = asked.fetch_add(1, Ordering::Relaxed);
        // Browsers add no jitter of their own.
        let jitter = Duration::from_millis(fastrand::u64(..1_000));
        let after = pace.turn_of(number / batch);
        let seconds = pace.seconds_from(Instant::now() + after, number);
        Turn {
            after,
            retry: seconds.map(|seconds| Duration::from_secs(seconds) + jitter),
        }
    }

    /// Returns the token that is cancelled when the login ends.
    pub(crate) fn ended(&self) -> CancellationToken {
        self.ended.clone()
    }
}

impl Drop for OpenEventStream {
    fn drop(&mut self) {
        self.streams.lock().remove(&self.member);
        self.streams.open.fetch_sub(1, Ordering::Relaxed);
        gauge!("oneport_event_streams").decrement(1.0);
    }
}

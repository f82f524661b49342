//! EventStreams: the open event streams of this process, with their logins.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use metrics::gauge;
use parking_lot::{Mutex, MutexGuard};
use tokio_util::sync::CancellationToken;

use crate::auth::Login;

/// The open event streams, by member number; one value per server (`Services::shared`). An entry
/// lives as long as its response body, so the map is bounded by the requests in flight.
#[derive(Debug, Default)]
pub(crate) struct EventStreams {
    /// The streams with a login. An anonymous stream has no login that could end.
    of_logins: Mutex<HashMap<u64, Entry>>,
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

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Entry>> {
        self.of_logins.lock()
    }
}

impl OpenEventStream {
    /// Returns the token that is cancelled when the login ends.
    pub(crate) fn ended(&self) -> CancellationToken {
        self.ended.clone()
    }
}

impl Drop for OpenEventStream {
    fn drop(&mut self) {
        self.streams.lock().remove(&self.member);
        gauge!("oneport_event_streams").decrement(1.0);
    }
}

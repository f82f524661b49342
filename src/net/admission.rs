//! Admission: the limits on connections, in total and per client: how many are open, and how many
//! are new.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use arc_swap::ArcSwapOption;
use metrics::counter;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::client_limit::{ClientLimit, ClientPermit};
use super::connection_end::ConnectionCause;
use super::connection_rate::ConnectionRate;
use super::descriptors;
use crate::rate_limiter::Quota;
use crate::telemetry::LogThrottle;

/// The most refused connections answered at once.
const ANSWERS_MAX: usize = 256;

/// Counts connections against `server.limits`.
#[derive(Clone)]
pub(crate) struct Admission(Arc<Inner>);

struct Inner {
    connections_max: AtomicUsize,
    /// The key of the limit, for the log.
    key: &'static str,
    /// Whether the limit of open files is lower than the key.
    is_bound_by_files: AtomicBool,
    open: AtomicUsize,
    clients: ClientLimit,
    refused: LogThrottle,
    paused: LogThrottle,
    /// The rate of all listeners; `None`: no limit.
    rate: ArcSwapOption<ConnectionRate>,
    /// The answers to connections that are refused: at most half of the descriptors that are
    /// reserved for everything but connections.
    answers: Arc<Semaphore>,
}

/// One admitted connection. Dropping it makes room for another.
pub(crate) struct ConnectionPermit {
    admission: Admission,
    _client: Option<ClientPermit>,
}

impl Admission {
    /// Allows `wanted` connections, or fewer if the limit of open files is lower: each connection
    /// needs a descriptor.
    pub(crate) fn new(wanted: usize, clients: ClientLimit) -> Self {
        let admission = Self::bounded(wanted, "server.limits.connections", clients);
        admission.set_limit(wanted);
        admission
    }

    /// Allows `wanted` connections from now on. Those that are open stay.
    pub(crate) fn set_limit(&self, wanted: usize) {
        let files = descriptors::limit();
        let possible = descriptors::connections_max(files);
        if possible < wanted {
            tracing::warn!(
                files,
                connections = possible,
                "server.limits.connections is {wanted}, but the process may open only {files} files: further connections get 503. Raise the limit of open files (ulimit -n, LimitNOFILE=)"
            );
        } else {
            tracing::info!(files, connections = wanted, "limit of open files");
        }
        let inner = &self.0;
        inner
            .connections_max
            .store(wanted.min(possible), Ordering::Relaxed);
        inner
            .is_bound_by_files
            .store(possible < wanted, Ordering::Relaxed);
    }

    /// Allows `connections_max` connections, apart from those of the other listeners. `key` is the
    /// key that they belong to.
    pub(crate) fn apart(connections_max: usize, key: &'static str) -> Self {
        Self::bounded(connections_max, key, ClientLimit::new(connections_max))
    }

    fn bounded(connections_max: usize, key: &'static str, clients: ClientLimit) -> Self {
        let answers_max = ANSWERS_MAX.min(descriptors::share(descriptors::limit()) / 2);
        Self(Arc::new(Inner {
            connections_max: AtomicUsize::new(connections_max),
            key,
            is_bound_by_files: AtomicBool::new(false),
            open: AtomicUsize::new(0),
            clients,
            refused: LogThrottle::new(),
            paused: LogThrottle::new(),
            rate: ArcSwapOption::empty(),
            answers: Arc::new(Semaphore::new(answers_max)),
        }))
    }

    /// Accepts connections at this rate from now on; `None` is no limit.
    pub(crate) fn set_rate(&self, rate: Option<Quota>) {
        let running = self.0.rate.load();
        if running.as_ref().map(|rate| rate.quota()) != rate {
            self.0
                .rate
                .store(rate.map(ConnectionRate::new).map(Arc::new));
        }
    }

    /// Returns the limits per client.
    pub(crate) fn clients(&self) -> &ClientLimit {
        &self.0.clients
    }

    /// Waits until the rate allows another connection. Cancel-safe.
    pub(super) async fn ready(&self) {
        let mut has_paused = false;
        // The rate is looked up again after each wait: a reload may have changed it.
        loop {
            let Some(rate) = self.0.rate.load_full() else {
                return;
            };
            let given_back = rate.given_back();
            let Some(wait) = rate.wait() else { return };
            if !has_paused {
                has_paused = true;
                self.log_pause();
            }
            let _ = tokio::time::timeout(wait, given_back).await;
        }
    }

    fn log_pause(&self) {
        counter!("oneport_accept_pauses_total").increment(1);
        if let Some(times) = self.0.paused.count() {
            tracing::warn!(
                times,
                "server.limits.connection_rate reached: new connections wait to be accepted"
            );
        }
    }

    /// Counts a new connection against the rate. One that a limit of its client refuses does not
    /// count: that client would use up the rate of all.
    pub(super) fn count(&self) {
        if let Some(rate) = &*self.0.rate.load() {
            rate.count();
        }
    }

    /// Takes back what `count` has counted.
    fn give_back(&self) {
        if let Some(rate) = &*self.0.rate.load() {
            rate.give_back();
        }
    }

    /// Admits a connection, or returns the limit that it is over. Pass no `ip` for a connection
    /// without a limit per client: on a unix socket, from a trusted proxy, or a WebSocket over
    /// HTTP/2, which the gateway counts.
    pub(crate) fn admit(&self, ip: Option<IpAddr>) -> Result<ConnectionPermit, ConnectionCause> {
        let before = self.0.open.fetch_add(1, Ordering::Relaxed);
        // Created before the check: at a limit, dropping it reverts the count.
        let mut admitted = ConnectionPermit {
            admission: self.clone(),
            _client: None,
        };
        if before >= self.0.connections_max.load(Ordering::Relaxed) {
            self.log_refused();
            return Err(ConnectionCause::Connections);
        }
        if let Some(ip) = ip {
            admitted._client = Some(self.0.clients.try_connect(ip)?);
        }
        Ok(admitted)
    }

    /// Permits the answer to a refused connection, which does not count as open; `None` if too many
    /// are being answered.
    pub(super) fn answer(&self) -> Option<OwnedSemaphorePermit> {
        self.0.answers.clone().try_acquire_owned().ok()
    }

    /// Returns how many connections are open.
    pub(crate) fn open(&self) -> usize {
        self.0.open.load(Ordering::Relaxed)
    }

    fn log_refused(&self) {
        counter!("oneport_connections_refused_total", "reason" => "connections").increment(1);
        if let Some(times) = self.0.refused.count() {
            let (bound_by, limit) = self.limit();
            tracing::warn!(limit, times, "{bound_by} reached: connections get 503");
        }
    }

    /// Returns how many connections may be open, and what bounds them.
    pub(crate) fn limit(&self) -> (&'static str, usize) {
        let bound_by = match self.0.is_bound_by_files.load(Ordering::Relaxed) {
            true => "the limit of open files",
            false => self.0.key,
        };
        (bound_by, self.0.connections_max.load(Ordering::Relaxed))
    }
}

impl ConnectionPermit {
    /// Counts the connection against the limits of a client that a proxy has named, or returns the
    /// one that it is over. Then it does not count against the rate of all either.
    pub(crate) fn count_client(&mut self, ip: IpAddr) -> Result<(), ConnectionCause> {
        match self.admission.0.clients.try_connect(ip) {
            Ok(client) => {
                self._client = Some(client);
                Ok(())
            }
            Err(cause) => {
                self.admission.give_back();
                Err(cause)
            }
        }
    }

    /// Makes room for another connection, and permits the answer to this one, which is refused;
    /// `None` if too many are being answered.
    pub(crate) fn into_answer(self) -> Option<OwnedSemaphorePermit> {
        self.admission.answer()
    }
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        self.admission.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(admission: &Admission, ip: Option<IpAddr>) -> Option<ConnectionCause> {
        admission.admit(ip).err()
    }

    #[test]
    fn limits_hold_until_a_connection_is_dropped() {
        let admission = Admission::bounded(3, "connections", ClientLimit::new(2));
        let (here, there) = ([127, 0, 0, 1].into(), [127, 0, 0, 2].into());
        let first = admission.admit(Some(here)).unwrap();
        let _second = admission.admit(Some(here)).unwrap();
        assert_eq!(
            refusal(&admission, Some(here)),
            Some(ConnectionCause::ConnectionsPerIp)
        );
        let _third = admission.admit(Some(there)).unwrap();
        assert_eq!(
            refusal(&admission, Some(there)),
            Some(ConnectionCause::Connections)
        );
        assert_eq!(
            refusal(&admission, None),
            Some(ConnectionCause::Connections)
        );
        drop(first);
        assert!(admission.admit(Some(here)).is_ok());
        assert_eq!(admission.0.open.load(Ordering::Relaxed), 2);
        admission.0.clients.set_limit(3);
        let third = admission.admit(Some(there)).unwrap();
        admission.set_limit(2);
        assert_eq!(
            refusal(&admission, None),
            Some(ConnectionCause::Connections)
        );
        drop(third);
        assert_eq!(
            refusal(&admission, None),
            Some(ConnectionCause::Connections)
        );
        admission.set_limit(3);
        assert!(admission.admit(None).is_ok());
    }

    #[test]
    fn answers_to_refused_connections_are_bounded_and_take_no_place() {
        let admission = Admission::bounded(1, "connections", ClientLimit::new(1));
        let mut answers = Vec::new();
        while let Some(answer) = admission.admit(None).unwrap().into_answer() {
            answers.push(answer);
            assert!(answers.len() <= ANSWERS_MAX);
        }
        assert!(!answers.is_empty());
        assert!(admission.answer().is_none());
        assert_eq!(admission.open(), 0);
        answers.pop();
        assert!(admission.answer().is_some());
    }
}

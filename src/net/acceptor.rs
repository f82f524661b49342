//! Acceptor: accepts the connections of one listener, and admits, refuses or drops each.
//!
//! ```text
//! the rate allows one ──> accept
//! accept ──> Admission ──> admitted: a task runs Serve::serve, which holds the permit to its end
//!    │           └───────> over a limit: refused, answered with Serve::OVERLOADED
//!    │                        └── too many of those at once: dropped without an answer
//!    ├── error of the listener (EMFILE, ENFILE, ENOMEM): logged, next try after ACCEPT_PAUSE
//!    └── closing: what has arrived is accepted, then the listener is closed
//! ```

use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use futures_util::FutureExt;
use metrics::counter;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_util::sync::CancellationToken;

use super::admission::{Admission, ConnectionPermit};
use super::bind::BACKLOG_MAX;
use super::connection_end::ConnectionCause;
use super::listener::{Connection, Listener};
use super::peek::FirstByte;
use super::stream::Stream;
use crate::tasks::Tasks;
use crate::telemetry::LogThrottle;

/// How long accepting pauses after an error of the listener, such as too many open files, or after
/// a panic.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// How long a refused connection may take to read the answer.
const REFUSED_DEADLINE: Duration = Duration::from_secs(1);

/// After how many connections an acceptor that closes lets other tasks run.
const CLOSING_BATCH: i32 = 64;

/// The most reads of a refused connection, a KiB each.
const REFUSED_READS_MAX: usize = 64;

/// Serves the connections that an [`Acceptor`] admits.
pub(crate) trait Serve: Send + Sync + 'static {
    /// The bytes that a refused connection is answered with.
    const OVERLOADED: &'static [u8];

    /// Returns whether connections may begin with TLS. Those that do are refused without an answer.
    fn speaks_tls(&self) -> bool;

    /// Returns the address that counts against the limit per client; `None` exempts the connection
    /// from it.
    fn counted_ip(&self, peer: Option<SocketAddr>) -> Option<IpAddr>;

    /// Learns that a connection was refused.
    fn refused(&self, _peer: Option<SocketAddr>, _cause: ConnectionCause) {}

    /// Serves a connection to its end, in its own task. Dropping `permit` makes room for another
    /// connection.
    fn serve(
        self: Arc<Self>,
        connection: Connection,
        permit: ConnectionPermit,
    ) -> impl Future<Output = ()> + Send + 'static;
}

/// Accepts on one listener.
pub(crate) struct Acceptor<S> {
    listener: Arc<Listener>,
    /// The service of new connections.
    service: Arc<ArcSwap<S>>,
    admission: Admission,
    tasks: Tasks,
}

impl<S: Serve> Acceptor<S> {
    pub(crate) fn new(
        listener: Arc<Listener>,
        service: Arc<ArcSwap<S>>,
        admission: Admission,
        tasks: Tasks,
    ) -> Self {
        Self {
            listener,
            service,
            admission,
            tasks,
        }
    }

    /// Accepts until `closing` is cancelled or the future is dropped. Cancelled, it still accepts the
    /// connections that the kernel has queued: closing the listener resets those. A panic costs at
    /// most one connection.
    pub(crate) async fn run(self, closing: CancellationToken) {
        tokio::select! {
            () = self.accept_all() => {}
            () = closing.cancelled() => {}
        }
        let accepting = AssertUnwindSafe(self.accept_arrived());
        if accepting.catch_unwind().await.is_err() {
            counter!("oneport_panics_total").increment(1);
        }
    }

    async fn accept_all(&self) {
        loop {
            let accepting = AssertUnwindSafe(self.accept());
            if accepting.catch_unwind().await.is_err() {
                counter!("oneport_panics_total").increment(1);
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }

    /// Accepts the connections that have arrived, at most as many as the kernel queues.
    async fn accept_arrived(&self) {
        for count in 1..=i32::from(BACKLOG_MAX) {
            match self.listener.try_accept() {
                Ok(Some(connection)) => {
                    counter!("oneport_connections_accepted_total").increment(1);
                    self.admit(connection);
                }
                Err(error) if is_connection_error(&error) => {}
                Ok(None) | Err(_) => return,
            }
            if count % CLOSING_BATCH == 0 {
                tokio::task::yield_now().await;
            }
        }
    }

    async fn accept(&self) {
        let accepted = counter!("oneport_connections_accepted_total");
        let failures = LogThrottle::new();
        loop {
            self.admission.ready().await;
            match self.listener.accept().await {
                Ok(connection) => {
                    accepted.increment(1);
                    self.admit(connection);
                }
                Err(error) if is_connection_error(&error) => {}
                Err(error) => {
                    if let Some(times) = failures.count() {
                        tracing::error!(%error, times, listener = %self.listener, "connections cannot be accepted; trying again");
                    }
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    /// Never waits: a slow client must not delay the next one.
    fn admit(&self, connection: Connection) {
        let peer = connection.peer;
        let service = self.service.load_full();
        match self.admission.admit(service.counted_ip(peer)) {
            Ok(permit) => {
                self.admission.count();
                self.tasks
                    .spawn("connection", service.serve(connection, permit));
            }
            Err(cause) => {
                if cause == ConnectionCause::Connections {
                    self.admission.count();
                }
                let shown = peer.map(tracing::field::display);
                tracing::debug!(peer = shown, "connection refused");
                service.refused(peer, cause);
                self.refuse(&*service, connection.stream, peer);
            }
        }
    }

    fn refuse(&self, service: &S, mut stream: Stream, peer: Option<SocketAddr>) {
        if let Some(permit) = self.admission.answer() {
            let speaks_tls = service.speaks_tls();
            // A proxy's connection is not counted for it. Its header is not the first byte of TLS.
            let may_announce = speaks_tls && service.counted_ip(peer).is_none();
            self.tasks.spawn("refused connection", async move {
                let _permit = permit;
                let refusing = async {
                    if !may_announce || stream.read_proxy_header().await.is_ok() {
                        refuse(stream, S::OVERLOADED, speaks_tls).await;
                    }
                };
                let _ = tokio::time::timeout(REFUSED_DEADLINE, refusing).await;
            });
        }
    }
}

/// Sends a short answer, and waits up to a second until the client has read it. A client of TLS
/// could not read it: its connection is closed.
pub(crate) async fn refuse(stream: Stream, answer: &[u8], speaks_tls: bool) {
    let refusing = async {
        if !speaks_tls || stream.first_byte().await == FirstByte::Other {
            send(stream, answer).await;
        }
    };
    let _ = tokio::time::timeout(REFUSED_DEADLINE, refusing).await;
}

/// Sends a short answer, closes our side, and reads until the client closes its own. Closing a
/// socket with unread bytes would reset the connection, and a reset can destroy the answer before
/// the client has read it.
async fn send(mut stream: Stream, answer: &[u8]) {
    let mut scratch = [0; 1024];
    if stream.write_all(answer).await.is_err() || stream.shutdown().await.is_err() {
        return;
    }
    for _ in 0..REFUSED_READS_MAX {
        if !matches!(stream.read(&mut scratch).await, Ok(1..)) {
            return;
        }
    }
}

/// Returns whether `accept` failed because of one connection, not because of the listener.
fn is_connection_error(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
    )
}

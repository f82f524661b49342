//! Hyper tasks: owns each task that hyper starts, and can end those of HTTP/2 streams.
//!
//! hyper starts two kinds of tasks for an HTTP/2 connection:
//!
//! - one for each request, whose response body may wait for window. [`resettable`] resets it. A
//!   request that has its response needs no task: it waits until hyper has taken all requests that
//!   have arrived, and [`HyperTasks::poll_done`] polls it in the connection's task, so that the
//!   responses to all of them leave in one write.
//! - one for each accepted extended CONNECT (RFC 8441), which writes the WebSocket's bytes. If the
//!   client gives no window, the task would wait forever and keep its stream and bytes after the
//!   WebSocket has ended.
//!
//! hyper passes both to [`Executor::execute`] without distinguishing them, so the second kind is
//! recognised by its type name. The test at the end fails if a new version of hyper renames the
//! type.

use std::any::type_name;
use std::cell::{Cell, RefCell};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Waker};

use hyper::rt::Executor;
use tokio_util::sync::CancellationToken;

use super::stall_timeout::{BodyPolled, poll_stream, resettable};
use crate::clock::{Clock, Millis};
use crate::tasks::Tasks;

/// hyper's type of the task that writes the bytes of an upgraded HTTP/2 stream
/// (`hyper::proto::h2::upgrade`).
const UPGRADE_WRITER: &str = "UpgradedSendStreamTask";

thread_local! {
    /// The reset of the WebSocket that was just accepted. hyper starts the writer in the poll that
    /// returns the response, so no other request comes in between.
    static NEXT_WRITER: Cell<Option<CancellationToken>> = const { Cell::new(None) };
    /// Whether the request that hyper starts next has its response. hyper starts it right after it
    /// has called the service.
    static NEXT_IS_DONE: Cell<bool> = const { Cell::new(false) };
    /// The requests that have their responses, of the connection whose task is being polled.
    static DONE: RefCell<Vec<Stream>> = const { RefCell::new(Vec::new()) };
}

/// hyper's task of a request.
type Stream = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Runs hyper's tasks as tasks of the server. hyper clones it for each stream.
#[derive(Clone)]
pub(super) struct HyperTasks(Arc<Inner>);

struct Inner {
    tasks: Tasks,
    clock: Clock,
    /// How long a response may wait for window.
    write: Millis,
}

impl HyperTasks {
    pub(super) fn new(tasks: Tasks, clock: Clock, write: Millis) -> Self {
        Self(Arc::new(Inner {
            tasks,
            clock,
            write,
        }))
    }

    /// Polls the requests that have their responses, which wakes the connection's task to send
    /// them. Called after each poll of a connection, in its task.
    pub(super) fn poll_done(&self) {
        if DONE.with_borrow(Vec::is_empty) {
            return;
        }
        let mut done = DONE.take();
        for mut stream in done.drain(..) {
            // A stream that has to wait is polled again by its task, with a waker of its own.
            let mut cx = Context::from_waker(Waker::noop());
            let (polled, body) = poll_stream(|| stream.as_mut().poll(&mut cx));
            if polled.is_pending() {
                self.spawn(stream, body);
            }
        }
        DONE.set(done); // keeps its memory
    }

    fn spawn(&self, stream: impl Future<Output = ()> + Send + 'static, body: Option<BodyPolled>) {
        let Inner {
            tasks,
            clock,
            write,
        } = &*self.0;
        let stream = resettable(stream, clock.clone(), *write, body);
        tasks.spawn("http/2 stream", stream);
    }
}

/// Makes the request that hyper starts next on this thread wait for [`HyperTasks::poll_done`]. Must
/// be the last call before its future is returned to hyper.
pub(super) fn next_is_done() {
    NEXT_IS_DONE.set(true);
}

/// Makes cancelling `reset` end the writer that hyper starts next on this thread. Must be the last
/// call before an upgrade's response is returned to hyper.
pub(super) fn end_writer_with(reset: CancellationToken) {
    NEXT_WRITER.set(Some(reset));
}

impl<F> Executor<F> for HyperTasks
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, future: F) {
        if let Some(reset) = NEXT_WRITER.take().filter(|_| is_upgrade_writer::<F>()) {
            let tasks = &self.0.tasks;
            tasks.spawn("http/2 websocket's writer", async move {
                tokio::select! {
                    () = future => {}
                    () = reset.cancelled() => {} // dropping the writer resets the stream
                }
            });
        } else if NEXT_IS_DONE.take() {
            DONE.with_borrow_mut(|done| done.push(Box::pin(future)));
        } else {
            self.spawn(future, None);
        }
    }
}

fn is_upgrade_writer<F>() -> bool {
    type_name::<F>().contains(UPGRADE_WRITER)
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::time::Duration;

    use bytes::Bytes;
    use http_body_util::Empty;
    use hyper::service::service_fn;
    use hyper_util::rt::TokioIo;
    use parking_lot::Mutex;

    use super::*;

    /// Runs hyper's tasks and records the names of their types.
    #[derive(Clone, Default)]
    struct Recorder(Arc<Mutex<Vec<(&'static str, bool)>>>, Tasks);

    impl<F: Future<Output = ()> + Send + 'static> Executor<F> for Recorder {
        fn execute(&self, future: F) {
            self.0
                .lock()
                .push((type_name::<F>(), is_upgrade_writer::<F>()));
            self.1.spawn("recorded", future);
        }
    }

    /// Detects a new version of hyper that renames this private type.
    #[tokio::test]
    async fn hyper_starts_one_recognizable_writer_for_an_extended_connect() {
        let recorder = Recorder::default();
        let tasks = recorder.1.clone();
        let (client, server) = tokio::io::duplex(64 << 10);
        let service = service_fn(async |mut request| {
            let upgraded = hyper::upgrade::on(&mut request);
            drop(upgraded);
            Ok::<_, Infallible>(http::Response::new(Empty::<Bytes>::new()))
        });
        let mut builder = hyper::server::conn::http2::Builder::new(recorder.clone());
        builder.enable_connect_protocol();
        let serving = builder.serve_connection(TokioIo::new(server), service);
        let asking = async {
            let (mut client, connection) = h2::client::handshake(client).await.unwrap();
            tasks.spawn("client", async move { drop(connection.await) });
            // The server's settings, which allow extended CONNECT, come before its first response.
            let plain = http::Request::get("http://localhost/").body(()).unwrap();
            let (response, _) = client.send_request(plain, true).unwrap();
            response.await.unwrap();
            let connect = http::Request::connect("http://localhost/")
                .extension(h2::ext::Protocol::from_static("websocket"))
                .body(())
                .unwrap();
            let (response, _stream) = client.send_request(connect, false).unwrap();
            response.await.unwrap();
        };
        let both = async {
            tokio::select! {
                ended = serving => panic!("the connection ended: {ended:?}"),
                () = asking => {}
            }
        };
        tokio::time::timeout(Duration::from_secs(10), both)
            .await
            .unwrap();
        let started = recorder.0.lock().clone();
        let writers = started.iter().filter(|(_, is_writer)| *is_writer).count();
        assert_eq!(
            writers, 1,
            "hyper no longer names the writer of an upgraded HTTP/2 stream {UPGRADE_WRITER}, so a WebSocket over HTTP/2 whose \
             client gives no window would never be reset. Look at the `upgrade` module of hyper's HTTP/2 and change \
             UPGRADE_WRITER in src/server/hyper_tasks.rs. The tasks that hyper started: {started:#?}"
        );
    }
}

//! Tests of HTTP/2 against servers of the h2 crate, and against one that writes frames by hand.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use h2::{Reason, server};
use http::{HeaderMap, Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use super::connection::{PING_INTERVAL, SETTLE_TIMEOUT};
use super::exchange::CLOSED_WITHIN;
use crate::client::{
    Address, BoxError, Client, ClientError, ClientSettings, Permit, Protocol, RequestBody,
    ResponseBody, on_informational,
};
use crate::clock::Clock;
use crate::tasks::Tasks;

const DEADLINE: Duration = Duration::from_secs(20);

/// A body that no window takes as a whole.
const BIG: usize = 50 << 20;

/// A server over HTTP/2 without TLS, until it is dropped.
struct Peer {
    port: u16,
    connections: Arc<AtomicUsize>,
    seen: Arc<Seen>,
    _task: JoinSet<()>,
}

/// What the requests of a peer have in common.
#[derive(Default)]
struct Seen {
    requests: AtomicUsize,
    resets: Mutex<Vec<Reason>>,
    /// Lets the requests to `/hold` be answered.
    release: Notify,
}

impl Peer {
    /// Starts a server whose connections allow so many streams.
    async fn start(streams_max: u32) -> Self {
        Self::with(move |stream, seen, _| serve(stream, streams_max, seen)).await
    }

    /// Starts a server that serves each connection, by its number, in this way.
    async fn with<F>(serve: impl Fn(TcpStream, Arc<Seen>, usize) -> F + Send + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (connections, seen) = (Arc::new(AtomicUsize::new(0)), Arc::new(Seen::default()));
        let mut task = JoinSet::new();
        let (accepted, shared) = (connections.clone(), seen.clone());
        task.spawn(async move {
            let mut serving = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let number = accepted.fetch_add(1, Ordering::SeqCst);
                serving.spawn(serve(stream, shared.clone(), number));
            }
        });
        Self {
            port,
            connections,
            seen,
            _task: task,
        }
    }

    fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    fn requests(&self) -> usize {
        self.seen.requests.load(Ordering::SeqCst)
    }

    fn client(&self, settings: ClientSettings) -> Test {
        let address = Address::Tcp {
            host: "127.0.0.1".to_owned(),
            port: self.port,
        };
        let settings = ClientSettings {
            protocol: Protocol::Http2,
            response_bytes_max: u64::MAX,
            concurrency: 1000,
            ..settings
        };
        let client = Client::new(&address, settings);
        let tasks = Tasks::default();
        client.attach(&tasks, &Clock::default());
        Test { client, tasks }
    }
}

/// A client, and its tasks.
struct Test {
    client: Client,
    tasks: Tasks,
}

impl Test {
    async fn send(
        &self,
        request: Request<RequestBody>,
    ) -> Result<Response<ResponseBody>, ClientError> {
        let permit: Permit = self.client.acquire().await?;
        let response = timeout(DEADLINE, permit.send(request)).await;
        let response = response.expect("the head in time")?;
        Ok(response.map(|body| body.hold(permit)))
    }

    async fn exchange(&self, request: Request<RequestBody>) -> Result<String, ClientError> {
        let body = self.send(request).await?.into_body();
        let body = timeout(DEADLINE, body.collect()).await;
        let body = body.expect("the body in time")?;
        Ok(String::from_utf8(body.to_bytes().to_vec()).unwrap())
    }

    async fn get(&self, path: &str) -> Result<String, ClientError> {
        self.exchange(get(path)).await
    }
}

fn get(path: &str) -> Request<RequestBody> {
    let request = Request::get(path).header("host", "app.test");
    request.body(RequestBody::empty()).unwrap()
}

fn post(path: &str, body: RequestBody) -> Request<RequestBody> {
    let request = Request::post(path).header("host", "app.test");
    request.body(body).unwrap()
}

/// A body whose parts the test sends.
fn streamed() -> (mpsc::UnboundedSender<Frame<Bytes>>, RequestBody) {
    let (sender, mut parts) = mpsc::unbounded_channel();
    let parts = futures_util::stream::poll_fn(move |cx| {
        parts.poll_recv(cx).map(|part| part.map(Ok::<_, BoxError>))
    });
    (sender, RequestBody::stream(StreamBody::new(parts)))
}

async fn until(condition: impl Fn() -> bool) {
    let waited = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(DEADLINE, waited)
        .await
        .expect("the condition holds in time");
}

async fn serve(stream: TcpStream, streams_max: u32, seen: Arc<Seen>) {
    let mut builder = server::Builder::new();
    builder.max_concurrent_streams(streams_max);
    let Ok(mut connection) = builder.handshake::<_, Bytes>(stream).await else {
        return;
    };
    let mut tasks = JoinSet::new();
    while let Some(Ok((request, respond))) = connection.accept().await {
        seen.requests.fetch_add(1, Ordering::SeqCst);
        tasks.spawn(answer(request, respond, seen.clone()));
    }
}

async fn answer(
    request: Request<h2::RecvStream>,
    mut respond: server::SendResponse<Bytes>,
    seen: Arc<Seen>,
) {
    let (head, mut body) = request.into_parts();
    let mut response = Response::new(());
    match head.uri.path() {
        "/big" => {
            let Ok(mut stream) = respond.send_response(response, false) else {
                return;
            };
            let mut left = BIG;
            while left > 0 {
                stream.reserve_capacity(left.min(16_384));
                let capacity = std::future::poll_fn(|cx| stream.poll_capacity(cx)).await;
                let Some(Ok(capacity)) = capacity else { return };
                let part = Bytes::from(vec![0; capacity.min(left)]);
                left -= part.len();
                if stream.send_data(part, left == 0).is_err() {
                    return;
                }
            }
        }
        "/hold" => {
            let reset = std::future::poll_fn(|cx| respond.poll_reset(cx));
            tokio::select! {
                () = seen.release.notified() => {
                    let mut stream = respond.send_response(response, false).unwrap();
                    let _ = stream.send_data("held".into(), true);
                }
                reset = reset => seen.resets.lock().extend(reset),
            }
        }
        path @ ("/cut/cancel" | "/cut/no-error" | "/cut/internal") => {
            let mut stream = respond.send_response(response, false).unwrap();
            let _ = stream.send_data("half of".into(), false);
            // The half has to be on the wire before the reset, which discards what is queued.
            while stream.capacity() == 0 {
                stream.reserve_capacity(1);
                let _ = std::future::poll_fn(|cx| stream.poll_capacity(cx)).await;
            }
            tokio::task::yield_now().await;
            stream.send_reset(match path {
                "/cut/cancel" => Reason::CANCEL,
                "/cut/no-error" => Reason::NO_ERROR,
                _ => Reason::INTERNAL_ERROR,
            });
        }
        "/early" => {
            // A whole response, then the reset that asks for no more of the request's body.
            let mut stream = respond.send_response(response, false).unwrap();
            let _ = stream.send_data("whole".into(), true);
            tokio::task::yield_now().await;
            drop(body);
            stream.send_reset(Reason::NO_ERROR);
        }
        "/echo" => {
            let mut read = Vec::new();
            while let Some(Ok(part)) = body.data().await {
                let _ = body.flow_control().release_capacity(part.len());
                read.extend_from_slice(&part);
            }
            let mut sent = HeaderMap::new();
            if let Ok(Some(trailers)) = body.trailers().await {
                sent = trailers;
            }
            *response.headers_mut() = head.headers;
            let mut stream = respond.send_response(response, false).unwrap();
            let _ = stream.send_data(read.into(), false);
            let _ = stream.send_trailers(sent);
        }
        path @ ("/hints" | "/hints/storm") => {
            let count = if path == "/hints" { 1 } else { 1000 };
            for _ in 0..count {
                let mut hints = Response::new(());
                *hints.status_mut() = StatusCode::EARLY_HINTS;
                hints.headers_mut().insert("link", "</a>".parse().unwrap());
                if respond.send_informational(hints).is_err() {
                    return; // the caller has given up
                }
            }
            respond.send_response(response, true).unwrap();
        }
        "/length" => {
            response.headers_mut().insert("content-length", 9.into());
            let mut stream = respond.send_response(response, false).unwrap();
            let _ = stream.send_data("short".into(), true);
        }
        _ => {
            let mut stream = respond.send_response(response, false).unwrap();
            let _ = stream.send_data("hi".into(), true);
        }
    }
}

#[tokio::test]
async fn a_body_that_is_not_read_stalls_no_other_request() {
    let peer = Peer::start(100).await;
    let client = peer.client(ClientSettings::default());
    let mut unread = Vec::new();
    for _ in 0..20 {
        let mut body = client.send(get("/big")).await.unwrap().into_body();
        assert!(body.frame().await.unwrap().is_ok());
        unread.push(body);
    }
    for _ in 0..20 {
        assert_eq!(client.get("/").await.unwrap(), "hi");
    }
    assert_eq!(peer.connections(), 1);
    let rest = timeout(DEADLINE, unread.pop().unwrap().collect()).await;
    assert!(rest.unwrap().unwrap().to_bytes().len() > BIG / 2);
}

#[tokio::test]
async fn a_full_connection_is_joined_by_another_one() {
    let peer = Peer::start(2).await;
    let client = peer.client(ClientSettings::default());
    let held = join_all((0..20).map(|_| client.get("/hold")));
    let release = async {
        until(|| peer.requests() == 20).await;
        peer.seen.release.notify_waiters();
    };
    let (held, ()) = tokio::join!(held, release);
    for answer in held {
        assert_eq!(answer.unwrap(), "held");
    }
    assert!(peer.connections() >= 10, "{}", peer.connections());
    let before = peer.connections();
    assert_eq!(client.get("/").await.unwrap(), "hi");
    assert_eq!(peer.connections(), before, "they have room again");
}

#[tokio::test]
async fn the_endpoints_limit_lasts_as_long_as_the_connection() {
    for (streams_max, connections) in [(2, 10), (100, 1)] {
        let peer = Peer::start(streams_max).await;
        let client = peer.client(ClientSettings::default());
        assert_eq!(client.get("/").await.unwrap(), "hi");
        // Longer than an endpoint may take to tell its limit.
        tokio::time::sleep(SETTLE_TIMEOUT + Duration::from_millis(200)).await;
        assert_eq!(client.get("/").await.unwrap(), "hi");
        let held = join_all((0..20).map(|_| client.get("/hold")));
        let release = async {
            until(|| peer.requests() == 22).await;
            peer.seen.release.notify_waiters();
        };
        let (held, ()) = tokio::join!(held, release);
        for answer in held {
            assert_eq!(answer.unwrap(), "held", "{streams_max}");
        }
        assert_eq!(peer.connections(), connections, "{streams_max}");
    }
}

#[tokio::test]
async fn one_connection_is_enough_for_requests_that_begin_together() {
    let peer = Peer::start(100).await;
    let client = peer.client(ClientSettings::default());
    for answer in join_all((0..100).map(|_| client.get("/"))).await {
        assert_eq!(answer.unwrap(), "hi");
    }
    assert_eq!(peer.connections(), 1);
}

#[tokio::test]
async fn a_wait_for_a_place_is_no_failure_of_the_endpoint() {
    let peer = Peer::with(|mut stream, _, _| async move {
        stream.read_exact(&mut [0; 24]).await.unwrap();
        let no_streams = [0, 3, 0, 0, 0, 0]; // SETTINGS_MAX_CONCURRENT_STREAMS
        write_frame(&mut stream, 4, 0, 0, &no_streams).await;
        let _ = stream.read_to_end(&mut Vec::new()).await;
    })
    .await;
    let client = peer.client(ClientSettings {
        head_timeout: Some(Duration::from_millis(50)),
        queue_timeout: Duration::from_millis(300),
        ..ClientSettings::default()
    });
    // The endpoint has this one: it was sent before the settings came.
    let error = client.get("/hold").await.unwrap_err();
    assert!(matches!(error, ClientError::Timeout { .. }), "{error}");
    let began = Instant::now();
    let error = client.get("/hold").await.unwrap_err();
    assert!(matches!(error, ClientError::Busy { .. }), "{error}");
    assert!(!error.is_endpoint_failure() && error.is_unsent());
    assert!(began.elapsed() >= Duration::from_millis(300));
    assert_eq!(peer.connections(), 1);
}

#[tokio::test]
async fn those_who_wait_for_a_connection_that_fails_get_its_error() {
    let peer = Peer::start(1).await; // has a port already when the other one is free again
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    let peer = Peer { port, ..peer };
    let client = peer.client(ClientSettings::default());
    for answer in join_all((0..10).map(|_| client.get("/"))).await {
        let error = answer.unwrap_err();
        assert!(matches!(error, ClientError::Connect { .. }), "{error}");
    }
}

/// Reads the preface and the frames of a client up to a request's head; returns the stream.
async fn read_request(stream: &mut TcpStream) -> Option<u32> {
    loop {
        let mut head = [0; 9];
        stream.read_exact(&mut head).await.ok()?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let mut payload = vec![0; length];
        stream.read_exact(&mut payload).await.ok()?;
        if head[3] == 1 {
            return Some(u32::from_be_bytes([head[5], head[6], head[7], head[8]]));
        }
    }
}

async fn write_frame(stream: &mut TcpStream, kind: u8, flags: u8, id: u32, payload: &[u8]) {
    let mut frame = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(id.to_be_bytes());
    frame.extend(payload);
    stream.write_all(&frame).await.unwrap();
}

async fn accept_http2(stream: &mut TcpStream) {
    stream.read_exact(&mut [0; 24]).await.unwrap();
    write_frame(stream, 4, 0, 0, &[]).await; // SETTINGS
}

/// How the first connection refuses its first request.
#[derive(Clone, Copy)]
enum Refusal {
    GoAway,
    RefusedStream,
}

/// Starts a server whose first connection processes nothing.
async fn refusing(refusal: Refusal) -> Peer {
    Peer::with(move |mut stream, seen, number| async move {
        if number > 0 {
            return serve(stream, 100, seen).await;
        }
        accept_http2(&mut stream).await;
        let Some(id) = read_request(&mut stream).await else {
            return;
        };
        match refusal {
            Refusal::GoAway => write_frame(&mut stream, 7, 0, 0, &[0; 8]).await,
            Refusal::RefusedStream => write_frame(&mut stream, 3, 0, id, &[0, 0, 0, 7]).await,
        }
        // A second one over this connection would get no response.
        let _ = stream.read_to_end(&mut Vec::new()).await;
    })
    .await
}

#[tokio::test]
async fn a_request_that_was_not_processed_is_sent_over_another_connection() {
    for refusal in [Refusal::GoAway, Refusal::RefusedStream] {
        let peer = refusing(refusal).await;
        let client = peer.client(ClientSettings::default());
        assert_eq!(client.get("/").await.unwrap(), "hi");
        assert_eq!(client.get("/").await.unwrap(), "hi");
        assert_eq!((peer.connections(), peer.requests()), (2, 2));

        let peer = refusing(refusal).await;
        let client = peer.client(ClientSettings::default());
        let request = post("/echo", RequestBody::full("whole"));
        assert_eq!(client.exchange(request).await.unwrap(), "whole");

        // A body of which nothing was taken.
        let peer = refusing(refusal).await;
        let client = peer.client(ClientSettings::default());
        let (parts, body) = streamed();
        let late = async {
            until(|| peer.connections() == 2).await;
            parts.send(Frame::data("late".into())).unwrap();
            drop(parts);
        };
        let (answer, ()) = tokio::join!(client.exchange(post("/echo", body)), late);
        assert_eq!(answer.unwrap(), "late");
    }
}

#[tokio::test]
async fn connections_that_go_away_use_up_no_attempt() {
    const LEAVING: usize = 6;
    let peer = Peer::with(|mut stream, seen, number| async move {
        if number >= LEAVING {
            return serve(stream, 100, seen).await;
        }
        stream.read_exact(&mut [0; 24]).await.unwrap();
        write_frame(&mut stream, 4, 0, 0, &[0, 3, 0, 0, 0, 2]).await; // two streams
        let mut ids = Vec::new();
        for _ in 0..3 {
            let id = read_request(&mut stream).await.unwrap();
            ids.push(id);
            if ids.len() == 1 {
                write_frame(&mut stream, 1, 5, id, &[0x88]).await; // :status: 200
            }
            seen.requests.fetch_add(1, Ordering::SeqCst);
        }
        seen.release.notified().await;
        // GOAWAY behind the third request, which goes on; the second one ends.
        let last = ids[2].to_be_bytes();
        write_frame(&mut stream, 7, 0, 0, &[&last[..], &[0; 4]].concat()).await;
        write_frame(&mut stream, 1, 5, ids[1], &[0x88]).await;
        let _ = stream.read_to_end(&mut Vec::new()).await;
    })
    .await;
    let client = Arc::new(peer.client(ClientSettings::default()));
    let mut held = JoinSet::new();
    for number in 0..LEAVING {
        assert_eq!(client.get("/").await.unwrap(), "", "its limit is known now");
        for _ in 0..2 {
            let client = client.clone();
            held.spawn(async move { client.get("/hold").await });
        }
        until(|| peer.requests() == 3 * (number + 1)).await;
    }
    assert_eq!(peer.connections(), LEAVING);
    peer.seen.release.notify_waiters();
    for _ in 0..LEAVING {
        let ended = timeout(DEADLINE, held.join_next()).await.unwrap();
        assert_eq!(ended.unwrap().unwrap().unwrap(), "");
    }
    assert_eq!(client.get("/").await.unwrap(), "hi");
    assert_eq!(peer.connections(), LEAVING + 1);
}

#[tokio::test]
async fn a_request_whose_body_has_begun_is_not_sent_again() {
    let peer = refusing(Refusal::GoAway).await;
    let client = peer.client(ClientSettings::default());
    let (parts, body) = streamed();
    parts.send(Frame::data("part".into())).unwrap();
    let error = client.exchange(post("/echo", body)).await.unwrap_err();
    assert!(matches!(error, ClientError::Connection { .. }), "{error}");
    assert_eq!((peer.connections(), peer.requests()), (1, 0));
    assert_eq!(client.get("/").await.unwrap(), "hi");
}

#[tokio::test]
async fn an_endpoint_that_refuses_everything_is_given_up() {
    let peer = Peer::with(|mut stream, _, _| async move {
        accept_http2(&mut stream).await;
        while let Some(id) = read_request(&mut stream).await {
            write_frame(&mut stream, 3, 0, id, &[0, 0, 0, 7]).await;
        }
    })
    .await;
    let client = peer.client(ClientSettings::default());
    let error = client.get("/").await.unwrap_err();
    assert!(matches!(error, ClientError::Connection { .. }), "{error}");
    assert_eq!(peer.connections(), 4);
}

/// Starts a server whose first connection answers no probe. What it does with its first request is
/// up to the test; afterwards it answers all others with 204.
async fn unanswering<F>(
    first: impl Fn(TcpStream, Arc<Seen>, u32) -> F + Clone + Send + 'static,
) -> Peer
where
    F: Future<Output = TcpStream> + Send + 'static,
{
    Peer::with(move |mut stream, seen, number| {
        let first = first.clone();
        async move {
            if number > 0 {
                return serve(stream, 100, seen).await;
            }
            accept_http2(&mut stream).await;
            let id = read_request(&mut stream).await.unwrap();
            seen.requests.fetch_add(1, Ordering::SeqCst);
            stream = first(stream, seen, id).await;
            while let Some(id) = read_request(&mut stream).await {
                write_frame(&mut stream, 1, 5, id, &[0x89]).await; // :status: 204
            }
        }
    })
    .await
}

#[tokio::test]
async fn a_silent_connection_gets_no_requests_until_it_answers() {
    let peer = unanswering(|mut stream, seen, id| async move {
        seen.release.notified().await;
        write_frame(&mut stream, 1, 5, id, &[0x88]).await; // :status: 200
        stream
    })
    .await;
    let client = peer.client(ClientSettings::default());
    let held = client.get("/hold");
    let others = async {
        until(|| peer.requests() == 1).await;
        tokio::time::sleep(PING_INTERVAL * 3).await;
        assert_eq!(client.get("/").await.unwrap(), "hi");
        assert_eq!(peer.connections(), 2);
        peer.seen.release.notify_waiters();
    };
    let (held, ()) = tokio::join!(held, others);
    assert_eq!(held.unwrap(), "", "a request under way goes on");
    let answered = async {
        while client.get("/").await.unwrap() == "hi" {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(DEADLINE, answered)
        .await
        .expect("it has room again");
    assert_eq!(peer.connections(), 2);
}

#[tokio::test]
async fn whatever_arrives_answers_a_probe() {
    let peer = unanswering(|mut stream, _, id| async move {
        write_frame(&mut stream, 1, 4, id, &[0x88]).await; // :status: 200
        for part in 0..20 {
            tokio::time::sleep(PING_INTERVAL / 4).await;
            write_frame(&mut stream, 0, u8::from(part == 19), id, b"x").await;
        }
        stream
    })
    .await;
    let client = peer.client(ClientSettings::default());
    let mut body = client.send(get("/")).await.unwrap().into_body();
    for _ in 0..16 {
        assert!(body.frame().await.unwrap().is_ok());
    }
    assert_eq!(client.get("/").await.unwrap(), "", "not another connection");
    assert_eq!(peer.connections(), 1);
}

/// How a connection ends on which a request was answered before.
#[derive(Clone, Copy, Debug)]
enum Ending {
    /// At once, with so many requests under way.
    With(usize),
    /// After an interim response.
    AfterHints,
    Late,
}

#[tokio::test]
async fn only_the_end_of_an_idle_connection_is_stale() {
    for (ending, expected) in [
        (Ending::With(1), vec![true]),
        (Ending::With(3), vec![true, false, false]),
        (Ending::AfterHints, vec![false]),
        (Ending::Late, vec![false]),
    ] {
        let peer = Peer::with(move |mut stream, _, _| async move {
            accept_http2(&mut stream).await;
            let id = read_request(&mut stream).await.unwrap();
            write_frame(&mut stream, 1, 5, id, &[0x88]).await; // :status: 200
            let id = read_request(&mut stream).await.unwrap();
            match ending {
                Ending::With(count) => {
                    for _ in 1..count {
                        read_request(&mut stream).await.unwrap();
                    }
                }
                Ending::AfterHints => {
                    let hints = b"\x08\x03103"; // :status: 103
                    write_frame(&mut stream, 1, 4, id, hints).await;
                }
                Ending::Late => {
                    tokio::time::sleep(CLOSED_WITHIN + Duration::from_millis(100)).await;
                }
            }
            let _ = stream.shutdown().await;
            let _ = stream.read_to_end(&mut Vec::new()).await;
        })
        .await;
        let client = peer.client(ClientSettings::default());
        assert_eq!(client.get("/").await.unwrap(), "");
        let failed = join_all(expected.iter().map(|_| async {
            let permit = client.client.acquire().await.unwrap();
            let sent = timeout(DEADLINE, permit.try_send(get("/"), None)).await;
            let failed = sent.unwrap().unwrap_err();
            let error = &failed.error;
            assert!(matches!(error, ClientError::Connection { .. }), "{error}");
            assert!(failed.request.is_none());
            failed.is_stale
        }));
        assert_eq!(failed.await, expected, "{ending:?}");
        assert_eq!(peer.connections(), 1);
    }
}

#[tokio::test]
async fn a_body_that_is_reset_never_looks_complete() {
    let peer = Peer::start(100).await;
    let client = peer.client(ClientSettings::default());
    for path in ["/cut/cancel", "/cut/no-error", "/cut/internal", "/length"] {
        let error = client.get(path).await.unwrap_err();
        assert!(
            matches!(
                error,
                ClientError::Connection { .. } | ClientError::Invalid(_)
            ),
            "{path}: {error}"
        );
    }
    // The end of the connection.
    let peer = Peer::with(|mut stream, _, _| async move {
        accept_http2(&mut stream).await;
        let Some(id) = read_request(&mut stream).await else {
            return;
        };
        write_frame(&mut stream, 1, 4, id, &[0x88]).await; // :status: 200
        write_frame(&mut stream, 0, 0, id, b"half of").await;
        let _ = stream.shutdown().await;
        let _ = stream.read_to_end(&mut Vec::new()).await;
    })
    .await;
    let client = peer.client(ClientSettings::default());
    let error = client.get("/").await.unwrap_err();
    assert!(matches!(error, ClientError::Connection { .. }), "{error}");
}

#[tokio::test]
async fn a_whole_response_before_the_end_of_the_request_is_whole() {
    let peer = Peer::start(100).await;
    let client = peer.client(ClientSettings::default());
    for _ in 0..20 {
        let (parts, body) = streamed();
        parts.send(Frame::data("part".into())).unwrap();
        assert_eq!(
            client.exchange(post("/early", body)).await.unwrap(),
            "whole"
        );
    }
}

#[tokio::test]
async fn fields_bodies_and_trailers_pass() {
    let peer = Peer::start(100).await;
    let client = peer.client(ClientSettings::default());
    let (parts, body) = streamed();
    let mut request = post("/echo?x=1", body);
    for (name, value) in [
        ("te", "trailers"),
        ("connection", "te, x-own"),
        ("x-own", "1"),
        ("keep-alive", "timeout=5"),
        ("x-other", "2"),
    ] {
        let value = value.parse().unwrap();
        request.headers_mut().insert(name, value);
    }
    let send = async {
        let sent = client.send(request).await.unwrap();
        let headers = sent.headers().clone();
        (headers, sent.into_body().collect().await.unwrap())
    };
    let feed = async {
        for _ in 0..100 {
            let part = Bytes::from(vec![b'x'; 10_000]);
            parts.send(Frame::data(part)).unwrap();
            tokio::task::yield_now().await;
        }
        let mut trailers = HeaderMap::new();
        trailers.insert("x-sum", "3".parse().unwrap());
        parts.send(Frame::trailers(trailers)).unwrap();
        drop(parts);
    };
    let ((headers, body), ()) = tokio::join!(send, feed);
    assert_eq!(headers["te"], "trailers");
    assert_eq!(headers["x-other"], "2");
    for gone in ["connection", "keep-alive", "x-own", "host"] {
        assert!(!headers.contains_key(gone), "{gone}");
    }
    assert_eq!(body.trailers().unwrap()["x-sum"], "3");
    assert_eq!(body.to_bytes().len(), 1_000_000);
}

#[tokio::test]
async fn interim_responses_arrive() {
    let peer = Peer::start(100).await;
    let client = peer.client(ClientSettings::default());
    let hints = Arc::new(Mutex::new(Vec::new()));
    let seen = hints.clone();
    let mut request = get("/hints");
    on_informational(&mut request, move |status, fields| {
        seen.lock().push((status, fields["link"].clone()));
    });
    assert_eq!(client.exchange(request).await.unwrap(), "");
    assert_eq!(
        *hints.lock(),
        [(StatusCode::EARLY_HINTS, "</a>".parse().unwrap())]
    );
    let error = client.get("/hints/storm").await.unwrap_err();
    assert!(matches!(error, ClientError::Invalid(_)), "{error}");
    assert_eq!(client.get("/").await.unwrap(), "hi");
}

#[tokio::test]
async fn a_caller_that_leaves_resets_its_stream_only() {
    let peer = Peer::start(100).await;
    let client = peer.client(ClientSettings::default());
    tokio::select! {
        _ = client.get("/hold") => panic!("the server has answered"),
        () = until(|| peer.requests() == 1) => {}
    }
    until(|| *peer.seen.resets.lock() == [Reason::CANCEL]).await;
    assert_eq!(client.get("/").await.unwrap(), "hi");
    assert_eq!(peer.connections(), 1);
}

#[tokio::test]
async fn an_upload_that_stalls_is_the_callers_fault() {
    let peer = Peer::start(100).await;
    let client = peer.client(ClientSettings {
        head_timeout: Some(Duration::from_millis(100)),
        ..ClientSettings::default()
    });
    let (parts, body) = streamed();
    parts.send(Frame::data("part".into())).unwrap();
    let error = client.exchange(post("/echo", body)).await.unwrap_err();
    assert!(
        matches!(error, ClientError::UploadTimeout { .. }),
        "{error}"
    );
    assert!(!error.is_endpoint_failure());
    drop(parts);
}

#[tokio::test]
async fn a_body_that_waits_for_the_endpoint_is_not_the_callers_fault() {
    let peer = Peer::start(100).await;
    let client = peer.client(ClientSettings {
        head_timeout: Some(Duration::from_millis(100)),
        ..ClientSettings::default()
    });
    for is_held in [true, false] {
        let parts = futures_util::stream::pending::<Result<Frame<Bytes>, BoxError>>();
        let held = Arc::new(AtomicBool::new(is_held));
        let body = RequestBody::stream_held(StreamBody::new(parts), held);
        let error = client.exchange(post("/echo", body)).await.unwrap_err();
        let is_timeout = matches!(error, ClientError::Timeout { .. });
        assert_eq!(is_timeout, is_held, "{error}");
        assert_eq!(error.is_endpoint_failure(), is_held);
    }
}

#[tokio::test]
async fn retired_connections_finish_their_requests() {
    let peer = Peer::start(100).await;
    let client = peer.client(ClientSettings::default());
    let held = client.get("/hold");
    let others = async {
        until(|| peer.requests() == 1).await;
        client.client.retire_connections();
        assert_eq!(client.get("/").await.unwrap(), "hi");
        assert_eq!(peer.connections(), 2);
        peer.seen.release.notify_waiters();
    };
    let (held, ()) = tokio::join!(held, others);
    assert_eq!(held.unwrap(), "held");
    // The first connection ends with its last request.
    until(|| client.tasks.alive() == 1).await;
}

#[tokio::test]
async fn the_connections_end_with_the_client() {
    let peer = Peer::start(100).await;
    let Test { client, tasks } = peer.client(ClientSettings::default());
    let test = Test {
        client: client.clone(),
        tasks: tasks.clone(),
    };
    assert_eq!(test.get("/").await.unwrap(), "hi");
    let body = test.send(get("/big")).await.unwrap().into_body();
    assert_eq!(tasks.alive(), 1);
    drop((test, client));
    drop(body);
    until(|| tasks.alive() == 0).await;
}

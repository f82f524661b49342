//! Requests: their end, framing and host, over a live server.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use http::{HeaderName, HeaderValue, StatusCode};
use http_body_util::BodyExt;
use oneport::config::OptionErrors;
use oneport::gateway::Registry;
use oneport::http::{Body, Failure, OnDisconnect, Request, Response, View, respond};
use oneport::testing::LiveServer;
use oneport::websocket::{Accept, Close, Consumer, Context, Denial, Message};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Notify;

use crate::support::read_until;

/// A count of the finished work of one test's views.
struct Done {
    began: AtomicUsize,
    ended: AtomicUsize,
    go: Notify,
}

impl Done {
    const fn new() -> Self {
        Self {
            began: AtomicUsize::new(0),
            ended: AtomicUsize::new(0),
            go: Notify::const_new(),
        }
    }

    async fn work(&self) {
        self.began.fetch_add(1, Ordering::SeqCst);
        self.go.notified().await;
        self.ended.fetch_add(1, Ordering::SeqCst);
    }

    async fn wait(&self, count: &AtomicUsize, wanted: usize) {
        let reached = async {
            while count.load(Ordering::SeqCst) < wanted {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), reached)
            .await
            .expect("the work in time");
    }
}

/// Declares a view that works until the test releases it.
macro_rules! worker {
    ($name:ident, $done:ident, $on_disconnect:expr) => {
        static $done: Done = Done::new();
        struct $name;
        impl View for $name {
            type Options = ();
            fn new((): ()) -> Result<Self, OptionErrors> {
                Ok(Self)
            }
            fn on_disconnect() -> OnDisconnect {
                $on_disconnect
            }
            fn methods() -> &'static [http::Method] {
                &[]
            }
            async fn call(&self, mut request: Request) -> Result<Response, Failure> {
                request.bytes().await?;
                $done.work().await;
                Ok(respond(200, "text/plain", "done"))
            }
        }
    };
}

worker!(Finished, FINISHED, OnDisconnect::Finish);
worker!(Cancelled, CANCELLED, OnDisconnect::Cancel);
worker!(Halved, HALVED, OnDisconnect::Cancel);
worker!(Bounded, BOUNDED, OnDisconnect::Finish);

async fn start(name: &str, registry: Registry, more: &str) -> LiveServer {
    let text = format!("[[http.route]]\npath = '/work/'\nview = '{name}'\n{more}");
    LiveServer::with(&registry, &text).await.unwrap()
}

const POST: &[u8] = b"POST /work/ HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\nhi";

/// Issue 13, line 6: started work runs to its end, however the client disconnects.
#[tokio::test]
async fn a_view_with_side_effects_finishes_without_its_client() {
    let registry = Registry::builtin().view::<Finished>("work");
    let server = start("work", registry, "").await;
    for at in 1..=20 {
        let mut stream = TcpStream::connect(server.address()).await.unwrap();
        if at % 2 == 0 {
            stream.set_zero_linger().unwrap(); // the close is a reset
        }
        stream.write_all(POST).await.unwrap();
        FINISHED.wait(&FINISHED.began, at).await;
        drop(stream);
    }
    // The last client is gone before its work continues.
    tokio::task::yield_now().await;
    for _ in 0..20 {
        FINISHED.go.notify_one();
        tokio::task::yield_now().await;
    }
    let reached = async {
        while FINISHED.ended.load(Ordering::SeqCst) < 20 {
            FINISHED.go.notify_one();
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), reached)
        .await
        .expect("all work finished");
    assert_eq!(server.stop().await.cut_off, 0);
}

/// The work without a client keeps the deadline of its route.
#[tokio::test]
async fn abandoned_work_ends_at_its_deadline() {
    let registry = Registry::builtin().view::<Bounded>("work");
    let server = start("work", registry, "request_timeout = '200ms'\n").await;
    let mut stream = TcpStream::connect(server.address()).await.unwrap();
    stream.set_zero_linger().unwrap();
    stream.write_all(POST).await.unwrap();
    BOUNDED.wait(&BOUNDED.began, 1).await;
    drop(stream);
    assert_eq!(server.stop().await.cut_off, 0);
    assert_eq!(BOUNDED.ended.load(Ordering::SeqCst), 0);
}

/// A view with `OnDisconnect::Cancel` is dropped with its connection.
#[tokio::test]
async fn a_view_without_side_effects_is_dropped_when_its_connection_is_reset() {
    let registry = Registry::builtin().view::<Cancelled>("work");
    let server = start("work", registry, "").await;
    let mut stream = TcpStream::connect(server.address()).await.unwrap();
    stream.set_zero_linger().unwrap();
    stream.write_all(POST).await.unwrap();
    CANCELLED.wait(&CANCELLED.began, 1).await;
    drop(stream);
    // The server waits for everything that runs: work that was kept would be cut off at the end.
    assert_eq!(server.stop().await.cut_off, 0);
    assert_eq!(CANCELLED.ended.load(Ordering::SeqCst), 0);
}

/// Issue 13, line 6: a client that has only closed its sending side gets its response.
#[tokio::test]
async fn a_half_closed_client_gets_its_answer_from_every_view() {
    let registry = Registry::builtin().view::<Halved>("work");
    let server = start("work", registry, "").await;
    let mut stream = TcpStream::connect(server.address()).await.unwrap();
    stream.write_all(POST).await.unwrap();
    stream.shutdown().await.unwrap();
    HALVED.wait(&HALVED.began, 1).await;
    HALVED.go.notify_one();
    let answer = read_until(&mut stream, |_| false).await;
    assert!(answer.starts_with(b"HTTP/1.1 200"));
    assert!(answer.ends_with(b"done"));
}

/// A body that is cut off is 400, and no view sees half of it.
#[tokio::test]
async fn a_body_that_the_client_cuts_off_is_400() {
    let server = start("work", Registry::builtin().view::<Halved>("work"), "").await;
    for cut in [
        "POST /work/ HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\nhi",
        "POST /work/ HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhi",
        "POST /work/ HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n",
        "POST /work/ HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\n",
    ] {
        let mut stream = TcpStream::connect(server.address()).await.unwrap();
        stream.write_all(cut.as_bytes()).await.unwrap();
        stream.shutdown().await.unwrap();
        let answer = read_until(&mut stream, |_| false).await;
        let answer = String::from_utf8_lossy(&answer).into_owned();
        assert!(answer.starts_with("HTTP/1.1 400"), "{cut}\n{answer}");
        assert!(answer.contains("connection: close"), "{cut}\n{answer}");
    }
}

/// Issue 14, line 2: a trickling body is ended before the request's own deadline, even if each byte
/// arrives in time.
#[tokio::test]
async fn a_body_that_arrives_too_slowly_is_408() {
    let more = "request_timeout = '60s'\n[server.limits]\nmin_rate = '1 MiB'\n";
    let server = start("work", Registry::builtin().view::<Halved>("work"), more).await;
    let mut stream = TcpStream::connect(server.address()).await.unwrap();
    let head = "POST /work/ HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let began = tokio::time::Instant::now();
    while answer.is_empty() && began.elapsed() < Duration::from_secs(30) {
        stream.write_all(b"x").await.unwrap();
        let _ =
            tokio::time::timeout(Duration::from_millis(100), stream.read_buf(&mut answer)).await;
    }
    answer.extend(read_until(&mut stream, |_| false).await);
    let answer = String::from_utf8_lossy(&answer).into_owned();
    assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
    assert!(answer.contains("connection: close"), "{answer}");
}

/// Only the time spent waiting for the client counts, not the view's.
#[tokio::test]
async fn a_body_that_waits_for_its_view_is_not_slow() {
    let more = "request_timeout = '60s'\n[server.limits]\nmin_rate = '1 GiB'\n";
    let registry = Registry::builtin().view::<LateReader>("late");
    let server = start("late", registry, more).await;
    let mut stream = TcpStream::connect(server.address()).await.unwrap();
    stream.write_all(POST).await.unwrap();
    let _ = tokio::time::timeout(Duration::from_secs(20), stream.readable()).await;
    let answer = read_until(&mut stream, |read| read.ends_with(b"late")).await;
    assert!(answer.starts_with(b"HTTP/1.1 200"));
}

/// The client's end is behind the rest of its body, which is in the kernel until the view reads on.
#[tokio::test]
async fn a_half_closed_client_gets_its_answer_from_a_view_that_reads_slowly() {
    let registry = Registry::builtin().view::<SlowReader>("slow");
    let server = start("slow", registry, "[server.limits]\nbody_size = '2 MiB'\n").await;
    let body = vec![b'x'; 1_500_000];
    let mut stream = TcpStream::connect(server.address()).await.unwrap();
    let length = body.len();
    let head =
        format!("POST /work/ HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    SLOW.wait(&SLOW.began, 1).await;
    stream.write_all(&body).await.unwrap();
    stream.shutdown().await.unwrap();
    let answer = read_until(&mut stream, |_| false).await;
    let answer = String::from_utf8_lossy(&answer).into_owned();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(answer.ends_with("1500000"), "{answer}");
}

static SLOW: Done = Done::new();

/// Counts the bytes of its body, and waits after the first part.
struct SlowReader;

impl View for SlowReader {
    type Options = ();

    fn new((): ()) -> Result<Self, OptionErrors> {
        Ok(Self)
    }

    fn methods() -> &'static [http::Method] {
        &[]
    }

    async fn call(&self, mut request: Request) -> Result<Response, Failure> {
        let mut read = 0;
        SLOW.began.fetch_add(1, Ordering::SeqCst);
        while let Some(frame) = request.body.frame().await {
            let frame = frame.map_err(|_| Failure::bad_request("a broken body"))?;
            let is_first = read == 0;
            read += frame.data_ref().map_or(0, bytes::Bytes::len);
            if is_first {
                // Longer than the interval at which a connection is asked for its end.
                tokio::time::sleep(Duration::from_millis(2_500)).await;
            }
        }
        Ok(respond(200, "text/plain", read.to_string()))
    }
}

/// Reads its body after more time than a slow client has.
struct LateReader;

impl View for LateReader {
    type Options = ();

    fn new((): ()) -> Result<Self, OptionErrors> {
        Ok(Self)
    }

    fn methods() -> &'static [http::Method] {
        &[]
    }

    async fn call(&self, mut request: Request) -> Result<Response, Failure> {
        tokio::time::sleep(Duration::from_secs(6)).await;
        request.bytes().await?;
        Ok(respond(200, "text/plain", "late"))
    }
}

/// A view that sets fields which only the server may set.
struct Forging;

#[derive(serde::Deserialize)]
struct ForgingOptions {
    fields: Vec<(String, String)>,
    #[serde(default = "ok")]
    status: u16,
}

fn ok() -> u16 {
    200
}

struct Forged(ForgingOptions);

impl View for Forged {
    type Options = ForgingOptions;
    fn new(options: ForgingOptions) -> Result<Self, OptionErrors> {
        Ok(Self(options))
    }
    async fn call(&self, _request: Request) -> Result<Response, Failure> {
        let mut response = Response::new(Body::full("hello"));
        *response.status_mut() = StatusCode::from_u16(self.0.status).unwrap();
        for (name, value) in &self.0.fields {
            response.headers_mut().append(
                name.parse::<HeaderName>().unwrap(),
                HeaderValue::from_str(value).unwrap(),
            );
        }
        Ok(response)
    }
}

impl Consumer for Forging {
    type Options = ();
    fn new((): &()) -> Self {
        Self
    }
    async fn connect(&mut self, scope: &oneport::scope::Scope) -> Result<Accept, Denial> {
        let mut accept = Accept::default();
        for (name, value) in [
            ("sec-websocket-extensions", "permessage-deflate"),
            ("sec-websocket-protocol", "mine"),
            ("sec-websocket-accept", "x"),
            ("content-length", "5"),
            ("transfer-encoding", "chunked"),
            ("connection", "close"),
            ("upgrade", "h2c"),
            ("x-own", "1"),
        ] {
            accept.headers.append(
                HeaderName::from_static(name),
                HeaderValue::from_static(value),
            );
        }
        if scope.query("deny").is_some() {
            let denial = Denial::forbidden("no")
                .with_header(
                    http::header::TRANSFER_ENCODING,
                    HeaderValue::from_static("chunked"),
                )
                .with_header(
                    http::header::CONTENT_LENGTH,
                    HeaderValue::from_static("999"),
                );
            return Err(denial);
        }
        Ok(accept)
    }
    async fn receive(&mut self, cx: &mut Context<'_>, message: Message) -> Result<(), Close> {
        cx.send(message);
        Ok(())
    }
}

/// Issue 13, line 8: a view's framing fields are not sent, so the next response on the connection
/// is intact.
#[tokio::test]
async fn a_view_cannot_corrupt_the_connection() {
    for (name, value) in [
        ("content-length", "3"),
        ("content-length", "50"),
        ("content-length", "+5"),
        ("transfer-encoding", "chunked"),
        ("transfer-encoding", "identity"),
        ("connection", "close"),
        ("connection", "keep-alive, x-own"),
        ("keep-alive", "timeout=5"),
        ("upgrade", "websocket"),
        ("trailer", "x"),
        ("te", "trailers"),
        ("sec-websocket-accept", "x"),
        ("proxy-connection", "close"),
    ] {
        let text = format!(
            "[[http.route]]\npath = '/forged/'\nview = 'forged'\noptions = {{ fields = [['{name}', '{value}'], ['x-own', '1']] }}\n\
             [[http.route]]\npath = '/next/'\nview = 'respond'\noptions = {{ body = 'next' }}\n"
        );
        let registry = Registry::builtin().view::<Forged>("forged");
        let server = LiveServer::with(&registry, &text).await.unwrap();
        let mut stream = TcpStream::connect(server.address()).await.unwrap();
        let two = b"GET /forged/ HTTP/1.1\r\nHost: localhost\r\n\r\nGET /next/ HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
        stream.write_all(two).await.unwrap();
        let answers = read_until(&mut stream, |_| false).await;
        let answers = String::from_utf8_lossy(&answers).into_owned();
        let (first, second) = answers.split_once("helloHTTP/1.1 200 OK\r\n").unwrap();
        assert!(first.contains("content-length: 5\r\n"), "{answers}");
        assert!(first.contains("x-own: 1\r\n"), "{answers}");
        let forged = format!("{name}: {value}\r\n");
        assert!(!first.contains(&forged), "{forged}{answers}");
        assert!(second.ends_with("next"), "{answers}");
    }
}

#[tokio::test]
async fn a_content_length_that_is_right_is_sent_once_and_an_interim_status_is_500() {
    let check = async |options: &str, status: &str| {
        let text =
            format!("[[http.route]]\npath = '/'\nview = 'forged'\noptions = {{ {options} }}\n");
        let registry = Registry::builtin().view::<Forged>("forged");
        let server = LiveServer::with(&registry, &text).await.unwrap();
        let mut stream = TcpStream::connect(server.address()).await.unwrap();
        let get = b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
        stream.write_all(get).await.unwrap();
        let answer = read_until(&mut stream, |_| false).await;
        let answer = String::from_utf8_lossy(&answer).into_owned();
        assert!(answer.starts_with(status), "{answer}");
        assert_eq!(answer.matches("content-length").count(), 1, "{answer}");
    };
    check("fields = [['content-length', '5']]", "HTTP/1.1 200").await;
    check("fields = [], status = 103", "HTTP/1.1 500").await;
    check("fields = [], status = 101", "HTTP/1.1 500").await;
}

/// Issue 13, line 8: the 101's own fields are not the consumer's to set.
#[tokio::test]
async fn a_consumer_cannot_forge_the_handshake() {
    let text =
        "[[websocket.route]]\npath = '/ws/'\nconsumer = 'forging'\nmissing_origin = 'allow'\n";
    let registry = Registry::builtin().consumer::<Forging>("forging");
    let server = LiveServer::with(&registry, text).await.unwrap();
    let handshake = "GET /ws/ HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                     Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    let mut stream = TcpStream::connect(server.address()).await.unwrap();
    stream.write_all(handshake.as_bytes()).await.unwrap();
    let head = read_until(&mut stream, |read| read.ends_with(b"\r\n\r\n")).await;
    let head = String::from_utf8_lossy(&head).into_owned();
    assert!(head.starts_with("HTTP/1.1 101"), "{head}");
    assert!(head.contains("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="), "{head}");
    assert!(head.contains("x-own: 1"), "{head}");
    for forged in [
        "extensions",
        "protocol",
        "accept: x",
        "length",
        "chunked",
        "close",
        "h2c",
    ] {
        assert!(!head.contains(forged), "{forged}\n{head}");
    }
    let mut stream = TcpStream::connect(server.address()).await.unwrap();
    let denied = handshake.replace("/ws/", "/ws/?deny");
    stream.write_all(denied.as_bytes()).await.unwrap();
    let answer = read_until(&mut stream, |read| read.ends_with(b"no\n")).await;
    let answer = String::from_utf8_lossy(&answer).into_owned();
    assert!(answer.starts_with("HTTP/1.1 403"), "{answer}");
    assert!(
        !answer.contains("chunked") && !answer.contains("999"),
        "{answer}"
    );
}

/// Issue 13, line 8: the file cannot set them either.
#[test]
fn framing_fields_in_the_file_are_problems() {
    for name in [
        "content-length",
        "Transfer-Encoding",
        "connection",
        "Upgrade",
        "keep-alive",
        "Sec-WebSocket-Extensions",
        "sec-websocket-accept",
    ] {
        for text in [
            format!(
                "[[http.route]]\npath = '/'\nview = 'health'\nmiddleware = ['headers']\nheaders = {{ '{name}' = '5' }}\n"
            ),
            format!(
                "[[websocket.route]]\npath = '/'\nconsumer = 'echo'\nmiddleware = ['headers']\nheaders = {{ '{name}' = '5' }}\n"
            ),
            format!(
                "[[http.route]]\npath = '/'\nview = 'respond'\noptions = {{ headers = {{ '{name}' = '5' }} }}\n"
            ),
        ] {
            let parsed = oneport::config::Config::parse("t.toml", &text, ".".as_ref(), &|_| None);
            let problems = oneport::gateway::compile(&parsed.unwrap().0, &Registry::builtin())
                .unwrap_err()
                .to_string();
            let wanted = format!("the server sets {name:?} itself");
            assert!(problems.contains(&wanted), "{text}\n{problems}");
        }
    }
}

/// Responds with the host that a view sees.
struct Host;

impl View for Host {
    type Options = ();
    fn new((): ()) -> Result<Self, OptionErrors> {
        Ok(Self)
    }
    async fn call(&self, request: Request) -> Result<Response, Failure> {
        let scope = &request.scope;
        let field = scope.headers.text(&http::header::HOST).unwrap_or_default();
        let host = scope.host.as_ref().map_or("", |host| host.name());
        Ok(respond(200, "text/plain", format!("[{field}|{host}]")))
    }
}

/// Issue 13, line 9: one host for each request.
#[tokio::test]
async fn an_absolute_target_names_the_host_and_no_view_sees_another() {
    let text = "[server]\nallowed_hosts = ['*']\n[[http.route]]\npath = '/'\nview = 'host'\n";
    let registry = Registry::builtin().view::<Host>("host");
    let server = LiveServer::with(&registry, text).await.unwrap();
    for (request, expected) in [
        (
            "GET http://a.example:81/ HTTP/1.1\r\nHost: b.example\r\n",
            "[a.example:81|a.example]",
        ),
        (
            "GET http://a.example/ HTTP/1.0\r\nHost: b.example\r\n",
            "[a.example|a.example]",
        ),
        (
            "GET http://a.example/ HTTP/1.0\r\n",
            "[a.example|a.example]",
        ),
        (
            "GET / HTTP/1.1\r\nHost: b.example\r\n",
            "[b.example|b.example]",
        ),
        (
            "GET http://u:p@a.example/ HTTP/1.1\r\nHost: a.example\r\n",
            "400",
        ),
        ("GET http://a.example/ HTTP/1.1\r\nHost: x y\r\n", "400"),
        (
            "GET http://a.example/ HTTP/1.1\r\nHost: a.example\r\nHost: a.example\r\n",
            "400",
        ),
        ("GET http://a.example/ HTTP/1.1\r\n", "400"),
    ] {
        let mut stream = TcpStream::connect(server.address()).await.unwrap();
        let request = format!("{request}Connection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.contains(expected), "{request}\n{answer}");
    }
}

/// A head that began in an earlier read is not taken for a request line, whatever its fields
/// contain.
#[tokio::test]
async fn a_hash_in_a_field_of_a_pipelined_request_is_no_fragment() {
    let text = "[[http.route]]\npath = '/'\nview = 'respond'\noptions = { body = 'x' }\n";
    let server = LiveServer::start(text).await.unwrap();
    let mut stream = TcpStream::connect(server.address()).await.unwrap();
    let one =
        "GET / HTTP/1.1\r\nHost: localhost\r\n\r\nGET / HTTP/1.1\r\nHost: localhost\r\nX-Color: ";
    stream.write_all(one.as_bytes()).await.unwrap();
    let first = read_until(&mut stream, |read| read.ends_with(b"\r\n\r\nx")).await;
    assert!(first.starts_with(b"HTTP/1.1 200"));
    let rest = b"#fff\r\nConnection: close\r\n\r\n";
    stream.write_all(rest).await.unwrap();
    let second = read_until(&mut stream, |_| false).await;
    assert!(second.starts_with(b"HTTP/1.1 200"));
}

/// Middleware has the deadline of the route too: `csrf` reads the body.
#[tokio::test]
async fn a_slow_body_that_a_step_reads_is_504() {
    let text = "[[http.route]]\npath = '/'\nview = 'respond'\nmiddleware = ['csrf']\nrequest_timeout = '200ms'\n";
    let server = LiveServer::start(text).await.unwrap();
    let mut stream = TcpStream::connect(server.address()).await.unwrap();
    let head = "POST / HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-www-form-urlencoded\r\n\
                Cookie: csrftoken=aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\nContent-Length: 900\r\n\r\nabc";
    stream.write_all(head.as_bytes()).await.unwrap();
    let answer = read_until(&mut stream, |_| false).await;
    assert!(
        answer.starts_with(b"HTTP/1.1 504"),
        "{}",
        String::from_utf8_lossy(&answer)
    );
}

/// The end of a client's stream stays hidden until the response is written, not only produced.
#[tokio::test]
async fn a_half_closed_client_that_reads_slowly_gets_the_whole_answer() {
    let length = 3 << 20;
    let body = "x".repeat(length);
    let text =
        format!("[[http.route]]\npath = '/'\nview = 'respond'\noptions = {{ body = '{body}' }}\n");
    let server = LiveServer::start(&text).await.unwrap();
    for _ in 0..20 {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(16 * 1024).unwrap();
        let mut stream = socket.connect(server.address()).await.unwrap();
        let get = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n";
        stream.write_all(get).await.unwrap();
        stream.shutdown().await.unwrap();
        let answer = read_until(&mut stream, |_| false).await;
        assert!(answer.len() > length, "{} of {length}", answer.len());
    }
}

/// Without keep-alive the response says so, and the connection ends.
#[tokio::test]
async fn keep_alive_of_zero_closes_after_each_answer() {
    let text =
        "[server.timeouts]\nkeep_alive = '0s'\n[[http.route]]\npath = '/'\nview = 'health'\n";
    let server = LiveServer::start(text).await.unwrap();
    let mut stream = TcpStream::connect(server.address()).await.unwrap();
    let get = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n";
    stream.write_all(get).await.unwrap();
    let answer = read_until(&mut stream, |_| false).await;
    let answer = String::from_utf8_lossy(&answer).into_owned();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(answer.contains("connection: close"), "{answer}");
}

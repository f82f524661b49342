//! HTTP/2: WebSockets on the streams of one connection, by extended CONNECT (RFC 8441).

use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use h2::client::SendRequest;
use h2::ext::Protocol;
use h2::{Reason, RecvStream, SendStream};
use http::{Request, StatusCode};
use oneport::gateway::Gateway;
use oneport::testing::LiveServer;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::support::{DEADLINE, frame};

const FILE: &str = "
    [[http.route]]
    path = '/hello/'
    view = 'respond'
    options = { body = 'hello' }
    [[websocket.route]]
    path = '/echo/'
    consumer = 'echo'
    subprotocols = ['b']
    max_message = '2 MiB'
    send_queue = '64 KiB'
    close_timeout = '1s'
";

const DELAYED: &str = "
    [[http.route]]
    path = '/hello/'
    view = 'respond'
    options = { body = 'hello' }
    [[websocket.route]]
    path = '/echo/'
    consumer = 'echo'
    ping_interval = '0s'
    rate_limit = { rate = '2/h', by = 'connection', over = 'delay' }
";

struct Socket {
    send: SendStream<Bytes>,
    receive: RecvStream,
    read: Vec<u8>,
}

async fn connect(server: &LiveServer) -> SendRequest<Bytes> {
    let stream = TcpStream::connect(server.address()).await.unwrap();
    let (client, connection) = h2::client::Builder::new()
        .initial_connection_window_size(1 << 20) // one stream alone does not fill it
        .handshake(stream)
        .await
        .unwrap();
    #[expect(clippy::disallowed_methods, reason = "it ends with the test's runtime")]
    tokio::spawn(connection);
    let mut client = client.ready().await.unwrap();
    // The server's settings arrive before its first response.
    let (response, _) = client
        .send_request(
            Request::get("http://localhost/hello/").body(()).unwrap(),
            true,
        )
        .unwrap();
    assert_eq!(within(response).await.unwrap().status(), StatusCode::OK);
    client.ready().await.unwrap()
}

fn handshake(path: &str) -> http::request::Builder {
    Request::connect(format!("http://localhost{path}"))
        .extension(Protocol::from_static("websocket"))
        .header("origin", "http://localhost")
        .header("sec-websocket-version", "13")
}

async fn within<F: Future>(future: F) -> F::Output {
    timeout(DEADLINE, future).await.expect("an answer in time")
}

async fn ask(
    client: &mut SendRequest<Bytes>,
    request: http::request::Builder,
) -> (http::Response<RecvStream>, SendStream<Bytes>) {
    let (response, send) = client
        .send_request(request.body(()).unwrap(), false)
        .unwrap();
    (within(response).await.unwrap(), send)
}

async fn open(client: &mut SendRequest<Bytes>) -> Socket {
    let (response, send) = ask(client, handshake("/echo/")).await;
    assert_eq!(response.status(), StatusCode::OK);
    Socket {
        send,
        receive: response.into_body(),
        read: Vec::new(),
    }
}

impl Socket {
    async fn say(&mut self, bytes: &[u8]) {
        let mut rest = Bytes::copy_from_slice(bytes);
        while !rest.is_empty() {
            self.send.reserve_capacity(rest.len());
            let room = within(std::future::poll_fn(|cx| self.send.poll_capacity(cx)))
                .await
                .unwrap()
                .unwrap();
            let now = rest.split_to(room.min(rest.len()));
            self.send.send_data(now, false).unwrap();
        }
    }

    /// Reads until this many bytes have arrived; returns `false` if the stream ends before.
    async fn read(&mut self, count: usize) -> bool {
        while self.read.len() < count {
            let Some(data) = within(self.receive.data()).await else {
                return false;
            };
            let data = data.unwrap();
            self.receive
                .flow_control()
                .release_capacity(data.len())
                .unwrap();
            self.read.extend_from_slice(&data);
        }
        true
    }

    async fn expect(&mut self, bytes: &[u8]) {
        assert!(self.read(bytes.len()).await, "found {:?}", self.read);
        assert_eq!(self.read.drain(..bytes.len()).collect::<Vec<_>>(), bytes);
    }

    /// Reads to the end of the stream, which must be an orderly one.
    async fn expect_end(&mut self) {
        assert!(!self.read(1).await, "found {:?}", self.read);
        assert!(self.receive.is_end_stream());
    }
}

async fn until_open(gateway: &Gateway, sockets: usize) {
    within(async {
        while gateway.sockets().len() != sockets {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn sockets_and_requests_share_a_connection() {
    let server = LiveServer::start(FILE).await.unwrap();
    let mut client = connect(&server).await;
    assert!(client.is_extended_connect_protocol_enabled());
    let (mut one, mut two) = (open(&mut client).await, open(&mut client).await);
    for round in 0..10 {
        one.say(&frame(0x81, format!("one {round}").as_bytes()))
            .await;
        two.say(&frame(0x81, format!("two {round}").as_bytes()))
            .await;
        let request = Request::get("http://localhost/hello/").body(()).unwrap();
        let (response, _) = client.send_request(request, true).unwrap();
        assert_eq!(within(response).await.unwrap().status(), StatusCode::OK);
        one.expect(&[b"\x81\x05one ", round.to_string().as_bytes()].concat())
            .await;
        two.expect(&[b"\x81\x05two ", round.to_string().as_bytes()].concat())
            .await;
    }
    assert_eq!(server.gateway().sockets().len(), 2);
    one.say(&frame(0x88, &1000_u16.to_be_bytes())).await;
    one.expect(&[0x88, 2, 0x03, 0xE8]).await;
    one.expect_end().await;
    one.send.send_data(Bytes::new(), true).unwrap();
    two.say(&frame(0x82, b"still here")).await;
    two.expect(b"\x82\x0astill here").await;
    until_open(server.gateway(), 1).await;
}

#[tokio::test]
async fn handshake_is_checked_as_over_http1() {
    let server = LiveServer::start(FILE).await.unwrap();
    let mut client = connect(&server).await;
    let plain = || {
        Request::connect("http://localhost/echo/")
            .extension(Protocol::from_static("websocket"))
            .header("sec-websocket-version", "13")
    };
    for (what, request, status) in [
        ("no such route", handshake("/nowhere/"), 404),
        (
            "another protocol",
            Request::connect("http://localhost/echo/")
                .extension(Protocol::from_static("connect-udp")),
            501,
        ),
        (
            "a foreign page",
            plain().header("origin", "http://evil.example"),
            403,
        ),
        ("no origin", plain(), 403),
        (
            "no version",
            Request::connect("http://localhost/echo/")
                .extension(Protocol::from_static("websocket")),
            400,
        ),
    ] {
        let (response, _) = ask(&mut client, request).await;
        assert_eq!(response.status(), status, "{what}");
    }
    let request = handshake("/echo/")
        .header("sec-websocket-protocol", "a, b")
        .header("sec-websocket-extensions", "permessage-deflate");
    let (response, _send) = ask(&mut client, request).await;
    assert_eq!(response.status(), 200);
    let headers = response.headers();
    assert_eq!(headers["sec-websocket-protocol"], "b");
    assert!(
        headers["sec-websocket-extensions"]
            .to_str()
            .unwrap()
            .starts_with("permessage-deflate")
    );
    for absent in [
        "sec-websocket-accept",
        "upgrade",
        "connection",
        "content-length",
    ] {
        assert!(!headers.contains_key(absent), "{absent}");
    }
}

#[tokio::test]
async fn client_that_resets_its_stream_ends_only_its_own_socket() {
    let server = LiveServer::start(FILE).await.unwrap();
    let mut client = connect(&server).await;
    let (mut one, mut two) = (open(&mut client).await, open(&mut client).await);
    until_open(server.gateway(), 2).await;
    one.send.send_reset(Reason::CANCEL);
    until_open(server.gateway(), 1).await;
    two.say(&frame(0x81, b"hi")).await;
    two.expect(b"\x81\x02hi").await;
    // The end of the stream without a close frame also ends the socket.
    two.send.send_data(Bytes::new(), true).unwrap();
    until_open(server.gateway(), 0).await;
}

/// A client that gives no window is not read either, and others on its connection continue.
#[tokio::test]
async fn flow_control_is_felt_as_backpressure() {
    let server = LiveServer::start(FILE).await.unwrap();
    let mut client = connect(&server).await;
    let (mut stuck, mut other) = (open(&mut client).await, open(&mut client).await);
    // It sends far more than it reads: the echo stops, then the reading.
    let message = frame(0x82, &vec![7; 60_000]);
    let mut sent = 0;
    loop {
        stuck.send.reserve_capacity(message.len());
        let room = std::future::poll_fn(|cx| stuck.send.poll_capacity(cx));
        let Ok(room) = timeout(Duration::from_millis(500), room).await else {
            break;
        };
        let room = room.unwrap().unwrap();
        let from = sent % message.len();
        let now = &message[from..message.len().min(from + room)];
        stuck
            .send
            .send_data(Bytes::copy_from_slice(now), false)
            .unwrap();
        sent += now.len();
        assert!(sent < 8 << 20, "the server takes all and keeps it");
    }
    other.say(&frame(0x81, b"hi")).await;
    other.expect(b"\x81\x02hi").await;
    // Once it gives window everything arrives.
    let whole = sent / message.len();
    for _ in 0..whole {
        assert!(stuck.read(60_004).await);
        assert_eq!(stuck.read[..4], [0x82, 126, 0xEA, 0x60]);
        stuck.read.drain(..60_004);
    }
}

#[tokio::test]
async fn large_message_comes_back_over_many_windows() {
    let server = LiveServer::start(FILE).await.unwrap();
    let mut client = connect(&server).await;
    let mut socket = open(&mut client).await;
    let payload: Vec<u8> = (0..1_000_000_u32).map(|at| at as u8).collect();
    let header = [&[0x82, 0xFF][..], &1_000_000_u64.to_be_bytes(), &[0; 4]].concat();
    socket.say(&header).await;
    socket.say(&payload).await;
    socket
        .expect(&[&[0x82, 127][..], &1_000_000_u64.to_be_bytes()].concat())
        .await;
    socket.expect(&payload).await;
}

#[tokio::test]
async fn server_that_stops_sends_a_close_frame_on_every_stream() {
    let server = LiveServer::start(FILE).await.unwrap();
    let mut client = connect(&server).await;
    let mut sockets = [open(&mut client).await, open(&mut client).await];
    until_open(server.gateway(), 2).await;
    let clients = async {
        for socket in &mut sockets {
            assert!(socket.read(4).await);
            assert_eq!(socket.read[..1], [0x88]);
            assert_eq!(socket.read[2..4], 1001_u16.to_be_bytes());
            socket.say(&frame(0x88, &1001_u16.to_be_bytes())).await;
            socket.send.send_data(Bytes::new(), true).unwrap();
        }
    };
    let (drained, ()) = tokio::join!(server.stop(), clients);
    assert_eq!((drained.sockets, drained.cut_off), (2, 0));
}

#[tokio::test]
async fn listener_with_the_switch_off_does_not_offer_it() {
    let text = format!(
        "[server]\nbind = [{{ address = '127.0.0.1:0', websocket_over_http2 = false }}]\n{FILE}"
    );
    let server = LiveServer::start(&text).await.unwrap();
    let client = connect(&server).await;
    assert!(!client.is_extended_connect_protocol_enabled());
}

/// The keep-alive deadline is for idle connections, and one with a WebSocket is not idle.
#[tokio::test]
async fn connection_with_a_socket_is_not_idle() {
    let text = format!("[server.timeouts]\nkeep_alive = '300ms'\nhandshake = '300ms'\n{FILE}");
    let server = LiveServer::start(&text).await.unwrap();
    let mut client = connect(&server).await;
    let mut socket = open(&mut client).await;
    tokio::time::sleep(Duration::from_millis(900)).await;
    socket.say(&frame(0x81, b"hi")).await;
    socket.expect(b"\x81\x02hi").await;
}

/// Issue 14, line 2: a stream that its client gives no window keeps no file open.
#[tokio::test]
async fn streams_without_window_hold_no_files() {
    let directory = std::env::temp_dir().join(format!("oneport-files-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    let file = directory.join("large.bin");
    std::fs::write(&file, vec![7; 300_000]).unwrap();
    let text = format!(
        "{FILE}\n[[http.route]]\npath = '/files/{{*path}}'\nview = 'static'\noptions = {{ dir = '{}' }}\n",
        directory.display()
    );
    let server = LiveServer::start(&text).await.unwrap();
    let stream = TcpStream::connect(server.address()).await.unwrap();
    let (client, connection) = h2::client::Builder::new()
        .initial_window_size(0)
        .handshake::<_, Bytes>(stream)
        .await
        .unwrap();
    #[expect(clippy::disallowed_methods, reason = "it ends with the test's runtime")]
    tokio::spawn(connection);
    let mut client = client.ready().await.unwrap();
    let mut streams = Vec::new();
    for _ in 0..50 {
        let request = Request::get("http://localhost/files/large.bin");
        let (response, _) = client
            .send_request(request.body(()).unwrap(), true)
            .unwrap();
        let response = within(response).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(response.headers()["content-length"], "300000");
        streams.push(response.into_body());
        client = within(client.ready()).await.unwrap();
    }
    let open = std::fs::read_dir("/proc/self/fd")
        .unwrap()
        .flatten()
        .filter(|entry| std::fs::read_link(entry.path()).is_ok_and(|target| target == file))
        .count();
    assert_eq!(open, 0);
    drop(streams);
    // With window a file arrives whole; one that changes before its bytes are sent ends its stream.
    let mut client = connect(&server).await;
    for is_changed in [false, true] {
        let request = Request::get("http://localhost/files/large.bin");
        let (response, _) = client
            .send_request(request.body(()).unwrap(), true)
            .unwrap();
        let mut body = within(response).await.unwrap().into_body();
        if is_changed {
            std::fs::write(&file, vec![8; 400_000]).unwrap();
        }
        let mut count = 0;
        let ended = loop {
            match within(body.data()).await {
                None => break Ok(count),
                Some(Err(error)) => break Err(error),
                Some(Ok(piece)) => {
                    count += piece.len();
                    body.flow_control().release_capacity(piece.len()).unwrap();
                }
            }
        };
        match is_changed {
            false => assert_eq!(ended.unwrap(), 300_000),
            true => assert!(ended.is_err(), "the length was promised for another file"),
        }
    }
    std::fs::remove_dir_all(&directory).unwrap();
}

/// A response that needs no waiting has no task of its own until it waits for window; then it has
/// the deadline of every other.
#[tokio::test]
async fn ready_response_waits_for_window_and_is_reset_without() {
    let body = "0123456789".repeat(20_000);
    let text = format!(
        "[server.timeouts]\nrequest = '1s'\n{FILE}\n[[http.route]]\npath = '/long/'\nview = 'respond'\noptions = {{ body = '{body}' }}\n"
    );
    let server = LiveServer::start(&text).await.unwrap();
    for (first, later) in [(1_000, None), (0, Some(1_000)), (0, None)] {
        let stream = TcpStream::connect(server.address()).await.unwrap();
        let (client, mut connection) = h2::client::Builder::new()
            .initial_window_size(first)
            .handshake::<_, Bytes>(stream)
            .await
            .unwrap();
        let (resize, mut resized) = mpsc::channel(1);
        #[expect(clippy::disallowed_methods, reason = "it ends with the test's runtime")]
        tokio::spawn(std::future::poll_fn(move |cx| {
            if let Poll::Ready(Some(window)) = resized.poll_recv(cx) {
                connection.set_initial_window_size(window).unwrap();
            }
            Pin::new(&mut connection).poll(cx)
        }));
        let mut client = client.ready().await.unwrap();
        let request = Request::get("http://localhost/long/");
        let (response, _) = client
            .send_request(request.body(()).unwrap(), true)
            .unwrap();
        let mut received = within(response).await.unwrap().into_body();
        if let Some(window) = later {
            resize.send(window).await.unwrap();
        }
        let mut read = Vec::new();
        let ended = loop {
            match within(received.data()).await {
                None => break Ok(()),
                Some(Err(error)) => break Err(error),
                Some(Ok(piece)) => {
                    read.extend_from_slice(&piece);
                    let window = received.flow_control();
                    window.release_capacity(piece.len()).unwrap();
                }
            }
        };
        match first.max(later.unwrap_or_default()) {
            0 => assert!(ended.unwrap_err().is_reset() && read.is_empty()),
            _ => assert!(ended.is_ok() && read == body.as_bytes()),
        }
    }
}

#[tokio::test]
async fn ready_responses_of_one_read_do_not_count_together() {
    let text = format!("[server.limits]\nconnections_per_ip = 4\n{FILE}");
    let server = LiveServer::start(&text).await.unwrap();
    let mut client = connect(&server).await;
    // The connection's task runs only once this one waits: it writes all requests at once.
    let mut responses = Vec::new();
    for _ in 0..60 {
        let request = Request::get("http://localhost/hello/").body(()).unwrap();
        responses.push(client.send_request(request, true).unwrap().0);
    }
    for response in responses {
        assert_eq!(within(response).await.unwrap().status(), StatusCode::OK);
    }
}

#[tokio::test]
async fn rates_of_requests_handshakes_and_messages_apply_to_streams() {
    let text = "
        [[http.route]]
        path = '/hello/'
        middleware = ['rate_limit']
        view = 'respond'
        rate_limit = { rate = '2/h' }
        [[websocket.route]]
        path = '/echo/'
        middleware = ['rate_limit']
        consumer = 'echo'
        rate_limit = [{ rate = '1/h' }, { rate = '100/s', burst = 10, over = 'delay' }]
    ";
    let server = LiveServer::start(text).await.unwrap();
    let mut client = connect(&server).await; // the first request
    for expected in [200, 429] {
        let request = Request::get("http://localhost/hello/").body(()).unwrap();
        let (response, _) = client.send_request(request, true).unwrap();
        let response = within(response).await.unwrap();
        assert_eq!(response.status(), expected);
        assert!(response.headers().contains_key("ratelimit"));
    }
    let mut socket = open(&mut client).await;
    let begun = std::time::Instant::now();
    for number in 0..40_u8 {
        socket.say(&frame(0x82, &[number])).await;
    }
    for number in 0..40_u8 {
        socket.expect(&[0x82, 1, number]).await;
    }
    assert!(begun.elapsed() >= Duration::from_millis(280));
    let (denied, _) = ask(&mut client, handshake("/echo/")).await;
    assert_eq!(denied.status(), 429);
}

/// A limit that delays does not read the stream. A reset ends the socket nevertheless.
#[tokio::test]
async fn delayed_socket_whose_stream_is_reset_ends() {
    let server = LiveServer::start(DELAYED).await.unwrap();
    let mut client = connect(&server).await;
    let mut socket = open(&mut client).await;
    socket.say(&frame(0x81, b"hi").repeat(3)).await;
    assert!(socket.read(12).await);
    socket.say(&frame(0x81, b"hi")).await;
    assert_eq!(server.gateway().sockets().len(), 1);
    socket.send.send_reset(Reason::CANCEL);
    let ended = async {
        while !server.gateway().sockets().is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    within(ended).await;
}

//! Tests of upstreams against servers that play a script.

mod attempts;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use http::{HeaderValue, Method, StatusCode};
use http_body_util::{BodyExt, StreamBody};
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use super::*;
use crate::config::Options;

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi";

/// What a server does with a connection, for each request.
#[derive(Clone)]
enum Script {
    /// Answers every request.
    Answer(String),
    /// Answers, and closes the connection.
    AnswerAndClose(String),
    /// Answers as many requests of a connection, and closes it at the next one without an answer.
    CloseAt(usize),
    /// Answers the path of health checks with the status, and everything else with 200.
    Health(Arc<AtomicUsize>),
    /// Answers handshakes with the first text, and everything else with the other.
    Upgrade(&'static str, &'static str),
    /// Never answers.
    Hang,
    /// Sends this again and again.
    Repeat(&'static str),
}

/// A server on a port of its own, until it is dropped.
struct Peer {
    url: String,
    connections: Arc<AtomicUsize>,
    requests: Arc<AtomicUsize>,
    _task: JoinSet<()>,
}

impl Peer {
    async fn start(script: Script) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self::on(listener, script)
    }

    fn on(listener: TcpListener, script: Script) -> Self {
        let url = format!("http://{}", listener.local_addr().unwrap());
        let connections = Arc::new(AtomicUsize::new(0));
        let requests = Arc::new(AtomicUsize::new(0));
        let (accepted, received) = (connections.clone(), requests.clone());
        let mut task = JoinSet::new();
        task.spawn(async move {
            let mut serving = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                accepted.fetch_add(1, Ordering::SeqCst);
                serving.spawn(serve(stream, script.clone(), received.clone()));
            }
        });
        Self {
            url,
            connections,
            requests,
            _task: task,
        }
    }

    async fn answering(body: &str) -> Self {
        let length = body.len();
        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n");
        Self::start(Script::Answer(head + body)).await
    }

    fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }

    fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

async fn serve(mut stream: TcpStream, script: Script, requests: Arc<AtomicUsize>) {
    let mut buffer = vec![0; 64 * 1024];
    let mut served = 0;
    loop {
        let read = stream.read(&mut buffer).await.unwrap_or(0);
        let text = String::from_utf8_lossy(&buffer[..read]).into_owned();
        if read == 0 {
            return;
        }
        if !text.contains(" HTTP/1.1\r\n") {
            continue;
        }
        requests.fetch_add(1, Ordering::SeqCst);
        let answer = match &script {
            Script::Answer(answer) => answer.clone(),
            Script::AnswerAndClose(answer) => {
                let _ = stream.write_all(answer.as_bytes()).await;
                return;
            }
            Script::CloseAt(answered) if served == *answered => return,
            Script::CloseAt(_) => OK.to_owned(),
            Script::Health(status) if text.starts_with("GET /health ") => {
                let status = status.load(Ordering::SeqCst);
                format!("HTTP/1.1 {status} X\r\ncontent-length: 0\r\n\r\n")
            }
            Script::Health(_) => OK.to_owned(),
            Script::Upgrade(answer, _) if text.contains("upgrade: websocket") => {
                (*answer).to_owned()
            }
            Script::Upgrade(_, answer) => (*answer).to_owned(),
            Script::Hang => continue,
            Script::Repeat(text) => {
                while stream.write_all(text.as_bytes()).await.is_ok() {}
                return;
            }
        };
        served += 1;
        if stream.write_all(answer.as_bytes()).await.is_err() {
            return;
        }
    }
}

/// Returns the URL of a port on which nothing listens.
async fn closed_port() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    format!("http://{}", listener.local_addr().unwrap())
}

fn parse(options: &str) -> Result<Upstreams, OptionErrors> {
    let options: UpstreamOptions = Options::from_toml(options).unwrap().read().unwrap();
    Upstreams::new(&options)
}

fn upstreams(urls: &[&str], options: &str) -> Upstreams {
    parse(&format!("upstream = {urls:?}\n{options}")).unwrap()
}

fn start(upstreams: &Upstreams, runtime: &Runtime, sets: &Sets) {
    upstreams
        .running
        .get_or_init(|| upstreams.set.start(runtime, sets));
}

async fn exchange(
    upstreams: &Upstreams,
    headers: &HeaderMap,
    request: Request<RequestBody>,
) -> Result<(StatusCode, String), UpstreamError> {
    let affinity = Affinity {
        address: None,
        headers,
    };
    let response = upstreams.send(&affinity, request).await?;
    let status = response.status();
    let body = response.into_body().collect().await?.to_bytes();
    Ok((status, String::from_utf8(body.to_vec()).unwrap()))
}

async fn get(upstreams: &Upstreams) -> Result<String, UpstreamError> {
    let request = Request::get("/a?b=1").body(RequestBody::empty()).unwrap();
    let (_, body) = exchange(upstreams, &HeaderMap::new(), request).await?;
    Ok(body)
}

async fn post(upstreams: &Upstreams) -> Result<String, UpstreamError> {
    let request = Request::post("/").body(RequestBody::full("x")).unwrap();
    let (_, body) = exchange(upstreams, &HeaderMap::new(), request).await?;
    Ok(body)
}

/// Counts the bodies of as many requests.
async fn bodies(upstreams: &Upstreams, count: usize) -> BTreeMap<String, usize> {
    let mut bodies = BTreeMap::new();
    for _ in 0..count {
        *bodies.entry(get(upstreams).await.unwrap()).or_insert(0) += 1;
    }
    bodies
}

async fn until(condition: impl Fn() -> bool) {
    let waited = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), waited)
        .await
        .expect("the condition holds in time");
}

#[tokio::test]
async fn servers_take_turns() {
    let peers = [Peer::answering("a").await, Peer::answering("b").await];
    let upstreams = upstreams(&[&peers[0].url, &peers[1].url], "");
    let expected = BTreeMap::from([("a".to_owned(), 5), ("b".to_owned(), 5)]);
    assert_eq!(bodies(&upstreams, 10).await, expected);
    assert_eq!((peers[0].connections(), peers[1].connections()), (1, 1));
}

#[tokio::test]
async fn the_server_with_the_fewest_requests_gets_the_next_one() {
    let (busy, free) = (Peer::start(Script::Hang).await, Peer::answering("b").await);
    let upstreams = upstreams(&[&busy.url, &free.url], "balance = \"least_connections\"");
    let waiting = async {
        loop {
            // The first one to the server that hangs stays there.
            let _ = get(&upstreams).await;
        }
    };
    let others = async {
        until(|| busy.requests() == 1).await;
        for _ in 0..10 {
            assert_eq!(get(&upstreams).await.unwrap(), "b");
        }
    };
    tokio::select! {
        () = waiting => {}
        () = others => {}
    }
    assert_eq!(busy.requests(), 1);
}

#[tokio::test]
async fn requests_with_the_same_header_go_to_the_same_server() {
    let peers = [
        Peer::answering("a").await,
        Peer::answering("b").await,
        Peer::answering("c").await,
    ];
    let urls: Vec<&str> = peers.iter().map(|peer| peer.url.as_str()).collect();
    let upstreams = upstreams(&urls, "balance = \"hash:header:x-key\"");
    let mut seen = BTreeMap::new();
    for round in 0..3 {
        for key in 0..20 {
            let mut headers = HeaderMap::new();
            headers.insert("x-key", HeaderValue::from(key));
            let request = Request::get("/").body(RequestBody::empty()).unwrap();
            let (_, body) = exchange(&upstreams, &headers, request).await.unwrap();
            let before = seen.insert(key, body.clone());
            assert!(round == 0 || before == Some(body));
        }
    }
    assert!(seen.values().any(|body| *body != seen[&0]), "{seen:?}");
}

#[tokio::test]
async fn a_server_that_is_down_costs_no_request_and_is_paused() {
    let (down, up) = (closed_port().await, Peer::answering("b").await);
    let upstreams = upstreams(&[&down, &up.url], "max_fails = 2");
    assert_eq!(bodies(&upstreams, 20).await["b"], 20);
    let servers = upstreams.set.servers();
    let availability = servers[0].health.availability(tokio::time::Instant::now());
    assert!(
        matches!(availability, health::Availability::Paused(_)),
        "{availability:?}"
    );
    // A request that has a body, but of which nothing was sent, goes to the other one too.
    assert_eq!(post(&upstreams).await.unwrap(), "b");
}

#[tokio::test]
async fn a_paused_server_is_tried_again_and_is_back() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let up = Peer::answering("b").await;
    let url = format!("http://{address}");
    let upstreams = upstreams(&[&url, &up.url], "max_fails = 1\nfail_timeout = \"50ms\"");
    assert_eq!(bodies(&upstreams, 4).await["b"], 4);
    let length = "HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\na".to_owned();
    let _back = Peer::on(
        TcpListener::bind(address).await.unwrap(),
        Script::Answer(length),
    );
    let is_back = async { while get(&upstreams).await.unwrap() != "a" {} };
    tokio::time::timeout(Duration::from_secs(10), is_back)
        .await
        .unwrap();
    assert_eq!(bodies(&upstreams, 10).await["a"], 5);
}

#[tokio::test]
async fn with_every_server_paused_one_is_tried() {
    let (one, two) = (closed_port().await, closed_port().await);
    let upstreams = upstreams(&[&one, &two], "max_fails = 1\nretries = 0");
    for _ in 0..5 {
        let error = get(&upstreams).await.unwrap_err();
        assert_eq!(error.status(), StatusCode::BAD_GATEWAY, "{error}");
    }
}

#[tokio::test]
async fn the_only_server_gets_every_request_and_is_not_sent_one_twice() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let upstreams = upstreams(&[&format!("http://{address}")], "max_fails = 1");
    for _ in 0..5 {
        get(&upstreams).await.unwrap_err();
    }
    let back = Peer::on(
        TcpListener::bind(address).await.unwrap(),
        Script::Answer(OK.to_owned()),
    );
    assert_eq!(get(&upstreams).await.unwrap(), "hi");
    assert_eq!(back.requests(), 1);
}

#[tokio::test]
async fn dead_idle_connections_cost_no_request() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let peer = Peer::on(listener, Script::Answer(OK.to_owned()));
    let upstreams = upstreams(&[&peer.url], "");
    for round in 0..5 {
        let all = (0..20).map(|_| get(&upstreams));
        for answer in futures_util::future::join_all(all).await {
            assert_eq!(answer.unwrap(), "hi", "{round}");
        }
    }
    assert!(peer.connections() <= 20);
    drop(peer); // closes all of them
    let peer = loop {
        // The port is free once the kernel has closed the listener.
        if let Ok(listener) = TcpListener::bind(address).await {
            break Peer::on(listener, Script::Answer(OK.to_owned()));
        }
        tokio::task::yield_now().await;
    };
    assert_eq!(get(&upstreams).await.unwrap(), "hi");
    assert_eq!(post(&upstreams).await.unwrap(), "hi");
    assert_eq!(peer.requests(), 2);
}

/// The server closes an idle connection just when a request is sent over it.
#[tokio::test]
async fn a_request_that_meets_a_closing_connection_is_sent_again_if_it_is_safe() {
    let peer = Peer::start(Script::CloseAt(1)).await;
    let upstreams = upstreams(&[&peer.url], "");
    for _ in 0..3 {
        assert_eq!(get(&upstreams).await.unwrap(), "hi");
    }
    assert_eq!(
        peer.requests(),
        5,
        "the first, and two that were sent twice"
    );
    let error = post(&upstreams).await.unwrap_err();
    assert_eq!(error.status(), StatusCode::BAD_GATEWAY, "{error}");
    assert_eq!(peer.requests(), 6, "sent once");
    // It was not the server's failure.
    let servers = upstreams.set.servers();
    let availability = servers[0].health.availability(tokio::time::Instant::now());
    assert_eq!(availability, health::Availability::Up);
}

#[tokio::test]
async fn a_request_that_was_written_is_not_sent_again() {
    let (broken, up) = (
        Peer::start(Script::AnswerAndClose(String::new())).await,
        Peer::answering("b").await,
    );
    let upstreams = upstreams(&[&broken.url, &up.url], "max_fails = 0");
    for _ in 0..4 {
        let _ = get(&upstreams).await;
    }
    assert_eq!((broken.requests(), up.requests()), (2, 2));
}

#[tokio::test]
async fn retries_are_counted_and_may_be_off() {
    let (down, up) = (closed_port().await, Peer::answering("b").await);
    let upstreams = upstreams(&[&down, &up.url], "retries = 0\nmax_fails = 0");
    let mut failed = 0;
    for _ in 0..10 {
        failed += usize::from(get(&upstreams).await.is_err());
    }
    assert_eq!(failed, 5);
}

#[tokio::test]
async fn requests_over_the_connections_wait_in_a_bounded_queue() {
    let peer = Peer::start(Script::Hang).await;
    let options = "max_connections = 1\nmax_queue = 1\nqueue_timeout = \"200ms\"\nretries = 0";
    let upstreams = upstreams(&[&peer.url], options);
    let (waits, first) = (Mutex::new(Vec::new()), get(&upstreams));
    let others = async {
        until(|| peer.requests() == 1).await;
        let other = || async {
            let began = tokio::time::Instant::now();
            let error = get(&upstreams).await.unwrap_err();
            assert_eq!(error.status(), StatusCode::SERVICE_UNAVAILABLE, "{error}");
            waits.lock().push(began.elapsed());
        };
        tokio::join!(other(), other());
    };
    tokio::select! {
        _ = first => panic!("the server has answered"),
        () = others => {}
    }
    let waits = waits.into_inner();
    assert!(waits[0] < Duration::from_millis(150), "{waits:?}");
    assert!(waits[1] >= Duration::from_millis(200), "{waits:?}");
}

#[tokio::test]
async fn a_full_server_is_passed_over_while_another_one_has_room() {
    let (full, free) = (Peer::start(Script::Hang).await, Peer::answering("b").await);
    let upstreams = upstreams(&[&full.url, &free.url], "max_connections = 1");
    let first = async {
        loop {
            let _ = get(&upstreams).await;
        }
    };
    let others = async {
        until(|| full.requests() == 1).await;
        assert_eq!(bodies(&upstreams, 10).await["b"], 10);
    };
    tokio::select! {
        () = first => {}
        () = others => {}
    }
}

#[tokio::test]
async fn deadlines_are_gateway_timeouts() {
    let peer = Peer::start(Script::Hang).await;
    for options in ["response_timeout = \"50ms\"", "total_timeout = \"50ms\""] {
        let upstreams = upstreams(&[&peer.url], options);
        let error = get(&upstreams).await.unwrap_err();
        assert_eq!(
            error.status(),
            StatusCode::GATEWAY_TIMEOUT,
            "{options}: {error}"
        );
    }
    let half = "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf".to_owned();
    let peer = Peer::start(Script::Answer(half)).await;
    let upstreams = upstreams(&[&peer.url], "idle_timeout = \"50ms\"");
    let error = get(&upstreams).await.unwrap_err();
    assert_eq!(error.status(), StatusCode::GATEWAY_TIMEOUT, "{error}");
}

/// Responses that are not as they should be, and what becomes of them. hyper's parser decides; a
/// new version of it must not change these results unnoticed.
#[tokio::test]
async fn malformed_responses_have_their_results() {
    let many = (0..101)
        .map(|at| format!("x-{at}: 1\r\n"))
        .collect::<String>();
    let check = async |name: &str, answer: String, expected: Result<&str, u16>| {
        let peer = Peer::start(Script::AnswerAndClose(answer)).await;
        let upstreams = upstreams(&[&peer.url], "response_timeout = \"5s\"");
        let found = get(&upstreams).await;
        let found = found.map_err(|error| error.status().as_u16());
        assert_eq!(
            found.as_deref().map_err(|status| *status),
            expected,
            "{name}"
        );
    };
    let with = |head: &str, body: &str| format!("HTTP/1.1 200 OK\r\n{head}\r\n{body}");
    let chunked = "transfer-encoding: chunked\r\n";
    // Framing.
    let both = format!("content-length: 3\r\n{chunked}");
    check(
        "both lengths",
        with(&both, "2\r\nhi\r\n0\r\n\r\n"),
        Ok("hi"),
    )
    .await;
    check(
        "two lengths",
        with("content-length: 2\r\ncontent-length: 3\r\n", "hi!"),
        Err(502),
    )
    .await;
    check(
        "equal lengths",
        with("content-length: 2\r\ncontent-length: 2\r\n", "hi"),
        Ok("hi"),
    )
    .await;
    check(
        "a list of lengths",
        with("content-length: 2, 2\r\n", "hi"),
        Ok("hi"),
    )
    .await;
    check(
        "a signed length",
        with("content-length: +2\r\n", "hi"),
        Err(502),
    )
    .await;
    check(
        "a hex length",
        with("content-length: 0x2\r\n", "hi"),
        Err(502),
    )
    .await;
    check("no length", with("", "hi"), Ok("hi")).await;
    check(
        "an unknown coding",
        with("transfer-encoding: x\r\n", "hi"),
        Ok("hi"),
    )
    .await;
    check(
        "a short body",
        with("content-length: 9\r\n", "hi"),
        Err(502),
    )
    .await;
    check("a short chunk", with(chunked, "9\r\nhi"), Err(502)).await;
    check("no last chunk", with(chunked, "2\r\nhi\r\n"), Err(502)).await;
    check(
        "a bad chunk size",
        with(chunked, "x\r\nhi\r\n0\r\n\r\n"),
        Err(502),
    )
    .await;
    check(
        "a huge chunk size",
        with(chunked, "fffffffffffffffff\r\nhi"),
        Err(502),
    )
    .await;
    // Heads.
    check(
        "bare LF",
        "HTTP/1.1 200 OK\ncontent-length: 2\n\nhi".into(),
        Ok("hi"),
    )
    .await;
    check(
        "a space before the colon",
        with("content-length : 2\r\n", "hi"),
        Err(502),
    )
    .await;
    check(
        "a folded field",
        with("x-a: 1\r\n 2\r\ncontent-length: 2\r\n", "hi"),
        Err(502),
    )
    .await;
    check(
        "a NUL",
        with("x-a: \0\r\ncontent-length: 2\r\n", "hi"),
        Err(502),
    )
    .await;
    check("too many fields", with(&many, "hi"), Err(502)).await;
    check("HTTP/2", "HTTP/2 200 OK\r\n\r\n".into(), Err(502)).await;
    check("another protocol", "SSH-2.0-x\r\n".into(), Err(502)).await;
    check("nothing", String::new(), Err(502)).await;
    check(
        "half a head",
        "HTTP/1.1 200 OK\r\ncontent-".into(),
        Err(502),
    )
    .await;
    let storm = "HTTP/1.1 103 Early Hints\r\n\r\n".repeat(3) + OK;
    check("a few interim responses", storm, Ok("hi")).await;
    check(
        "an upgrade that was not asked for",
        with("", "").replace("200", "101"),
        Err(502),
    )
    .await;
}

#[tokio::test]
async fn endless_heads_and_interim_responses_are_cut_off() {
    for text in [
        "HTTP/1.1 103 Early Hints\r\nx: y\r\n\r\n",
        "HTTP/1.1 200 OK\r\nx: y\r\nz: ",
    ] {
        let peer = Peer::start(Script::Repeat(text)).await;
        let upstreams = upstreams(&[&peer.url], "");
        let error = tokio::time::timeout(Duration::from_secs(10), get(&upstreams)).await;
        let error = error.unwrap().unwrap_err();
        assert_eq!(error.status(), StatusCode::BAD_GATEWAY, "{error}");
    }
}

#[tokio::test]
async fn a_response_behind_the_one_that_was_asked_for_is_never_used() {
    // Two responses to one request: the second one must not answer another client.
    let stray = format!("{OK}HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nstray");
    let peer = Peer::start(Script::Answer(stray)).await;
    let upstreams = upstreams(&[&peer.url], "");
    for _ in 0..10 {
        assert_eq!(get(&upstreams).await.unwrap(), "hi");
    }
    assert_eq!(peer.connections(), 10, "the connection is not used again");
}

#[tokio::test]
async fn trailers_and_interim_responses_arrive() {
    let answer = "HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\nHTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\nx-end: 1\r\n\r\n";
    let peer = Peer::start(Script::Answer(answer.into())).await;
    let upstreams = upstreams(&[&peer.url], "");
    let mut request = Request::get("/").body(RequestBody::empty()).unwrap();
    let hints = Arc::new(Mutex::new(Vec::new()));
    let seen = hints.clone();
    hyper::ext::on_informational(&mut request, move |response| {
        seen.lock().push(response.headers()["link"].clone());
    });
    let headers = HeaderMap::new();
    let affinity = Affinity {
        address: None,
        headers: &headers,
    };
    let response = upstreams.send(&affinity, request).await.unwrap();
    let body = response.into_body().collect().await.unwrap();
    assert_eq!(body.trailers().unwrap()["x-end"], "1");
    assert_eq!(*hints.lock(), ["</a>"]);
}

#[tokio::test]
async fn a_streamed_body_that_fails_closes_the_connection() {
    let peer = Peer::start(Script::Hang).await;
    let upstreams = upstreams(&[&peer.url], "");
    let parts = futures_util::stream::iter([
        Ok(Frame::data(Bytes::from("part"))),
        Err::<Frame<Bytes>, crate::client::BoxError>("the client has left".into()),
    ]);
    let body = RequestBody::stream(StreamBody::new(parts));
    let request = Request::builder()
        .method(Method::PUT)
        .uri("/")
        .body(body)
        .unwrap();
    let error = exchange(&upstreams, &HeaderMap::new(), request)
        .await
        .unwrap_err();
    assert!(error.is_request_body(), "{error}");
    let servers = upstreams.set.servers();
    let availability = servers[0].health.availability(tokio::time::Instant::now());
    assert_eq!(availability, health::Availability::Up);
}

#[tokio::test]
async fn a_tunnel_has_the_bytes_behind_the_head_and_counts_until_its_end() {
    let head =
        "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\nhi";
    let peer = Peer::start(Script::Answer(head.into())).await;
    let upstreams = upstreams(
        &[&peer.url],
        "max_connections = 1\nqueue_timeout = \"50ms\"",
    );
    let headers = HeaderMap::new();
    let affinity = Affinity {
        address: None,
        headers: &headers,
    };
    let handshake = || {
        Request::get("/ws")
            .header("connection", "upgrade")
            .header("upgrade", "websocket")
            .body(())
            .unwrap()
    };
    let opened = upstreams.open_tunnel(&affinity, handshake()).await.unwrap();
    let Tunnel::Open {
        response,
        mut stream,
        read,
        slot,
    } = opened
    else {
        panic!("the tunnel was refused");
    };
    assert_eq!(response.status(), StatusCode::SWITCHING_PROTOCOLS);
    assert_eq!(&read[..], b"hi");
    stream.write_all(b"GET /x HTTP/1.1\r\n").await.unwrap();
    let mut answer = [0; 8];
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1");
    assert_eq!(upstreams.set.servers()[0].active(), 1);
    let error = upstreams
        .open_tunnel(&affinity, handshake())
        .await
        .unwrap_err();
    assert_eq!(error.status(), StatusCode::SERVICE_UNAVAILABLE);
    drop(slot);
    assert_eq!(upstreams.set.servers()[0].active(), 0);

    let refusal = "HTTP/1.1 403 Forbidden\r\ncontent-length: 2\r\n\r\nno";
    let peer = Peer::start(Script::Answer(refusal.into())).await;
    let upstreams = self::upstreams(&[&peer.url], "");
    let Tunnel::Refused(response) = upstreams.open_tunnel(&affinity, handshake()).await.unwrap()
    else {
        panic!("the tunnel was opened");
    };
    assert_eq!(response.status(), StatusCode::FORBIDDEN);
    let body = response.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(&body[..], b"no");
}

#[tokio::test]
async fn a_caller_that_leaves_frees_the_server() {
    let peer = Peer::start(Script::Hang).await;
    let upstreams = upstreams(&[&peer.url], "max_connections = 1");
    tokio::select! {
        _ = get(&upstreams) => panic!("the server has answered"),
        () = until(|| peer.requests() == 1) => {}
    }
    let servers = upstreams.set.servers();
    assert_eq!(
        (servers[0].active(), servers[0].client.free_slots()),
        (0, 1)
    );
}

#[tokio::test]
async fn health_checks_take_servers_out_and_bring_them_back() {
    let runtime = Runtime::default();
    let status = Arc::new(AtomicUsize::new(200));
    let peer = Peer::start(Script::Health(status.clone())).await;
    let upstreams = upstreams(
        &[&peer.url],
        "health_check = { path = \"/health\", interval = \"20ms\", timeout = \"1s\" }",
    );
    assert_eq!(get(&upstreams).await.unwrap(), "hi", "unknown is healthy");
    start(&upstreams, &runtime, &Sets::default());
    let is_down = || {
        let now = tokio::time::Instant::now();
        upstreams.set().servers()[0].health.availability(now) == health::Availability::Down
    };
    until(|| peer.requests() >= 3).await;
    assert!(!is_down());
    status.store(500, Ordering::SeqCst);
    until(is_down).await;
    let error = get(&upstreams).await.unwrap_err();
    assert_eq!(error.status(), StatusCode::SERVICE_UNAVAILABLE, "{error}");
    status.store(204, Ordering::SeqCst);
    until(|| !is_down()).await;
    assert_eq!(get(&upstreams).await.unwrap(), "hi");
    runtime.tasks.finish(Duration::from_secs(5)).await;
}

#[tokio::test]
async fn equal_options_share_what_is_known_and_the_tasks_end_with_the_last() {
    let runtime = Runtime::default();
    let (down, up) = (closed_port().await, Peer::answering("b").await);
    let urls = [&*down, &*up.url];
    let before = runtime.tasks.alive();
    let one = upstreams(&urls, "max_fails = 1");
    let sets = Sets::default();
    start(&one, &runtime, &sets);
    assert_eq!(bodies(&one, 4).await["b"], 4);
    let two = upstreams(&urls, "max_fails = 1");
    start(&two, &runtime, &sets);
    let now = tokio::time::Instant::now();
    let availability = two.set().servers()[0].health.availability(now);
    assert!(
        matches!(availability, health::Availability::Paused(_)),
        "{availability:?}"
    );
    let other = upstreams(&urls, "max_fails = 2");
    start(&other, &runtime, &sets);
    let availability = other.set().servers()[0].health.availability(now);
    assert_eq!(availability, health::Availability::Up);
    assert!(runtime.tasks.alive() > before);
    drop((one, other));
    assert_eq!(bodies(&two, 4).await["b"], 4);
    drop(two);
    until(|| runtime.tasks.alive() == before).await;
}

#[tokio::test]
async fn the_addresses_of_a_name_are_servers_that_keep_their_state() {
    let runtime = Runtime::default();
    let upstreams = upstreams(
        &["http://app.test:1", "http://127.0.0.1:2"],
        "max_fails = 1",
    );
    let set = &upstreams.set;
    let names = || -> Vec<String> {
        let servers = set.servers();
        servers
            .iter()
            .map(|server| server.name.to_string())
            .collect()
    };
    assert_eq!(names(), ["http://app.test:1", "http://127.0.0.1:2"]);
    let addresses = |texts: &[&str]| -> Vec<IpAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    };
    let url = &set.urls[0];
    set.set_addresses(url, &addresses(&["10.0.0.1", "10.0.0.2"]), &runtime);
    let expected = [
        "http://app.test:1 (10.0.0.1)",
        "http://app.test:1 (10.0.0.2)",
        "http://127.0.0.1:2",
    ];
    assert_eq!(names(), expected);
    let now = tokio::time::Instant::now();
    set.servers()[1].health.request_failed(false, now);
    set.set_addresses(url, &addresses(&["10.0.0.2", "10.0.0.3"]), &runtime);
    assert_eq!(
        names()[..2],
        [
            "http://app.test:1 (10.0.0.2)",
            "http://app.test:1 (10.0.0.3)"
        ]
    );
    let availability = set.servers()[0].health.availability(now);
    assert!(
        matches!(availability, health::Availability::Paused(_)),
        "{availability:?}"
    );
    set.set_addresses(url, &[], &runtime);
    assert_eq!(names(), ["http://app.test:1", "http://127.0.0.1:2"]);
}

#[test]
fn options_that_cannot_be_are_refused() {
    let check = |options: &str, key: &str| {
        let errors = parse(options).unwrap_err().to_string();
        assert!(
            errors.starts_with(&format!("{key}: ")),
            "{options}: {errors}"
        );
    };
    check("upstream = []", "upstream");
    check("upstream = [\"app\"]", "upstream[0]");
    check("upstream = [\"http://a\", \"http://a\"]", "upstream[1]");
    for (option, key) in [
        ("balance = \"random\"", "balance"),
        ("max_connections = 0", "max_connections"),
        ("connect_timeout = \"0s\"", "connect_timeout"),
        ("total_timeout = \"0s\"", "total_timeout"),
        ("health_check = { path = \"health\" }", "health_check.path"),
        (
            "health_check = { interval = \"0s\" }",
            "health_check.interval",
        ),
        (
            "health_check = { status = [200, 99] }",
            "health_check.status[1]",
        ),
        ("tls = { verify = false }", "tls"),
    ] {
        check(&format!("upstream = [\"http://a\"]\n{option}"), key);
    }
    for (option, key) in [
        ("tls = { ca = \"/nowhere/ca.pem\" }", "tls.ca"),
        ("tls = { certificate = \"a.pem\" }", "tls.key"),
        ("tls = { key = \"a.pem\" }", "tls.certificate"),
        ("tls = { server_name = \"a b\" }", "tls.server_name"),
    ] {
        check(&format!("upstream = [\"https://a\"]\n{option}"), key);
    }
}

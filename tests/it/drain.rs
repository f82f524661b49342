//! Drain: what a server that stops says to its clients, when, and how many of them at once.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use oneport::config::{Config, OptionErrors};
use oneport::gateway::{Registry, compile};
use oneport::http::Failure;
use oneport::middleware::{Middleware, MiddlewareContext};
use oneport::pace::Pace;
use oneport::server::Drained;
use oneport::state::StateType;
use oneport::testing::{Application, LiveServer, WebsocketCommunicator};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use crate::support::{DEADLINE, HANDSHAKE, close_code, open, read_until};

const ROUTES: &str = "
[[http.route]]
path = '/ready/'
view = 'health'
[[http.route]]
path = '/live/'
view = 'health'
options = { probe = 'live' }
[[http.route]]
path = '/events/'
view = 'events'
options = { group = 'news' }
[[websocket.route]]
path = '/echo/'
consumer = 'echo'
close_timeout = '100ms'
";

async fn start(drain: &str) -> LiveServer {
    LiveServer::start(&format!("[server.drain]\n{drain}\n{ROUTES}"))
        .await
        .unwrap()
}

/// Begins to stop a server.
fn stop(server: LiveServer) -> JoinSet<Drained> {
    let mut stopping = JoinSet::new();
    stopping.spawn(server.stop());
    stopping
}

async fn drained(mut stopping: JoinSet<Drained>) -> Drained {
    stopping.join_next().await.unwrap().unwrap()
}

/// Sends a request over a connection, and returns the head of the response and its body.
async fn get(stream: &mut TcpStream, path: &str) -> String {
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let read = read_until(stream, |read| read.ends_with(b"}\n")).await;
    String::from_utf8(read).unwrap()
}

async fn is_at_end(stream: &mut TcpStream) -> bool {
    let read = timeout(DEADLINE, stream.read(&mut [0; 16])).await;
    matches!(read.expect("an end in time"), Ok(0))
}

/// Waits until a probe of a new connection gets 503.
async fn until_leaving(address: std::net::SocketAddr) {
    let asking = async {
        loop {
            let mut stream = TcpStream::connect(address).await.unwrap();
            if get(&mut stream, "/ready/")
                .await
                .starts_with("HTTP/1.1 503")
            {
                return;
            }
        }
    };
    timeout(DEADLINE, asking).await.expect("a 503 in time");
}

#[tokio::test]
async fn in_the_delay_only_the_readiness_probe_fails() {
    let server = start("delay = '1s'").await;
    let address = server.address();
    let mut kept = TcpStream::connect(address).await.unwrap();
    let before = get(&mut kept, "/ready/").await;
    assert!(before.starts_with("HTTP/1.1 200"), "{before}");
    assert!(
        !before.to_lowercase().contains("connection: close"),
        "{before}"
    );
    let mut old = open(&server).await;
    let began = Instant::now();
    let stopping = stop(server);
    until_leaving(address).await;

    // The kept connection is served once more, and is then asked to go.
    let live = get(&mut kept, "/live/").await;
    assert!(live.starts_with("HTTP/1.1 200"), "{live}");
    assert!(live.to_lowercase().contains("connection: close"), "{live}");
    assert!(live.ends_with("{\"status\":\"draining\"}\n"), "{live}");
    assert!(is_at_end(&mut kept).await);
    // New sockets and event streams are still let in.
    let mut new = TcpStream::connect(address).await.unwrap();
    new.write_all(HANDSHAKE.as_bytes()).await.unwrap();
    let head = read_until(&mut new, |read| read.ends_with(b"\r\n\r\n")).await;
    let head = String::from_utf8(head).unwrap();
    assert!(head.starts_with("HTTP/1.1 101"), "{head}");
    assert!(!head.to_lowercase().contains("connection: close"), "{head}");
    assert!(
        began.elapsed() < Duration::from_secs(1),
        "the delay was over"
    );

    for stream in [&mut old, &mut new] {
        let heard = read_until(stream, |read| read.len() >= 4).await;
        assert_eq!(close_code(&heard), 1001);
    }
    assert!(
        began.elapsed() >= Duration::from_secs(1),
        "{:?}",
        began.elapsed()
    );
    assert_eq!(drained(stopping).await.sockets, 2);
}

#[tokio::test]
async fn http2_is_not_asked_to_close_before_the_listeners_are() {
    let server = start("delay = '500ms'").await;
    let address = server.address();
    let stream = TcpStream::connect(address).await.unwrap();
    let (mut client, connection) = h2::client::handshake(stream).await.unwrap();
    let mut connections = JoinSet::new();
    connections.spawn(connection);
    let stopping = stop(server);
    until_leaving(address).await;
    for path in ["/live/", "/ready/"] {
        let request = http::Request::get(format!("http://localhost{path}"))
            .body(())
            .unwrap();
        let response = client.send_request(request, true).unwrap().0.await.unwrap();
        assert_eq!(response.headers().get("connection"), None);
        client = client.ready().await.unwrap();
    }
    // GOAWAY without an error.
    connections.join_next().await.unwrap().unwrap().unwrap();
    drained(stopping).await;
}

/// The reasons of sockets that were opened one after the other, and when they came.
async fn close_frames(server: LiveServer, count: usize) -> Vec<(Duration, u16, String)> {
    let mut sockets = Vec::new();
    for _ in 0..count {
        sockets.push(open(&server).await);
    }
    while server.gateway().sockets().len() < count {
        tokio::task::yield_now().await;
    }
    let began = Instant::now();
    let stopping = stop(server);
    let mut reading = JoinSet::new();
    for mut stream in sockets {
        reading.spawn(async move {
            let heard = read_until(&mut stream, |read| {
                read.len() >= 2 && read.len() >= 2 + usize::from(read[1])
            })
            .await;
            let reason = String::from_utf8(heard[4..].to_vec()).unwrap();
            (began.elapsed(), close_code(&heard), reason)
        });
    }
    let mut heard = reading.join_all().await;
    heard.sort();
    assert_eq!(drained(stopping).await.sockets, count);
    heard
}

#[tokio::test]
async fn sockets_end_in_batches_and_each_is_told_another_time() {
    let settings = "batch = 4\nevery = '200ms'\njitter = '0s'\nretry_after = '3s'";
    let heard = close_frames(start(settings).await, 12).await;
    for (batch, frames) in heard.chunks(4).enumerate() {
        let mut reasons = Vec::new();
        for (at, code, reason) in frames {
            let due = Duration::from_millis(200) * batch as u32;
            assert!(*at >= due, "a socket of batch {batch} ended after {at:?}");
            assert_eq!(*code, 1001);
            reasons.push(reason.clone());
        }
        reasons.sort();
        // The last batch ends after 400 ms, 3 s later the server may be back.
        let least = [4, 4, 3][batch];
        let told = |spread| {
            format!(
                "the server is shutting down; retry_after={}",
                least + spread
            )
        };
        assert_eq!(reasons, [0, 1, 2, 3].map(told));
    }
}

#[tokio::test]
async fn code_is_the_configured_one_and_no_wait_is_no_part_of_the_reason() {
    let heard = close_frames(start("code = 1012\nretry_after = '0s'").await, 1).await;
    let (_, code, reason) = &heard[0];
    assert_eq!(
        (*code, reason.as_str()),
        (1012, "the server is shutting down")
    );
}

#[tokio::test]
async fn event_streams_end_in_batches_with_a_time_to_come_back() {
    let settings = "batch = 2\nevery = '200ms'\njitter = '0s'\nretry_after = '2s'";
    let server = start(settings).await;
    let mut streams = Vec::new();
    for _ in 0..4 {
        let mut stream = TcpStream::connect(server.address()).await.unwrap();
        let request = "GET /events/ HTTP/1.1\r\nHost: localhost\r\n\r\n";
        stream.write_all(request.as_bytes()).await.unwrap();
        read_until(&mut stream, |read| {
            read.windows(6).any(|bytes| bytes == b"retry:") && read.ends_with(b"\n\n\r\n")
        })
        .await;
        streams.push(stream);
    }
    let began = Instant::now();
    let stopping = stop(server);
    let mut reading = JoinSet::new();
    for mut stream in streams {
        reading.spawn(async move {
            let rest = read_until(&mut stream, |_| false).await;
            let rest = String::from_utf8(rest).unwrap();
            assert!(rest.ends_with("\r\n0\r\n\r\n"), "{rest}");
            let (_, retry) = rest.split_once("retry: ").unwrap();
            let (retry, _) = retry.split_once("\n\n").unwrap();
            (began.elapsed(), retry.parse::<u64>().unwrap() / 1_000)
        });
    }
    let mut ended = reading.join_all().await;
    ended.sort();
    assert!(ended[2].0 >= Duration::from_millis(200), "{ended:?}");
    assert!(ended[1].0 < Duration::from_millis(200), "{ended:?}");
    let mut seconds: Vec<u64> = ended.iter().map(|(_, seconds)| *seconds).collect();
    seconds.sort_unstable();
    // From the first batch on 2.2 s, from the second one 2 s; and 0, 1, 2, 0.
    assert_eq!(seconds, [2, 3, 4, 4]);
    drained(stopping).await;
}

/// Lets a handshake wait for the test.
struct Held;

#[derive(Default)]
struct Gate {
    reached: Notify,
    opened: Notify,
}

impl Middleware for Held {
    type Options = ();

    const STATE: &'static [StateType] = &[StateType::of::<Arc<Gate>>()];

    fn new((): ()) -> Result<Self, OptionErrors> {
        Ok(Self)
    }

    async fn before(&self, cx: &mut MiddlewareContext<'_>) -> Result<(), Failure> {
        let gate = cx.state::<Arc<Gate>>()?;
        gate.reached.notify_one();
        gate.opened.notified().await;
        Ok(())
    }
}

#[tokio::test]
async fn handshake_that_a_drain_overtakes_is_refused_with_a_time_to_come_back() {
    let gate = Arc::new(Gate::default());
    let registry = Registry::builtin()
        .middleware::<Held>("held")
        .state(gate.clone());
    let file = "
    [[websocket.route]]
    path = '/echo/'
    consumer = 'echo'
    middleware = ['held']
    ";
    let server = LiveServer::with(&registry, file).await.unwrap();
    let tasks = server.gateway().services().tasks.clone();
    let mut stream = TcpStream::connect(server.address()).await.unwrap();
    stream.write_all(HANDSHAKE.as_bytes()).await.unwrap();
    gate.reached.notified().await;
    let stopping = stop(server);
    while !tasks.is_draining() {
        tokio::task::yield_now().await;
    }
    gate.opened.notify_one();
    let response = read_until(&mut stream, |_| false).await;
    let response = String::from_utf8(response).unwrap().to_lowercase();
    assert!(response.starts_with("http/1.1 503"), "{response}");
    assert!(response.contains("\r\nretry-after: 5\r\n"), "{response}");
    assert!(response.contains("\r\nconnection: close\r\n"), "{response}");
    assert_eq!(drained(stopping).await.sockets, 0);
}

/// On a simulated clock.
#[tokio::test(start_paused = true)]
async fn reload_closes_the_sockets_of_a_changed_route_in_batches_without_a_wait() {
    let app = Application::parse(ROUTES).unwrap();
    let mut sockets = Vec::new();
    for _ in 0..6 {
        let communicator = WebsocketCommunicator::new("/echo/");
        sockets.push(communicator.connect(&app).await.unwrap());
    }
    while app.gateway().sockets().len() < 6 {
        tokio::task::yield_now().await;
    }
    let pace = Pace {
        batch: 2,
        every: Duration::from_secs(1),
        ..Pace::AT_ONCE
    };
    let (config, _) = Config::parse("test.toml", "", Path::new("."), &|_| None).unwrap();
    let (table, _) = compile(&config, &Registry::builtin()).unwrap();
    let began = Instant::now();
    let closing = app.gateway().replace(table, pace);
    assert_eq!(closing.await, 6);
    let (least, elapsed) = (Duration::from_secs(2), began.elapsed());
    assert!((least..least * 2).contains(&elapsed), "{elapsed:?}");
    for mut socket in sockets {
        let closed = socket.receive_close().await;
        assert_eq!(closed, (1012, "the route changed".to_owned()));
    }
}

//! Tunnel: the consumer `proxy`, in front of another server of ours. The bytes on the wire are
//! tested in tests/interop/python/test_tunnel.py.

use oneport::testing::{Application, LiveServer, WebsocketCommunicator};
use oneport::websocket::CloseCode;
use tokio::io::AsyncWriteExt;

use crate::support::{DEADLINE, close_code, frame, open, read_until};

const UPSTREAM: &str = "
[[websocket.route]]
path = '/'
consumer = 'echo'
[[websocket.route]]
path = '/echo/'
consumer = 'echo'
subprotocols = ['v1']
max_message = '1 KiB'
";

fn front(upstream: &LiveServer, settings: &str) -> String {
    format!(
        "[[websocket.route]]\npath = '/{{*path}}'\nconsumer = 'proxy'\n{settings}\noptions = {{ upstream = ['http://{}'] }}\n",
        upstream.address()
    )
}

#[tokio::test]
async fn messages_and_the_upstreams_choices_pass_over_any_stream() {
    let upstream = LiveServer::start(UPSTREAM).await.unwrap();
    let app = Application::parse(&front(&upstream, "")).unwrap();
    let mut socket = WebsocketCommunicator::new("/echo/")
        .subprotocols(&["v2", "v1"])
        .connect(&app)
        .await
        .unwrap();
    assert_eq!(socket.subprotocol(), Some("v1"));
    for message in ["", "hi", "grüße ☕"] {
        socket.send(message).await;
        assert_eq!(socket.receive().await.as_text(), Some(message));
    }
    assert_eq!(
        socket.close(CloseCode::new(4001).unwrap(), "bye").await,
        4001
    );
}

#[tokio::test]
async fn catch_all_takes_the_root_too() {
    let upstream = LiveServer::start(UPSTREAM).await.unwrap();
    let app = Application::parse(&front(&upstream, "")).unwrap();
    let mut socket = WebsocketCommunicator::new("/").connect(&app).await.unwrap();
    socket.send("hi").await;
    assert_eq!(socket.receive().await.as_text(), Some("hi"));
}

#[tokio::test]
async fn refusal_of_the_upstream_is_the_clients() {
    let upstream = LiveServer::start(UPSTREAM).await.unwrap();
    let app = Application::parse(&front(&upstream, "")).unwrap();
    let refused = WebsocketCommunicator::new("/missing/").connect(&app).await;
    assert_eq!(refused.err().unwrap().status(), 404);
}

#[tokio::test]
async fn upstreams_limit_is_the_one_that_holds() {
    let upstream = LiveServer::start(UPSTREAM).await.unwrap();
    let server = LiveServer::start(&front(&upstream, "close_timeout = '1s'")).await;
    let server = server.unwrap();
    let mut stream = open(&server).await;
    stream.write_all(&frame(0x82, &[0; 1025])).await.unwrap();
    let answer = read_until(&mut stream, |_| false).await;
    assert_eq!(close_code(&answer), 1009);
}

#[tokio::test]
async fn upstream_that_stops_passes_its_code_on() {
    let upstream = LiveServer::start(UPSTREAM).await.unwrap();
    let server = LiveServer::start(&front(&upstream, "")).await.unwrap();
    let mut stream = open(&server).await;
    stream.write_all(&frame(0x81, b"hi")).await.unwrap();
    let answer = read_until(&mut stream, |read| read.len() >= 4).await;
    assert_eq!(answer, b"\x81\x02hi");
    #[expect(clippy::disallowed_methods, reason = "the test waits for its end")]
    let stopping = tokio::spawn(upstream.stop());
    let answer = read_until(&mut stream, |read| read.len() >= 4).await;
    assert_eq!(close_code(&answer), 1001);
    let close = frame(0x88, &1001_u16.to_be_bytes());
    stream.write_all(&close).await.unwrap();
    assert_eq!(read_until(&mut stream, |_| false).await, b"");
    stopping.await.unwrap();
    let all_ended = server.gateway().sockets().all_ended();
    tokio::time::timeout(DEADLINE, all_ended).await.unwrap();
}

//! Life: the calls of a consumer, their order and number.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, Mutex};
use std::task::{self, Poll};
use std::time::Duration;

use bytes::Bytes;
use oneport::gateway::Registry;
use oneport::net::Stream;
use oneport::scope::Scope;
use oneport::testing::{Application, LiveServer, Output, WebsocketCommunicator};
use oneport::websocket::{Accept, Close, CloseCode, Consumer, Context, Denial, Message};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};

use crate::support::{HANDSHAKE, frame, read_until, upgrade};

/// The calls of the consumers of one test, by the test's name in the path.
static TOLD: LazyLock<Mutex<Vec<(String, String)>>> = LazyLock::new(Mutex::default);

fn told(test: &str) -> Vec<String> {
    TOLD.lock()
        .unwrap()
        .iter()
        .filter(|(name, _)| name == test)
        .map(|(_, what)| what.clone())
        .collect()
}

/// Does what messages and paths ask for, and records its calls.
struct Obedient {
    test: String,
}

impl Obedient {
    fn note(&self, what: impl Into<String>) {
        TOLD.lock().unwrap().push((self.test.clone(), what.into()));
    }
}

impl Consumer for Obedient {
    type Options = ();

    fn new((): &()) -> Self {
        Self {
            test: String::new(),
        }
    }

    async fn connect(&mut self, scope: &Scope) -> Result<Accept, Denial> {
        self.test = scope.param("test").to_owned();
        self.note("connect");
        match scope.query_string() {
            "hang" => std::future::pending().await,
            "deny" => Err(Denial::new(http::StatusCode::IM_A_TEAPOT, "no tea")
                .with_header(http::header::RETRY_AFTER, "9".parse().unwrap())),
            "fail" => Err("a secret cause".into()),
            "panic" => panic!("in connect"),
            "unoffered" => Ok(Accept::with_subprotocol("x")),
            "cookie" => {
                Ok(Accept::default().with_header(http::header::SET_COOKIE, "a=b".parse().unwrap()))
            }
            _ => Ok(Accept::default()),
        }
    }

    async fn open(&mut self, cx: &mut Context<'_>) -> Result<(), Close> {
        self.note("open");
        if cx.scope().query_string() == "panic-open" {
            panic!("in open");
        }
        Ok(())
    }

    async fn receive(&mut self, cx: &mut Context<'_>, message: Message) -> Result<(), Close> {
        self.note(format!("receive {}", message.as_text().unwrap_or_default()));
        match message.as_text() {
            Some("close") => Err(Close::new(CloseCode::new(4007).unwrap(), "test reason")),
            Some("fail") => Err("a secret cause".into()),
            Some("panic") => panic!("in receive"),
            Some("sleep") => {
                tokio::time::sleep(Duration::from_millis(600)).await;
                cx.send("awake");
                Ok(())
            }
            Some("hang") => std::future::pending().await,
            _ => {
                cx.send(message);
                Ok(())
            }
        }
    }

    async fn disconnect(&mut self, _cx: &mut Context<'_>, code: CloseCode) {
        self.note(format!("disconnect {code}"));
    }
}

const FILE: &str = "
    [[websocket.route]]
    path = '/{test:slug}/'
    consumer = 'obedient'
    connect_timeout = '200ms'
    disconnect_timeout = '200ms'
    close_timeout = '500ms'
";

fn registry() -> Registry {
    Registry::builtin().consumer::<Obedient>("obedient")
}

fn app() -> Application {
    Application::with(&registry(), FILE).unwrap()
}

async fn eventually(test: &str, last: &str) -> Vec<String> {
    for _ in 0..500 {
        let told = told(test);
        if told.last().is_some_and(|told| told == last) {
            return told;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("expected {last:?} at last, found {:?}", told(test));
}

/// Cases 28 to 31 and 45.
#[tokio::test]
async fn decisions_on_the_handshake_are_carried_out() {
    let app = app();
    for (query, status, sentence) in [
        ("hang", 504, "the decision on the handshake took too long"),
        ("deny", 418, "no tea"),
        ("fail", 500, "the server could not finish this request"),
        ("panic", 500, "the server could not finish this request"),
        ("unoffered", 500, "the server could not finish this request"),
    ] {
        let refused = WebsocketCommunicator::new(&format!("/decide/?{query}"))
            .connect(&app)
            .await
            .err()
            .unwrap();
        let body = String::from_utf8_lossy(refused.body()).into_owned();
        assert_eq!(
            (refused.status().as_u16(), body),
            (status, format!("{status} {sentence}\n"))
        );
        assert_eq!(
            refused.headers().contains_key("retry-after"),
            query == "deny"
        );
    }
    let socket = WebsocketCommunicator::new("/decide/?cookie")
        .connect(&app)
        .await
        .unwrap();
    assert_eq!(socket.response.headers()["set-cookie"], "a=b");
}

/// Cases 43 to 47: one `disconnect` for each way a socket can end.
#[tokio::test]
async fn each_end_calls_disconnect_exactly_once_with_its_code() {
    let app = app();
    for (at, (message, code, reason)) in [
        ("close", 4007, "test reason"),
        ("fail", 1011, ""),
        ("panic", 1011, ""),
    ]
    .into_iter()
    .enumerate()
    {
        let test = format!("end{at}");
        let mut socket = WebsocketCommunicator::new(&format!("/{test}/"))
            .connect(&app)
            .await
            .unwrap();
        socket.send(message).await;
        assert_eq!(socket.receive_close().await, (code, reason.to_owned()));
        let expected = [
            "connect",
            "open",
            &format!("receive {message}"),
            &format!("disconnect {code}"),
        ]
        .map(str::to_owned);
        assert_eq!(eventually(&test, &expected[3]).await, expected);
    }
    let socket = WebsocketCommunicator::new("/bye/")
        .connect(&app)
        .await
        .unwrap();
    assert_eq!(
        socket.close(CloseCode::new(4001).unwrap(), "bye").await,
        4001
    );
    assert_eq!(
        eventually("bye", "disconnect 4001").await,
        ["connect", "open", "disconnect 4001"]
    );
    drop(
        WebsocketCommunicator::new("/gone/")
            .connect(&app)
            .await
            .unwrap(),
    );
    assert_eq!(
        eventually("gone", "disconnect 1006").await,
        ["connect", "open", "disconnect 1006"]
    );
    let mut socket = WebsocketCommunicator::new("/opening/?panic-open")
        .connect(&app)
        .await
        .unwrap();
    assert_eq!(socket.receive_close().await.0, 1011);
    assert_eq!(
        eventually("opening", "disconnect 1011").await,
        ["connect", "open", "disconnect 1011"]
    );
}

/// Case 41.
#[tokio::test]
async fn ping_is_answered_while_the_consumer_is_busy() {
    let server = LiveServer::with(&registry(), FILE).await.unwrap();
    let mut stream = tokio::net::TcpStream::connect(server.address())
        .await
        .unwrap();
    stream
        .write_all(HANDSHAKE.replace("/echo/", "/busy/").as_bytes())
        .await
        .unwrap();
    read_until(&mut stream, |read| read.ends_with(b"\r\n\r\n")).await;
    stream
        .write_all(
            &[
                frame(0x81, b"sleep"),
                frame(0x81, b"after"),
                frame(0x89, b"are you there"),
            ]
            .concat(),
        )
        .await
        .unwrap();
    let heard = read_until(&mut stream, |read| read.ends_with(b"after")).await;
    let pong = [&[0x8A, 13][..], b"are you there"].concat();
    assert_eq!(
        heard,
        [&pong[..], b"\x81\x05awake", b"\x81\x05after"].concat()
    );
}

/// A consumer whose call never returns is dropped after its socket has ended.
#[tokio::test]
async fn consumer_that_hangs_is_dropped_after_its_socket_ended() {
    let app = app();
    let mut socket = WebsocketCommunicator::new("/hangs/")
        .connect(&app)
        .await
        .unwrap();
    socket.send("hang").await;
    drop(socket);
    assert_eq!(
        eventually("hangs", "disconnect 1006").await,
        ["connect", "open", "receive hang", "disconnect 1006"]
    );
}

/// Case 48: and the idle deadline.
#[tokio::test]
async fn deadlines_end_a_socket_with_their_code() {
    let text = format!("{FILE}\nidle_timeout = '300ms'\n");
    let app = Application::with(&registry(), &text).unwrap();
    let mut socket = WebsocketCommunicator::new("/idle/")
        .connect(&app)
        .await
        .unwrap();
    assert_eq!(
        socket.receive_close().await,
        (1000, "the connection was idle for too long".to_owned())
    );
    let text = format!("{FILE}\nmax_lifetime = '300ms'\n");
    let app = Application::with(&registry(), &text).unwrap();
    let mut socket = WebsocketCommunicator::new("/old/")
        .connect(&app)
        .await
        .unwrap();
    assert_eq!(
        socket.receive_close().await,
        (
            1000,
            "the connection reached its maximum lifetime".to_owned()
        )
    );
}

/// Case 42: a client that does not answer a ping is gone, without a close frame.
#[tokio::test]
async fn client_that_does_not_reply_to_a_ping_is_gone() {
    let text = format!("{FILE}\nping_interval = '200ms'\npong_timeout = '200ms'\n");
    let server = LiveServer::with(&registry(), &text).await.unwrap();
    let mut stream = tokio::net::TcpStream::connect(server.address())
        .await
        .unwrap();
    stream
        .write_all(HANDSHAKE.replace("/echo/", "/silent/").as_bytes())
        .await
        .unwrap();
    let heard = read_until(&mut stream, |_| false).await;
    assert!(
        heard.ends_with(&[0x89, 0]),
        "expected a ping at last, found {heard:?}"
    );
    eventually("silent", "disconnect 1006").await;
}

/// Sockets that ended in every way leave nothing behind.
#[tokio::test]
async fn nothing_is_left_behind() {
    let app = app();
    let tasks = Arc::new(app.gateway().services().tasks.clone());
    let before = tasks.alive();
    for message in ["close", "fail", "panic", "x"].iter().cycle().take(200) {
        let mut socket = WebsocketCommunicator::new("/leaks/")
            .connect(&app)
            .await
            .unwrap();
        socket.send(*message).await;
        if *message == "x" {
            drop(socket);
        } else {
            assert!(matches!(
                socket.receive_output().await,
                Output::Close { .. }
            ));
        }
    }
    for _ in 0..500 {
        if tasks.alive() == before && app.gateway().sockets().is_empty() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!(
        "{} tasks and {} sockets are left",
        tasks.alive() - before,
        app.gateway().sockets().len()
    );
}

/// A stream that always has more to read, up to its end.
struct Endless {
    frames: Vec<u8>,
    /// How often this stream was read, and how often the other.
    reads: Arc<AtomicUsize>,
    others: Arc<AtomicUsize>,
    /// The maximum number of reads that it was ahead of the other.
    lead: Arc<AtomicUsize>,
}

const READS_MAX: usize = 1000;

impl AsyncRead for Endless {
    fn poll_read(
        self: Pin<&mut Self>,
        _: &mut task::Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let reads = self.reads.fetch_add(1, Ordering::Relaxed);
        if reads < READS_MAX {
            let lead = reads.saturating_sub(self.others.load(Ordering::Relaxed));
            self.lead.fetch_max(lead, Ordering::Relaxed);
            buffer.put_slice(&self.frames);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Endless {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut task::Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut task::Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut task::Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// A client that never pauses is served in turns: others on the same worker do not have to wait.
#[tokio::test]
async fn client_that_never_pauses_leaves_room_for_others() {
    let app =
        Application::parse("[[websocket.route]]\npath = '/echo/'\nconsumer = 'echo'\n").unwrap();
    let lead = Arc::new(AtomicUsize::new(0));
    let reads = [Arc::default(), Arc::default()];
    for (own, other) in [(0, 1), (1, 0)] {
        let (_, upgrade) = upgrade(&app, "/echo/", "x-none").await;
        let stream = Endless {
            frames: frame(0x81, b"on and on").repeat(10),
            reads: Arc::clone(&reads[own]),
            others: Arc::clone(&reads[other]),
            lead: lead.clone(),
        };
        upgrade.start(Some(Stream::boxed(stream)), Bytes::new(), Box::new(()));
    }
    while reads
        .iter()
        .any(|reads| reads.load(Ordering::Relaxed) <= READS_MAX)
    {
        tokio::task::yield_now().await;
    }
    let lead = lead.load(Ordering::Relaxed);
    assert!(lead < 40, "one was {lead} reads ahead of the other");
}

/// Sends 2 MiB, and waits for its client before each piece.
struct Patient;

impl Consumer for Patient {
    type Options = ();

    fn new((): &()) -> Self {
        Self
    }

    async fn receive(&mut self, cx: &mut Context<'_>, _message: Message) -> Result<(), Close> {
        for _ in 0..64 {
            cx.drained().await;
            cx.send(Bytes::from(vec![0; 32 << 10]));
        }
        cx.drained().await;
        cx.send("done");
        Ok(())
    }
}

/// A queue over its bound would end the socket with 1013, and a wait that is not woken would never end.
#[tokio::test]
async fn drained_keeps_the_queue_within_its_bound_and_is_woken_by_the_client() {
    let file = "
        [[websocket.route]]
        path = '/'
        consumer = 'patient'
        send_queue = '64KiB'
    ";
    let registry = Registry::builtin().consumer::<Patient>("patient");
    let app = Application::with(&registry, file).unwrap();
    let mut socket = WebsocketCommunicator::new("/").connect(&app).await.unwrap();
    socket.send("go").await;
    for _ in 0..64 {
        assert_eq!(socket.receive().await.len(), 32 << 10);
    }
    assert_eq!(socket.receive().await.as_text(), Some("done"));
}

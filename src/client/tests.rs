//! Tests of the client against a listener that plays a script.

use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::stream;
use http::StatusCode;
use http_body::Frame;
use http_body_util::StreamBody;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

use super::*;
use crate::clock::Tick as _;

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi";

/// The peer's behavior for each request of a connection.
#[derive(Clone)]
enum Script {
    /// Responds, and keeps the connection open.
    Respond(String),
    /// Writes this and closes the connection.
    RespondAndClose(String),
    /// Writes this, and nothing after it.
    RespondAndHang(String),
    /// Reads until the connection is closed.
    ReadAll,
}

/// A peer on its own port.
struct Peer {
    url: String,
    connections: Arc<AtomicUsize>,
    /// Gets the bytes of each request, and an empty text when a connection is closed.
    requests: mpsc::UnboundedReceiver<String>,
    _task: JoinSet<()>,
}

impl Peer {
    async fn start(script: Script) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        let connections = Arc::new(AtomicUsize::new(0));
        let (sender, requests) = mpsc::unbounded_channel();
        let mut task = JoinSet::new();
        let accepted = connections.clone();
        task.spawn(async move {
            let mut serving = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                accepted.fetch_add(1, Ordering::Relaxed);
                serving.spawn(serve(stream, script.clone(), sender.clone()));
            }
        });
        Self {
            url,
            connections,
            requests,
            _task: task,
        }
    }

    fn client(&self, settings: ClientSettings) -> Client {
        client(&self.url, settings)
    }

    fn request(&self) -> Request<RequestBody> {
        request(&self.url, RequestBody::full("ping"))
    }

    /// Waits until the peer sees the end of a connection.
    async fn closed(&mut self) {
        while self
            .requests
            .recv()
            .await
            .is_some_and(|text| !text.is_empty())
        {}
    }
}

fn client(url: &str, settings: ClientSettings) -> Client {
    Client::new(&EndpointUrl::parse(url).unwrap().address, settings)
}

fn request(url: &str, body: RequestBody) -> Request<RequestBody> {
    let uri = EndpointUrl::parse(url).unwrap().uri;
    Request::post(uri).body(body).unwrap()
}

async fn serve<S>(mut stream: S, script: Script, requests: mpsc::UnboundedSender<String>)
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let read = stream.read(&mut buffer).await.unwrap_or(0);
        let text = String::from_utf8_lossy(&buffer[..read]).into_owned();
        let is_request = text.contains(" HTTP/1.1\r\n");
        let _ = requests.send(text);
        if read == 0 {
            return;
        }
        match &script {
            Script::ReadAll => {}
            _ if !is_request => {}
            Script::Respond(response) => stream.write_all(response.as_bytes()).await.unwrap(),
            Script::RespondAndClose(response) => {
                stream.write_all(response.as_bytes()).await.unwrap();
                return;
            }
            Script::RespondAndHang(response) => {
                stream.write_all(response.as_bytes()).await.unwrap();
                stream.flush().await.unwrap();
                // Continues to read, so that the test sees when the client closes.
                while stream.read(&mut buffer).await.is_ok_and(|read| read > 0) {}
                let _ = requests.send(String::new());
                return;
            }
        }
    }
}

fn short() -> ClientSettings {
    ClientSettings {
        head_timeout: Some(Duration::from_millis(100)),
        ..ClientSettings::default()
    }
}

#[tokio::test]
async fn responses_are_read_whole_and_connections_are_used_again() {
    let mut peer = Peer::start(Script::Respond(OK.into())).await;
    let client = peer.client(ClientSettings::default());
    for _ in 0..3 {
        let response = client.exchange(peer.request()).await.unwrap();
        assert_eq!(
            (response.status(), &response.body()[..]),
            (StatusCode::OK, &b"hi"[..])
        );
        let seen = peer.requests.recv().await.unwrap();
        assert!(
            seen.starts_with("POST / HTTP/1.1\r\n") && seen.ends_with("ping"),
            "{seen}"
        );
    }
    assert_eq!(peer.connections.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn a_unix_socket_is_an_endpoint_too() {
    let path = std::env::temp_dir().join(format!("oneport-client-{}.sock", std::process::id()));
    let _ = std::fs::remove_file(&path);
    let listener = UnixListener::bind(&path).unwrap();
    let (sender, _requests) = mpsc::unbounded_channel();
    let mut task = JoinSet::new();
    task.spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        serve(stream, Script::Respond(OK.into()), sender).await;
    });
    let url = format!("http+unix://{}:/ws", path.display());
    let client = client(&url, ClientSettings::default());
    let response = client.exchange(request(&url, RequestBody::empty())).await;
    std::fs::remove_file(&path).unwrap();
    assert_eq!(&response.unwrap().into_body()[..], b"hi");
}

#[tokio::test]
async fn a_refused_connection_is_unsent() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    drop(listener);
    let client = client(&url, ClientSettings::default());
    let error = client
        .exchange(request(&url, RequestBody::empty()))
        .await
        .unwrap_err();
    assert!(
        matches!(error, ClientError::Connect { .. }) && error.is_unsent(),
        "{error:?}"
    );
    assert!(error.to_string().contains("refused"), "{error}");
}

#[tokio::test]
async fn a_slow_connection_is_given_up() {
    // A backlog of one from which nothing is accepted: further connections stay in the handshake.
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(1).unwrap();
    let address = listener.local_addr().unwrap();
    let mut held = Vec::new();
    while let Ok(Ok(stream)) =
        tokio::time::timeout(Duration::from_millis(200), TcpStream::connect(address)).await
    {
        held.push(stream);
    }
    let settings = ClientSettings {
        connect_timeout: Duration::from_millis(100),
        ..ClientSettings::default()
    };
    let url = format!("http://{address}/");
    let error = client(&url, settings)
        .exchange(request(&url, RequestBody::empty()))
        .await;
    let error = error.unwrap_err();
    assert!(matches!(error, ClientError::Connect { .. }), "{error:?}");
}

#[tokio::test]
async fn a_head_that_does_not_come_or_only_half_is_given_up() {
    for script in [
        Script::ReadAll,
        Script::RespondAndHang("HTTP/1.1 200 OK\r\ncontent-".into()),
    ] {
        let mut peer = Peer::start(script).await;
        let error = peer
            .client(short())
            .exchange(peer.request())
            .await
            .unwrap_err();
        assert!(matches!(error, ClientError::Timeout { .. }), "{error:?}");
        assert!(!error.is_unsent());
        peer.closed().await;
    }
}

#[tokio::test]
async fn a_body_that_is_cut_or_stalls_is_an_error() {
    let half = "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf";
    let peer = Peer::start(Script::RespondAndClose(half.into())).await;
    let client = peer.client(ClientSettings::default());
    let error = client.exchange(peer.request()).await.unwrap_err();
    assert!(matches!(error, ClientError::Connection { .. }), "{error:?}");

    for settings in [
        ClientSettings {
            idle_timeout: Some(Duration::from_millis(50)),
            ..ClientSettings::default()
        },
        ClientSettings {
            total_timeout: Some(Duration::from_millis(150)),
            ..ClientSettings::default()
        },
    ] {
        let mut peer = Peer::start(Script::RespondAndHang(half.into())).await;
        let error = peer
            .client(settings)
            .exchange(peer.request())
            .await
            .unwrap_err();
        assert!(matches!(error, ClientError::Timeout { .. }), "{error:?}");
        peer.closed().await;
    }
}

#[tokio::test]
async fn responses_over_a_limit_and_other_protocols_are_refused() {
    let long = "x".repeat(2000);
    let with_length = format!("HTTP/1.1 200 OK\r\ncontent-length: 2000\r\n\r\n{long}");
    let to_the_end = format!("HTTP/1.1 200 OK\r\n\r\n{long}");
    let interim = "HTTP/1.1 100 Continue\r\n\r\n".repeat(2000);
    let settings = ClientSettings {
        response_bytes_max: 1999,
        wire_bytes_max: 20_000,
        ..ClientSettings::default()
    };
    for response in [with_length, to_the_end, interim] {
        let peer = Peer::start(Script::RespondAndClose(response)).await;
        let error = peer
            .client(settings.clone())
            .exchange(peer.request())
            .await
            .unwrap_err();
        assert!(matches!(error, ClientError::TooLarge(_)), "{error:?}");
    }
    let peer = Peer::start(Script::RespondAndClose("SSH-2.0-x\r\n".into())).await;
    let error = peer
        .client(settings)
        .exchange(peer.request())
        .await
        .unwrap_err();
    assert!(matches!(error, ClientError::Invalid(_)), "{error:?}");
}

#[tokio::test]
async fn an_idle_connection_that_the_peer_closed_is_replaced() {
    let mut peer = Peer::start(Script::RespondAndClose(OK.into())).await;
    let client = peer.client(ClientSettings::default());
    for _ in 0..20 {
        client.exchange(peer.request()).await.unwrap();
        peer.requests.recv().await.unwrap();
    }
    assert_eq!(peer.connections.load(Ordering::Relaxed), 20);
}

#[tokio::test]
async fn a_request_that_was_written_is_not_sent_again() {
    let mut peer = Peer::start(Script::RespondAndClose(String::new())).await;
    let client = peer.client(ClientSettings::default());
    let error = client.exchange(peer.request()).await.unwrap_err();
    assert!(matches!(error, ClientError::Connection { .. }), "{error:?}");
    assert!(peer.requests.recv().await.unwrap().ends_with("ping"));
    assert_eq!(peer.connections.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn one_request_more_than_the_slots_waits_and_is_refused() {
    let peer = Peer::start(Script::Respond(OK.into())).await;
    let settings = ClientSettings {
        concurrency: 2,
        queue_timeout: Duration::from_millis(50),
        ..ClientSettings::default()
    };
    let client = peer.client(settings);
    let first = client.acquire().await.unwrap();
    let _second = client.acquire().await.unwrap();
    let error = client.acquire().await.unwrap_err();
    assert!(
        matches!(error, ClientError::Busy { .. }) && error.is_unsent(),
        "{error:?}"
    );
    let (waiting, ()) = tokio::join!(client.acquire(), async { drop(first) });
    drop(waiting.unwrap());
    assert_eq!(client.free_slots(), 1);
}

#[tokio::test]
async fn a_caller_that_leaves_in_the_body_closes_the_connection_and_frees_its_slot() {
    let half = "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf";
    let mut peer = Peer::start(Script::RespondAndHang(half.into())).await;
    let client = peer.client(ClientSettings::default());
    let permit = client.acquire().await.unwrap();
    let response = permit.send(peer.request()).await.unwrap();
    let mut body = response.into_body().hold(permit);
    let frame = body.frame().await.unwrap().unwrap();
    assert_eq!(&frame.into_data().unwrap()[..], b"half");
    assert_eq!(client.free_slots(), 63);
    drop(body);
    assert_eq!(client.free_slots(), 64);
    peer.closed().await;
}

#[tokio::test]
async fn bodies_are_streamed_both_ways() {
    let response =
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\nx-end: 1\r\n\r\n";
    let mut peer = Peer::start(Script::Respond(response.into())).await;
    let client = peer.client(short());
    let parts = stream::unfold(0, |at| async move {
        // Longer than the head's timeout in total, but never between two parts.
        tokio::time::sleep(Duration::from_millis(60)).await;
        (at < 4).then(|| (Ok::<_, BoxError>(Frame::data(Bytes::from("part"))), at + 1))
    });
    let body = RequestBody::stream(StreamBody::new(Box::pin(parts)));
    let permit = client.acquire().await.unwrap();
    // The script responds to the head, which arrives first.
    let response = permit.send(request(&peer.url, body)).await.unwrap();
    let body = response.into_body().collect().await.unwrap();
    assert_eq!(body.trailers().unwrap()["x-end"], "1");
    assert_eq!(&body.to_bytes()[..], b"hi");
    assert!(
        peer.requests
            .recv()
            .await
            .unwrap()
            .contains("transfer-encoding: chunked")
    );
}

#[tokio::test]
async fn an_upload_puts_off_the_deadline_of_the_head_and_a_stalled_one_does_not() {
    let mut peer = Peer::start(Script::ReadAll).await;
    let client = peer.client(short());
    let (begun, began) = oneshot::channel();
    let mut begun = Some(begun);
    let parts = stream::poll_fn(move |_| match begun.take() {
        Some(begun) => {
            let _ = begun.send(());
            let frame = Frame::data(Bytes::from("part"));
            std::task::Poll::Ready(Some(Ok::<_, BoxError>(frame)))
        }
        None => std::task::Poll::Pending,
    });
    let body = RequestBody::stream(StreamBody::new(parts));
    let error = client.exchange(request(&peer.url, body)).await.unwrap_err();
    assert!(
        matches!(error, ClientError::UploadTimeout { .. }),
        "{error:?}"
    );
    began.await.unwrap();
    peer.closed().await;
}

#[tokio::test]
async fn a_request_body_over_its_limit_or_that_fails_is_an_error() {
    let mut peer = Peer::start(Script::ReadAll).await;
    let settings = ClientSettings {
        request_bytes_max: 3,
        ..ClientSettings::default()
    };
    let client = peer.client(settings);
    let error = client.exchange(peer.request()).await.unwrap_err();
    assert!(
        matches!(error, ClientError::RequestBody { .. }),
        "{error:?}"
    );
    let part = || stream::iter([Ok::<_, BoxError>(Frame::data(Bytes::from("ping")))]);
    let failed = || stream::iter([Err::<Frame<Bytes>, BoxError>("gone".into())]);
    for body in [
        RequestBody::stream(StreamBody::new(part())),
        RequestBody::stream(StreamBody::new(failed())),
    ] {
        let error = client.exchange(request(&peer.url, body)).await.unwrap_err();
        assert!(
            matches!(error, ClientError::RequestBody { .. }),
            "{error:?}"
        );
        peer.closed().await;
    }
}

#[tokio::test]
async fn a_failure_of_the_caller_is_no_evidence_for_the_breaker() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    drop(listener);
    let settings = ClientSettings {
        request_bytes_max: 3,
        breaker: Some(BreakerSettings {
            failures: 2,
            open: Duration::from_secs(60),
        }),
        ..ClientSettings::default()
    };
    let client = client(&url, settings);
    for body in ["", "too long", ""] {
        assert!(client.open_for().is_none());
        let sent = client.exchange(request(&url, RequestBody::full(body)));
        sent.await.unwrap_err();
    }
    assert!(client.open_for().is_some());
}

#[tokio::test]
async fn the_breaker_opens_and_one_request_finds_out_whether_the_endpoint_is_back() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let url = format!("http://{address}/");
    let settings = ClientSettings {
        breaker: Some(BreakerSettings {
            failures: 2,
            open: Duration::from_millis(100),
        }),
        ..ClientSettings::default()
    };
    let client = client(&url, settings);
    let exchange = || client.exchange(request(&url, RequestBody::empty()));
    for _ in 0..2 {
        let error = exchange().await.unwrap_err();
        assert!(matches!(error, ClientError::Connect { .. }), "{error:?}");
    }
    let error = exchange().await.unwrap_err();
    assert!(
        matches!(error, ClientError::CircuitOpen { .. }),
        "{error:?}"
    );
    let left = client.open_for().unwrap();
    assert!(!client.is_circuit_closed());

    let listener = TcpListener::bind(address).await.unwrap();
    tokio::time::sleep(left).await;
    // Its time is over, but whether the endpoint is back is not known before the probe has ended.
    assert!(!client.is_circuit_closed());
    let probe = client.acquire().await.unwrap();
    assert!(!client.is_circuit_closed());
    assert!(probe.is_probe());
    let error = client.acquire().await.unwrap_err();
    assert!(
        matches!(error, ClientError::CircuitOpen { .. }),
        "{error:?}"
    );
    drop(probe); // without an outcome: the next request is the probe
    let (sender, _requests) = mpsc::unbounded_channel();
    let serve = async {
        let (stream, _) = listener.accept().await.unwrap();
        serve(stream, Script::Respond(OK.into()), sender).await;
    };
    tokio::select! {
        response = exchange() => assert_eq!(response.unwrap().status(), StatusCode::OK),
        () = serve => panic!("the peer has ended"),
    }
    assert!(!client.acquire().await.unwrap().is_probe());
}

#[tokio::test]
async fn the_idle_timeout_runs_only_while_the_reader_waits() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let settings = ClientSettings {
        idle_timeout: Some(Duration::from_millis(200)),
        ..ClientSettings::default()
    };
    let client = client(&url, settings);
    let permit = client.acquire().await.unwrap();
    let sent = permit.send(request(&url, RequestBody::empty()));
    let peer = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        let _ = stream.read(&mut [0; 1024]).await.unwrap();
        let half = "HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nha";
        stream.write_all(half.as_bytes()).await.unwrap();
        stream
    };
    let (response, mut stream) = tokio::join!(sent, peer);
    let mut body = response.unwrap().into_body();
    let mut poll = async || {
        body.frame()
            .await
            .unwrap()
            .map(|frame| frame.into_data().unwrap())
    };
    assert_eq!(&poll().await.unwrap()[..], b"ha");
    // The reader waits for a moment, and then does something else for longer than the timeout.
    let waited = tokio::time::timeout(Duration::from_millis(20), poll()).await;
    assert!(waited.is_err());
    stream.write_all(b"l").await.unwrap();
    assert_eq!(&poll().await.unwrap()[..], b"l");
    tokio::time::sleep(Duration::from_millis(300)).await;
    let late = async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        stream.write_all(b"f").await.unwrap();
    };
    let (frame, ()) = tokio::join!(poll(), late);
    assert_eq!(&frame.unwrap()[..], b"f");
}

#[tokio::test]
async fn the_total_timeout_holds_for_data_that_is_always_ready() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let settings = ClientSettings {
        total_timeout: Some(Duration::from_millis(200)),
        response_bytes_max: u64::MAX,
        ..ClientSettings::default()
    };
    let client = client(&url, settings);
    let endless = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        let _ = stream.read(&mut [0; 1024]).await.unwrap();
        let head = "HTTP/1.1 200 OK\r\n\r\n";
        stream.write_all(head.as_bytes()).await.unwrap();
        while stream.write_all(&[b'x'; 64 * 1024]).await.is_ok() {}
    };
    let reading = async {
        let permit = client.acquire().await.unwrap();
        let sent = permit.send(request(&url, RequestBody::empty()));
        let mut body = sent.await.unwrap().into_body();
        loop {
            if let Err(error) = body.frame().await.unwrap() {
                return error;
            }
        }
    };
    let (error, ()) = tokio::join!(reading, endless);
    assert!(matches!(error, ClientError::Timeout { .. }), "{error:?}");
}

#[tokio::test]
async fn idle_connections_are_closed_by_the_clock() {
    let mut peer = Peer::start(Script::Respond(OK.into())).await;
    let client = peer.client(ClientSettings::default());
    client.exchange(peer.request()).await.unwrap();
    assert!(!peer.requests.recv().await.unwrap().is_empty());
    client.0.pool.tick(); // too early
    client.exchange(peer.request()).await.unwrap();
    assert!(!peer.requests.recv().await.unwrap().is_empty());
    assert_eq!(peer.connections.load(Ordering::Relaxed), 1);
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(21)).await;
    client.0.pool.tick();
    tokio::time::resume();
    peer.closed().await;
}

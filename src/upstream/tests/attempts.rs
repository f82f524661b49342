//! Tests of a request's attempts: what each of them sends, how long all of them may take, and whose
//! failure it is.

use metrics::{Counter, CounterFn, Gauge, Histogram, Key, KeyName, Metadata, SharedString, Unit};
use tokio::sync::mpsc;

use super::*;
use crate::client::BoxError;
use crate::upstream::lookups;

/// Starts a server that keeps the requests and answers them.
async fn recording() -> (String, mpsc::UnboundedReceiver<String>, JoinSet<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (sender, requests) = mpsc::unbounded_channel();
    let mut task = JoinSet::new();
    task.spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut buffer = vec![0; 64 * 1024];
            let read = stream.read(&mut buffer).await.unwrap();
            let _ = sender.send(String::from_utf8_lossy(&buffer[..read]).into_owned());
            stream.write_all(OK.as_bytes()).await.unwrap();
        }
    });
    (url, requests, task)
}

/// A body that has begun and does not go on.
fn stalled() -> RequestBody {
    let mut first = Some(Frame::data(Bytes::from("part")));
    let parts = futures_util::stream::poll_fn(move |_| match first.take() {
        Some(part) => Poll::Ready(Some(Ok::<_, BoxError>(part))),
        None => Poll::Pending,
    });
    RequestBody::stream(StreamBody::new(parts))
}

fn availability(upstreams: &Upstreams, server: usize) -> health::Availability {
    let now = tokio::time::Instant::now();
    upstreams.set().servers()[server].health.availability(now)
}

#[tokio::test]
async fn each_attempt_has_a_head_of_its_own() {
    for scheme in ["http", "h2c"] {
        let down = closed_port().await.replace("http", scheme);
        let (up, mut requests, _task) = recording().await;
        let address = up.strip_prefix("http://").unwrap();
        for (own, expected) in [(None, address), (Some("app.test"), "app.test")] {
            let upstreams = upstreams(&[&down, &up], "max_fails = 0");
            start(&upstreams, &Runtime::default(), &Sets::default());
            // One of the two begins at the server that is down.
            for _ in 0..2 {
                let mut request = Request::get("/a?b=1").body(RequestBody::empty()).unwrap();
                if let Some(host) = own {
                    let host = HeaderValue::from_static(host);
                    request.headers_mut().insert("host", host);
                }
                let sent = exchange(&upstreams, &HeaderMap::new(), request).await;
                assert_eq!(sent.unwrap().1, "hi");
                let request = requests.recv().await.unwrap();
                let expected = format!("GET /a?b=1 HTTP/1.1\r\nhost: {expected}\r\n\r\n");
                assert_eq!(request, expected, "{scheme}");
            }
        }
    }
}

/// Counts how often requests were sent again.
#[derive(Clone, Default)]
struct Retried(Arc<AtomicUsize>);

impl CounterFn for Retried {
    fn increment(&self, value: u64) {
        self.0.fetch_add(value as usize, Ordering::SeqCst);
    }

    fn absolute(&self, _value: u64) {}
}

impl metrics::Recorder for Retried {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        match key.name() {
            "oneport_upstream_retries_total" => Counter::from_arc(Arc::new(self.clone())),
            _ => Counter::noop(),
        }
    }

    fn register_gauge(&self, _: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::noop()
    }

    fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::noop()
    }
}

#[tokio::test]
async fn only_retries_that_happen_are_counted() {
    let retried = Retried::default();
    let count = || retried.0.load(Ordering::SeqCst);
    let _recording = metrics::set_default_local_recorder(&retried);
    let (down, up) = (closed_port().await, Peer::answering("b").await);
    // There is no other server to try.
    let alone = upstreams(&[&down], "");
    get(&alone).await.unwrap_err();
    assert_eq!(count(), 0);
    let both = upstreams(&[&down, &up.url], "max_fails = 0");
    // Each begins at the server that is down: a retry takes a turn, too.
    for _ in 0..4 {
        get(&both).await.unwrap();
    }
    assert_eq!(count(), 4);
}

#[tokio::test]
async fn the_total_timeout_covers_the_queue_and_tunnels() {
    let peer = Peer::start(Script::Hang).await;
    let options = "max_connections = 1\nqueue_timeout = \"10s\"\ntotal_timeout = \"200ms\"";
    let upstreams = upstreams(&[&peer.url], options);
    let began = tokio::time::Instant::now();
    let (one, two) = tokio::join!(get(&upstreams), get(&upstreams));
    let took = began.elapsed();
    assert!(took < Duration::from_secs(2), "{took:?}");
    let mut statuses = [one, two].map(|sent| sent.unwrap_err().status().as_u16());
    statuses.sort_unstable();
    assert_eq!(statuses, [503, 504], "one has waited for the other");
    let headers = HeaderMap::new();
    let affinity = Affinity {
        address: None,
        headers: &headers,
    };
    let handshake = Request::get("/ws").body(()).unwrap();
    let opened = upstreams.open_tunnel(&affinity, handshake);
    let error = opened.await.unwrap_err();
    assert_eq!(error.status(), StatusCode::GATEWAY_TIMEOUT, "{error}");
}

#[tokio::test]
async fn a_client_that_stalls_is_no_failure_of_the_server() {
    let (hanging, up) = (Peer::start(Script::Hang).await, Peer::answering("b").await);
    for timeout in ["response_timeout = \"100ms\"", "total_timeout = \"100ms\""] {
        let options = format!("max_fails = 1\n{timeout}");
        let upstreams = upstreams(&[&hanging.url, &up.url], &options);
        let request = Request::post("/").body(stalled()).unwrap();
        let error = exchange(&upstreams, &HeaderMap::new(), request).await;
        let error = error.unwrap_err();
        assert_eq!(error.status(), StatusCode::REQUEST_TIMEOUT, "{error}");
        assert!(error.is_request_body());
        assert_eq!(availability(&upstreams, 0), health::Availability::Up);
    }
    // A server that does not take what the client sends is another matter.
    let upstreams = upstreams(
        &[&hanging.url, &up.url],
        "max_fails = 1\nresponse_timeout = \"100ms\"",
    );
    let error = post(&upstreams).await.unwrap_err();
    assert_eq!(error.status(), StatusCode::GATEWAY_TIMEOUT, "{error}");
    assert_ne!(availability(&upstreams, 0), health::Availability::Up);
}

#[tokio::test]
async fn tunnels_do_not_take_the_places_of_requests() {
    let head =
        "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n";
    let upgrading = Peer::start(Script::Upgrade(head, OK)).await;
    let upstreams = upstreams(&[&upgrading.url], "max_connections = 1");
    let headers = HeaderMap::new();
    let affinity = Affinity {
        address: None,
        headers: &headers,
    };
    let handshake = Request::get("/ws")
        .header("connection", "upgrade")
        .header("upgrade", "websocket")
        .body(())
        .unwrap();
    let _tunnel = upstreams.open_tunnel(&affinity, handshake).await.unwrap();
    assert_eq!(get(&upstreams).await.unwrap(), "hi");
}

#[tokio::test]
async fn connections_to_the_last_address_of_a_name_are_not_used_again() {
    let peer = Peer::start(Script::Answer(OK.to_owned())).await;
    let url = peer.url.replace("127.0.0.1", "localhost");
    let upstreams = upstreams(&[&url], "");
    let set = upstreams.set();
    let addresses = |text: &str| -> Vec<IpAddr> { vec![text.parse().unwrap()] };
    let (one, other) = (addresses("127.0.0.1"), addresses("127.0.0.2"));
    let runtime = Runtime::default();
    let mut known: Option<&[IpAddr]> = None;
    for (found, connections) in [(&one, 1), (&one, 1), (&other, 2), (&other, 2), (&one, 3)] {
        lookups::update(set, &set.urls[0], known, found, &runtime);
        known = Some(found);
        assert_eq!(get(&upstreams).await.unwrap(), "hi");
        assert_eq!(peer.connections(), connections, "{found:?}");
    }
}

//! Metrics: what they count, that no client can add a series, and that counters never fall.

use std::time::Duration;

use http::Method;
use oneport::telemetry::Snapshot;
use oneport::testing::{Application, HttpCommunicator, LiveServer, WebsocketCommunicator};
use oneport::websocket::CloseCode;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::Directory;

const FILE: &str = "
    [[http.route]]
    path    = '/plain'
    name    = 'plain'
    methods = ['GET', 'POST']
    view    = 'respond'
    options = { content_type = 'text/plain', body = '0123456789' }

    [[http.route]]
    path = '/metrics'
    view = 'metrics'

    [[websocket.route]]
    path     = '/echo'
    name     = 'echo'
    consumer = 'echo'

    [[websocket.route]]
    path     = '/room/{room:slug}'
    name     = 'room'
    consumer = 'broadcast'
    options  = { group = 'room_{room}' }
";

fn read(app: &Application) -> Snapshot {
    app.gateway().services().read_metrics().unwrap()
}

fn series(snapshot: &Snapshot) -> Vec<String> {
    let families = snapshot.families.iter();
    families
        .flat_map(|family| {
            let name = &family.name;
            let series = family.series.iter();
            series.map(move |series| format!("{name} {:?}", series.labels().collect::<Vec<_>>()))
        })
        .collect()
}

/// Waits until a condition on the metrics holds.
async fn until(read: impl Fn() -> Snapshot, holds: impl Fn(&Snapshot) -> bool) -> Snapshot {
    for _ in 0..500 {
        let snapshot = read();
        if holds(&snapshot) {
            return snapshot;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("expected other metrics, found {:#?}", read());
}

#[tokio::test]
async fn requests_are_counted_by_route_method_and_status() {
    let app = Application::parse(FILE).unwrap();
    read(&app); // from now on, durations are measured
    for _ in 0..3 {
        HttpCommunicator::get("/plain").send(&app).await;
    }
    HttpCommunicator::new(Method::HEAD, "/plain")
        .send(&app)
        .await;
    HttpCommunicator::new(Method::DELETE, "/plain")
        .send(&app)
        .await;
    HttpCommunicator::get("/other").send(&app).await;
    let snapshot = read(&app);
    let count = |labels: &[(&str, &str)]| snapshot.sum("oneport_requests_total", labels);
    let plain = ("route", "plain");
    assert_eq!(count(&[plain, ("method", "GET"), ("status", "2xx")]), 3.0);
    assert_eq!(count(&[plain, ("method", "HEAD")]), 1.0);
    assert_eq!(
        count(&[("route", ""), ("method", "DELETE"), ("status", "4xx")]),
        1.0
    );
    assert_eq!(count(&[("route", "")]), 2.0);
    let durations = snapshot
        .histogram("oneport_request_duration_seconds", &[plain])
        .unwrap();
    assert_eq!(durations.count(), 4);
    // A response to HEAD has no body.
    let bytes = snapshot.sum("oneport_response_body_bytes_total", &[plain]);
    assert_eq!(bytes, 30.0);
}

#[tokio::test]
async fn durations_are_measured_from_the_first_reading_on() {
    let app = Application::parse(FILE).unwrap();
    HttpCommunicator::get("/plain").send(&app).await;
    let snapshot = read(&app);
    assert_eq!(
        snapshot.sum("oneport_requests_total", &[("route", "plain")]),
        1.0
    );
    assert!(
        snapshot
            .series("oneport_request_duration_seconds")
            .is_empty()
    );
    HttpCommunicator::get("/plain").send(&app).await;
    assert_eq!(
        read(&app).series("oneport_request_duration_seconds").len(),
        1
    );
}

#[tokio::test]
async fn messages_and_bytes_are_counted_in_both_directions() {
    let app = Application::parse(FILE).unwrap();
    let mut members = Vec::new();
    for _ in 0..3 {
        let member = WebsocketCommunicator::new("/room/a").connect(&app).await;
        members.push(member.unwrap());
    }
    for text in ["one", "two"] {
        members[0].send(text).await;
        for member in &mut members {
            assert_eq!(member.receive().await.as_text(), Some(text));
        }
    }
    let labels = &[("route", "room")];
    let snapshot = read(&app);
    assert_eq!(snapshot.sum("oneport_messages_received_total", labels), 2.0);
    assert_eq!(snapshot.sum("oneport_messages_sent_total", labels), 6.0);
    // Frames of three bytes: from a client with a mask.
    let received = snapshot.sum("oneport_websocket_received_bytes_total", labels);
    assert_eq!(received, 18.0);
    let sent = snapshot.sum("oneport_websocket_sent_bytes_total", labels);
    assert_eq!(sent, 30.0);
    // What a socket has sent stays counted when it ends; its close frame has four bytes.
    for member in members {
        member.close(CloseCode::NORMAL, "").await;
    }
    let ended =
        |snapshot: &Snapshot| snapshot.sum("oneport_websockets_closed_total", labels) == 3.0;
    let snapshot = until(|| read(&app), ended).await;
    assert_eq!(snapshot.sum("oneport_messages_sent_total", labels), 6.0);
    let sent = snapshot.sum("oneport_websocket_sent_bytes_total", labels);
    assert_eq!(sent, 42.0);
    let lives = snapshot.histogram("oneport_websocket_duration_seconds", labels);
    assert_eq!(lives.unwrap().count(), 3);
}

#[tokio::test]
async fn counters_of_sockets_never_fall() {
    let app = Application::parse(FILE).unwrap();
    let reader = app.clone();
    let watching = tokio::task::spawn_blocking(move || {
        let mut last = [0.0; 2];
        for _ in 0..2_000 {
            let snapshot = reader.gateway().services().read_metrics().unwrap();
            let names = [
                "oneport_messages_sent_total",
                "oneport_websocket_sent_bytes_total",
            ];
            let found = names.map(|name| snapshot.sum(name, &[("route", "echo")]));
            assert!(
                found[0] >= last[0] && found[1] >= last[1],
                "{last:?} {found:?}"
            );
            last = found;
        }
    });
    let mut sockets = 0.0;
    while !watching.is_finished() {
        let mut socket = WebsocketCommunicator::new("/echo")
            .connect(&app)
            .await
            .unwrap();
        socket.send("hi").await;
        socket.receive().await;
        socket.close(CloseCode::NORMAL, "").await;
        sockets += 1.0;
    }
    watching.await.unwrap();
    let sent = |snapshot: &Snapshot| snapshot.sum("oneport_messages_sent_total", &[]) == sockets;
    until(|| read(&app), sent).await;
}

/// Whatever 10,000 clients send, the series stay those of the routes.
#[tokio::test]
async fn no_client_can_add_a_series() {
    let app = Application::parse(FILE).unwrap();
    let client = async |number: usize| {
        let get = HttpCommunicator::get;
        get(&format!("/random/{number}?a={number}"))
            .send(&app)
            .await;
        let method = Method::from_bytes(format!("MADEUP{number}").as_bytes()).unwrap();
        HttpCommunicator::new(method, "/plain").send(&app).await;
        let host = format!("host{number}.example");
        get("/plain")
            .header("host", &host)
            .header("user-agent", &host)
            .send(&app)
            .await;
        if number.is_multiple_of(20) {
            let path = format!("/room/room{number}");
            let mut member = WebsocketCommunicator::new(&path)
                .connect(&app)
                .await
                .unwrap();
            member.send("x").await;
            member.receive().await;
            member.close(CloseCode::NORMAL, "").await;
            let refused = WebsocketCommunicator::new(&format!("/none/{number}"));
            assert!(refused.connect(&app).await.is_err());
        }
    };
    read(&app);
    client(0).await;
    let labels = &[("route", "room")];
    let ended = |count: f64| {
        move |snapshot: &Snapshot| snapshot.sum("oneport_websockets_closed_total", labels) == count
    };
    let before = series(&until(|| read(&app), ended(1.0)).await);
    for number in 1..10_000 {
        client(number).await;
    }
    let after = series(&until(|| read(&app), ended(500.0)).await);
    assert_eq!(after, before);
}

async fn fetch(server: &LiveServer, request: &str) -> String {
    let mut stream = TcpStream::connect(server.address()).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut response = Vec::new();
    stream.read_to_end(&mut response).await.unwrap();
    String::from_utf8_lossy(&response).into_owned()
}

#[tokio::test]
async fn streamed_bodies_are_measured_to_their_end() {
    let directory = Directory::new().with("large.bin", "x".repeat(300_000));
    let file = format!(
        "[[http.route]]\npath = '/files/{{*path}}'\nname = 'files'\nview = 'static'\noptions = {{ dir = '{}' }}\n",
        directory.as_path().display()
    );
    let server = LiveServer::start(&file).await.unwrap();
    let read = || server.gateway().services().read_metrics().unwrap();
    read();
    let request = "GET /files/large.bin HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    let response = fetch(&server, request).await;
    assert!(response.ends_with(&"x".repeat(1_000)), "{}", response.len());
    let labels = &[("route", "files")];
    let is_over = |snapshot: &Snapshot| {
        let bodies = snapshot.histogram("oneport_response_body_duration_seconds", labels);
        bodies.is_some_and(|bodies| bodies.count() == 1)
            && snapshot.sum("oneport_requests_active", labels) == 0.0
    };
    let snapshot = until(read, is_over).await;
    let bytes = snapshot.sum("oneport_response_body_bytes_total", labels);
    assert_eq!(bytes, 300_000.0);
    server.stop().await;
}

#[tokio::test]
async fn metrics_are_written_in_the_format_that_the_scraper_prefers() {
    let app = Application::parse(FILE).unwrap();
    HttpCommunicator::get("/plain").send(&app).await;
    let plain = HttpCommunicator::get("/metrics").send(&app).await;
    assert_eq!(
        plain.headers()["content-type"],
        "text/plain; version=0.0.4; charset=utf-8"
    );
    let text = String::from_utf8(plain.body().to_vec()).unwrap();
    assert!(
        text.contains("\n# TYPE oneport_requests_total counter\n"),
        "{text}"
    );
    let accept = "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;q=0.1";
    let open = HttpCommunicator::get("/metrics")
        .header("accept", accept)
        .send(&app)
        .await;
    let media_type = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    assert_eq!(open.headers()["content-type"], media_type);
    let text = String::from_utf8(open.body().to_vec()).unwrap();
    assert!(
        text.contains("\n# TYPE oneport_requests counter\n"),
        "{text}"
    );
    assert!(text.ends_with("\n# EOF\n"), "{text}");
}

#[tokio::test]
async fn metrics_are_compressed_for_a_scraper_that_accepts_gzip() {
    let app = Application::parse(FILE).unwrap();
    let get = || HttpCommunicator::get("/metrics");
    let plain = get()
        .header("accept-encoding", "br, gzip;q=0")
        .send(&app)
        .await;
    assert_eq!(plain.headers().get("content-encoding"), None);
    let packed = get().header("accept-encoding", "gzip").send(&app).await;
    assert_eq!(packed.headers()["content-encoding"], "gzip");
    assert_eq!(packed.headers()["vary"], "accept, accept-encoding");
    let mut text = String::new();
    let mut decoder = flate2::read::GzDecoder::new(&packed.body()[..]);
    std::io::Read::read_to_string(&mut decoder, &mut text).unwrap();
    assert!(text.contains("\nprocess_open_fds "), "{text}");
    assert!(packed.body().len() * 2 < text.len());
}

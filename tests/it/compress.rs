//! Compress: the middleware that compresses responses.

use std::io::Read;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, Response, StatusCode, header};
use http_body::Frame;
use oneport::config::OptionErrors;
use oneport::gateway::Registry;
use oneport::http::{Body, Failure, Request, View, respond};
use oneport::testing::{Application, HttpCommunicator, LiveServer};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::sync::mpsc;

use crate::support::{Directory, application, field, read_until};

/// Responds as the query says: `len`, `type`, `status`, and any header field.
struct Text;

impl View for Text {
    type Options = ();

    fn new((): ()) -> Result<Self, OptionErrors> {
        Ok(Self)
    }

    async fn call(&self, request: Request) -> Result<oneport::http::Response, Failure> {
        let scope = &request.scope;
        let len = scope
            .query("len")
            .map_or(10_000, |len| len.parse().unwrap());
        let content_type = scope.query("type").unwrap_or("text/html".to_owned());
        let mut response = respond(200, &content_type, text(len));
        for (name, value) in scope.query_pairs() {
            match name.as_str() {
                "len" | "type" => {}
                "status" => *response.status_mut() = value.parse().unwrap(),
                "random" => {
                    let bytes: Vec<u8> = (0..len).map(|_| fastrand::u8(..)).collect();
                    *response.body_mut() = Body::full(bytes);
                }
                name => {
                    let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
                    let value = HeaderValue::from_str(&value).unwrap();
                    response.headers_mut().insert(name, value);
                }
            }
        }
        Ok(response)
    }
}

fn text(len: usize) -> String {
    let words = "the quick brown fox jumps over the lazy dog; ";
    words.chars().cycle().take(len).collect()
}

fn app(settings: &str) -> Application {
    let file = format!(
        "[[http.route]]\npath = '/'\nview = 'text'\nmethods = ['GET', 'HEAD']\nmiddleware = ['compress']\n{settings}\n"
    );
    application(&Registry::builtin().view::<Text>("text"), &file)
}

async fn get(app: &Application, path: &str, accepted: &str) -> Response<Bytes> {
    HttpCommunicator::get(path)
        .header("accept-encoding", accepted)
        .send(app)
        .await
}

fn decoded(coding: Option<&str>, bytes: &[u8]) -> Vec<u8> {
    let mut text = Vec::new();
    match coding {
        Some("br") => {
            brotli::Decompressor::new(bytes, 4096)
                .read_to_end(&mut text)
                .unwrap();
        }
        Some("zstd") => text = zstd::stream::decode_all(bytes).unwrap(),
        Some("gzip") => {
            flate2::read::GzDecoder::new(bytes)
                .read_to_end(&mut text)
                .unwrap();
        }
        None => text = bytes.to_vec(),
        Some(other) => panic!("{other}"),
    }
    text
}

#[tokio::test]
async fn the_client_weighs_and_then_the_route_chooses() {
    let check = async |settings: &str, accepted: &str, expected: Option<&str>| {
        let response = get(&app(settings), "/", accepted).await;
        let coding = field(&response, "content-encoding");
        assert_eq!(coding, expected, "{settings} {accepted}");
        assert_eq!(decoded(coding, response.body()), text(10_000).as_bytes());
        assert_eq!(field(&response, "vary"), Some("accept-encoding"));
        if coding.is_some() {
            assert!(response.body().len() < 500);
        }
    };
    check("", "gzip, deflate, br, zstd", Some("br")).await;
    check("", "gzip;q=1, br;q=0.9", Some("gzip")).await;
    check("", "zstd", Some("zstd")).await;
    check("", "identity", None).await;
    check("", "", None).await;
    check("", "br;q=0.5, identity", None).await;
    check("", "*", Some("br")).await;
    let gzip_first = "compress = { algorithms = ['gzip', 'br'] }";
    check(gzip_first, "br, gzip", Some("gzip")).await;
    check(gzip_first, "br, gzip;q=0.5", Some("br")).await;
    check(gzip_first, "zstd", None).await;
    check("compress = { level = 9 }", "zstd", Some("zstd")).await;
    check("compress = { level = 1 }", "br", Some("br")).await;
}

#[tokio::test]
async fn only_whole_compressible_bodies_are_compressed() {
    let app = app("compress = { min_size = '100 B' }");
    let check = async |query: &str, is_compressed: bool| {
        let response = get(&app, &format!("/?{query}"), "gzip").await;
        let coding = field(&response, "content-encoding");
        assert_eq!(coding == Some("gzip"), is_compressed, "{query}");
    };
    check("", true).await;
    check("len=100", true).await;
    check("len=99", false).await;
    check("len=0", false).await;
    check("status=404", true).await;
    check("status=206", false).await;
    check("content-encoding=identity", false).await;
    check("content-range=bytes+0-1/2", false).await;
    check("content-digest=x", false).await;
    check("cache-control=no-transform", false).await;
    check("cache-control=public,+No-Transform", false).await;
    check("cache-control=no-store", true).await;
    check("type=application/json", true).await;
    check("type=TEXT/Plain;charset=x", true).await;
    check("type=application/problem%2Bjson", true).await;
    check("type=image/png", false).await;
    check("type=text/event-stream", false).await;
    check("random=1&len=5000", false).await; // it would become longer
}

#[tokio::test]
async fn fields_describe_the_compressed_bytes() {
    let app = app("");
    let query = "/?etag=%22a%22&accept-ranges=bytes&vary=origin";
    let response = get(&app, query, "br").await;
    assert_eq!(field(&response, "etag"), Some("W/\"a\""));
    assert_eq!(field(&response, "accept-ranges"), None);
    let vary: Vec<_> = response.headers().get_all(header::VARY).iter().collect();
    assert_eq!(vary, ["origin", "accept-encoding"]);
    let response = get(&app, "/?etag=W/%22a%22", "br").await;
    assert_eq!(field(&response, "etag"), Some("W/\"a\""));
    let response = get(&app, query, "identity").await;
    assert_eq!(field(&response, "etag"), Some("\"a\""));
    assert_eq!(field(&response, "accept-ranges"), Some("bytes"));
    let head = HttpCommunicator::new(Method::HEAD, "/").header("accept-encoding", "br");
    let head = head.send(&app).await;
    let same = get(&app, "/", "br").await;
    for name in ["content-encoding", "vary", "content-type"] {
        assert_eq!(field(&head, name), field(&same, name), "{name}");
    }
    let length = same.body().len().to_string();
    assert_eq!(field(&head, "content-length"), Some(&*length));
    assert!(head.body().is_empty());
    // A stream has no length before its end.
    let head = HttpCommunicator::new(Method::HEAD, "/?len=2000000").header("accept-encoding", "br");
    let head = head.send(&app).await;
    assert_eq!(field(&head, "content-encoding"), Some("br"));
    assert_eq!(field(&head, "content-length"), None);
}

/// A 304 has the fields of the 200 that it stands for (RFC 9110 §15.4.5).
#[tokio::test]
async fn an_unmodified_response_has_the_tag_that_the_client_has() {
    let app = app("");
    let check =
        async |query: &str, asked: Option<&str>, accepted: &str, tag: &str, varies: bool| {
            let path = format!("/?status=304&len=0&etag=%22a%22{query}");
            let mut request = HttpCommunicator::get(&path).header("accept-encoding", accepted);
            if let Some(asked) = asked {
                request = request.header("if-none-match", asked);
            }
            let response = request.send(&app).await;
            assert_eq!(field(&response, "etag"), Some(tag), "{query} {asked:?}");
            let vary = field(&response, "vary") == Some("accept-encoding");
            assert_eq!(vary, varies, "{query} {asked:?}");
        };
    check("", Some("W/\"a\""), "br", "W/\"a\"", true).await;
    check("", Some("\"b\", W/\"a\""), "br", "W/\"a\"", true).await;
    // The client has the uncompressed one.
    check("", Some("\"a\""), "br", "\"a\"", true).await;
    check("", None, "br", "W/\"a\"", true).await;
    check("", None, "identity", "\"a\"", true).await;
    check("&type=image/png", Some("W/\"a\""), "br", "\"a\"", false).await;
    check("&content-encoding=gzip", None, "br", "\"a\"", false).await;
}

/// Sizes around the bounds between compressing at once, on a thread, and while it is sent.
#[tokio::test]
async fn bodies_of_each_size_come_out_as_they_went_in() {
    let app = app("");
    for len in [1024, 16_384, 16_385, 1_048_576, 1_048_577, 3_000_000] {
        for coding in ["br", "zstd", "gzip"] {
            let response = get(&app, &format!("/?len={len}"), coding).await;
            assert_eq!(field(&response, "content-encoding"), Some(coding));
            let body = decoded(Some(coding), response.body());
            assert!(body == text(len).as_bytes(), "{coding} {len}");
        }
    }
}

#[tokio::test]
async fn files_and_their_conditions_pass_through_it() {
    let directory = Directory::new()
        .with("a.css", text(200_000))
        .with("b.css", text(20_000))
        .with("b.css.gz", "packed");
    let file = format!(
        "[[http.route]]\npath = '/{{*path}}'\nview = 'static'\nmiddleware = ['compress']\noptions = {{ dir = '{}' }}\n",
        directory.as_path().display()
    );
    let app = Application::parse(&file).unwrap();
    let response = get(&app, "/a.css", "gzip").await;
    assert_eq!(field(&response, "content-encoding"), Some("gzip"));
    assert!(decoded(Some("gzip"), response.body()) == text(200_000).as_bytes());
    let tag = field(&response, "etag").unwrap().to_owned();
    let again = HttpCommunicator::get("/a.css")
        .header("accept-encoding", "gzip")
        .header("if-none-match", &tag);
    let again = again.send(&app).await;
    assert_eq!(again.status(), StatusCode::NOT_MODIFIED);
    assert_eq!(field(&again, "etag"), Some(tag.as_str()));
    let part = HttpCommunicator::get("/a.css")
        .header("accept-encoding", "gzip")
        .header("range", "bytes=0-9");
    let part = part.send(&app).await;
    assert_eq!((part.status().as_u16(), part.body().len()), (206, 10));
    assert_eq!(field(&part, "content-encoding"), None);
    assert_eq!(get(&app, "/b.css", "gzip").await.body(), "packed");
}

/// A body that sends what a test sends to it.
struct Channel(mpsc::Receiver<Result<Bytes, &'static str>>);

impl http_body::Body for Channel {
    type Data = Bytes;
    type Error = &'static str;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, &'static str>>> {
        let received = self.0.poll_recv(cx);
        received.map(|frame| frame.map(|frame| frame.map(Frame::data)))
    }
}

type Receivers = std::sync::Mutex<Vec<mpsc::Receiver<Result<Bytes, &'static str>>>>;

/// Responds with the next channel as an event stream.
struct Streamed;

impl View for Streamed {
    type Options = ();

    fn new((): ()) -> Result<Self, OptionErrors> {
        Ok(Self)
    }

    async fn call(&self, request: Request) -> Result<oneport::http::Response, Failure> {
        let receivers = request.scope.state::<Arc<Receivers>>()?;
        let receiver = receivers.lock().unwrap().pop().unwrap();
        let mut response = respond(200, "text/event-stream", "");
        *response.body_mut() = Body::stream(Channel(receiver));
        Ok(response)
    }
}

/// Serves the channels as streams, `count` of them.
async fn streaming(count: usize) -> (LiveServer, Vec<mpsc::Sender<Result<Bytes, &'static str>>>) {
    let (senders, receivers): (Vec<_>, Vec<_>) = (0..count).map(|_| mpsc::channel(4)).unzip();
    let receivers: Arc<Receivers> = Arc::new(std::sync::Mutex::new(receivers));
    let registry = Registry::builtin()
        .state(receivers)
        .view::<Streamed>("streamed");
    let file = "[[http.route]]\npath = '/'\nview = 'streamed'\nmiddleware = ['compress']\n\
        compress = { types = ['text/event-stream'] }\n";
    (LiveServer::with(&registry, file).await.unwrap(), senders)
}

async fn ask(server: &LiveServer) -> TcpStream {
    let mut stream = TcpStream::connect(server.address()).await.unwrap();
    let request = "GET / HTTP/1.1\r\nHost: localhost\r\nAccept-Encoding: gzip\r\n\r\n";
    stream.write_all(request.as_bytes()).await.unwrap();
    stream
}

/// The bytes of the chunks that are complete.
fn unchunked(mut bytes: &[u8]) -> Vec<u8> {
    let mut content = Vec::new();
    while let Some(end) = bytes.windows(2).position(|at| at == b"\r\n") {
        let size = std::str::from_utf8(&bytes[..end]).unwrap();
        let size = usize::from_str_radix(size, 16).unwrap();
        let Some(chunk) = bytes.get(end + 2..end + 2 + size) else {
            break;
        };
        content.extend_from_slice(chunk);
        bytes = bytes.get(end + 4 + size..).unwrap_or_default();
    }
    content
}

#[tokio::test]
async fn a_stream_holds_nothing_back() {
    let (server, mut senders) = streaming(1).await;
    let sender = senders.remove(0);
    let mut stream = ask(&server).await;
    let mut read = Vec::new();
    let mut expected = String::new();
    for number in 0..5 {
        let event = format!("data: {number}\n\n");
        expected.push_str(&event);
        sender.send(Ok(event.into())).await.unwrap();
        // The event arrives although the stream goes on.
        while !shown(&read).ends_with(expected.as_bytes()) {
            let before = read.len();
            let more = read_until(&mut stream, |more| !more.is_empty()).await;
            read.extend_from_slice(&more);
            assert!(read.len() > before, "the stream has ended");
        }
    }
    drop(sender);
    read.extend(read_until(&mut stream, |more| more.ends_with(b"0\r\n\r\n")).await);
    assert_eq!(shown(&read), expected.as_bytes());
}

/// What a client can decode of a chunked response in gzip.
fn shown(read: &[u8]) -> Vec<u8> {
    let Some(end) = read.windows(4).position(|at| at == b"\r\n\r\n") else {
        return Vec::new();
    };
    let head = String::from_utf8_lossy(&read[..end]);
    assert!(head.contains("content-encoding: gzip"), "{head}");
    let content = unchunked(&read[end + 4..]);
    let mut text = vec![0; 1000];
    let mut count = 0;
    let mut decoder = flate2::read::GzDecoder::new(&content[..]);
    while let Ok(more @ 1..) = decoder.read(&mut text[count..]) {
        count += more;
    }
    text.truncate(count);
    text
}

#[tokio::test]
async fn a_source_that_fails_ends_the_connection() {
    let (server, mut senders) = streaming(1).await;
    let sender = senders.remove(0);
    let mut stream = ask(&server).await;
    sender
        .send(Ok(Bytes::from_static(b"data: 1\n\n")))
        .await
        .unwrap();
    sender.send(Err("broken")).await.unwrap();
    let read = read_until(&mut stream, |_| false).await;
    assert!(!read.ends_with(b"0\r\n\r\n"));
}

/// Each stream keeps an encoder of 1 MiB; beyond 128 MiB, responses are sent as they are.
#[tokio::test]
async fn the_number_of_encoders_is_bounded() {
    let (server, senders) = streaming(135).await;
    let mut streams = Vec::new();
    let mut compressed = 0;
    for _ in &senders {
        let mut stream = ask(&server).await;
        let head = read_until(&mut stream, |read| {
            read.windows(4).any(|at| at == b"\r\n\r\n")
        });
        let head = String::from_utf8(head.await).unwrap();
        assert!(head.starts_with("HTTP/1.1 200"), "{head}");
        compressed += usize::from(head.contains("content-encoding: gzip"));
        streams.push(stream);
    }
    assert_eq!(compressed, 128);
    drop(streams);
}

#[test]
fn mistakes_are_reported_where_they_are() {
    let check = |text: &str, expected: &str| {
        let problems = Application::parse(text)
            .err()
            .map(|found| found.to_string());
        let problems = problems.unwrap_or_default();
        assert!(problems.contains(expected), "{problems}");
    };
    let route = "[[http.route]]\npath = '/'\nview = 'health'\nmiddleware = ['compress']\n";
    check(
        &format!("{route}compress = {{ algorithms = [] }}"),
        "at least one of",
    );
    check(
        &format!("{route}compress = {{ algorithms = ['lzma'] }}"),
        "lzma",
    );
    check(
        &format!("{route}compress = {{ level = 10 }}"),
        "from 1 (fast) to 9",
    );
    check(&format!("{route}compress = {{ levels = 1 }}"), "levels");
    check(
        "[[websocket.route]]\npath = '/'\nconsumer = 'echo'\nmiddleware = ['compress']\n",
        "no effect on a WebSocket",
    );
}

#[test]
fn check_warns_where_compress_would_miss_fields_or_is_not_listed() {
    let warnings = |route: &str| {
        let text = format!("[[http.route]]\npath = '/'\nview = 'health'\n{route}\n");
        let parsed = oneport::config::Config::parse("t.toml", &text, ".".as_ref(), &|_| None);
        let (config, _) = parsed.unwrap();
        let (_, warnings) = oneport::gateway::compile(&config, &Registry::builtin()).unwrap();
        warnings.to_string()
    };
    let fields = "headers = { cache-control = 'no-transform' }";
    let found = warnings(&format!("middleware = ['headers', 'compress']\n{fields}"));
    assert!(
        found.contains("put \"compress\" before \"headers\""),
        "{found}"
    );
    let found = warnings(&format!("middleware = ['compress', 'headers']\n{fields}"));
    assert_eq!(found, "");
    let found = warnings("compress = { level = 9 }");
    assert!(found.contains("add \"compress\" to middleware"), "{found}");
}

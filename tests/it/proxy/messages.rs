//! What passes of a request and of a response.

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::sync::Notify;

use super::{exchange, get, rest, send, server};
use crate::support::{RawUpstream, closed, head_field, read_head, read_until};

/// Answers each request with its own head.
async fn echo_head(mut stream: TcpStream) {
    let (head, _) = read_head(&mut stream).await;
    let response = format!(
        "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{head}",
        head.len()
    );
    stream.write_all(response.as_bytes()).await.unwrap();
}

#[tokio::test]
async fn the_upstream_gets_the_target_and_the_fields_of_the_client() {
    let upstream = RawUpstream::start(echo_head).await;
    let server = server(&upstream, "", "").await;
    let request = "GET /a%2Fb//c?x=%20&y HTTP/1.1\r\nHost: Example.com:81\r\nConnection: close, X-Gone\r\nX-Gone: 1\r\nUpgrade: h2c\r\n\
        X-Forwarded-For: 6.6.6.6\r\nX_Forwarded_Proto: https\r\nForwarded: for=6.6.6.6\r\nX-Two: a\r\nX-Two: b\r\n\r\n";
    let response = exchange(&server, request).await;
    let (head, body) = response.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    assert!(
        body.starts_with("GET /a%2Fb//c?x=%20&y HTTP/1.1\r\n"),
        "{body}"
    );
    let names: Vec<String> = body
        .lines()
        .skip(1)
        .filter_map(|line| Some(line.split_once(':')?.0.to_ascii_lowercase()))
        .collect();
    let mut sorted = names.clone();
    sorted.sort_unstable();
    assert_eq!(
        sorted,
        [
            "host",
            "x-forwarded-for",
            "x-forwarded-host",
            "x-forwarded-port",
            "x-forwarded-proto",
            "x-request-id",
            "x-two",
            "x-two"
        ]
    );
    assert_eq!(head_field(body, "host"), Some("Example.com:81"));
    assert_eq!(head_field(body, "x-forwarded-for"), Some("127.0.0.1"));
    assert_eq!(head_field(body, "x-forwarded-proto"), Some("http"));
    assert_eq!(head_field(body, "x-forwarded-port"), Some("81"));
}

#[tokio::test]
async fn options_change_the_target_and_the_fields() {
    let upstream = RawUpstream::start(echo_head).await;
    let keys = "path = '/api/{*path}'";
    let text = format!(
        "[server]\nallowed_hosts = ['*']\ntrusted_proxies = ['127.0.0.1']\n[[http.route]]\n{keys}\nview = 'proxy'\n[http.route.options]\nupstream = ['http://{0}']\nhost = 'upstream'\n\
         strip_prefix = '/api'\nforwarded = 'both'\nrequest_headers = {{ x-path = '{{path}}', accept = false }}\nresponse_headers = {{ server = 'x', x-gone = '' }}\n",
        upstream.address
    );
    let server = oneport::testing::LiveServer::start(&text).await.unwrap();
    let request = "GET /api/x?q HTTP/1.1\r\nHost: a\r\nAccept: b\r\nX-Path: evil\r\nX-Forwarded-For: 6.6.6.6, 203.0.113.9\r\nConnection: close\r\n\r\n";
    let response = exchange(&server, request).await;
    let (head, body) = response.split_once("\r\n\r\n").unwrap();
    assert!(body.starts_with("GET /x?q HTTP/1.1\r\n"), "{body}");
    let address = upstream.address.to_string();
    assert_eq!(head_field(body, "host"), Some(&*address));
    assert_eq!(head_field(body, "accept"), None);
    assert_eq!(head_field(body, "x-path"), Some("x"));
    assert_eq!(head_field(body, "x-forwarded-prefix"), Some("/api"));
    let chain = head_field(body, "x-forwarded-for");
    assert_eq!(chain, Some("203.0.113.9, 127.0.0.1"));
    let forwarded = head_field(body, "forwarded");
    let expected = "for=203.0.113.9;host=\"a\";proto=http, for=127.0.0.1";
    assert_eq!(forwarded, Some(expected));
    assert_eq!(head_field(head, "server"), Some("x"));
}

#[tokio::test]
async fn a_response_loses_the_fields_of_its_connection_only() {
    let upstream = RawUpstream::start(|mut stream: TcpStream| async move {
        read_head(&mut stream).await;
        let response = "HTTP/1.1 302 Found\r\nTransfer-Encoding: chunked\r\nKeep-Alive: timeout=5\r\nConnection: close, X-Gone\r\nX-Gone: 1\r\n\
            Server: app\r\nDate: Mon, 01 Jan 2024 00:00:00 GMT\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\nX-Sendfile: /etc/passwd\r\nLocation: http://upstream.invalid/\r\n\r\n\
            2\r\nhi\r\n0\r\n\r\n";
        stream.write_all(response.as_bytes()).await.unwrap();
    })
    .await;
    let server = server(&upstream, "", "").await;
    let response = exchange(&server, &get("/")).await;
    let (head, body) = response.split_once("\r\n\r\n").unwrap();
    assert_eq!(body, "2\r\nhi\r\n0\r\n\r\n");
    let head = head.to_ascii_lowercase();
    let mut lines: Vec<&str> = head.lines().collect();
    lines.sort_unstable();
    assert_eq!(
        lines,
        [
            "connection: close",
            "date: mon, 01 jan 2024 00:00:00 gmt",
            "http/1.1 302 found",
            "location: http://upstream.invalid/",
            "server: app",
            "set-cookie: a=1",
            "set-cookie: b=2",
            "transfer-encoding: chunked",
        ]
    );
}

#[tokio::test]
async fn a_location_with_the_upstreams_address_becomes_a_path() {
    let upstream = RawUpstream::start(|mut stream: TcpStream| async move {
        let address = stream.local_addr().unwrap();
        read_head(&mut stream).await;
        let response = format!(
            "HTTP/1.1 301 Moved\r\nLocation: http://{address}/login/?next=/\r\nSet-Cookie: a=1; Domain=app; Path=/\r\nContent-Length: 0\r\n\r\n"
        );
        stream.write_all(response.as_bytes()).await.unwrap();
    })
    .await;
    let server = server(&upstream, "", ", cookies = true").await;
    let response = exchange(&server, &get("/")).await;
    assert_eq!(head_field(&response, "location"), Some("/login/?next=/"));
    assert_eq!(head_field(&response, "set-cookie"), Some("a=1; Path=/"));
}

#[tokio::test]
async fn responses_without_a_body_keep_their_framing() {
    let upstream = RawUpstream::start(|mut stream: TcpStream| async move {
        for _ in 0..3 {
            let (head, _) = read_head(&mut stream).await;
            let response = match head.split(' ').next().unwrap() {
                "HEAD" => "HTTP/1.1 200 OK\r\nContent-Length: 1234\r\n\r\n",
                "DELETE" => "HTTP/1.1 204 No Content\r\n\r\n",
                _ => "HTTP/1.1 304 Not Modified\r\nContent-Length: 1234\r\nETag: \"a\"\r\n\r\n",
            };
            stream.write_all(response.as_bytes()).await.unwrap();
        }
    })
    .await;
    let server = server(&upstream, "", "").await;
    // All three on one connection: each response ends where it should.
    let request = "HEAD / HTTP/1.1\r\nHost: a\r\n\r\nDELETE / HTTP/1.1\r\nHost: a\r\n\r\n";
    let response = exchange(&server, &format!("{request}{}", get("/"))).await;
    let heads: Vec<&str> = response.split("\r\n\r\n").collect();
    let [head, delete, get, ""] = heads[..] else {
        panic!("{response}");
    };
    assert_eq!(head_field(head, "content-length"), Some("1234"));
    assert!(delete.starts_with("HTTP/1.1 204"), "{delete}");
    assert!(get.starts_with("HTTP/1.1 304"), "{get}");
    assert_eq!(head_field(get, "content-length"), None);
    assert_eq!(head_field(get, "etag"), Some("\"a\""));
}

/// Each part arrives before the next one is sent.
#[tokio::test]
async fn a_response_is_streamed_as_it_comes() {
    static GO: Notify = Notify::const_new();
    let upstream = RawUpstream::start(|mut stream: TcpStream| async move {
        read_head(&mut stream).await;
        let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n";
        stream.write_all(head.as_bytes()).await.unwrap();
        for event in ["data: 1\n\n", "data: 2\n\n"] {
            GO.notified().await;
            stream.write_all(event.as_bytes()).await.unwrap();
        }
    })
    .await;
    let server = server(&upstream, "", "").await;
    let mut stream = send(&server, &get("/")).await;
    let mut last = Vec::new();
    for expected in ["\r\n\r\n", "data: 1\n\n\r\n", "data: 2\n\n\r\n"] {
        let is_there = |read: &[u8]| String::from_utf8_lossy(read).contains(expected);
        last = read_until(&mut stream, is_there).await;
        assert!(is_there(&last), "{last:?}");
        GO.notify_one();
    }
    let end = String::from_utf8_lossy(&last).into_owned() + &rest(&mut stream).await;
    assert!(end.ends_with("\r\n0\r\n\r\n"), "{end}");
}

#[tokio::test]
async fn trailers_pass_in_both_directions() {
    let upstream = RawUpstream::start(|mut stream: TcpStream| async move {
        let mut request = read_until(&mut stream, |read| read.ends_with(b"\r\n\r\n")).await;
        if !request.ends_with(b"0\r\nx-sum: 1\r\n\r\n") {
            request = read_until(&mut stream, |read| read.ends_with(b"0\r\nx-sum: 1\r\n\r\n")).await;
        }
        assert!(!request.is_empty());
        let response = "HTTP/1.1 200 OK\r\nTrailer: X-Check, Content-Length\r\nTransfer-Encoding: chunked\r\n\r\n\
            2\r\nhi\r\n0\r\nX-Check: ok\r\nContent-Length: 5\r\n\r\n";
        stream.write_all(response.as_bytes()).await.unwrap();
        closed(&mut stream).await;
    })
    .await;
    let server = server(&upstream, "", "").await;
    let request = "POST / HTTP/1.1\r\nHost: a\r\nTE: trailers\r\nConnection: close, te\r\nTrailer: X-Sum, Host\r\nTransfer-Encoding: chunked\r\n\r\n\
        3\r\nabc\r\n0\r\nX-Sum: 1\r\nHost: evil\r\n\r\n";
    let response = exchange(&server, request).await;
    assert_eq!(head_field(&response, "trailer"), Some("x-check"));
    assert!(
        response.ends_with("2\r\nhi\r\n0\r\nx-check: ok\r\n\r\n"),
        "{response}"
    );
}

#[tokio::test]
async fn trace_is_refused_and_options_is_counted() {
    let upstream = RawUpstream::start(echo_head).await;
    let server = server(&upstream, "", "").await;
    let of = |method: &str, left: &str| {
        format!(
            "{method} / HTTP/1.1\r\nHost: a\r\nMax-Forwards: {left}\r\nConnection: close\r\n\r\n"
        )
    };
    let response = exchange(&server, &of("TRACE", "5")).await;
    assert!(response.starts_with("HTTP/1.1 405"), "{response}");
    let response = exchange(&server, &of("OPTIONS", "0")).await;
    assert!(response.starts_with("HTTP/1.1 204"), "{response}");
    let response = exchange(&server, &of("OPTIONS", "3")).await;
    assert!(response.contains("max-forwards: 2"), "{response}");
    let response = exchange(&server, &of("PROPFIND", "3")).await;
    assert!(response.contains("PROPFIND / HTTP/1.1"), "{response}");
}

//! Ends: the last ends of connections and tunnels, as the server API shows them.

use std::time::Duration;

use oneport::testing::LiveServer;
use serde_json::Value;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

use crate::support::{DEADLINE, Directory, frame, open, read_until};

const API: &str = "
    [http]
    middleware = []
    [[http.route]]
    path = '/api/{*call}'
    view = 'publish'
    options = { tokens = [{ name = 'admin', token = 'an-admin-token-of-32-characters!', groups = ['*'], connections = true }] }
";

async fn server(text: &str) -> LiveServer {
    LiveServer::start(&format!("{text}\n{API}")).await.unwrap()
}

/// Connects from another address than 127.0.0.1, which the tests bring to its limits.
async fn connect_from_elsewhere(server: &LiveServer) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.2:0".parse().unwrap()).unwrap();
    socket.connect(server.address()).await.unwrap()
}

async fn recent_ends(server: &LiveServer) -> Vec<Value> {
    let mut stream = connect_from_elsewhere(server).await;
    let request = "GET /api/stats HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\
        Authorization: Bearer an-admin-token-of-32-characters!\r\n\r\n";
    stream.write_all(request.as_bytes()).await.unwrap();
    let answer = read_until(&mut stream, |_| false).await;
    let answer = String::from_utf8(answer).unwrap();
    let Some((_, body)) = answer.split_once("\r\n\r\n") else {
        return Vec::new(); // refused, as long as the connection that fills a limit is open
    };
    let stats: Value = serde_json::from_str(body).unwrap_or_default();
    stats["recent_ends"].as_array().cloned().unwrap_or_default()
}

/// Waits for the end with a cause.
async fn end_with(server: &LiveServer, cause: &str) -> Value {
    let found = async {
        loop {
            let ends = recent_ends(server).await;
            if let Some(end) = ends.into_iter().find(|end| end["cause"] == cause) {
                return end;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let Ok(found) = timeout(DEADLINE, found).await else {
        panic!("{cause}: found only {:?}", recent_ends(server).await);
    };
    assert_ne!(found["process"], "");
    found
}

fn assert_connection(end: &Value, code: u16, rule: Option<&str>, reason: &str) {
    assert_eq!(end["kind"], "connection", "{end}");
    assert_eq!(end["table"], "connection", "{end}");
    assert_eq!(end["code"], code, "{end}");
    assert_eq!(end["rule"].as_str(), rule, "{end}");
    let found = end["reason"].as_str().unwrap();
    assert!(found.contains(reason), "{end}");
    let client = end["client"].as_str().unwrap();
    assert!(client.starts_with("127.0.0.1:"), "{end}");
}

/// Sends bytes, and reads to the end of the connection.
async fn exchange(server: &LiveServer, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(server.address()).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    let read = read_until(&mut stream, |_| false).await;
    String::from_utf8_lossy(&read).into_owned()
}

#[tokio::test]
async fn connections_over_a_limit_are_kept_with_the_limit() {
    for (key, cause) in [
        ("connections", "connections"),
        ("connections_per_ip", "connections_per_ip"),
    ] {
        let server = server(&format!("[server.limits]\n{key} = 1")).await;
        let first = TcpStream::connect(server.address()).await.unwrap();
        let answer = exchange(&server, b"GET / HTTP/1.1\r\n\r\n").await;
        assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
        drop(first);
        let rule = format!("server.limits.{key} = 1");
        let end = end_with(&server, cause).await;
        assert_connection(&end, 503, Some(&rule), "");
    }
}

#[tokio::test]
async fn connections_over_the_rate_of_a_client_are_kept() {
    let server = server("[server.limits]\nconnection_rate_per_ip = '1/h'").await;
    let answer = exchange(&server, b"GET / HTTP/1.0\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.0 404 "), "{answer}");
    let answer = exchange(&server, b"GET / HTTP/1.1\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    let end = end_with(&server, "connection_rate_per_ip").await;
    let rule = "server.limits.connection_rate_per_ip = 1/h";
    assert_connection(&end, 503, Some(rule), "");
}

#[tokio::test]
async fn heads_that_are_broken_large_or_slow_are_kept() {
    let limits = "[server.limits]\nheader_size = '1 KiB'\n[server.timeouts]\nhandshake = '300ms'";
    let server = server(limits).await;
    let answer = exchange(&server, b"GET / HTTP/1.1\r\na b: c\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    let end = end_with(&server, "bad_head").await;
    assert_connection(&end, 400, None, "header");

    let head = format!("GET / HTTP/1.1\r\na: {}", "b".repeat(10_000));
    let answer = exchange(&server, head.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
    let end = end_with(&server, "head_too_large").await;
    assert_connection(&end, 431, Some("server.limits.header_size = 8192 B"), "");

    assert_eq!(exchange(&server, b"GET / HTTP/1.1\r\nHost: ").await, "");
    let end = end_with(&server, "head_timed_out").await;
    assert_connection(&end, 0, Some("server.timeouts.handshake = 0.3s"), "");

    assert_eq!(exchange(&server, b"NICK alice USER\r\n").await, "");
    let end = end_with(&server, "not_http").await;
    assert_connection(&end, 0, None, "another protocol");

    // A connection that never begins a head is none of them.
    let silent = exchange(&server, b"").await;
    assert_eq!(silent, "");
    assert_eq!(recent_ends(&server).await.len(), 4);
}

#[tokio::test]
async fn broken_http2_is_kept_with_its_code() {
    let server = server("").await;
    let frame_of_a_closed_stream = b"\0\0\x04\x08\0\0\0\0\x01\0\0\0\x01"; // WINDOW_UPDATE, idle
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    exchange(&server, &[&preface[..], frame_of_a_closed_stream].concat()).await;
    let end = end_with(&server, "http2_error").await;
    assert_connection(&end, 0, None, "protocol_error");
}

#[tokio::test]
async fn malformed_proxy_headers_are_kept() {
    let server = server("[server]\ntrusted_proxies = ['127.0.0.1']").await;
    assert_eq!(exchange(&server, b"PROXY TCP4 nonsense\r\n").await, "");
    let end = end_with(&server, "proxy_header").await;
    assert_connection(&end, 0, Some("server.trusted_proxies"), "");
    assert_ne!(end["reason"], "");
}

#[tokio::test]
async fn heads_that_the_parser_refuses_are_kept_and_counted_with_their_limits() {
    let limits = "[server.limits]\nheader_size = '128 KiB'\nuri_size = '100 KiB'";
    let server = server(limits).await;
    let counted = |limit: &str| {
        let metrics = server.gateway().services().metrics.as_ref();
        let snapshot = metrics.unwrap().snapshot();
        snapshot.sum("oneport_heads_refused_total", &[("limit", limit)])
    };
    let fields = "a: b\r\n".repeat(101);
    let target = "a".repeat(70_000);
    // Behind a request hyper may read up to twice its bound at once.
    let large = "b".repeat(600_000);
    let before = "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n";
    for (head, status, cause, limit, value) in [
        (
            format!("GET / HTTP/1.1\r\n{fields}\r\n"),
            431,
            "too_many_fields",
            "header_count",
            "100",
        ),
        (
            format!("GET /{target} HTTP/1.1\r\n\r\n"),
            414,
            "uri_too_long",
            "uri_size",
            "65534 B",
        ),
        (
            format!("GET / HTTP/1.1\r\na: {large}\r\n\r\n"),
            431,
            "head_too_large",
            "header_size",
            "131072 B",
        ),
    ] {
        // As the first head of a connection, and behind a request.
        for is_first in [true, false] {
            let times = counted(limit);
            let mut stream = TcpStream::connect(server.address()).await.unwrap();
            if !is_first {
                stream.write_all(before.as_bytes()).await.unwrap();
                let is_answered = |read: &[u8]| read.windows(4).any(|four| four == b"\r\n\r\n");
                let read = read_until(&mut stream, is_answered).await;
                assert!(read.starts_with(b"HTTP/1.1 404"));
            }
            let _ = stream.write_all(head.as_bytes()).await;
            let answer = read_until(&mut stream, |_| false).await;
            let answer = String::from_utf8_lossy(&answer);
            let line = format!("HTTP/1.1 {status} ");
            assert!(answer.contains(&line), "{limit}: {answer}");
            drop(stream);
            let is_counted = async {
                while counted(limit) == times {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            };
            timeout(DEADLINE, is_counted).await.expect(limit);
            let end = end_with(&server, cause).await;
            let rule = format!("server.limits.{limit} = {value}");
            assert_connection(&end, status, Some(&rule), "");
        }
    }
}

#[tokio::test]
async fn header_of_a_proxy_that_is_not_whole_in_time_is_kept_and_a_silent_proxy_is_not() {
    let text = "[server]\ntrusted_proxies = ['127.0.0.1']\n[server.timeouts]\nhandshake = '300ms'";
    let server = server(text).await;
    assert_eq!(exchange(&server, b"").await, "");
    // A health check, by the end or by a reset.
    let check = TcpStream::connect(server.address()).await.unwrap();
    drop(check);
    let check = TcpStream::connect(server.address()).await.unwrap();
    check.set_zero_linger().unwrap();
    drop(check);
    assert_eq!(exchange(&server, b"PROXY TCP4 203.0").await, "");
    let end = end_with(&server, "proxy_header").await;
    assert_connection(&end, 0, Some("server.timeouts.handshake = 0.3s"), "in time");
    assert_eq!(recent_ends(&server).await.len(), 1);
}

#[tokio::test]
async fn clients_that_a_proxy_names_are_kept_when_they_are_over_a_limit() {
    let text = "[server]\ntrusted_proxies = ['127.0.0.1']\n[server.limits]\nconnections_per_ip = 1";
    let server = server(text).await;
    let header = b"PROXY TCP4 203.0.113.9 127.0.0.1 4711 80\r\n";
    let mut first = TcpStream::connect(server.address()).await.unwrap();
    first.write_all(header).await.unwrap();
    first
        .write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        .await
        .unwrap();
    read_until(&mut first, |read| read.starts_with(b"HTTP/1.1 404")).await;
    let answer = exchange(&server, header).await;
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    let end = end_with(&server, "connections_per_ip").await;
    assert_eq!(end["client"], "203.0.113.9:4711");
}

#[tokio::test]
async fn failed_handshakes_of_tls_are_kept() {
    let (server, _files) = secure_server("").await;
    exchange(&server, b"\x16\x03\x01\x00\x05hello").await;
    let end = end_with(&server, "tls_failed").await;
    assert_connection(&end, 0, None, "");
    assert_ne!(end["reason"], "");

    let mut stream = TcpStream::connect(server.address()).await.unwrap();
    stream.write_all(b"\x16\x03\x01\x02\x00\x01").await.unwrap();
    drop(stream);
    let end = end_with(&server, "tls_gone").await;
    assert_connection(&end, 0, None, "");

    exchange(&server, b"\x16\x03\x01\x02\x00\x01").await;
    let end = end_with(&server, "tls_timed_out").await;
    assert_connection(&end, 0, Some("server.timeouts.handshake = 0.3s"), "");

    // A connection that never begins is none of them.
    exchange(&server, b"").await;
    assert_eq!(recent_ends(&server).await.len(), 3);
}

#[tokio::test]
async fn handshake_behind_a_proxy_that_takes_too_long_is_kept_with_the_client() {
    let (server, _files) = secure_server("[server]\ntrusted_proxies = ['127.0.0.1']").await;
    let header = b"PROXY TCP4 203.0.113.9 127.0.0.1 4711 443\r\n";
    // Behind the header nothing has begun.
    exchange(&server, header).await;
    exchange(
        &server,
        &[&header[..], b"\x16\x03\x01\x02\x00\x01"].concat(),
    )
    .await;
    let end = end_with(&server, "tls_timed_out").await;
    assert_eq!(end["client"], "203.0.113.9:4711");
    assert_eq!(end["rule"], "server.timeouts.handshake = 0.3s");
    assert_eq!(recent_ends(&server).await.len(), 1);
}

/// A server with a certificate of its own, that also serves without TLS.
async fn secure_server(text: &str) -> (LiveServer, Directory) {
    let key = rcgen::KeyPair::generate().unwrap();
    let params = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    let certificate = params.self_signed(&key).unwrap();
    let files = Directory::new()
        .with("cert.pem", certificate.pem())
        .with("key.pem", key.serialize_pem());
    let (certificate, key) = (files.path("cert.pem"), files.path("key.pem"));
    let tls = format!(
        "{text}\n[server.timeouts]\nhandshake = '300ms'\n\
         [server.tls]\nplaintext = 'serve'\ncertificate = {certificate:?}\nkey = {key:?}"
    );
    (server(&tls).await, files)
}

#[tokio::test]
async fn tunnels_are_kept_as_other_sockets_are() {
    let upstream = "[[websocket.route]]\npath = '/echo/'\nconsumer = 'echo'\nmax_message = '8 B'";
    let upstream = LiveServer::start(upstream).await.unwrap();
    let front = format!(
        "[[websocket.route]]\npath = '/{{*path}}'\nname = 'legacy'\nconsumer = 'proxy'\n\
         options = {{ upstream = ['http://{}'] }}",
        upstream.address()
    );
    let server = server(&front).await;
    let mut client = open(&server).await;
    client.write_all(&frame(0x81, b"hello")).await.unwrap();
    read_until(&mut client, |read| read.ends_with(b"hello")).await;
    client
        .write_all(&frame(0x81, b"more than 8"))
        .await
        .unwrap();
    read_until(&mut client, |read| read.first() == Some(&0x88)).await;
    client
        .write_all(&frame(0x88, &1000_u16.to_be_bytes()))
        .await
        .unwrap();
    let end = end_with(&server, "upstream_close").await;
    assert_eq!(end["kind"], "closed");
    assert_eq!(
        (&end["route"], &end["path"]),
        (&"legacy".into(), &"/echo/".into())
    );
    assert_eq!((&end["code"], &end["messages"]), (&1009.into(), &2.into()));
}

//! The body of a request on its way to the upstream.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::{exchange, rest, send, server};
use crate::support::{RawUpstream, closed, head_field, read_head, read_until};

/// Answers with the head of the request and its body as received.
async fn echo_all(mut stream: TcpStream) {
    let (head, mut body) = read_head(&mut stream).await;
    let length = head_field(&head, "content-length");
    let is_whole = |body: &[u8]| match length {
        Some(length) => body.len() >= length.parse().unwrap(),
        None => !head.contains("chunked") || body.ends_with(b"0\r\n\r\n"),
    };
    while !is_whole(&body) {
        if stream.read_buf(&mut body).await.unwrap_or(0) == 0 {
            return;
        }
    }
    let all = format!("{head}{}", String::from_utf8_lossy(&body));
    let response = format!(
        "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{all}",
        all.len()
    );
    stream.write_all(response.as_bytes()).await.unwrap();
}

fn post(fields: &str, body: &str) -> String {
    format!("POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{fields}\r\n{body}")
}

#[tokio::test]
async fn a_body_is_framed_by_its_length_or_in_chunks() {
    let upstream = RawUpstream::start(echo_all).await;
    let server = server(&upstream, "", "").await;
    let check = async |fields: &str, body: &str, length: Option<&str>, expected: &str| {
        let response = exchange(&server, &post(fields, body)).await;
        let (_, received) = response.split_once("\r\n\r\n").unwrap();
        let (head, received) = received.split_once("\r\n\r\n").unwrap();
        assert_eq!(head_field(head, "content-length"), length, "{head}");
        assert_eq!(received, expected);
    };
    check("Content-Length: 5\r\n", "hello", Some("5"), "hello").await;
    check("Content-Length: 0\r\n", "", Some("0"), "").await;
    check("", "", Some("0"), "").await;
    let chunked = "Transfer-Encoding: chunked\r\n";
    let chunks = "5;ext=1\r\nhello\r\n0\r\n\r\n";
    check(chunked, chunks, None, "5\r\nhello\r\n0\r\n\r\n").await;
    // The one framing that counts here is the only one that the upstream gets.
    let both = "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n";
    check(both, chunks, None, "5\r\nhello\r\n0\r\n\r\n").await;
}

#[tokio::test]
async fn a_body_over_the_limit_is_413() {
    let upstream = RawUpstream::start(echo_all).await;
    let server = server(&upstream, "body_size = '4 B'", "").await;
    let response = exchange(&server, &post("Content-Length: 5\r\n", "hello")).await;
    assert!(response.starts_with("HTTP/1.1 413"), "{response}");
    let chunks = "5\r\nhello\r\n0\r\n\r\n";
    let response = exchange(&server, &post("Transfer-Encoding: chunked\r\n", chunks)).await;
    assert!(response.starts_with("HTTP/1.1 413"), "{response}");
    let response = exchange(&server, &post("Content-Length: 4\r\n", "hell")).await;
    assert!(response.starts_with("HTTP/1.1 200"), "{response}");
}

/// The upstream does not get the end of a body that the client has cut off.
#[tokio::test]
async fn a_body_that_breaks_off_closes_the_upstreams_connection() {
    let mut upstream = RawUpstream::start(|mut stream: TcpStream| async move {
        let mut read = Vec::new();
        let _ = stream.read_to_end(&mut read).await;
        let text = String::from_utf8_lossy(&read);
        assert!(!text.ends_with("0\r\n\r\n"), "{text}");
    })
    .await;
    let server = server(&upstream, "", "").await;
    let mut stream = send(&server, &post("Content-Length: 10\r\n", "hello")).await;
    stream.shutdown().await.unwrap();
    let response = rest(&mut stream).await;
    assert!(response.starts_with("HTTP/1.1 400"), "{response}");
    upstream.ended().await;
    let chunks = "5\r\nhello\r\n";
    let mut stream = send(&server, &post("Transfer-Encoding: chunked\r\n", chunks)).await;
    stream.shutdown().await.unwrap();
    let response = rest(&mut stream).await;
    assert!(response.starts_with("HTTP/1.1 400"), "{response}");
    upstream.ended().await;
}

#[tokio::test]
async fn the_upstream_decides_whether_a_waiting_client_sends_its_body() {
    let upstream = RawUpstream::start(|mut stream: TcpStream| async move {
        let (head, body) = read_head(&mut stream).await;
        assert!(body.is_empty(), "{body:?}");
        assert_eq!(head_field(&head, "expect"), Some("100-continue"));
        if head.contains("/no") {
            let refusal = "HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno";
            stream.write_all(refusal.as_bytes()).await.unwrap();
            return closed(&mut stream).await;
        }
        let go = "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n";
        stream.write_all(go.as_bytes()).await.unwrap();
        let body = read_until(&mut stream, |read| read.len() >= 5).await;
        assert_eq!(body, b"hello");
        let done = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\nConnection: close\r\n\r\ndone";
        stream.write_all(done.as_bytes()).await.unwrap();
    })
    .await;
    let server = server(&upstream, "", "").await;
    let head = |path: &str| {
        format!(
            "POST {path} HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n"
        )
    };
    let mut stream = send(&server, &head("/yes")).await;
    let interim = read_until(&mut stream, |read| read.ends_with(b"\r\n\r\n")).await;
    assert_eq!(
        String::from_utf8_lossy(&interim),
        "HTTP/1.1 100 Continue\r\n\r\n"
    );
    stream.write_all(b"hello").await.unwrap();
    let response = read_until(&mut stream, |read| read.ends_with(b"done")).await;
    assert!(response.starts_with(b"HTTP/1.1 200"));
    let mut stream = send(&server, &head("/no")).await;
    let response = rest(&mut stream).await;
    assert!(response.starts_with("HTTP/1.1 403"), "{response}");
    assert!(response.ends_with("\r\n\r\nno"), "{response}");
}

/// One that knows nothing of the expectation waits for the body.
#[tokio::test]
async fn an_upstream_that_ignores_the_expectation_gets_the_body() {
    let upstream = RawUpstream::start(echo_all).await;
    let server = server(&upstream, "", "").await;
    let mut stream = send(
        &server,
        &post("Expect: 100-continue\r\nContent-Length: 5\r\n", ""),
    )
    .await;
    let interim = read_until(&mut stream, |read| read.ends_with(b"\r\n\r\n")).await;
    assert!(interim.starts_with(b"HTTP/1.1 100"));
    stream.write_all(b"hello").await.unwrap();
    let response = rest(&mut stream).await;
    assert!(response.ends_with("hello"), "{response}");
}

/// The response passes; what is left of the body is not waited for.
#[tokio::test]
async fn an_upstream_may_answer_before_the_end_of_the_body() {
    let upstream = RawUpstream::start(|mut stream: TcpStream| async move {
        read_head(&mut stream).await;
        let response =
            "HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\nConnection: close\r\n\r\nbig";
        stream.write_all(response.as_bytes()).await.unwrap();
        closed(&mut stream).await;
    })
    .await;
    let server = server(&upstream, "body_size = '1 GiB'", "").await;
    for length in [1_000, 100_000_000] {
        let mut stream = send(
            &server,
            &post(&format!("Content-Length: {length}\r\n"), "hello"),
        )
        .await;
        let response = read_until(&mut stream, |read| read.ends_with(b"big")).await;
        let response = String::from_utf8_lossy(&response);
        assert!(response.starts_with("HTTP/1.1 413"), "{response}");
        // The connection ends by itself, although the client waits for it.
        assert_eq!(rest(&mut stream).await, "");
    }
}

/// The deadlines of the upstream take the place of the route's.
#[tokio::test]
async fn a_slow_answer_is_not_cut_off_by_the_request_timeout() {
    let upstream = RawUpstream::start(|mut stream: TcpStream| async move {
        read_head(&mut stream).await;
        tokio::time::sleep(Duration::from_millis(600)).await;
        let response = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\nConnection: close\r\n\r\nslow";
        stream.write_all(response.as_bytes()).await.unwrap();
    })
    .await;
    let server = server(&upstream, "request_timeout = '100ms'", "").await;
    let response = exchange(&server, &super::get("/")).await;
    assert!(response.ends_with("slow"), "{response}");
}

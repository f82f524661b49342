//! What the client gets if the upstream fails.

use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};

use super::{exchange, get, server};
use crate::support::{RawUpstream, closed, head_field, read_head};

/// Answers every request with these bytes, and closes the connection.
async fn answering(response: &'static str) -> RawUpstream {
    RawUpstream::start(move |mut stream: TcpStream| async move {
        read_head(&mut stream).await;
        let _ = stream.write_all(response.as_bytes()).await;
        let _ = stream.shutdown().await;
        closed(&mut stream).await;
    })
    .await
}

#[tokio::test]
async fn a_response_that_cannot_be_trusted_is_502() {
    for response in [
        "",
        "nonsense\r\n\r\n",
        "HTTP/1.1 200 OK\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
        "HTTP/1.1 200 OK\r\nContent-Length: +5\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
        "HTTP/1.1 200 OK\r\nX: a\0b\r\n\r\n",
        "HTTP/1.1 200 OK\r\nX y: a\r\n\r\n",
        "HTTP/2.0 200 OK\r\n\r\n",
    ] {
        let upstream = answering(response).await;
        let server = server(&upstream, "", "").await;
        let answer = exchange(&server, &get("/")).await;
        assert!(answer.starts_with("HTTP/1.1 502"), "{response:?}: {answer}");
        assert!(!answer.contains("hello"), "{response:?}: {answer}");
    }
}

/// The client must not take the part for the whole.
#[tokio::test]
async fn a_body_that_breaks_off_has_no_end() {
    for response in [
        "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n5\r\nwor",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nzz\r\n",
    ] {
        let upstream = answering(response).await;
        let server = server(&upstream, "", "").await;
        let answer = exchange(&server, &get("/")).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{response:?}: {answer}");
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        match head_field(head, "content-length") {
            Some(length) => assert!(body.len() < length.parse().unwrap(), "{answer}"),
            None => assert!(!body.ends_with("0\r\n\r\n"), "{answer}"),
        }
    }
}

#[tokio::test]
async fn a_server_that_is_away_is_502_and_a_silent_one_504() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut upstream = RawUpstream::start(|mut stream: TcpStream| async move {
        read_head(&mut stream).await;
        closed(&mut stream).await;
    })
    .await;
    let silent = server(&upstream, "", ", response_timeout = '200ms'").await;
    let answer = exchange(&silent, &get("/")).await;
    assert!(answer.starts_with("HTTP/1.1 504"), "{answer}");
    upstream.ended().await; // the request is given up
    upstream.address = listener.local_addr().unwrap();
    drop(listener);
    let away = server(&upstream, "", "").await;
    let answer = exchange(&away, &get("/")).await;
    assert!(answer.starts_with("HTTP/1.1 502"), "{answer}");
}

#[tokio::test]
async fn statuses_of_the_upstream_can_get_a_page_of_the_server() {
    let response =
        "HTTP/1.1 503 Service Unavailable\r\nRetry-After: 7\r\nContent-Length: 6\r\n\r\nsecret";
    let upstream = answering(response).await;
    let plain = server(&upstream, "", "").await;
    let answer = exchange(&plain, &get("/")).await;
    assert!(answer.ends_with("secret"), "{answer}");
    let pages = server(&upstream, "", ", intercept_errors = [503]").await;
    let answer = exchange(&pages, &get("/")).await;
    assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
    assert!(!answer.contains("secret"), "{answer}");
    assert_eq!(head_field(&answer, "retry-after"), Some("7"));
}

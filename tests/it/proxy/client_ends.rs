//! A client that leaves, reads slowly, or closes its sending side.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use super::{get, rest, send, server};
use crate::support::{RawUpstream, closed, read_head, read_until};

#[tokio::test]
async fn the_upstreams_connection_closes_with_the_clients() {
    for first in ["", "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello"] {
        let mut upstream = RawUpstream::start(move |mut stream: TcpStream| async move {
            read_head(&mut stream).await;
            stream.write_all(first.as_bytes()).await.unwrap();
            closed(&mut stream).await;
        })
        .await;
        let server = server(&upstream, "", "").await;
        let mut stream = send(&server, &get("/")).await;
        if first.is_empty() {
            // The request has reached the upstream before the client leaves.
            tokio::time::sleep(Duration::from_millis(100)).await;
        } else {
            read_until(&mut stream, |read| read.ends_with(b"hello")).await;
        }
        // A reset is not a half-closed connection.
        stream.set_zero_linger().unwrap();
        drop(stream);
        upstream.ended().await;
    }
}

#[tokio::test]
async fn a_client_that_closes_its_sending_side_gets_its_response() {
    let upstream = RawUpstream::start(|mut stream: TcpStream| async move {
        read_head(&mut stream).await;
        tokio::time::sleep(Duration::from_millis(300)).await;
        let head = "HTTP/1.1 200 OK\r\nContent-Length: 10\r\nConnection: close\r\n\r\nhello";
        stream.write_all(head.as_bytes()).await.unwrap();
        tokio::time::sleep(Duration::from_millis(300)).await;
        stream.write_all(b"world").await.unwrap();
    })
    .await;
    let server = server(&upstream, "", "").await;
    let mut stream = send(&server, &get("/")).await;
    stream.shutdown().await.unwrap();
    assert!(rest(&mut stream).await.ends_with("helloworld"));
}

/// A client that reads nothing holds a bounded number of bytes, not the whole response.
#[tokio::test]
async fn a_client_that_does_not_read_stops_the_upstream() {
    const WHOLE: usize = 256 << 20;
    let sent = Arc::new(AtomicUsize::new(0));
    let counted = sent.clone();
    let upstream = RawUpstream::start(move |mut stream: TcpStream| {
        let sent = counted.clone();
        async move {
            read_head(&mut stream).await;
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {WHOLE}\r\n\r\n");
            stream.write_all(head.as_bytes()).await.unwrap();
            let block = vec![b'x'; 65_536];
            while stream.write_all(&block).await.is_ok() {
                sent.fetch_add(block.len(), Ordering::SeqCst);
            }
        }
    })
    .await;
    let server = server(&upstream, "", "").await;
    let stream = send(&server, &get("/")).await;
    // It stands still once the buffers of four sockets are full.
    let mut before = 0;
    for _ in 0..50 {
        tokio::time::sleep(Duration::from_millis(300)).await;
        let now = sent.load(Ordering::SeqCst);
        if now > 0 && now == before {
            break;
        }
        before = now;
    }
    assert!(before < 64 << 20, "{before} bytes were read ahead");
    drop(stream);
}

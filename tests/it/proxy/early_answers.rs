//! Responses over HTTP/2 that end with trailers before their request has ended.

use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::client::SendRequest;
use h2::{RecvStream, SendStream};
use http::{HeaderMap, HeaderValue, Request};
use oneport::testing::LiveServer;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::support::{DEADLINE, RawUpstream, closed, read_head};

/// How long the end of a response waits at most for the end of its request.
const END_TIMEOUT: Duration = Duration::from_millis(200);

/// Answers each request at once over HTTP/1.1, with trailers.
async fn upstream() -> RawUpstream {
    RawUpstream::start(|mut stream: TcpStream| async move {
        read_head(&mut stream).await;
        let response = "HTTP/1.1 200 OK\r\nTrailer: Grpc-Status\r\nTransfer-Encoding: chunked\r\n\r\n\
                        2\r\nhi\r\n0\r\nGrpc-Status: 0\r\n\r\n";
        stream.write_all(response.as_bytes()).await.unwrap();
        closed(&mut stream).await;
    })
    .await
}

/// Answers each request at once over HTTP/2, with trailers.
async fn http2_upstream() -> RawUpstream {
    RawUpstream::start(|stream: TcpStream| async move {
        let mut connection = h2::server::handshake(stream).await.unwrap();
        let mut requests = JoinSet::new();
        while let Some(Ok((request, mut respond))) = connection.accept().await {
            let mut send = respond
                .send_response(http::Response::new(()), false)
                .unwrap();
            send.send_data(Bytes::from_static(b"hi"), false).unwrap();
            send.send_trailers(status()).unwrap();
            let mut body = request.into_body();
            requests.spawn(async move { while let Some(Ok(_)) = body.data().await {} });
        }
    })
    .await
}

fn status() -> HeaderMap {
    HeaderMap::from_iter([(
        http::HeaderName::from_static("grpc-status"),
        HeaderValue::from_static("0"),
    )])
}

async fn server(upstream: &str) -> LiveServer {
    let text = format!(
        "[server]\nallowed_hosts = ['*']\n[[http.route]]\npath = '/{{*path}}'\nview = 'proxy'\noptions = {{ upstream = ['{upstream}'] }}\n"
    );
    LiveServer::start(&text)
        .await
        .unwrap_or_else(|problems| panic!("{problems}"))
}

/// A client over HTTP/2, and what serves its connection.
async fn client(server: &LiveServer) -> (SendRequest<Bytes>, JoinSet<()>) {
    let stream = TcpStream::connect(server.address()).await.unwrap();
    let (client, connection) = h2::client::handshake(stream).await.unwrap();
    let mut serving = JoinSet::new();
    serving.spawn(async move {
        let _ = connection.await;
    });
    (client, serving)
}

/// Begins a request, and reads its response up to the trailers.
async fn begin(client: &SendRequest<Bytes>) -> (SendStream<Bytes>, RecvStream) {
    let mut client = client.clone().ready().await.unwrap();
    let request = Request::post("http://localhost/call").header("te", "trailers");
    let (response, send) = client
        .send_request(request.body(()).unwrap(), false)
        .unwrap();
    let mut body = timeout(DEADLINE, response)
        .await
        .unwrap()
        .unwrap()
        .into_body();
    let data = timeout(DEADLINE, body.data()).await.unwrap();
    assert_eq!(data.unwrap().unwrap(), "hi");
    (send, body)
}

async fn check(server: &LiveServer) {
    let (client, _serving) = client(server).await;
    let began = Instant::now();
    let (mut send, mut body) = begin(&client).await;
    let trailers = timeout(DEADLINE, body.trailers()).await.unwrap().unwrap();
    assert_eq!(trailers, Some(status()));
    assert!(began.elapsed() >= END_TIMEOUT, "{:?}", began.elapsed());
    // The stream is still open.
    send.send_data(Bytes::from_static(b"rest"), true).unwrap();

    let began = Instant::now();
    let (mut send, mut body) = begin(&client).await;
    send.send_data(Bytes::from_static(b"all"), true).unwrap();
    let trailers = timeout(DEADLINE, body.trailers()).await.unwrap().unwrap();
    assert_eq!(trailers, Some(status()), "after {:?}", began.elapsed());
}

#[tokio::test]
async fn trailers_wait_for_the_end_of_the_request() {
    let upstream = upstream().await;
    check(&server(&format!("http://{}", upstream.address)).await).await;
}

#[tokio::test]
async fn trailers_of_an_upstream_over_http2_wait_too() {
    let upstream = http2_upstream().await;
    check(&server(&format!("h2c://{}", upstream.address)).await).await;
}

//! Proxy: requests over a live server to an upstream of the test that reads and writes bytes.

mod check;
mod client_ends;
mod early_answers;
mod failures;
mod files;
mod messages;
mod paths;
mod upload;

use oneport::testing::LiveServer;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::support::{DEADLINE, RawUpstream};

/// A server whose only route passes everything on, with further keys and options.
async fn server(upstream: &RawUpstream, keys: &str, options: &str) -> LiveServer {
    let address = upstream.address;
    let text = format!(
        "[server]\nallowed_hosts = ['*']\n[[http.route]]\npath = '/{{*path}}'\nview = 'proxy'\n{keys}\noptions = {{ upstream = ['http://{address}']{options} }}\n"
    );
    LiveServer::start(&text)
        .await
        .unwrap_or_else(|problems| panic!("{problems}"))
}

/// Sends a request and reads to the end of the connection.
async fn exchange(server: &LiveServer, request: &str) -> String {
    let mut stream = send(server, request).await;
    rest(&mut stream).await
}

async fn send(server: &LiveServer, request: &str) -> TcpStream {
    let mut stream = TcpStream::connect(server.address()).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    stream
}

/// Reads to the end of the connection.
async fn rest(stream: &mut TcpStream) -> String {
    let mut read = Vec::new();
    let ended = timeout(DEADLINE, stream.read_to_end(&mut read)).await;
    let _ = ended.expect("the end of the connection in time");
    String::from_utf8_lossy(&read).into_owned()
}

/// A request that closes the connection after its response.
fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
}

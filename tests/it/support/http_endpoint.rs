//! HTTP endpoint: a server of the test that answers with raw bytes.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// A server that runs until it is dropped.
pub(crate) struct HttpEndpoint {
    pub(crate) address: SocketAddr,
    _serving: JoinSet<()>,
}

impl HttpEndpoint {
    /// Starts it on a port of its own. `respond` gets the head and the body of each request and returns
    /// the whole response. One that is empty, shorter than its `content-length`, or has
    /// `connection: close`, closes the connection.
    pub(crate) async fn start<R, F>(respond: R) -> Self
    where
        R: Fn(String, Vec<u8>) -> F + Send + Sync + 'static,
        F: Future<Output = String> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let respond = Arc::new(respond);
        let mut serving = JoinSet::new();
        serving.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(serve(stream, respond.clone()));
            }
        });
        Self {
            address,
            _serving: serving,
        }
    }
}

async fn serve<R, F>(mut stream: TcpStream, respond: Arc<R>)
where
    R: Fn(String, Vec<u8>) -> F,
    F: Future<Output = String>,
{
    let mut read = Vec::new();
    while let Some((head, body)) = request(&mut stream, &mut read).await {
        let response = respond(head, body).await;
        let is_last = is_last(&response);
        if stream.write_all(response.as_bytes()).await.is_err() || is_last {
            return;
        }
    }
}

/// Reads one request. `None` at the end of the stream.
async fn request(stream: &mut TcpStream, read: &mut Vec<u8>) -> Option<(String, Vec<u8>)> {
    let end = loop {
        if let Some(end) = read.windows(4).position(|found| found == b"\r\n\r\n") {
            break end;
        }
        if stream.read_buf(read).await.unwrap_or(0) == 0 {
            return None;
        }
    };
    let head = String::from_utf8(read[..end].to_vec()).unwrap();
    let length = head_field(&head, "content-length").map_or(0, |text| text.parse().unwrap());
    while read.len() < end + 4 + length {
        if stream.read_buf(read).await.unwrap_or(0) == 0 {
            return None;
        }
    }
    let body = read[end + 4..end + 4 + length].to_vec();
    read.drain(..end + 4 + length);
    Some((head, body))
}

fn is_last(response: &str) -> bool {
    let (head, body) = response.split_once("\r\n\r\n").unwrap_or((response, ""));
    let length = head_field(head, "content-length").map_or(0, |text| text.parse().unwrap_or(0));
    response.is_empty() || body.len() < length || head_field(head, "connection") == Some("close")
}

/// A field of a head, as text.
pub(crate) fn head_field<'h>(head: &'h str, name: &str) -> Option<&'h str> {
    head.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        key.eq_ignore_ascii_case(name).then(|| value.trim())
    })
}

//! Raw upstream: a server of the test that reads and writes bytes.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::DEADLINE;

/// A server that runs until it is dropped.
pub(crate) struct RawUpstream {
    pub(crate) address: SocketAddr,
    ended: mpsc::UnboundedReceiver<()>,
    _serving: JoinSet<()>,
}

impl RawUpstream {
    /// Starts it on a port of its own. `serve` gets each connection.
    pub(crate) async fn start<S, F>(serve: S) -> Self
    where
        S: Fn(TcpStream) -> F + Send + Sync + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let serve = Arc::new(serve);
        let (sender, ended) = mpsc::unbounded_channel();
        let mut serving = JoinSet::new();
        serving.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (serve, sender) = (serve.clone(), sender.clone());
                connections.spawn(async move {
                    serve(stream).await;
                    let _ = sender.send(());
                });
            }
        });
        Self {
            address,
            ended,
            _serving: serving,
        }
    }

    /// Waits until the server is done with a connection.
    pub(crate) async fn ended(&mut self) {
        timeout(DEADLINE, self.ended.recv())
            .await
            .expect("the end of a connection in time");
    }
}

/// Reads a head, to its empty line. Returns also the bytes behind it.
pub(crate) async fn read_head(stream: &mut TcpStream) -> (String, Vec<u8>) {
    let mut read = Vec::new();
    loop {
        if let Some(end) = read.windows(4).position(|found| found == b"\r\n\r\n") {
            let behind = read.split_off(end + 4);
            return (String::from_utf8(read).unwrap(), behind);
        }
        let count = stream.read_buf(&mut read).await.unwrap();
        assert!(count > 0, "expected a head, found {read:?}");
    }
}

/// Waits until the peer has closed the connection.
pub(crate) async fn closed(stream: &mut TcpStream) {
    let mut buffer = [0; 4096];
    while !matches!(stream.read(&mut buffer).await, Ok(0) | Err(_)) {}
}

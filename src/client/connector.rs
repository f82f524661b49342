//! Connector: opens the pool's connections, over TCP or a Unix socket.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use tokio::net::{TcpStream, lookup_host};

use super::endpoint_url::Address;
use crate::net::Stream;

/// The head start of an address before the next is tried beside it (RFC 8305 §8).
const HEAD_START: Duration = Duration::from_millis(250);

/// Opens connections to one endpoint.
#[derive(Clone, Debug)]
pub(super) struct Connector {
    pub(super) address: Address,
    pub(super) timeout: Duration,
}

impl Connector {
    /// Opens a connection within the timeout.
    pub(super) async fn connect(&self) -> io::Result<Stream> {
        match tokio::time::timeout(self.timeout, connect(&self.address)).await {
            Ok(connected) => connected,
            Err(_) => Err(io::ErrorKind::TimedOut.into()),
        }
    }
}

async fn connect(address: &Address) -> io::Result<Stream> {
    match address {
        Address::Tcp { host, port } => {
            let addresses = lookup_host((host.as_str(), *port)).await?.collect();
            let stream = connect_any(addresses).await?;
            stream.set_nodelay(true)?;
            Ok(stream.into())
        }
        Address::Unix(path) => Stream::connect_unix(path).await,
    }
}

/// Tries the addresses of a name: each gets a head start before the next, and the first to connect
/// wins (RFC 8305 §5). So an address that drops packets costs little of the time.
async fn connect_any(addresses: Vec<SocketAddr>) -> io::Result<TcpStream> {
    let mut last = io::Error::new(
        io::ErrorKind::NotFound,
        "failed to lookup address information: the name has no address",
    );
    let mut waiting = addresses.into_iter();
    let mut attempts = FuturesUnordered::new();
    loop {
        attempts.extend(waiting.next().map(TcpStream::connect));
        let finished = match waiting.len() {
            0 => Ok(attempts.next().await),
            _ => tokio::time::timeout(HEAD_START, attempts.next()).await,
        };
        match finished {
            Ok(Some(Ok(stream))) => return Ok(stream),
            Ok(Some(Err(error))) => last = error,
            Ok(None) => return Err(last), // all have failed
            Err(_) => {}                  // the next address joins in
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn first_address_that_accepts_is_used() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let open = listener.local_addr().unwrap();
        let closed = {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            listener.local_addr().unwrap()
        };
        let stream = connect_any(vec![closed, closed, open]).await.unwrap();
        assert_eq!(stream.peer_addr().unwrap(), open);
        let error = connect_any(vec![closed, closed]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
        let error = connect_any(Vec::new()).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }
}

//! Connector: opens the pool's connections, over TCP or a Unix socket.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use tokio::net::{TcpStream, lookup_host};

use super::endpoint_url::Address;
use crate::net::{ClientTls, Stream};

/// The head start of an address before the next is tried beside it (RFC 8305 §8).
const HEAD_START: Duration = Duration::from_millis(250);

/// The protocol of an endpoint.
#[derive(Clone, Debug, Default)]
pub enum Protocol {
    /// HTTP/1.1 without TLS.
    #[default]
    Http1,
    /// HTTP/2 without TLS, by prior knowledge (RFC 9113 §3.3).
    Http2,
    /// HTTP/1.1 over TLS, or HTTP/2 if it is offered and the endpoint chooses it.
    Tls(ClientTls),
}

impl Protocol {
    /// Returns whether the endpoint may speak HTTP/2.
    pub(super) fn offers_http2(&self) -> bool {
        match self {
            Self::Http1 => false,
            Self::Http2 => true,
            Self::Tls(tls) => tls.offers_http2(),
        }
    }
}

/// Opens connections to one endpoint.
#[derive(Clone, Debug)]
pub(super) struct Connector {
    pub(super) address: Address,
    pub(super) protocol: Protocol,
    pub(super) timeout: Duration,
}

impl Connector {
    /// Opens a connection within the timeout; returns also whether it speaks HTTP/2.
    pub(super) async fn connect(&self) -> io::Result<(Stream, bool)> {
        self.in_time(async {
            let stream = connect(&self.address).await?;
            match &self.protocol {
                Protocol::Http1 => Ok((stream, false)),
                Protocol::Http2 => Ok((stream, true)),
                Protocol::Tls(tls) => tls.connect(stream).await,
            }
        })
        .await
    }

    /// Opens a connection that speaks HTTP/1.1, within the timeout.
    pub(super) async fn connect_http1(&self) -> io::Result<Stream> {
        self.in_time(async {
            let stream = connect(&self.address).await?;
            match &self.protocol {
                Protocol::Http1 | Protocol::Http2 => Ok(stream),
                Protocol::Tls(tls) => tls.connect_http1(stream).await,
            }
        })
        .await
    }

    async fn in_time<T>(&self, connect: impl Future<Output = io::Result<T>>) -> io::Result<T> {
        match tokio::time::timeout(self.timeout, connect).await {
            Ok(connected) => connected,
            Err(_) => Err(io::ErrorKind::TimedOut.into()),
        }
    }
}

async fn connect(address: &Address) -> io::Result<Stream> {
    match address {
        Address::Tcp { host, port } => {
            let addresses = lookup_host((host.as_str(), *port)).await?.collect();
            Stream::connected(connect_any(addresses).await?)
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

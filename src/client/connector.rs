//! Connector: opens the pool's connections, over TCP or a Unix socket.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use http::Uri;
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpStream, lookup_host};
use tokio::time::Instant;

use super::endpoint_url::Address;
use super::limited_io::LimitedIo;
use crate::net::Stream;

/// Opens connections to one endpoint.
#[derive(Clone, Debug)]
pub(super) struct Connector {
    pub(super) address: Address,
    pub(super) timeout: Duration,
    pub(super) wire_bytes_max: usize,
}

impl tower_service::Service<Uri> for Connector {
    type Response = TokioIo<LimitedIo<Stream>>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let Self {
            address,
            timeout,
            wire_bytes_max,
        } = self.clone();
        Box::pin(async move {
            let connect = connect(&address, timeout);
            let stream = match tokio::time::timeout(timeout, connect).await {
                Ok(connected) => connected?,
                Err(_) => return Err(io::ErrorKind::TimedOut.into()),
            };
            // `https` will need `Stream::connect_tls` at this point.
            Ok(TokioIo::new(LimitedIo::new(stream, wire_bytes_max)))
        })
    }
}

async fn connect(address: &Address, timeout: Duration) -> io::Result<Stream> {
    match address {
        Address::Tcp { host, port } => {
            let stream = connect_tcp(host, *port, timeout).await?;
            stream.set_nodelay(true)?;
            Ok(stream.into())
        }
        Address::Unix(path) => Stream::connect_unix(path).await,
    }
}

/// Tries the addresses of a name in turn. Each gets an equal share of the remaining time, so an
/// address that drops packets leaves time for the next.
async fn connect_tcp(host: &str, port: u16, timeout: Duration) -> io::Result<TcpStream> {
    let ends_at = Instant::now() + timeout;
    let addresses: Vec<_> = lookup_host((host, port)).await?.collect();
    let mut last = io::Error::new(
        io::ErrorKind::NotFound,
        "failed to lookup address information: the name has no address",
    );
    for (index, address) in addresses.iter().enumerate() {
        let left = ends_at.saturating_duration_since(Instant::now());
        let share = left / u32::try_from(addresses.len() - index).unwrap_or(u32::MAX);
        match tokio::time::timeout(share, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => last = error,
            Err(_) => last = io::ErrorKind::TimedOut.into(),
        }
    }
    Err(last)
}

impl Connection for LimitedIo<Stream> {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

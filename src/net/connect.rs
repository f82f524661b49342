//! Connect: streams that this process opens. The caller sets the deadlines.

use std::io;
use std::path::Path;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpStream, UnixStream};

use super::stream::Stream;

/// How long a connection is silent before the kernel probes it, how often it does then, and after
/// how many probes without an answer the connection has failed. A peer that has vanished is noticed
/// within a minute.
const KEEPALIVE_TIME: Duration = Duration::from_secs(30);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_PROBES: u32 = 3;

impl Stream {
    /// Connects to a host, by name or address (an IPv6 address without brackets). Cancel-safe.
    pub(crate) async fn connect_tcp(host: &str, port: u16) -> io::Result<Self> {
        Self::connected(TcpStream::connect((host, port)).await?)
    }

    /// Returns a stream that was just connected, with the options of all outgoing connections.
    pub(crate) fn connected(stream: TcpStream) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        let keepalive = TcpKeepalive::new()
            .with_time(KEEPALIVE_TIME)
            .with_interval(KEEPALIVE_INTERVAL)
            .with_retries(KEEPALIVE_PROBES);
        SockRef::from(&stream).set_tcp_keepalive(&keepalive)?;
        Ok(Self::Tcp(stream))
    }

    /// Connects to a unix socket. Cancel-safe.
    pub(crate) async fn connect_unix(path: &Path) -> io::Result<Self> {
        #[cfg(test)]
        if let Some(connected) = super::in_memory::connect(path) {
            return connected;
        }
        Ok(Self::Unix(UnixStream::connect(path).await?))
    }
}

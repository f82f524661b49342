//! Connect: streams that this process opens. The caller sets the deadlines.

use std::io;
use std::path::Path;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpStream, UnixStream};

use super::stream::Stream;

/// How long a connection is silent before the kernel probes it.
const KEEPALIVE_TIME: Duration = Duration::from_secs(60);

impl Stream {
    /// Connects to a host, by name or address (an IPv6 address without brackets). Cancel-safe.
    pub(crate) async fn connect_tcp(host: &str, port: u16) -> io::Result<Self> {
        let stream = TcpStream::connect((host, port)).await?;
        stream.set_nodelay(true)?;
        let keepalive = TcpKeepalive::new().with_time(KEEPALIVE_TIME);
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

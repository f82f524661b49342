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

/// How long a peer may not acknowledge what was sent to it. While such data is on its way, the
/// kernel sends no probes: it would send the data again for 15 minutes.
#[cfg(target_os = "linux")]
const UNACKNOWLEDGED_MAX: Duration = Duration::from_secs(60);

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
        let socket = SockRef::from(&stream);
        socket.set_tcp_keepalive(&keepalive)?;
        #[cfg(target_os = "linux")]
        socket.set_tcp_user_timeout(Some(UNACKNOWLEDGED_MAX))?;
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

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn a_peer_that_vanishes_is_noticed_within_a_minute() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let stream = Stream::connect_tcp("127.0.0.1", port).await.unwrap();
        let Stream::Tcp(stream) = stream else {
            panic!("another kind of stream");
        };
        let socket = SockRef::from(&stream);
        assert!(socket.keepalive().unwrap());
        let probes =
            socket.tcp_keepalive_interval().unwrap() * socket.tcp_keepalive_retries().unwrap();
        let silence = socket.tcp_keepalive_time().unwrap() + probes;
        assert_eq!(silence, Duration::from_secs(60));
        #[cfg(target_os = "linux")]
        assert_eq!(socket.tcp_user_timeout().unwrap(), Some(silence));
    }
}

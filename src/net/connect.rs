//! Connect: streams that this process opens. The caller sets the deadlines.

use std::io;
use std::path::Path;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpStream, UnixStream};

use super::stream::Stream;

/// How long a connection is silent before the kernel probes it, how often it does then, and after
/// how many probes without an answer the connection has failed. A peer that has vanished is noticed
/// within a minute while nothing sent to it is unacknowledged.
///
/// There is no bound for what is unacknowledged (`TCP_USER_TIMEOUT`): Linux applies it to a peer
/// that acknowledges each probe of its closed window too, and a busy server may close it for as long
/// as the caller's deadlines allow.
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

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn silence_is_probed_for_a_minute_and_a_closed_window_has_no_bound() {
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
        assert_eq!(socket.tcp_user_timeout().unwrap(), None);
    }
}

//! Redis stream: opens the streams to the servers, and bounds their read-ahead.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_util::task::AtomicWaker;
use redis::aio::MultiplexedConnection;
use redis::{
    AsyncConnectionConfig, IntoConnectionInfo, ProtocolVersion, RedisConnectionInfo, RedisError,
    RedisResult,
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use crate::config::{RedisHome, RedisUrl};
use crate::net::Stream;

/// The task that drives a connection.
pub(super) type Driver = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Returns the user, the password and the database that a connection starts with.
pub(super) fn redis_settings(url: &RedisUrl) -> RedisResult<RedisConnectionInfo> {
    let plain = format!("redis://localhost/{}", url.database).into_connection_info()?;
    let mut info = plain.redis_settings().clone();
    if let Some(username) = &url.username {
        info = info.set_username(username.as_str());
    }
    if let Some(password) = &url.password {
        info = info.set_password(password.0.as_str());
    }
    Ok(info.set_protocol(ProtocolVersion::RESP2))
}

/// The minimum time for each of several servers that are tried in turn.
const SHARE_MIN: Duration = Duration::from_millis(100);

/// Returns the time for each of several servers, so that one timeout is enough if the first ones do
/// not reply.
pub(super) fn timeout_share(timeout: Duration, asked: usize) -> Duration {
    let share = timeout / u32::try_from(2 * asked).unwrap_or(u32::MAX);
    share.max(SHARE_MIN)
}

/// Opens a connection for commands. It works only while the driver is polled.
pub(super) async fn commands(
    url: &RedisUrl,
    timeout: Duration,
) -> RedisResult<(MultiplexedConnection, Driver)> {
    let stream = open(url, timeout).await?;
    let config = AsyncConnectionConfig::new().set_response_timeout(None);
    let redis_settings = redis_settings(url)?;
    let (connection, driver) =
        MultiplexedConnection::new_with_config(&redis_settings, stream, config).await?;
    Ok((connection, Box::pin(driver)))
}

/// How long a reply may still take when its timer has run out.
const REPLY_GRACE: Duration = Duration::from_millis(100);

/// Waits for a reply, at most `timeout`; `None` if it does not come.
///
/// A process that stood still finds that the timer has run out, although the reply has arrived in
/// the meantime and only has to be read. So the time by which the timer is late is added.
pub(super) async fn reply_within<T>(
    timeout: Duration,
    reply: impl Future<Output = T>,
) -> Option<T> {
    let started = Instant::now();
    tokio::pin!(reply);
    if let Ok(reply) = tokio::time::timeout(timeout, &mut reply).await {
        return Some(reply);
    }
    let late = started.elapsed().saturating_sub(timeout);
    let grace = timeout.min(late + REPLY_GRACE);
    tokio::time::timeout(grace, reply).await.ok()
}

/// Opens a stream to a server; with Sentinels, to the current master.
pub(super) async fn open(url: &RedisUrl, timeout: Duration) -> RedisResult<Stream> {
    match &url.home {
        RedisHome::Cluster { .. } => Err(timed_out()), // the topology has its servers
        RedisHome::Unix(path) => Ok(Stream::connect_unix(path).await?),
        RedisHome::Tcp { host, port, tls } => Ok(open_tcp(host, *port, *tls).await?),
        RedisHome::Sentinel {
            hosts,
            service,
            tls,
        } => {
            let mut last = None;
            let share = timeout_share(timeout, 2 * hosts.len()); // half of the time is for the connection to the master
            for (host, port) in hosts {
                let asked =
                    tokio::time::timeout(share, master((host, *port, *tls), url, service)).await;
                match asked.unwrap_or_else(|_| Err(timed_out())) {
                    Ok((host, port)) => return Ok(open_tcp(&host, port, *tls).await?),
                    Err(error) => last = Some(error),
                }
            }
            Err(last.unwrap_or_else(timed_out))
        }
    }
}

/// Asks a Sentinel for the master. (Redis Sentinel, "Sentinel commands")
async fn master(
    (host, port, tls): (&str, u16, bool),
    url: &RedisUrl,
    service: &str,
) -> RedisResult<(String, u16)> {
    let stream = open_tcp(host, port, tls).await?;
    let bare = RedisUrl {
        home: RedisHome::Unix(Default::default()),
        username: None,
        password: url.password.clone(),
        database: 0,
    };
    let asked = async |introduced: RedisConnectionInfo, stream| {
        let config = AsyncConnectionConfig::new().set_response_timeout(None);
        let (mut connection, driver) =
            MultiplexedConnection::new_with_config(&introduced, stream, config).await?;
        let mut question = redis::cmd("SENTINEL");
        question.arg("GET-MASTER-ADDR-BY-NAME").arg(service);
        tokio::select! {
            answer = question.query_async::<Option<(String, u16)>>(&mut connection) => answer,
            () = driver => Err(timed_out()),
        }
    };
    // A Sentinel often has no password though the master has one.
    let found = match asked(redis_settings(&bare)?, stream).await {
        Err(error) if url.password.is_some() && !error.is_io_error() => {
            let bare = RedisUrl {
                password: None,
                ..bare
            };
            let stream = open_tcp(host, port, tls).await?;
            asked(redis_settings(&bare)?, stream).await?
        }
        answer => answer?,
    };
    found.ok_or_else(|| {
        RedisError::from(io::Error::other(format!(
            "the Sentinel does not know the service {service:?}"
        )))
    })
}

async fn open_tcp(host: &str, port: u16, tls: bool) -> io::Result<Stream> {
    let stream = Stream::connect_tcp(host, port).await?;
    match tls {
        true => stream.connect_tls(host).await,
        false => Ok(stream),
    }
}

pub(super) fn timed_out() -> RedisError {
    RedisError::from(io::Error::from(io::ErrorKind::TimedOut))
}

/// Counts the bytes that were read from a stream and not handled yet.
#[derive(Debug, Default)]
pub(super) struct ReadAhead {
    bytes: AtomicUsize,
    /// True if everything is handled and the handler waits: bytes that arrive now do not count as
    /// read ahead.
    is_awaited: AtomicBool,
    reader: AtomicWaker,
}

/// The most bytes read ahead. Beyond it, data piles up in Redis' output buffer; Redis closes the
/// connection when that is full.
const AHEAD_BYTES_MAX: usize = 4 << 20;

impl ReadAhead {
    /// Called when a message that was read has been handled.
    pub(super) fn handled(&self, bytes: usize) {
        let less = |before: usize| Some(before.saturating_sub(bytes));
        let _ = self
            .bytes
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, less);
        self.is_awaited.store(false, Ordering::Release);
        self.reader.wake();
    }

    /// Called when everything that was read has been handled, and the handler waits for more.
    pub(super) fn await_more(&self) {
        self.bytes.store(0, Ordering::Release);
        self.is_awaited.store(true, Ordering::Release);
        self.reader.wake();
    }

    fn is_far(&self) -> bool {
        !self.is_awaited.load(Ordering::Acquire)
            && self.bytes.load(Ordering::Acquire) > AHEAD_BYTES_MAX
    }
}

/// A stream whose read-ahead is bounded.
pub(super) struct MeteredStream {
    stream: Stream,
    ahead: Arc<ReadAhead>,
}

impl MeteredStream {
    pub(super) fn new(stream: Stream, ahead: Arc<ReadAhead>) -> Self {
        Self { stream, ahead }
    }
}

impl AsyncRead for MeteredStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.ahead.is_far() {
            self.ahead.reader.register(cx.waker());
            if self.ahead.is_far() {
                return Poll::Pending;
            }
        }
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buffer))?;
        let read = buffer.filled().len() - before;
        self.ahead.bytes.fetch_add(read, Ordering::AcqRel);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for MeteredStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

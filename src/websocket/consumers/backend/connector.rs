//! Connector: the way to a backend, by TCP or by a unix socket.

use std::fmt;
use std::future::Future;
use std::io;
use std::path::PathBuf;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use http::Uri;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpStream, UnixStream};

use super::limited_io::LimitedIo;
use crate::config::{hide_url, unix_path_problem};

/// Where a backend is.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(super) enum Address {
    /// `http://HOST:PORT/PATH`.
    Tcp { host: String, port: u16 },
    /// `http+unix://SOCKET:/PATH`.
    Unix(PathBuf),
}

/// A backend's URL, read.
#[derive(Clone, Eq, Hash, PartialEq)]
pub(super) struct EndpointUrl {
    pub(super) address: Address,
    /// What is asked for there.
    pub(super) uri: String,
    /// Without its query: for metrics and the log.
    pub(super) label: String,
}

/// Without its query, which may hold a token.
impl fmt::Debug for EndpointUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EndpointUrl({})", self.label)
    }
}

impl EndpointUrl {
    /// Reads `http://HOST:PORT/PATH` and `http+unix://SOCKET:/PATH`.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let expected = || {
            format!(
                "expected \"http://HOST:PORT/PATH\" or \"http+unix://SOCKET:/PATH\", found {:?}",
                hide_url(text)
            )
        };
        let label = text.split(['?', '#']).next().unwrap_or(text).to_owned();
        if let Some(rest) = text.strip_prefix("http+unix://") {
            let (socket, path) = rest.split_once(":/").ok_or_else(expected)?;
            if socket.is_empty() {
                return Err(expected());
            }
            if let Some(problem) = unix_path_problem(socket.as_ref()) {
                return Err(problem);
            }
            let uri = format!("http://localhost/{path}");
            uri.parse::<Uri>().map_err(|_| expected())?;
            return Ok(Self {
                address: Address::Unix(socket.into()),
                uri,
                label,
            });
        }
        let uri: Uri = text.parse().map_err(|_| expected())?;
        let authority = uri.authority().ok_or_else(expected)?;
        let has_bad_port = authority.as_str() != authority.host() && authority.port_u16().is_none();
        if uri.scheme_str() != Some("http") || authority.host().is_empty() || has_bad_port {
            return Err(expected());
        }
        if authority.as_str().contains('@') {
            return Err(
                "expected no name and password in the URL (the signature says who asks), found some"
                    .to_owned(),
            );
        }
        let host = authority.host().trim_matches(['[', ']']).to_owned();
        let port = authority.port_u16().unwrap_or(80);
        Ok(Self {
            address: Address::Tcp { host, port },
            uri: text.to_owned(),
            label,
        })
    }
}

/// Opens connections to one backend.
#[derive(Clone, Debug)]
pub(super) struct Connector {
    pub(super) address: Address,
    pub(super) timeout: Duration,
    /// How many bytes may come for one request.
    pub(super) max: usize,
}

/// A connection to a backend.
pub(super) enum Stream {
    Tcp(TokioIo<LimitedIo<TcpStream>>),
    Unix(TokioIo<LimitedIo<UnixStream>>),
}

impl tower_service::Service<Uri> for Connector {
    type Response = Stream;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Stream>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let Self {
            address,
            timeout,
            max,
        } = self.clone();
        Box::pin(async move {
            let opened = async {
                match address {
                    Address::Tcp { host, port } => {
                        let stream = TcpStream::connect((host, port)).await?;
                        stream.set_nodelay(true)?;
                        Ok(Stream::Tcp(TokioIo::new(LimitedIo::new(stream, max))))
                    }
                    Address::Unix(path) => {
                        let stream = UnixStream::connect(path).await?;
                        Ok(Stream::Unix(TokioIo::new(LimitedIo::new(stream, max))))
                    }
                }
            };
            tokio::time::timeout(timeout, opened)
                .await
                .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
        })
    }
}

impl Connection for Stream {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

impl Read for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_read(cx, buffer),
            Self::Unix(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl Write for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Unix(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Self::Unix(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_say_where_the_backend_is() {
        let url = EndpointUrl::parse("http://[::1]:9000/ws?key=1").unwrap();
        let host = "::1".to_owned();
        assert_eq!(url.address, Address::Tcp { host, port: 9000 });
        assert_eq!(url.label, "http://[::1]:9000/ws");
        assert_eq!(format!("{url:?}"), "EndpointUrl(http://[::1]:9000/ws)");
        let long = format!("http+unix:///{}:/ws", "x".repeat(200));
        assert!(EndpointUrl::parse(&long).unwrap_err().contains("at most"));
        let url = EndpointUrl::parse("http+unix:///run/a.sock:/ws?x=1").unwrap();
        assert_eq!(url.address, Address::Unix("/run/a.sock".into()));
        assert_eq!(url.uri, "http://localhost/ws?x=1");
        let url = EndpointUrl::parse("http+unix://run/a.sock:/").unwrap();
        assert_eq!(url.address, Address::Unix("run/a.sock".into()));
        for bad in [
            "",
            "ws://h",
            "https://h/",
            "http://",
            "http://h:99999/",
            "/ws",
            "http+unix://a",
            "http+unix://:/a",
        ] {
            assert!(EndpointUrl::parse(bad).is_err(), "{bad}");
        }
    }
}

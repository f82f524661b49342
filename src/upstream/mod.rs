//! Upstream: several servers that answer the same requests, used as one.
//!
//! The `proxy` view and the `proxy` consumer send their requests through it.

mod error;
mod options;
mod server;

use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body::{Body, Frame, SizeHint};

use crate::client::{ClientError, Permit, ResponseBody, Upgraded};
use crate::config::OptionErrors;
use crate::net::Stream;
use crate::services::Services;

pub use crate::client::RequestBody;
pub use error::UpstreamError;
pub(crate) use options::defaults;
#[allow(
    unused_imports,
    reason = "the proxy view and the proxy consumer use it"
)]
pub(crate) use options::upstream_options;
pub use options::{HealthCheckOptions, TlsOptions, UpstreamOptions};

use server::Server;

/// Several servers that answer the same requests.
#[derive(Debug)]
pub struct Upstreams {
    servers: Vec<Arc<Server>>,
}

/// What a request is recognized by, for a balance that sends equal ones to the same server.
#[derive(Clone, Copy, Debug)]
pub struct Affinity<'r> {
    /// The client's address, if known.
    pub address: Option<IpAddr>,
    /// The header fields that the client has sent.
    pub headers: &'r HeaderMap,
}

/// The answer to a handshake.
#[derive(Debug)]
pub enum Tunnel {
    /// 101: the server speaks WebSocket from now on.
    Open {
        /// The head.
        response: Response<()>,
        /// The connection to the server.
        stream: Stream,
        /// The bytes that were read behind the head.
        read: Bytes,
        /// Counts the tunnel; dropped at its end.
        slot: Slot,
    },
    /// Any other status.
    Refused(Response<UpstreamBody>),
}

/// A place among the connections of a server, until it is dropped.
#[derive(Debug)]
#[must_use]
pub struct Slot {
    _permit: Permit,
}

impl Upstreams {
    /// Parses the options.
    pub fn new(options: &UpstreamOptions) -> Result<Self, OptionErrors> {
        let mut errors = OptionErrors::default();
        let mut servers = Vec::new();
        for (index, url) in options.upstream.iter().enumerate() {
            match Server::new(&url.0, options) {
                Ok(server) => servers.push(Arc::new(server)),
                Err(message) => errors.error(format!("upstream[{index}]"), message),
            }
        }
        if options.upstream.is_empty() {
            errors.error("upstream", "expected the URL of a server, found none");
        }
        errors.into_result(Self { servers })
    }

    /// Starts the tasks of the servers. Later calls do nothing.
    pub fn start(&self, _services: &Services) {}

    /// Sends a request to one of the servers, and waits for the head of its response.
    ///
    /// The URI needs only the path and the query. The request has `Host`; otherwise the server's
    /// own name is sent. Dropping the future, or the body before its end, closes the connection.
    pub async fn send(
        &self,
        _affinity: &Affinity<'_>,
        request: Request<RequestBody>,
    ) -> Result<Response<UpstreamBody>, UpstreamError> {
        let server = self.servers.first().ok_or(UpstreamError::NoServer)?;
        let failed = |error| server.failed(error);
        let permit = server.client.acquire().await.map_err(failed)?;
        let response = permit.send(server.addressed(request)).await;
        Ok(response.map_err(failed)?.map(|body| UpstreamBody {
            body: body.hold(permit),
            server: server.clone(),
        }))
    }

    /// Opens a WebSocket to one of the servers: sends a handshake, and returns the answer.
    pub async fn open_tunnel(
        &self,
        _affinity: &Affinity<'_>,
        request: Request<()>,
    ) -> Result<Tunnel, UpstreamError> {
        let server = self.servers.first().ok_or(UpstreamError::NoServer)?;
        let failed = |error| server.failed(error);
        let permit = server.client.acquire().await.map_err(failed)?;
        let request = server.addressed(request.map(|()| RequestBody::empty()));
        match permit.upgrade(request).await.map_err(failed)? {
            Upgraded::Switched {
                response,
                stream,
                read,
            } => Ok(Tunnel::Open {
                response,
                stream,
                read,
                slot: Slot { _permit: permit },
            }),
            Upgraded::Refused(response) => Ok(Tunnel::Refused(response.map(|body| UpstreamBody {
                body: body.hold(permit),
                server: server.clone(),
            }))),
        }
    }
}

/// The body of a server's response: its frames as they come, trailers included. Ends with an error
/// if the server breaks off or a deadline passes.
#[derive(Debug)]
pub struct UpstreamBody {
    body: ResponseBody,
    server: Arc<Server>,
}

impl Body for UpstreamBody {
    type Data = Bytes;
    type Error = UpstreamError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, UpstreamError>>> {
        let Self { body, server } = self.get_mut();
        let polled = Pin::new(body).poll_frame(cx);
        polled.map_err(|error: ClientError| server.failed(error))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use http::StatusCode;
    use http_body_util::BodyExt;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;
    use tokio::task::JoinSet;

    use super::*;
    use crate::config::Options;

    fn upstreams(options: &str) -> Upstreams {
        let options: UpstreamOptions = Options::from_toml(options).unwrap().read().unwrap();
        Upstreams::new(&options).unwrap()
    }

    /// A server that answers each request with a text. Returns its URL.
    async fn server(tasks: &mut JoinSet<()>, answer: &'static str) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tasks.spawn(async move {
            let mut serving = JoinSet::new();
            while let Ok((mut stream, _)) = listener.accept().await {
                serving.spawn(async move {
                    let mut buffer = vec![0; 64 * 1024];
                    while stream.read(&mut buffer).await.is_ok_and(|read| read > 0) {
                        stream.write_all(answer.as_bytes()).await.unwrap();
                    }
                });
            }
        });
        url
    }

    fn affinity(headers: &HeaderMap) -> Affinity<'_> {
        Affinity {
            address: None,
            headers,
        }
    }

    #[tokio::test]
    async fn a_request_gets_the_servers_response() {
        let mut tasks = JoinSet::new();
        let url = server(
            &mut tasks,
            "HTTP/1.1 201 Created\r\ncontent-length: 2\r\n\r\nhi",
        )
        .await;
        let upstreams = upstreams(&format!("upstream = [\"{url}\"]"));
        let headers = HeaderMap::new();
        let request = Request::get("/a?b=1").body(RequestBody::empty()).unwrap();
        let response = upstreams.send(&affinity(&headers), request).await.unwrap();
        assert_eq!(response.status(), StatusCode::CREATED);
        let body = response.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(&body[..], b"hi");
    }

    #[tokio::test]
    async fn a_tunnel_has_the_bytes_behind_the_head() {
        let mut tasks = JoinSet::new();
        let url = server(
            &mut tasks,
            "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\nhi",
        )
        .await;
        let upstreams = upstreams(&format!("upstream = [\"{url}\"]"));
        let headers = HeaderMap::new();
        let request = Request::get("/ws")
            .header("connection", "upgrade")
            .header("upgrade", "websocket")
            .body(())
            .unwrap();
        let affinity = affinity(&headers);
        let tunnel = upstreams.open_tunnel(&affinity, request);
        let Tunnel::Open {
            response,
            mut stream,
            read,
            slot: _slot,
        } = tunnel.await.unwrap()
        else {
            panic!("the tunnel was refused");
        };
        assert_eq!(response.status(), StatusCode::SWITCHING_PROTOCOLS);
        assert_eq!(&read[..], b"hi");
        stream.write_all(b"x").await.unwrap();
        let mut answer = [0; 8];
        stream.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"HTTP/1.1");
    }

    #[tokio::test]
    async fn a_server_that_is_down_is_a_bad_gateway() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        drop(listener);
        let upstreams = upstreams(&format!("upstream = [\"{url}\"]"));
        let headers = HeaderMap::new();
        let request = Request::get("/").body(RequestBody::empty()).unwrap();
        let error = upstreams.send(&affinity(&headers), request).await;
        assert_eq!(error.unwrap_err().status(), StatusCode::BAD_GATEWAY);
    }
}

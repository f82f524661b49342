//! Upstream: several servers that answer the same requests, used as one.
//!
//! The `proxy` view and the `proxy` consumer send their requests through [`Upstreams`]:
//!
//! ```text
//! Upstreams::send ─ choose ─ all out ────────────────────────────► NoServer      503
//!     ▲              │ balance, health
//!     │              ▼
//!     │           Server ─ no room within queue_timeout ──────────► Busy          503
//!     │              │   └ connect, TLS ──────────────────────────► Connect       502, 504
//!     │              │   └ head within response_timeout ──────────► Timeout       504
//!     │              │                     not HTTP, broken off ──► Invalid, ...  502
//!     └── retries ───┘
//! ```
//!
//! | file | subject |
//! |---|---|
//! | `options.rs`, `server_url.rs` | the options; the URL of a server |
//! | `set.rs` | the servers, which of them gets a request, and whether it is sent again |
//! | `server.rs` | one server: its connections, and the requests that it serves |
//! | `balance.rs`, `health.rs` | the rules of that choice |
//! | `checks.rs`, `lookups.rs` | tasks: health checks, names that are looked up again |
//! | `error.rs` | what goes wrong, and its status |

mod balance;
mod checks;
mod error;
mod health;
mod lookups;
mod options;
mod server;
mod server_url;
mod set;
#[cfg(test)]
mod tests;

use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body::{Body, Frame, SizeHint};

use crate::client::{ClientError, Permit, ResponseBody};
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

use server::Active;
use set::{Runtime, Set, Sets};

/// Several servers that answer the same requests.
#[derive(Debug)]
pub struct Upstreams {
    set: Arc<Set>,
    /// The set that is used once the tasks have started: one with equal options may run already.
    running: OnceLock<Arc<Set>>,
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
    _active: Active,
}

impl Upstreams {
    /// Parses the options.
    pub fn new(options: &UpstreamOptions) -> Result<Self, OptionErrors> {
        Ok(Self {
            set: Arc::new(Set::new(options)?),
            running: OnceLock::new(),
        })
    }

    /// Starts the tasks of the servers: health checks, look-ups of names, HTTP/2 connections. Later
    /// calls do nothing. What is known of the servers is kept over a reload that does not change the
    /// options.
    pub fn start(&self, services: &Services) {
        self.running.get_or_init(|| {
            let runtime = Runtime {
                tasks: services.tasks.clone(),
                clock: services.clock.clone(),
            };
            self.set.start(&runtime, &services.shared::<Sets>())
        });
    }

    fn set(&self) -> &Set {
        self.running.get().unwrap_or(&self.set)
    }

    /// Sends a request to one of the servers, and waits for the head of its response.
    ///
    /// The URI needs only the path and the query. Without `Host`, the server's own name is sent.
    /// Dropping the future, or the body before its end, closes the connection.
    pub fn send(
        &self,
        affinity: &Affinity<'_>,
        request: Request<RequestBody>,
    ) -> impl Future<Output = Result<Response<UpstreamBody>, UpstreamError>> + Send {
        self.set().send(affinity, request)
    }

    /// Opens a WebSocket to one of the servers: sends a handshake, and returns the answer. It is
    /// sent over HTTP/1.1, whatever the server speaks besides.
    pub async fn open_tunnel(
        &self,
        affinity: &Affinity<'_>,
        request: Request<()>,
    ) -> Result<Tunnel, UpstreamError> {
        self.set().open_tunnel(affinity, request).await
    }
}

/// The body of a server's response: its frames as they come, trailers included. Ends with an error
/// if the server breaks off or a deadline passes.
#[derive(Debug)]
pub struct UpstreamBody {
    body: ResponseBody,
    active: Active,
}

impl Body for UpstreamBody {
    type Data = Bytes;
    type Error = UpstreamError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, UpstreamError>>> {
        let Self { body, active } = self.get_mut();
        let polled = Pin::new(body).poll_frame(cx);
        polled.map_err(|error: ClientError| active.server.body_failed(error))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

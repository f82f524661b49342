//! Proxy: a WebSocket that an upstream server answers, through a tunnel.
//!
//! | file | contents |
//! |---|---|
//! | `upgrade.rs` | the handshake with the upstream, as pure functions |
//! | `tunnel.rs` | the life of one tunnel: both directions, deadlines |
//! | `closing.rs` | its end |
//! | `direction.rs` | the bytes of one direction |
//! | `frame_boundaries.rs` | where a frame ends, so that another may follow |

mod client_limits;
mod closing;
mod direction;
pub(crate) mod frame_boundaries;
mod options;
mod tunnel;
mod upgrade;

use std::sync::Arc;

use bytes::Bytes;
use http::uri::Uri;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Limited};

use self::tunnel::UpstreamEnd;
use self::upgrade::BadUpgrade;
use crate::client::remove_hop_by_hop;
use crate::clock::Millis;
use crate::config::OptionErrors;
use crate::http::views::proxy::{self, HeaderRules, RequestRules};
use crate::http::{Failure, Mapped};
use crate::net::ClientAddress;
use crate::routing::RouteContext;
use crate::scope::Scope;
use crate::services::Services;
use crate::upstream::{Affinity, Tunnel, UpstreamBody, UpstreamError, Upstreams};
use crate::websocket::consumer::{Accepted, Connecting, ConsumerFactory, Negotiation};
use crate::websocket::driver::SocketParts;
use crate::websocket::keepalive::millis;
use crate::websocket::{Accept, Backlog, ConnectionTask, Denial};

pub use self::options::Options;

/// The longest body of a refusal that passes to the client.
const REFUSAL_BYTES_MAX: usize = 256 * 1024;

/// `consumer = "proxy"`: the WebSockets of one route are tunnels to an upstream.
///
/// It is a factory of its own instead of a [`Consumer`](crate::websocket::Consumer): the bytes of a
/// tunnel are neither decoded nor queued, so there are no messages to receive.
pub struct Proxy {
    upstreams: Upstreams,
    /// The URLs of the servers.
    urls: Vec<String>,
    rules: RequestRules,
    /// How long the upstream may take none of a client's bytes.
    stall_timeout: Millis,
}

/// A handshake that the upstream has accepted.
struct AcceptedByUpstream {
    extensions: Vec<HeaderValue>,
    upstream: UpstreamEnd,
}

impl Proxy {
    /// Parses the options and checks them against their route.
    pub fn new(options: &Options, route: &RouteContext<'_>) -> Result<Self, OptionErrors> {
        let mut errors = OptionErrors::default();
        let rules = options.request_rules(route, &mut errors);
        let upstream = options.upstream_options();
        let upstreams = Upstreams::new(&upstream);
        match (upstreams, errors.is_empty()) {
            (Ok(upstreams), true) => Ok(Self {
                upstreams,
                urls: options.urls(),
                rules,
                stall_timeout: millis(upstream.idle_timeout.0),
            }),
            (Ok(_), false) => Err(errors),
            (Err(more), _) => {
                errors.append(more);
                Err(errors)
            }
        }
    }

    /// Passes the client's handshake on, and the upstream's answer back.
    async fn handshake(&self, scope: &Scope) -> Result<(Accept, Box<dyn Accepted>), Denial> {
        let mut request = Request::new(());
        *request.uri_mut() = Uri::from(self.rules.target(scope).map_err(Denial::of)?);
        *request.headers_mut() = self.rules.headers(scope);
        let expected = upgrade::write(request.headers_mut(), &scope.subprotocols);
        let affinity = Affinity {
            address: scope.client.map(ClientAddress::ip),
            headers: &scope.headers.to_map(),
        };
        let answer = self.upstreams.open_tunnel(&affinity, request).await;
        match answer.map_err(unavailable)? {
            Tunnel::Open {
                response,
                stream,
                read,
                slot,
            } => {
                let subprotocol = upgrade::check(&response, &expected, &scope.subprotocols);
                let subprotocol = subprotocol.map_err(bad_gateway)?;
                let fields = upgrade_fields(response);
                let upstream = UpstreamEnd {
                    stream,
                    read_already: read,
                    stall_timeout: self.stall_timeout,
                    slot,
                };
                Ok(accepted(fields, subprotocol, upstream))
            }
            Tunnel::Refused(response) => Err(refused(response).await),
        }
    }
}

impl ConsumerFactory for Proxy {
    fn started(&self, services: &Services) {
        self.upstreams.start(services);
    }

    fn backlog(&self) -> Option<Arc<Backlog>> {
        None
    }

    fn maps_onto(&self) -> Option<Mapped> {
        Some(self.rules.mapped(&self.urls))
    }

    fn connect<'a>(&'a self, scope: &'a Scope) -> Connecting<'a> {
        Box::pin(self.handshake(scope))
    }
}

impl Accepted for AcceptedByUpstream {
    fn negotiation(&self) -> Negotiation {
        Negotiation::Upstream(self.extensions.clone())
    }

    fn run(self: Box<Self>, parts: SocketParts) -> ConnectionTask {
        tunnel::run(parts, self.upstream)
    }
}

/// Returns the fields of a 101 that are for the client, with those of its handshake.
fn upgrade_fields(response: Response<()>) -> HeaderMap {
    let mut headers = response.into_parts().0.headers;
    remove_hop_by_hop(&mut headers);
    proxy::remove_accel(&mut headers);
    headers
}

fn accepted(
    headers: HeaderMap,
    subprotocol: Option<String>,
    upstream: UpstreamEnd,
) -> (Accept, Box<dyn Accepted>) {
    let extensions = headers.get_all(header::SEC_WEBSOCKET_EXTENSIONS);
    let accepted = AcceptedByUpstream {
        extensions: extensions.iter().cloned().collect(),
        upstream,
    };
    // The gateway leaves out the fields of the handshake and of the connection.
    let accept = Accept {
        subprotocol,
        headers,
        groups: Vec::new(),
    };
    (accept, Box::new(accepted))
}

/// Returns the upstream's own refusal, with its body.
async fn refused(response: Response<UpstreamBody>) -> Denial {
    let (mut parts, body) = response.into_parts();
    if let Err(error) = upgrade::check_refusal(parts.status) {
        return bad_gateway(error);
    }
    if let Err(error) = proxy::clean(&mut parts, &http::Method::GET, &HeaderRules::default()) {
        return Denial::of(broken(error));
    }
    proxy::remove_accel(&mut parts.headers);
    let body: Bytes = match Limited::new(body, REFUSAL_BYTES_MAX).collect().await {
        Ok(collected) => collected.to_bytes(),
        Err(error) => return Denial::of(broken(error)),
    };
    let mut failure = Failure::new(parts.status, "the application refused the handshake");
    for (name, value) in &parts.headers {
        failure = failure.with_header(name.clone(), value.clone());
    }
    Denial::of(failure.with_body(body))
}

fn bad_gateway(error: BadUpgrade) -> Denial {
    Denial::of(broken(error))
}

fn broken(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Failure {
    let sentence = "the application sent an invalid response";
    Failure::new(StatusCode::BAD_GATEWAY, sentence).because(error)
}

/// Returns the client's response if the upstream has given none.
fn unavailable(error: UpstreamError) -> Denial {
    let status = error.status();
    let sentence = match status {
        StatusCode::SERVICE_UNAVAILABLE => "the application is unavailable",
        StatusCode::GATEWAY_TIMEOUT => "the application did not respond in time",
        _ => "the application cannot be reached",
    };
    Denial::of(Failure::new(status, sentence).because(error))
}

//! Backend: a consumer in any language. Its events are POSTed to an HTTP endpoint, or sent to
//! workers over a channel.
//!
//! | file | contents |
//! |---|---|
//! | `protocol/` | the JSON of requests and responses, with every event type |
//! | `handshake.rs`, `connect_response.rs` | `websocket.connect`, and what its response means |
//! | `conversation.rs`, `failure.rs` | the requests of an open connection; why they end it |
//! | `queue.rs` | the events that wait for them |
//! | `disconnects.rs` | `websocket.disconnect` and `oneport.node_started`, at least once |
//! | `executor.rs` | carries out the events of a response |
//! | `endpoint.rs`, `route.rs` | one endpoint; what connections and routes share |
//! | `worker_channel.rs` | the same protocol over a channel |

mod connect_response;
mod conversation;
mod disconnects;
mod endpoint;
mod executor;
mod failure;
mod handshake;
mod options;
pub(crate) mod protocol;
mod queue;
mod route;
mod worker_channel;

use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, OnceLock};

use tokio::sync::oneshot;

use connect_response::bad_gateway;
use conversation::Conversation;
use endpoint::EndpointSettings;
use handshake::{AcceptedConnection, Handshake};
use protocol::{ResponseLimits, event};
use route::{EndpointRoute, Limits, Notified, Route};
use worker_channel::{WorkerChannel, WorkerRoute};

use options::Destination;
pub(super) use options::Options;

use crate::channels::Received;
use crate::client::EndpointUrl;
use crate::config::OptionErrors;
use crate::routing::RouteContext;
use crate::scope::Scope;
use crate::services::Services;
use crate::telemetry::trace;
use crate::websocket::{Accept, Backlog, Close, CloseCode, Consumer, Context, Denial, Message};

/// `consumer = "backend"`: each connection's events are POSTed to an HTTP endpoint, or sent to a
/// channel that workers read.
///
/// `docs/BACKEND.md` documents the protocol. The endpoint needs no event loop: each request brings
/// a batch of events, and the response contains events in return.
pub struct Backend {
    route: Arc<OnceLock<Route>>,
    /// Set from the handshake to `open`.
    accepted: Option<AcceptedConnection>,
    /// Set from `open` on.
    peer: Option<Peer>,
}

enum Peer {
    Endpoint(Arc<Conversation>),
    Workers(Arc<WorkerChannel>),
}

impl Consumer for Backend {
    type Options = Options;

    fn new(options: &Options) -> Self {
        Self {
            route: options.route.clone(),
            accepted: None,
            peer: None,
        }
    }

    fn mount(options: Options, _route: &RouteContext<'_>) -> Result<Options, OptionErrors> {
        options.validate()
    }

    fn started(options: &Options, services: &Services) {
        if options.route.get().is_none()
            && let Some(route) = route(options, services)
        {
            let _ = options.route.set(route);
        }
    }

    fn backlog(options: &Options) -> Option<Arc<Backlog>> {
        match options.route.get() {
            Some(Route::Endpoint(route)) => Some(route.endpoint.backlog.clone()),
            Some(Route::Workers(_)) | None => None,
        }
    }

    async fn connect(&mut self, scope: &Scope) -> Result<Accept, Denial> {
        match self.route.get() {
            Some(Route::Endpoint(route)) => {
                let route = route.clone();
                Box::pin(self.handshake(route, scope)).await
            }
            Some(Route::Workers(_)) => Ok(Accept::default()),
            None => Err(Denial::from("the route has not been started")),
        }
    }

    async fn open(&mut self, cx: &mut Context<'_>) -> Result<(), Close> {
        match self.route.get() {
            Some(Route::Endpoint(route)) => {
                let Some(accepted) = self.accepted.take() else {
                    return Ok(());
                };
                let opening = accepted.open();
                let socket = cx.handle().clone();
                let conversation = Conversation::new(route.clone(), socket, opening.state);
                // Before the first await: the socket may close during it, and `disconnect` needs
                // its peer.
                self.peer = Some(Peer::Endpoint(conversation.clone()));
                Box::pin(conversation.apply(opening.actions)).await?;
            }
            Some(Route::Workers(route)) => {
                let socket = cx.handle().clone();
                let worker = Box::pin(WorkerChannel::start(route.clone(), socket)).await;
                self.peer = Some(Peer::Workers(worker.clone()));
                Box::pin(worker.connect()).await;
            }
            None => {}
        }
        Ok(())
    }

    async fn receive(&mut self, _cx: &mut Context<'_>, message: Message) -> Result<(), Close> {
        match &self.peer {
            Some(Peer::Endpoint(conversation)) => {
                let event = |seq| protocol::raw(&event::receive(seq, &message));
                Box::pin(conversation.push(event)).await;
            }
            Some(Peer::Workers(worker)) => Box::pin(worker.receive(&message)).await,
            None => {}
        }
        Ok(())
    }

    async fn group_event(
        &mut self,
        _cx: &mut Context<'_>,
        received: Received,
    ) -> Result<(), Close> {
        let group = received.group.as_ref().map_or("", |group| group.as_str());
        match &self.peer {
            Some(Peer::Endpoint(conversation)) => {
                let event = |seq| protocol::raw(&event::group(seq, group, &received.event));
                Box::pin(conversation.push(event)).await;
            }
            Some(Peer::Workers(worker)) => {
                Box::pin(worker.group_event(group, &received.event)).await;
            }
            None => {}
        }
        Ok(())
    }

    async fn disconnect(&mut self, cx: &mut Context<'_>, code: CloseCode) {
        let reason = cx.ending().map_or("", |ending| &*ending.reason);
        let cause = cx.ending().map_or("", |ending| ending.cause.as_str());
        match self.peer.take() {
            Some(Peer::Endpoint(conversation)) => conversation.end(code.get(), reason, cause),
            Some(Peer::Workers(worker)) => {
                Box::pin(worker.end(code.get(), reason, cause)).await;
            }
            None => {}
        }
    }
}

impl Backend {
    /// Asks the endpoint whether to accept the connection, in a task that continues if the client
    /// disconnects.
    async fn handshake(
        &mut self,
        route: Arc<EndpointRoute>,
        scope: &Scope,
    ) -> Result<Accept, Denial> {
        let (reply, replied) = oneshot::channel();
        let services = route.services.clone();
        let handshake = Handshake::new(route.clone(), scope).run(reply);
        let handshake = trace::carry(handshake);
        services.tasks.spawn("backend handshake", handshake);
        let result = replied.await;
        let (mut accept, accepted) =
            result.unwrap_or_else(|_| Err(bad_gateway("the handshake's task ended early")))?;
        // The backend learns from `group.refused` which ones its socket could not join.
        let client = scope.client.as_ref().map(|client| client.ip());
        let limits = &services.group_limits;
        accept
            .groups
            .truncate(limits.allowed(client, &accept.groups));
        self.accepted = Some(accepted);
        Ok(accept)
    }
}

/// Creates the route's state. The first route with its backend notifies it that this process has
/// started.
fn route(options: &Options, services: &Services) -> Option<Route> {
    let backend = options.destination.as_ref()?;
    let route = match backend {
        Destination::Endpoint(url) => Route::Endpoint(endpoint_route(options, url, services)),
        Destination::Channel(channel) => Route::Workers(Arc::new(WorkerRoute {
            channel: channel.clone(),
            headers: options.header_names.clone(),
            services: services.clone(),
            retries_max: options.disconnect_queue,
            expiry: options.disconnect_expiry.0,
            retries: AtomicUsize::new(0),
        })),
    };
    let is_endpoint = matches!(route, Route::Endpoint(_));
    if options.node_started.unwrap_or(is_endpoint)
        && services.shared::<Notified>().insert(backend.clone())
    {
        // The event says that the connections of the earlier process are gone.
        match &route {
            Route::Endpoint(route) => {
                let route = route.clone();
                services.once_alone(move || route.notify_node_started());
            }
            Route::Workers(route) => {
                let route = route.clone();
                services.once_alone(move || route.notify_node_started());
            }
        }
    }
    Some(route)
}

fn endpoint_route(options: &Options, url: &EndpointUrl, services: &Services) -> Arc<EndpointRoute> {
    let settings = EndpointSettings {
        url: url.clone(),
        ca: options.ca.clone(),
        secrets: options.secret.iter().map(|one| one.0.clone()).collect(),
        timeout: options.timeout.0,
        connect_timeout: options.connect_timeout.0,
        concurrency: options.concurrency,
        max_response: options.max_response.as_usize(),
        breaker_failures: options.breaker_failures,
        breaker_open: options.breaker_open.0,
        disconnect_queue: options.disconnect_queue,
        disconnect_expiry: options.disconnect_expiry.0,
        disconnect_rate: options.disconnect_rate,
        hold_total: options.hold_total.as_usize(),
    };
    let limits = Limits {
        headers: options.header_names.clone(),
        retries: options.retries,
        batch_events: options.batch_events,
        batch_bytes: options.batch_bytes.as_usize(),
        response: ResponseLimits {
            actions: options.max_effects,
            state_bytes: options.max_state.as_usize(),
        },
        hold: options.hold.as_usize(),
        hold_time: options.hold_time.0,
    };
    let protocol = options.protocol.clone();
    Arc::new(EndpointRoute::new(settings, protocol, limits, services))
}

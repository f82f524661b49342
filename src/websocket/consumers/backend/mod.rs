//! Backend: a consumer in any language: what happens on a WebSocket is POSTed to an HTTP endpoint, which answers what shall
//! happen.

mod action;
mod connect_response;
mod connector;
mod conversation;
mod disconnects;
mod endpoint;
mod executor;
mod handshake;
mod limited_io;
mod options;
mod protocol;
mod worker_channel;

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use http::HeaderName;
use parking_lot::Mutex;
use tokio::sync::oneshot;

use connect_response::bad_gateway;
use connector::EndpointUrl;
use conversation::{Bounds, Conversation, Shared};
use disconnects::Disconnects;
use endpoint::{Endpoint, EndpointSettings};
use handshake::{Accepted, Handshake};
use worker_channel::{PendingDisconnects, WorkerChannel};

pub(super) use options::Options;

use crate::channels::{ChannelName, Received};
use crate::config::OptionErrors;
use crate::routing::RouteContext;
use crate::scope::Scope;
use crate::services::Services;
use crate::websocket::{Accept, Backlog, Close, CloseCode, Consumer, Context, Denial, Message};

/// `consumer = "backend"`: each connection's events are POSTed to an HTTP endpoint, or sent to a channel that workers read.
///
/// `docs/BACKEND.md` has the format. The endpoint needs no event loop: it is asked once for a batch of events and answers what shall happen.
pub struct Backend {
    route: Arc<OnceLock<Route>>,
    /// The backend accepted the connection, or nobody knows: it has to hear of its end.
    accepted: Option<Accepted>,
    talk: Option<Talk>,
}

enum Talk {
    Endpoint(Arc<Conversation>),
    Channel(Arc<WorkerChannel>),
}

/// Where a route's events go.
enum Route {
    Endpoint(Arc<Shared>),
    Channel {
        channel: ChannelName,
        headers: Vec<HeaderName>,
        services: Services,
        pending_disconnects: Arc<PendingDisconnects>,
    },
}

/// The endpoints of a process: routes with the same settings share one, and each URL hears once that the process began.
#[derive(Default)]
struct Endpoints(Mutex<Known>);

#[derive(Default)]
struct Known {
    endpoints: HashMap<EndpointSettings, (Arc<Endpoint>, Arc<Disconnects>)>,
    greeted: HashSet<EndpointUrl>,
}

impl Endpoints {
    fn get(
        &self,
        settings: EndpointSettings,
        services: &Services,
        node: &str,
    ) -> (Arc<Endpoint>, Arc<Disconnects>) {
        let mut known = self.0.lock();
        let url = settings.url.clone();
        let found = known.endpoints.entry(settings.clone()).or_insert_with(|| {
            let endpoint = Arc::new(Endpoint::new(settings));
            let layer = services.layer.clone();
            let disconnects = Disconnects::start(endpoint.clone(), layer, &services.tasks);
            (endpoint, disconnects)
        });
        let found = found.clone();
        if known.greeted.insert(url) {
            let body = protocol::node_started(node, &services.name);
            found.1.tell(format!("{node}-0"), body, Duration::ZERO);
        }
        found
    }
}

impl Consumer for Backend {
    type Options = Options;

    fn new(options: &Options) -> Self {
        Self {
            route: options.route.clone(),
            accepted: None,
            talk: None,
        }
    }

    fn mount(options: Options, _route: &RouteContext<'_>) -> Result<Options, OptionErrors> {
        options.check().into_result(options)
    }

    fn started(options: &Options, services: &Services) {
        options.route.get_or_init(|| route(options, services));
    }

    fn backlog(options: &Options) -> Option<Arc<Backlog>> {
        match options.route.get() {
            Some(Route::Endpoint(shared)) => Some(shared.endpoint.backlog.clone()),
            Some(Route::Channel { .. }) | None => None,
        }
    }

    async fn connect(&mut self, scope: &Scope) -> Result<Accept, Denial> {
        match self.route.get() {
            Some(Route::Endpoint(shared)) => {
                let shared = shared.clone();
                Box::pin(self.ask(&shared, scope)).await
            }
            Some(Route::Channel { .. }) => Ok(Accept::default()),
            None => Err(Denial::from("the route was not started")),
        }
    }

    async fn open(&mut self, cx: &mut Context<'_>) -> Result<(), Close> {
        match self.route.get() {
            Some(Route::Endpoint(shared)) => {
                let Some(accepted) = self.accepted.take() else {
                    return Ok(());
                };
                let link = cx.handle().clone();
                let (state, actions) = accepted.open();
                let conversation = Conversation::new(shared.clone(), link, state, 1);
                self.talk = Some(Talk::Endpoint(conversation.clone()));
                for action in actions {
                    let applied = Box::pin(conversation.executor.apply(action)).await;
                    if applied.map_err(Close::from)? {
                        break;
                    }
                }
            }
            Some(Route::Channel {
                channel,
                headers,
                services,
                pending_disconnects,
            }) => {
                let link = cx.handle().clone();
                let (channel, headers) = (channel.clone(), headers.clone());
                let worker = WorkerChannel::start(
                    channel,
                    headers,
                    services.clone(),
                    link,
                    pending_disconnects.clone(),
                );
                let worker = Box::pin(worker).await;
                self.talk = Some(Talk::Channel(worker.clone())); // from here on it hears of the end
                Box::pin(worker.connected()).await;
            }
            None => {}
        }
        Ok(())
    }

    async fn receive(&mut self, _cx: &mut Context<'_>, message: Message) -> Result<(), Close> {
        match &self.talk {
            Some(Talk::Endpoint(conversation)) => {
                let event = |seq| protocol::receive_event(seq, &message);
                Box::pin(conversation.say(event)).await;
            }
            Some(Talk::Channel(worker)) => Box::pin(worker.receive(&message)).await,
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
        match &self.talk {
            Some(Talk::Endpoint(conversation)) => {
                let event = |seq| protocol::group_event(seq, group, &received.event);
                Box::pin(conversation.say(event)).await;
            }
            Some(Talk::Channel(worker)) => {
                Box::pin(worker.group_event(group, &received.event)).await;
            }
            None => {}
        }
        Ok(())
    }

    async fn disconnect(&mut self, cx: &mut Context<'_>, code: CloseCode) {
        let reason = cx.ending().map_or("", |ending| &*ending.reason);
        let cause = cx.ending().map_or("", |ending| ending.cause.as_str());
        match self.talk.take() {
            Some(Talk::Endpoint(conversation)) => conversation.end(code.get(), reason, cause),
            Some(Talk::Channel(worker)) => {
                Box::pin(worker.end(code.get(), reason, cause)).await;
            }
            None => {}
        }
    }
}

impl Backend {
    /// Asks the endpoint whether the connection is welcome.
    ///
    /// In a task of its own: when the client leaves meanwhile, the backend is told of the end after what it was asked first.
    async fn ask(&mut self, shared: &Arc<Shared>, scope: &Scope) -> Result<Accept, Denial> {
        let (reply, replied) = oneshot::channel();
        let handshake = Handshake::new(shared.clone(), scope).run(reply);
        let tasks = &shared.services.tasks;
        tasks.spawn("backend handshake", handshake);
        let (accept, accepted) = replied
            .await
            .unwrap_or_else(|_| Err(bad_gateway("the question was given up")))?;
        self.accepted = Some(accepted);
        Ok(accept)
    }
}

fn route(options: &Options, services: &Services) -> Route {
    if let Some(channel) = options
        .channel
        .as_ref()
        .and_then(|name| ChannelName::new(name).ok())
    {
        return Route::Channel {
            channel,
            headers: options.listed_headers(),
            services: services.clone(),
            pending_disconnects: Arc::new(PendingDisconnects::new(
                options.disconnect_queue,
                options.disconnect_expiry.0,
            )),
        };
    }
    let url = options.url.as_deref().unwrap_or_default();
    #[expect(clippy::expect_used, reason = "a route with another one is a Problem")]
    let url = EndpointUrl::parse(url).expect("a URL that was checked");
    let settings = EndpointSettings {
        url,
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
    let bounds = Bounds {
        headers: options.listed_headers(),
        retries: options.retries,
        batch_events: options.batch_events,
        batch_bytes: options.batch_bytes.as_usize(),
        max_effects: options.max_effects,
        max_state: options.max_state.as_usize(),
        hold: options.hold.as_usize(),
        hold_time: options.hold_time.0,
    };
    let node = format!("{:016x}", services.layer.node());
    let (endpoint, disconnects) = services
        .shared::<Endpoints>()
        .get(settings, services, &node);
    Route::Endpoint(Arc::new(Shared {
        endpoint,
        disconnects,
        services: services.clone(),
        node,
        bounds,
    }))
}

//! Backend: a consumer in any language: what happens on a WebSocket is POSTed to an HTTP endpoint, which answers what shall
//! happen.

mod channel;
mod connector;
mod conversation;
mod disconnects;
mod effects;
mod endpoint;
mod protocol;

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use http::{HeaderName, HeaderValue, StatusCode, header};
use serde_json::value::RawValue;

use channel::Worker;
use connector::Url;
use conversation::{Bounds, Conversation, Shared, check_answer};
use disconnects::Disconnects;
use effects::group_name;
use endpoint::{Endpoint, EndpointSettings, PostError, back_off};
use protocol::{Answer, Effect};

use crate::channels::{ChannelName, GroupOptions, Received};
use crate::config::{Secret, Size, WrittenDuration};
use crate::http::Failure;
use crate::scope::Scope;
use crate::services::Services;
use crate::websocket::{Accept, Close, CloseCode, Consumer, Context, Denial, Message};

/// `consumer = "backend"`: each connection's events are POSTed to an HTTP endpoint, or sent to a channel that workers read.
///
/// `docs/BACKEND.md` has the format. The endpoint needs no event loop: it is asked once for a batch of events and answers what shall happen.
pub struct Backend {
    route: Arc<OnceLock<Route>>,
    /// The connection is accepted: the backend has to hear of its end.
    accepted: Option<Accepted>,
    talk: Option<Talk>,
}

/// What a backend said when it accepted, until the socket is open.
struct Accepted {
    number: u64,
    state: Option<Box<RawValue>>,
    effects: Vec<Effect>,
    scope: Box<RawValue>,
}

enum Talk {
    Endpoint(Arc<Conversation>),
    Channel(Arc<Worker>),
}

/// Where a route's events go.
enum Route {
    Endpoint(Arc<Shared>),
    Channel {
        channel: ChannelName,
        headers: Vec<HeaderName>,
        services: Services,
    },
}

/// What `backend` takes.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Options {
    /// The endpoint: `http://HOST:PORT/PATH` or `http+unix://SOCKET:/PATH`.
    #[serde(default)]
    url: Option<String>,
    /// What each request is signed with.
    #[serde(default)]
    secret: Secret,
    /// Instead of the endpoint: the channel whose workers get the events.
    #[serde(default)]
    channel: Option<String>,
    /// The request's header fields that are passed on.
    #[serde(default = "headers")]
    headers: Vec<String>,
    /// How long an answer may take.
    #[serde(default = "five_seconds")]
    timeout: WrittenDuration,
    /// How long a connection may take.
    #[serde(default = "a_second")]
    connect_timeout: WrittenDuration,
    /// The most requests at once.
    #[serde(default = "concurrency")]
    concurrency: usize,
    /// How often a request is tried again at once.
    #[serde(default = "retries")]
    retries: u32,
    /// The most events of one request.
    #[serde(default = "batch_events")]
    batch_events: usize,
    /// The most bytes of events of one request.
    #[serde(default = "batch_bytes")]
    batch_bytes: Size,
    /// The longest answer.
    #[serde(default = "a_mebibyte")]
    max_response: Size,
    /// The most events of one answer.
    #[serde(default = "max_effects")]
    max_effects: usize,
    /// The longest state.
    #[serde(default = "max_state")]
    max_state: Size,
    /// The most bytes that wait for the backend, of one connection.
    #[serde(default = "a_mebibyte")]
    hold: Size,
    /// How long they wait.
    #[serde(default = "hold_time")]
    hold_time: WrittenDuration,
    /// After how many failures in a row nothing is sent any more.
    #[serde(default = "breaker_failures")]
    breaker_failures: u32,
    /// For how long.
    #[serde(default = "breaker_open")]
    breaker_open: WrittenDuration,
    /// The most disconnects that wait.
    #[serde(default = "disconnect_queue")]
    disconnect_queue: usize,
    /// How long they wait.
    #[serde(default = "disconnect_expiry")]
    disconnect_expiry: WrittenDuration,
    /// The most disconnects in a second.
    #[serde(default = "disconnect_rate")]
    disconnect_rate: u32,
    #[serde(skip)]
    route: Arc<OnceLock<Route>>,
}

fn headers() -> Vec<String> {
    ["cookie", "origin", "user-agent", "accept-language"]
        .map(str::to_owned)
        .to_vec()
}
fn five_seconds() -> WrittenDuration {
    WrittenDuration(Duration::from_secs(5))
}
fn a_second() -> WrittenDuration {
    WrittenDuration(Duration::from_secs(1))
}
fn concurrency() -> usize {
    64
}
fn retries() -> u32 {
    2
}
fn batch_events() -> usize {
    100
}
fn batch_bytes() -> Size {
    Size::kib(256)
}
fn a_mebibyte() -> Size {
    Size::kib(1024)
}
fn max_effects() -> usize {
    1000
}
fn max_state() -> Size {
    Size::kib(16)
}
fn hold_time() -> WrittenDuration {
    WrittenDuration(Duration::from_secs(30))
}
fn breaker_failures() -> u32 {
    5
}
fn breaker_open() -> WrittenDuration {
    WrittenDuration(Duration::from_secs(2))
}
fn disconnect_queue() -> usize {
    10_000
}
fn disconnect_expiry() -> WrittenDuration {
    WrittenDuration(Duration::from_secs(600))
}
fn disconnect_rate() -> u32 {
    100
}

/// The endpoints of a process: routes with the same settings share one, and each URL hears once that the process began.
#[derive(Default)]
struct Endpoints(Mutex<Known>);

#[derive(Default)]
struct Known {
    endpoints: HashMap<EndpointSettings, (Arc<Endpoint>, Arc<Disconnects>)>,
    greeted: HashSet<Url>,
}

impl Endpoints {
    fn get(
        &self,
        settings: EndpointSettings,
        services: &Services,
        node: &str,
    ) -> (Arc<Endpoint>, Arc<Disconnects>) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let url = settings.url.clone();
        let found = known.endpoints.entry(settings.clone()).or_insert_with(|| {
            let endpoint = Arc::new(Endpoint::new(settings));
            let disconnects = Disconnects::start(endpoint.clone(), &services.tasks);
            (endpoint, disconnects)
        });
        let found = found.clone();
        if known.greeted.insert(url) {
            let body = protocol::node_started(node, &services.name);
            found.1.tell(format!("{node}-0"), body);
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

    fn problems(options: &Options) -> Vec<String> {
        let mut problems = Vec::new();
        match (&options.url, &options.channel) {
            (Some(url), None) => {
                if let Err(sentence) = Url::read(url) {
                    problems.push(format!("url: {sentence}"));
                }
                if options.secret.0.is_empty() {
                    problems.push(
                        "secret: expected a text to sign the requests with, found none".to_owned(),
                    );
                }
            }
            (None, Some(channel)) => {
                if let Err(error) = ChannelName::new(channel) {
                    problems.push(format!("channel: {error}"));
                }
            }
            (Some(_), Some(_)) => {
                problems.push("url: expected either \"url\" or \"channel\", found both".to_owned());
            }
            (None, None) => {
                problems
                    .push("url: expected either \"url\" or \"channel\", found neither".to_owned());
            }
        }
        for name in &options.headers {
            if HeaderName::from_bytes(name.as_bytes()).is_err() {
                problems.push(format!("headers: expected names of fields, found {name:?}"));
            }
        }
        for (key, is_zero) in [
            ("timeout", options.timeout.0.is_zero()),
            ("connect_timeout", options.connect_timeout.0.is_zero()),
            ("concurrency", options.concurrency == 0),
            ("batch_events", options.batch_events == 0),
            ("batch_bytes", options.batch_bytes.bytes() == 0),
            ("hold", options.hold.bytes() == 0),
            ("breaker_failures", options.breaker_failures == 0),
            ("disconnect_rate", options.disconnect_rate == 0),
        ] {
            if is_zero {
                problems.push(format!("{key}: expected more than zero, found zero"));
            }
        }
        problems
    }

    fn started(options: &Options, services: &Services) {
        options.route.get_or_init(|| route(options, services));
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
                let link = cx.link().clone();
                let conversation = Conversation::new(shared.clone(), link, accepted.state, 1);
                self.talk = Some(Talk::Endpoint(conversation.clone()));
                for effect in accepted.effects {
                    let applied = Box::pin(conversation.effects.apply(effect)).await;
                    if applied.map_err(Close::from)? {
                        break;
                    }
                }
            }
            Some(Route::Channel {
                channel,
                headers,
                services,
            }) => {
                let link = cx.link().clone();
                let (channel, headers) = (channel.clone(), headers.clone());
                let worker = Worker::start(channel, headers, services.clone(), link);
                self.talk = Some(Talk::Channel(Box::pin(worker).await));
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

impl Drop for Backend {
    /// Accepted, and never opened: the client left in between.
    fn drop(&mut self) {
        if let (Some(accepted), Some(Route::Endpoint(shared))) =
            (self.accepted.take(), self.route.get())
        {
            let id = shared.connection_id(accepted.number);
            let state = accepted.state.as_deref();
            let end = (1006, "", "client_gone");
            shared.tell_disconnect(&id, state, &accepted.scope, 2, end);
        }
    }
}

impl Backend {
    /// Asks the endpoint whether the connection is welcome.
    async fn ask(&mut self, shared: &Arc<Shared>, scope: &Scope) -> Result<Accept, Denial> {
        let id = shared.connection_id(scope.connection);
        let described = protocol::raw(&protocol::scope(scope, &shared.bounds.headers));
        let event = protocol::raw(&protocol::connect_event(1));
        let body = protocol::body(&shared.connection(&id, None), &described, &[&*event]);
        let (key, body) = (format!("{id}-1"), body.into());
        let mut attempt = 0;
        let answer = loop {
            match shared.endpoint.post(&key, &body).await {
                Ok(answer) => break answer,
                Err(PostError::Connection(_)) if attempt < shared.bounds.retries => {
                    back_off(attempt, Duration::from_millis(500)).await;
                    attempt += 1;
                }
                Err(error) => return Err(denial(error)),
            }
        };
        check_answer(&answer, &shared.bounds)
            .and_then(|()| decide(answer))
            .map_err(|sentence| bad_gateway(&sentence))?
            .map(|(accept, state, effects)| {
                self.accepted = Some(Accepted {
                    number: scope.connection,
                    state,
                    effects,
                    scope: described,
                });
                accept
            })
    }
}

type Welcome = (Accept, Option<Box<RawValue>>, Vec<Effect>);

/// Reads the decision out of the answer to `websocket.connect`.
fn decide(answer: Answer) -> Result<Result<Welcome, Denial>, String> {
    let mut accept = Accept::default();
    let mut effects = Vec::new();
    for effect in answer.events {
        match effect {
            Effect::Accept {
                subprotocol,
                headers,
            } => {
                accept.subprotocol = subprotocol;
                accept.headers = fields(headers)?;
            }
            Effect::Close { reason, .. } => {
                let reason = reason.filter(|reason| !reason.is_empty());
                let sentence = reason.unwrap_or_else(|| "the connection was denied".to_owned());
                return Ok(Err(Denial::forbidden(sentence)));
            }
            Effect::Response {
                status,
                headers,
                body,
            } => {
                let status = StatusCode::from_u16(status).ok();
                let status = status.filter(|status| status.as_u16() >= 300);
                let Some(status) = status else {
                    return Err(
                        "expected a status of 300 or more in websocket.http.response".into(),
                    );
                };
                let mut denial = Denial::with_body(status, body);
                for (name, value) in &fields(headers)? {
                    denial = denial.with_header(name.clone(), value.clone());
                }
                return Ok(Err(denial));
            }
            other => {
                if let Effect::GroupAdd { group, .. } = &other {
                    let group = group_name(group)?;
                    accept.groups.push((group, GroupOptions::default()));
                }
                effects.push(other);
            }
        }
    }
    Ok(Ok((accept, answer.state, effects)))
}

fn fields(pairs: Vec<(String, String)>) -> Result<http::HeaderMap, String> {
    let mut fields = http::HeaderMap::new();
    for (name, value) in pairs {
        let name = HeaderName::from_bytes(name.as_bytes());
        let (Ok(name), Ok(value)) = (name, HeaderValue::from_str(&value)) else {
            return Err("expected names and values of header fields, found others".to_owned());
        };
        fields.append(name, value);
    }
    Ok(fields)
}

/// What the client hears when the endpoint gave no usable answer.
fn denial(error: PostError) -> Denial {
    let unavailable = |sentence: &'static str, error: &PostError| {
        let failure = Failure::new(StatusCode::SERVICE_UNAVAILABLE, sentence);
        let failure = failure.because(error.to_string());
        Denial::of(failure).with_header(header::RETRY_AFTER, HeaderValue::from_static("1"))
    };
    match error {
        PostError::CircuitOpen(_) | PostError::Busy(_) => {
            unavailable("the application is away", &error)
        }
        PostError::Timeout(_) => Denial::of(
            Failure::new(
                StatusCode::GATEWAY_TIMEOUT,
                "the application did not answer in time",
            )
            .because(error.to_string()),
        ),
        PostError::Refused(refusal) if refusal.status.is_client_error() => {
            let content_type = refusal.headers.get(header::CONTENT_TYPE);
            let is_text = content_type
                .and_then(|value| value.to_str().ok())
                .is_none_or(|value| value.starts_with("text/") || value.contains("json"));
            let body = String::from_utf8(refusal.body.to_vec());
            match body {
                Ok(body) if is_text && !body.is_empty() => {
                    let mut denial = Denial::with_body(refusal.status, body);
                    if let Some(value) = content_type {
                        denial = denial.with_header(header::CONTENT_TYPE, value.clone());
                    }
                    denial
                }
                _ => Denial::new(refusal.status, "the application denied the connection"),
            }
        }
        error => bad_gateway(&error.to_string()),
    }
}

fn bad_gateway(cause: &str) -> Denial {
    let sentence = "the application gave no answer that can be used";
    Denial::of(Failure::new(StatusCode::BAD_GATEWAY, sentence).because(cause.to_owned()))
}

fn listed_headers(options: &Options) -> Vec<HeaderName> {
    let names = options.headers.iter();
    names
        .filter_map(|name| HeaderName::from_bytes(name.as_bytes()).ok())
        .collect()
}

fn route(options: &Options, services: &Services) -> Route {
    if let Some(channel) = options
        .channel
        .as_ref()
        .and_then(|name| ChannelName::new(name).ok())
    {
        return Route::Channel {
            channel,
            headers: listed_headers(options),
            services: services.clone(),
        };
    }
    let url = options.url.as_deref().unwrap_or_default();
    #[expect(clippy::expect_used, reason = "a route with another one is a Problem")]
    let url = Url::read(url).expect("a URL that was checked");
    let settings = EndpointSettings {
        url,
        secret: options.secret.0.clone(),
        timeout: options.timeout.0,
        connect_timeout: options.connect_timeout.0,
        concurrency: options.concurrency,
        max_response: options.max_response.as_usize(),
        breaker_failures: options.breaker_failures,
        breaker_open: options.breaker_open.0,
        disconnect_queue: options.disconnect_queue,
        disconnect_expiry: options.disconnect_expiry.0,
        disconnect_rate: options.disconnect_rate,
    };
    let bounds = Bounds {
        headers: listed_headers(options),
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

//! Consumer: the code behind a WebSocket.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use http::HeaderValue;
use serde::de::DeserializeOwned;

use super::accept::{Accept, Denial};
use super::backlog::Backlog;
use super::close::{Close, CloseCode};
use super::connection_task::ConnectionTask;
use super::context::Context;
use super::driver::{SocketParts, drive};
use super::message::Message;
use crate::channels::{Event, Received};
use crate::config::OptionErrors;
use crate::http::Mapped;
use crate::routing::RouteContext;
use crate::scope::Scope;
use crate::services::Services;
use crate::state::StateType;

/// One WebSocket connection; a new value is created for each.
///
/// The calls come in this order and never overlap: `connect`, `open`, any number of `receive` and
/// `event`, then exactly one `disconnect`. While a call is pending, pings are answered, but reading
/// soon stops, which slows only this client. A call that computes without awaiting blocks its
/// worker thread and every connection on it; long work belongs in `spawn_blocking`. A panic ends
/// only this connection, with 1011.
///
/// ```
/// use oneport::websocket::{Close, Consumer, Context, Message};
///
/// struct Shout;
///
/// impl Consumer for Shout {
///     type Options = ();
///     fn new(_: &()) -> Self { Self }
///     async fn receive(&mut self, cx: &mut Context<'_>, message: Message) -> Result<(), Close> {
///         if let Some(text) = message.as_text() {
///             cx.send(text.to_uppercase());
///         }
///         Ok(())
///     }
/// }
/// let registry = oneport::gateway::Registry::builtin().consumer::<Shout>("shout");
/// ```
pub trait Consumer: Send + Sized + 'static {
    /// The route's `options` in the file; `()` takes none. With `#[serde(deny_unknown_fields)]`,
    /// unknown keys are rejected.
    type Options: DeserializeOwned + Send + Sync + 'static;

    /// The types of application state that it reads (`Registry::state`). A route with the consumer
    /// is a Problem when one was not registered.
    const STATE: &'static [StateType] = &[];

    /// Creates the consumer of one connection.
    fn new(options: &Self::Options) -> Self;

    /// Finishes parsing the options and checks them against their route: once, when the file is
    /// compiled, before the first `new`.
    ///
    /// Returns an error for each option that is invalid beyond its type, or names a parameter that
    /// the route does not have; `check`, `serve` and a reload report it at the line and column of
    /// its key.
    fn mount(
        options: Self::Options,
        _route: &RouteContext<'_>,
    ) -> Result<Self::Options, OptionErrors> {
        Ok(options)
    }

    /// Called before a route with these options is served: at the start, and after each reload.
    fn started(_options: &Self::Options, _services: &Services) {}

    /// Returns a bound that several sockets share, if there is one: messages count against it while
    /// they wait for their consumer. Each socket also has its own bounds. Called after `started`.
    fn backlog(_options: &Self::Options) -> Option<Arc<Backlog>> {
        None
    }

    /// Accepts or denies the handshake. Nothing can be sent yet, so there is no `Context`. After
    /// the route's `connect_timeout` the client gets 504.
    fn connect(&mut self, _scope: &Scope) -> impl Future<Output = Result<Accept, Denial>> + Send {
        async { Ok(Accept::default()) }
    }

    /// The socket is open.
    fn open(&mut self, _cx: &mut Context<'_>) -> impl Future<Output = Result<(), Close>> + Send {
        async { Ok(()) }
    }

    /// The client sent a message.
    fn receive(
        &mut self,
        cx: &mut Context<'_>,
        message: Message,
    ) -> impl Future<Output = Result<(), Close>> + Send;

    /// A group joined with [`Context::group_add`] received an event.
    fn event(
        &mut self,
        _cx: &mut Context<'_>,
        _event: Event,
    ) -> impl Future<Output = Result<(), Close>> + Send {
        async { Ok(()) }
    }

    /// Like `event`, with the event's group and position. By default it calls `event`.
    fn group_event(
        &mut self,
        cx: &mut Context<'_>,
        received: Received,
    ) -> impl Future<Output = Result<(), Close>> + Send {
        self.event(cx, received.event)
    }

    /// The socket has ended and has left its groups. `code` is that of the first close frame, from
    /// either side; 1005 and 1006 report that there was none.
    fn disconnect(
        &mut self,
        _cx: &mut Context<'_>,
        _code: CloseCode,
    ) -> impl Future<Output = ()> + Send {
        async {}
    }
}

pub(crate) type Connecting<'a> =
    Pin<Box<dyn Future<Output = Result<(Accept, Box<dyn Accepted>), Denial>> + Send + 'a>>;

/// A type-erased consumer with a route's options; it creates one consumer for each handshake.
pub(crate) trait ConsumerFactory: Send + Sync {
    fn started(&self, services: &Services);
    fn backlog(&self) -> Option<Arc<Backlog>>;
    /// Returns the servers whose paths those of the route are, if it passes handshakes on.
    fn maps_onto(&self) -> Option<Mapped> {
        None
    }
    fn connect<'a>(&'a self, scope: &'a Scope) -> Connecting<'a>;
}

/// A type-erased consumer that has accepted its handshake.
pub(crate) trait Accepted: Send {
    /// Returns who has negotiated the subprotocol and the extensions.
    fn negotiation(&self) -> Negotiation {
        Negotiation::Route
    }

    /// Returns the task of its socket, which is monomorphic for the consumer: messages need no
    /// dynamic dispatch.
    fn run(self: Box<Self>, parts: SocketParts) -> ConnectionTask;
}

/// Who negotiates the subprotocol and the extensions of an accepted handshake.
pub(crate) enum Negotiation {
    /// The route: its list of subprotocols, its compression.
    Route,
    /// An upstream server: the subprotocol of [`Accept`] or none, and these values of
    /// `Sec-WebSocket-Extensions`, as it sent them.
    Upstream(Vec<HeaderValue>),
}

/// The factory of one consumer type.
pub(crate) struct TypedFactory<C: Consumer> {
    pub(crate) options: Arc<C::Options>,
}

impl<C: Consumer> ConsumerFactory for TypedFactory<C> {
    fn started(&self, services: &Services) {
        C::started(&self.options, services);
    }

    fn backlog(&self) -> Option<Arc<Backlog>> {
        C::backlog(&self.options)
    }

    fn connect<'a>(&'a self, scope: &'a Scope) -> Connecting<'a> {
        Box::pin(async move {
            let mut consumer = C::new(&self.options);
            let accept = consumer.connect(scope).await?;
            Ok((
                accept,
                Box::new(AcceptedConsumer(consumer)) as Box<dyn Accepted>,
            ))
        })
    }
}

struct AcceptedConsumer<C>(C);

impl<C: Consumer> Accepted for AcceptedConsumer<C> {
    fn run(self: Box<Self>, parts: SocketParts) -> ConnectionTask {
        drive(self.0, parts)
    }
}

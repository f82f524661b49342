//! Upgrade: an accepted WebSocket that waits for its stream, and the gateway's reply.

use std::any::Any;
use std::sync::Arc;

use bytes::Bytes;

use super::request_span;
use crate::http::Response;
use crate::net::{ClientPermit, Stream};
use crate::scope::Scope;
use crate::services::Services;
use crate::telemetry::trace;
use crate::websocket::extension::Deflate;
use crate::websocket::{ConnectionTask, PreparedJoins, SocketParts, SocketRoute, Sockets};

/// The gateway's reply to a request.
pub enum Reply {
    /// An ordinary response.
    Response(Response),
    /// The response 101, and the socket that starts once it has been sent.
    Upgrade(Response, Box<Upgrade>),
}

/// An accepted WebSocket that waits for its stream.
pub struct Upgrade {
    pub(super) consumer: Box<dyn crate::websocket::Accepted>,
    pub(super) scope: Arc<Scope>,
    pub(super) route: Arc<SocketRoute>,
    pub(super) services: Services,
    pub(super) sockets: Sockets,
    pub(super) deflate: Option<Deflate>,
    pub(super) prepared_joins: PreparedJoins,
    /// Counts the client against `connections_per_ip` until the socket ends, if it is counted by
    /// requests.
    pub(super) counted: Option<ClientPermit>,
}

impl Upgrade {
    /// Spawns [`Upgrade::run`] as a task.
    pub fn start(self, stream: Option<Stream>, read_already: Bytes, held: Box<dyn Any + Send>) {
        let tasks = self.services.tasks.clone();
        tasks.spawn("websocket", self.run(stream, read_already, held));
    }

    /// Returns the future that runs the socket over a stream until it ends. `read_already` holds
    /// the bytes that the client sent right after its handshake; `held` is dropped when the socket
    /// ends.
    ///
    /// If the client disconnects before the 101 is sent, there is no stream; the consumer still
    /// gets `open` and `disconnect`.
    pub fn run(
        self,
        stream: Option<Stream>,
        read_already: Bytes,
        held: Box<dyn Any + Send>,
    ) -> ConnectionTask {
        let held = match self.counted {
            Some(counted) => Box::new((held, counted)),
            None => held,
        };
        let mut scope = self.scope;
        let scope_mut = Arc::make_mut(&mut scope);
        if trace::is_on() {
            request_span::open_socket(scope_mut, &self.route.label);
        }
        scope_mut.pack();
        self.consumer.run(SocketParts {
            stream: stream.unwrap_or_else(|| {
                Stream::boxed(tokio::io::join(tokio::io::empty(), tokio::io::sink()))
            }),
            read_already,
            scope,
            route: self.route,
            services: self.services,
            sockets: self.sockets,
            deflate: self.deflate,
            prepared_joins: self.prepared_joins,
            permits: held,
        })
    }
}

//! Upgrade: what the gateway replies, and a WebSocket that is accepted and waits for its stream.

use std::any::Any;
use std::sync::Arc;

use bytes::Bytes;

use crate::http::Response;
use crate::net::{ClientPermit, Stream};
use crate::scope::Scope;
use crate::services::Services;
use crate::websocket::extension::Deflate;
use crate::websocket::{ConnectionTask, PreparedJoins, Route, SocketParts, Sockets};

/// What becomes of a request.
pub enum Reply {
    /// An ordinary response.
    Response(Response),
    /// 101, and what starts once it is sent.
    Upgrade(Response, Box<Upgrade>),
}

/// A WebSocket that is accepted and waits for its stream.
pub struct Upgrade {
    pub(super) consumer: Box<dyn crate::websocket::Accepted>,
    pub(super) scope: Arc<Scope>,
    pub(super) route: Arc<Route>,
    pub(super) services: Services,
    pub(super) sockets: Sockets,
    pub(super) deflate: Option<Deflate>,
    pub(super) prepared_joins: PreparedJoins,
    /// The client behind a trusted proxy, counted until the socket ends.
    pub(super) counted: Option<ClientPermit>,
}

impl Upgrade {
    /// Starts the socket's task over a stream, as [`Upgrade::run`] has it.
    pub fn start(self, stream: Option<Stream>, read_already: Bytes, held: Box<dyn Any + Send>) {
        let tasks = self.services.tasks.clone();
        tasks.spawn("websocket", self.run(stream, read_already, held));
    }

    /// Returns the socket's whole life over a stream, to be awaited; `read_already` is what the client sent right behind its handshake.
    ///
    /// Without a stream (the client left before the 101 reached it) the consumer still gets its `open` and its `disconnect`.
    ///
    /// `held` is dropped when the socket ends.
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
        Arc::make_mut(&mut scope).pack();
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

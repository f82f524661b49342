//! Handshake: asks the backend whether to accept a connection, in a task that outlives the client.
//!
//! The client may disconnect at any moment. If the backend may have accepted the connection, it
//! must still learn of its end, and only after `websocket.connect`. So the request runs in its own
//! task, and the holder of the result sends `websocket.disconnect` when the result is dropped
//! unused:
//!
//! ```text
//! request under way ── error, not sent ──────────► denied
//!    │          └───── error, may be handled ────► denied, and websocket.disconnect
//!    ▼
//! AcceptedConnection ── dropped before `open` ───► websocket.disconnect (1006, client_gone)
//!    ▼
//! open: the conversation sends websocket.disconnect at the socket's end
//! ```

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde_json::value::RawValue;
use tokio::sync::oneshot;

use super::connect_response::{ConnectResponse, bad_gateway, denial};
use super::endpoint::{PostError, back_off};
use super::protocol::action::Action;
use super::protocol::{self, Disconnect, event};
use super::route::EndpointRoute;
use crate::client::ClientError;
use crate::scope::Scope;
use crate::websocket::close::Cause;
use crate::websocket::{Accept, CloseCode, Denial};

/// The longest pause before the request is retried.
const BACKOFF_MAX: Duration = Duration::from_millis(500);

/// A connection that the backend has accepted, and whose socket has not opened yet.
///
/// If dropped in that state, it notifies the backend that the client has disconnected.
pub(super) struct AcceptedConnection {
    route: Arc<EndpointRoute>,
    id: String,
    scope: Box<RawValue>,
    /// Taken when the socket opens.
    opening: Option<Opening>,
}

/// The backend's state and actions for the open socket.
#[derive(Default)]
pub(super) struct Opening {
    pub(super) state: Option<Box<RawValue>>,
    pub(super) actions: Vec<Action>,
}

impl AcceptedConnection {
    /// Called when the socket is open; from now on the conversation reports its end.
    pub(super) fn open(mut self) -> Opening {
        self.opening.take().unwrap_or_default()
    }
}

impl Drop for AcceptedConnection {
    fn drop(&mut self) {
        if let Some(opening) = &self.opening {
            let disconnect = Disconnect::abnormal(2, Cause::ClientGone);
            self.route.notify_disconnect(
                &self.id,
                opening.state.as_deref(),
                &self.scope,
                &disconnect,
                Duration::ZERO,
            );
        }
    }
}

/// The backend's decision, or the denial if there is none.
pub(super) type HandshakeResult = Result<(Accept, AcceptedConnection), Denial>;

/// One `websocket.connect` request.
pub(super) struct Handshake {
    route: Arc<EndpointRoute>,
    id: String,
    scope: Box<RawValue>,
    offered: Box<[String]>,
    body: Bytes,
}

impl Handshake {
    pub(super) fn new(route: Arc<EndpointRoute>, scope: &Scope) -> Self {
        let id = route.connection_id(scope.connection);
        let described = protocol::raw(&protocol::scope(scope, &route.limits.headers));
        let event = protocol::raw(&event::connect(1));
        let body = protocol::request_body(&route.connection(&id, None), &described, &[&*event]);
        Self {
            route,
            id,
            scope: described,
            offered: scope.subprotocols.clone(),
            body: body.into(),
        }
    }

    /// Sends the request and passes on the decision. If the client has disconnected, the decision
    /// is dropped, which notifies the backend.
    pub(super) async fn run(self, mut reply: oneshot::Sender<HandshakeResult>) {
        let result = self.request(&mut reply).await;
        let _ = reply.send(result);
    }

    async fn request(&self, reply: &mut oneshot::Sender<HandshakeResult>) -> HandshakeResult {
        let response = self.post(reply).await?;
        match ConnectResponse::from_response(response, &self.offered) {
            Ok(ConnectResponse::Accept(accept, opening)) => {
                let accepted = AcceptedConnection {
                    route: self.route.clone(),
                    id: self.id.clone(),
                    scope: self.scope.clone(),
                    opening: Some(opening),
                };
                Ok((accept, accepted))
            }
            Ok(ConnectResponse::Deny(denial)) => Err(denial),
            Err(sentence) => {
                self.notify_disconnect(Cause::BackendError, Duration::ZERO);
                Err(bad_gateway(&sentence))
            }
        }
    }

    /// POSTs until there is a response. Only a failed connection is retried, and only while the
    /// client waits.
    async fn post(
        &self,
        reply: &oneshot::Sender<HandshakeResult>,
    ) -> Result<protocol::BackendResponse, Denial> {
        let (endpoint, limits) = (&self.route.endpoint, &self.route.limits);
        let key = format!("{}-1", self.id);
        let mut attempt = 0;
        let mut may_be_accepted = false;
        loop {
            let body = || Some(self.body.clone());
            let error = match endpoint.post(&key, &body, limits.response).await {
                Ok(response) => return Ok(response),
                Err(error) => error,
            };
            may_be_accepted |= error.may_have_been_handled();
            let is_connection = matches!(
                error,
                PostError::Client(ClientError::Connection { .. } | ClientError::Connect { .. })
            );
            if is_connection && attempt < limits.retries && !reply.is_closed() {
                back_off(attempt, BACKOFF_MAX).await;
                attempt += 1;
                continue;
            }
            if may_be_accepted {
                let is_late = matches!(error, PostError::Client(ClientError::Timeout { .. }));
                // Race: a slow backend may still be handling `websocket.connect`. The notification
                // waits for as long as such a request may take, so that it does not overtake it.
                let delay = if is_late {
                    endpoint.settings.timeout
                } else {
                    Duration::ZERO
                };
                let cause = if reply.is_closed() {
                    Cause::ClientGone
                } else if error.is_transient() {
                    Cause::BackendAway
                } else {
                    Cause::BackendError
                };
                self.notify_disconnect(cause, delay);
            }
            return Err(denial(error));
        }
    }

    fn notify_disconnect(&self, cause: Cause, delay: Duration) {
        let disconnect = Disconnect::abnormal(2, cause);
        self.route
            .notify_disconnect(&self.id, None, &self.scope, &disconnect, delay);
    }
}

impl Disconnect<'static> {
    /// Creates an end without a close frame (1006).
    fn abnormal(seq: u64, cause: Cause) -> Self {
        Self {
            seq,
            code: CloseCode::ABNORMAL.get(),
            reason: "",
            cause: cause.as_str(),
        }
    }
}

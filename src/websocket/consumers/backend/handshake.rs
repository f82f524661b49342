//! Handshake: the question whether a connection is welcome, and who hears the answer when the client has left.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde_json::value::RawValue;
use tokio::sync::oneshot;

use super::action::Action;
use super::connect_response::{bad_gateway, decide, denial};
use super::conversation::Shared;
use super::endpoint::{PostError, back_off};
use super::protocol;
use crate::scope::Scope;
use crate::websocket::close::Cause;
use crate::websocket::{Accept, Denial};

/// The longest pause before the question is asked again.
const BACKOFF_MAX: Duration = Duration::from_millis(500);

/// A connection that a backend accepted: when it is dropped before the socket has opened, the client has left, and the backend is
/// told so.
pub(super) struct Accepted {
    shared: Arc<Shared>,
    id: String,
    scope: Box<RawValue>,
    /// Until the socket is open.
    said: Option<Said>,
}

/// The state, and what shall happen once the socket is open.
type Said = (Option<Box<RawValue>>, Vec<Action>);

impl Accepted {
    /// The socket is open.
    pub(super) fn open(mut self) -> Said {
        self.said.take().unwrap_or_default()
    }
}

impl Drop for Accepted {
    fn drop(&mut self) {
        if let Some((state, _)) = &self.said {
            let end = (1006, "", Cause::ClientGone.as_str());
            let after = Duration::ZERO;
            self.shared
                .tell_disconnect(&self.id, state.as_deref(), &self.scope, 2, end, after);
        }
    }
}

/// Welcome or not.
pub(super) type Answered = Result<(Accept, Accepted), Denial>;

/// The question whether a connection is welcome.
pub(super) struct Handshake {
    shared: Arc<Shared>,
    id: String,
    scope: Box<RawValue>,
    offered: Box<[String]>,
    body: Bytes,
}

impl Handshake {
    pub(super) fn new(shared: Arc<Shared>, scope: &Scope) -> Self {
        let id = shared.connection_id(scope.connection);
        let described = protocol::raw(&protocol::scope(scope, &shared.bounds.headers));
        let event = protocol::raw(&protocol::connect_event(1));
        let body = protocol::body(&shared.connection(&id, None), &described, &[&*event]);
        Self {
            shared,
            id,
            scope: described,
            offered: scope.subprotocols.clone(),
            body: body.into(),
        }
    }

    /// Asks, and says what was answered; nobody may hear it any more.
    pub(super) async fn run(self, reply: oneshot::Sender<Answered>) {
        let mut reply = reply;
        let answered = self.ask(&mut reply).await;
        let _ = reply.send(answered);
    }

    async fn ask(&self, reply: &mut oneshot::Sender<Answered>) -> Answered {
        let (endpoint, bounds) = (&self.shared.endpoint, &self.shared.bounds);
        let key = format!("{}-1", self.id);
        let mut attempt = 0;
        let mut may_be_known = false;
        let answer = loop {
            let error = match endpoint
                .post(&key, &|| Some(self.body.clone()), bounds.of_answer())
                .await
            {
                Ok(answer) => break answer,
                Err(error) => error,
            };
            may_be_known |= error.is_ambiguous();
            let is_connection = matches!(error, PostError::Connection(_) | PostError::Connect(_));
            if is_connection && attempt < bounds.retries && !reply.is_closed() {
                back_off(attempt, BACKOFF_MAX).await;
                attempt += 1;
                continue;
            }
            if may_be_known {
                // One that is slow may still be at it.
                let is_slow = matches!(error, PostError::Timeout(_));
                let after = if is_slow {
                    endpoint.settings.timeout
                } else {
                    Duration::ZERO
                };
                let cause = if reply.is_closed() {
                    Cause::ClientGone
                } else if error.is_passing() {
                    Cause::BackendAway
                } else {
                    Cause::BackendError
                };
                self.tell_end(cause, after);
            }
            return Err(denial(error));
        };
        let (accept, state, actions) = match decide(answer, &self.offered) {
            Ok(decided) => decided?,
            Err(sentence) => {
                self.tell_end(Cause::BackendError, Duration::ZERO);
                return Err(bad_gateway(&sentence));
            }
        };
        let accepted = Accepted {
            shared: self.shared.clone(),
            id: self.id.clone(),
            scope: self.scope.clone(),
            said: Some((state, actions)),
        };
        Ok((accept, accepted))
    }

    /// The backend may have accepted, and the connection ends all the same.
    fn tell_end(&self, cause: Cause, after: Duration) {
        let end = (1006, "", cause.as_str());
        self.shared
            .tell_disconnect(&self.id, None, &self.scope, 2, end, after);
    }
}

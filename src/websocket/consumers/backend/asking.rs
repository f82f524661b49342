//! Asking: the question whether a connection is welcome, and who hears the answer when the client has left.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde_json::value::RawValue;
use tokio::sync::oneshot;

use super::conversation::Shared;
use super::decide::{bad_gateway, decide, denial};
use super::effect::Effect;
use super::endpoint::{PostError, back_off};
use super::protocol;
use crate::scope::Scope;
use crate::websocket::close::Cause;
use crate::websocket::{Accept, Denial};

/// The longest pause before the question is asked again.
const BACKOFF_MAX: Duration = Duration::from_millis(500);

/// What a backend said when it accepted, until the socket is open.
pub(super) struct Accepted {
    number: u64,
    pub(super) state: Option<Box<RawValue>>,
    pub(super) effects: Vec<Effect>,
    scope: Box<RawValue>,
}

impl Accepted {
    /// The client has left, and the socket will not open.
    pub(super) fn tell_gone(self, shared: &Shared) {
        let id = shared.connection_id(self.number);
        let end = (1006, "", Cause::ClientGone.as_str());
        shared.tell_disconnect(&id, self.state.as_deref(), &self.scope, 2, end);
    }
}

/// Welcome or not.
pub(super) type Answered = Result<(Accept, Accepted), Denial>;

/// The question whether a connection is welcome.
pub(super) struct Asking {
    shared: Arc<Shared>,
    number: u64,
    id: String,
    scope: Box<RawValue>,
    offered: Box<[String]>,
    body: Bytes,
}

impl Asking {
    pub(super) fn new(shared: Arc<Shared>, scope: &Scope) -> Self {
        let id = shared.connection_id(scope.connection);
        let described = protocol::raw(&protocol::scope(scope, &shared.bounds.headers));
        let event = protocol::raw(&protocol::connect_event(1));
        let body = protocol::body(&shared.connection(&id, None), &described, &[&*event]);
        Self {
            shared,
            number: scope.connection,
            id,
            scope: described,
            offered: scope.subprotocols.clone(),
            body: body.into(),
        }
    }

    /// Asks, and says what was answered; when nobody hears it any more the backend hears that the client has left.
    pub(super) async fn run(self, reply: oneshot::Sender<Answered>) {
        let mut reply = reply;
        let answered = self.ask(&mut reply).await;
        let shared = self.shared;
        if let Err(Ok((_, accepted))) = reply.send(answered) {
            accepted.tell_gone(&shared);
        }
    }

    async fn ask(&self, reply: &mut oneshot::Sender<Answered>) -> Answered {
        let (endpoint, bounds) = (&self.shared.endpoint, &self.shared.bounds);
        let key = format!("{}-1", self.id);
        let mut attempt = 0;
        let mut may_be_known = false;
        let answer = loop {
            let error = match endpoint.post(&key, &self.body, bounds.of_answer()).await {
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
        let (accept, state, effects) = match decide(answer, &self.offered) {
            Ok(decided) => decided?,
            Err(sentence) => {
                self.tell_end(Cause::BackendError, Duration::ZERO);
                return Err(bad_gateway(&sentence));
            }
        };
        let accepted = Accepted {
            number: self.number,
            state,
            effects,
            scope: self.scope.clone(),
        };
        Ok((accept, accepted))
    }

    /// The backend may have accepted, and the connection ends all the same.
    fn tell_end(&self, cause: Cause, after: Duration) {
        let end = (1006, "", cause.as_str());
        self.shared
            .tell_disconnect_later(&self.id, None, &self.scope, 2, end, after);
    }
}

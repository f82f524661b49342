//! MiddlewareContext: what middleware sees before the handler, and may change.

use bytes::Bytes;

use crate::http::{Body, Failure, request};
use crate::scope::Scope;
use crate::services::Services;
use crate::state::MissingState;

/// A request or a handshake before its view or consumer.
#[derive(Debug)]
pub struct MiddlewareContext<'a> {
    /// The scope. What middleware puts in its `extensions`, `user` or `session`, the view or
    /// consumer finds there.
    pub scope: &'a mut Scope,
    /// The body of a request; a handshake's is empty.
    pub body: &'a mut Body,
    /// The route's limit of the body, in bytes.
    pub body_size: u64,
    /// What all views, consumers and middleware share.
    pub services: &'a Services,
}

impl MiddlewareContext<'_> {
    /// Returns the application's value of a type; see `Registry::state`.
    pub fn state<T: Send + Sync + 'static>(&self) -> Result<&T, MissingState> {
        self.scope.state()
    }

    /// Reads the whole body and leaves it for the view to read again. A body over the route's
    /// `body_size` is 413.
    pub async fn body_bytes(&mut self) -> Result<Bytes, Failure> {
        let bytes = request::read(self.body, self.body_size).await?;
        *self.body = Body::full(bytes.clone());
        Ok(bytes)
    }
}

//! MiddlewareContext: the request or handshake that middleware can read and change before the
//! handler.

use bytes::Bytes;

use crate::http::{Body, Failure, request};
use crate::scope::Scope;
use crate::services::Services;
use crate::state::MissingState;

/// A request or a handshake before its view or consumer.
#[derive(Debug)]
pub struct MiddlewareContext<'a> {
    /// The scope. The view or consumer sees the `extensions`, `user` and `session` that middleware
    /// sets.
    pub scope: &'a mut Scope,
    /// The body of a request; empty for a handshake.
    pub body: &'a mut Body,
    /// The route's maximum body size in bytes.
    pub body_size: u64,
    /// The services that all views, consumers and middleware share.
    pub services: &'a Services,
}

impl MiddlewareContext<'_> {
    /// Returns the application's value of a type; see `Registry::state`.
    pub fn state<T: Send + Sync + 'static>(&self) -> Result<&T, MissingState> {
        self.scope.state()
    }

    /// Reads the whole body; the view can read it again. Fails with 413 above the route's
    /// `body_size`.
    pub async fn body_bytes(&mut self) -> Result<Bytes, Failure> {
        let bytes = request::read(self.body, self.body_size).await?;
        *self.body = Body::full(bytes.clone());
        Ok(bytes)
    }
}

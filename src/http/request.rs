//! Request: a scope and a bounded body.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use http::StatusCode;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde::de::DeserializeOwned;

use super::body::TooSlow;
use super::{Body, ClientEnd, Failure};
use crate::scope::Scope;
use crate::services::Services;

/// Reads a whole body of at most `limit` bytes.
pub(crate) async fn read(body: &mut Body, limit: u64) -> Result<Bytes, Failure> {
    // Checked before the first read: a client that waits for `100 Continue` gets the refusal
    // instead.
    refuse_longer(body, limit)?;
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    match Limited::new(std::mem::take(body), limit).collect().await {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(too_large(limit as u64)),
        Err(error) if error.is::<TooSlow>() => Err(Failure::new(
            StatusCode::REQUEST_TIMEOUT,
            "the body came too slowly",
        )
        .because(error)),
        Err(error) => Err(Failure::bad_request("the body broke off").because(error)),
    }
}

/// Refuses a body whose declared length exceeds the limit.
fn refuse_longer(body: &Body, limit: u64) -> Result<(), Failure> {
    if http_body::Body::size_hint(body).lower() > limit {
        return Err(too_large(limit));
    }
    Ok(())
}

pub(crate) fn too_large(limit: u64) -> Failure {
    let sentence = format!("the body is longer than {limit} bytes");
    Failure::new(StatusCode::PAYLOAD_TOO_LARGE, sentence)
}

/// One HTTP request on its way to a view.
#[derive(Debug)]
pub struct Request {
    /// The scope.
    pub scope: Arc<Scope>,
    /// The body, read by the methods below or by the view itself.
    pub body: Body,
    /// The route's maximum body size in bytes.
    pub body_size: u64,
    /// When the route's `request_timeout` ends it with 504.
    pub deadline: Instant,
    /// The shared services: channel layer, templates, tasks, clock.
    pub services: Services,
    /// The client's end of the connection. A response without an end of its own ends with it.
    pub client: ClientEnd,
}

impl Request {
    /// Reads the whole body. Fails with 413 above the route's `body_size`, 400 if the body is
    /// truncated, and 408 below `server.limits.min_rate`.
    pub async fn bytes(&mut self) -> Result<Bytes, Failure> {
        read(&mut self.body, self.body_size).await
    }

    /// Reads the body as UTF-8 text. Fails with 400 for other bytes.
    pub async fn text(&mut self) -> Result<String, Failure> {
        let bytes = self.bytes().await?;
        String::from_utf8(bytes.into())
            .map_err(|error| Failure::bad_request("expected a body in UTF-8").because(error))
    }

    /// Reads the body as JSON. Fails with 400 and the position of the error.
    pub async fn json<T: DeserializeOwned>(&mut self) -> Result<T, Failure> {
        let bytes = self.bytes().await?;
        serde_json::from_slice(&bytes)
            .map_err(|error| Failure::bad_request(format!("expected JSON: {error}")))
    }
}

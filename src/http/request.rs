//! Request: a scope and a body with a bound.

use std::sync::Arc;

use bytes::Bytes;
use http::StatusCode;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde::de::DeserializeOwned;

use super::{Body, Failure};
use crate::scope::Scope;
use crate::services::Services;

/// Reads a whole body of at most so many bytes.
pub(crate) async fn read(body: &mut Body, limit: u64) -> Result<Bytes, Failure> {
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    match Limited::new(std::mem::take(body), limit).collect().await {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(Failure::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            format!("expected a body of at most {limit} bytes, found more"),
        )),
        Err(error) => Err(Failure::bad_request("the body broke off").because(error)),
    }
}

/// One HTTP request on its way to a view.
#[derive(Debug)]
pub struct Request {
    /// What is known of it.
    pub scope: Arc<Scope>,
    /// Its body, read by the methods below or by the view itself.
    pub body: Body,
    /// The most bytes of body that the route takes.
    pub body_size: u64,
    /// What all views share: layer, templates, tasks, clock.
    pub services: Services,
}

impl Request {
    /// Reads the whole body. More than the route's `body_size` is 413, a body that breaks off is 400.
    pub async fn bytes(&mut self) -> Result<Bytes, Failure> {
        read(&mut self.body, self.body_size).await
    }

    /// Reads the body as UTF-8 text. Other octets are 400.
    pub async fn text(&mut self) -> Result<String, Failure> {
        let bytes = self.bytes().await?;
        String::from_utf8(bytes.into())
            .map_err(|error| Failure::bad_request("expected a body in UTF-8").because(error))
    }

    /// Reads the body as JSON. What does not fit is 400 with the place in the text.
    pub async fn json<T: DeserializeOwned>(&mut self) -> Result<T, Failure> {
        let bytes = self.bytes().await?;
        serde_json::from_slice(&bytes)
            .map_err(|error| Failure::bad_request(format!("expected JSON: {error}")))
    }
}

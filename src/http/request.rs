//! Request: a scope and a bounded body.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use http::StatusCode;
use http_body::Body as _;
use serde::de::DeserializeOwned;

use super::body::{BodyError, TooSlow};
use super::{Body, ClientEnd, Failure};
use crate::scope::Scope;
use crate::services::Services;

/// Reads a whole body of at most `limit` bytes.
pub(crate) async fn read(body: &mut Body, limit: u64) -> Result<Bytes, Failure> {
    // Checked before the first read: a client that waits for `100 Continue` gets the refusal
    // instead.
    refuse_longer(body, limit)?;
    let mut body = std::mem::take(body);
    let mut whole = Whole::with_bound(body.size_hint().exact().unwrap_or(limit));
    while let Some(frame) = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
        let frame = frame.map_err(broken)?;
        let Ok(part) = frame.into_data() else {
            continue; // trailers
        };
        let left = limit.saturating_sub(whole.len() as u64);
        if part.len() as u64 > left {
            return Err(too_large(limit));
        }
        whole.push(part);
    }
    Ok(whole.into())
}

/// The bytes of a body that have arrived. Several parts are copied into one, because each one that
/// is kept costs more than a byte: a client may send a body byte by byte. The copy has room for at
/// most twice as many bytes as have arrived, and for at most as many as may arrive.
struct Whole {
    first: Bytes,
    /// All parts, if there are several.
    all: Vec<u8>,
    /// The length that is declared, or else the longest that is allowed.
    bound: usize,
}

impl Whole {
    fn with_bound(bound: u64) -> Self {
        Self {
            first: Bytes::new(),
            all: Vec::new(),
            bound: usize::try_from(bound).unwrap_or(usize::MAX),
        }
    }

    fn len(&self) -> usize {
        self.first.len() + self.all.len()
    }

    fn push(&mut self, part: Bytes) {
        if self.len() == 0 {
            self.first = part;
            return;
        }
        let needed = self.len() + part.len();
        if needed > self.all.capacity() {
            let doubled = self.all.capacity().saturating_mul(2).min(self.bound);
            self.all.reserve_exact(doubled.max(needed) - self.all.len());
        }
        let first = std::mem::take(&mut self.first);
        self.all.extend_from_slice(&first);
        self.all.extend_from_slice(&part);
    }
}

impl From<Whole> for Bytes {
    fn from(whole: Whole) -> Self {
        match whole.all.is_empty() {
            true => whole.first,
            false => whole.all.into(),
        }
    }
}

/// Returns the failure for a body that did not arrive.
fn broken(error: BodyError) -> Failure {
    match error.is::<TooSlow>() {
        true => {
            let sentence = "the body came too slowly";
            Failure::new(StatusCode::REQUEST_TIMEOUT, sentence).because(error)
        }
        false => Failure::bad_request("the body broke off").because(error),
    }
}

/// Refuses a body whose declared length exceeds the limit.
fn refuse_longer(body: &Body, limit: u64) -> Result<(), Failure> {
    if body.size_hint().lower() > limit {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_joined_without_a_copy_of_a_single_one() {
        let part = Bytes::from_static(b"all of it");
        let mut whole = Whole::with_bound(9);
        whole.push(Bytes::new());
        whole.push(part.clone());
        assert_eq!(Bytes::from(whole).as_ptr(), part.as_ptr());
        for count in [0, 1, 2, 3, 1000] {
            let mut whole = Whole::with_bound(1 << 20);
            for at in 0..count {
                whole.push(vec![(at % 256) as u8; 1].into());
                assert_eq!(whole.len(), at + 1);
                assert!(whole.all.capacity() <= 2 * (at + 64));
            }
            let expected: Vec<u8> = (0..count).map(|at| (at % 256) as u8).collect();
            assert_eq!(Bytes::from(whole), expected);
        }
    }

    #[test]
    fn no_more_than_the_bound_is_reserved() {
        for bound in [1025, 5000, 1 << 20] {
            let mut whole = Whole::with_bound(bound);
            for _ in 0..bound {
                whole.push(Bytes::from_static(b"a"));
                assert!(whole.all.capacity() as u64 <= bound);
            }
            assert_eq!(whole.all.capacity() as u64, bound);
        }
        // What is declared may be less than what arrives, up to the limit.
        let mut whole = Whole::with_bound(2);
        for _ in 0..9 {
            whole.push(Bytes::from_static(b"a"));
        }
        assert_eq!(Bytes::from(whole), [b'a'; 9].as_slice());
    }
}

//! Idempotency: executes a call with a key once, and repeats its response.

use std::collections::{HashMap, VecDeque};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::FutureExt;
use http::{HeaderName, HeaderValue, StatusCode};
use metrics::counter;
use parking_lot::Mutex;
use serde_json::Value;
use sha2::{Digest, Sha256};
use tokio::sync::SetOnce;

use super::response::{ApiError, json_bytes};
use super::tokens::Token;
use crate::http::Response;
use crate::tasks::Tasks;
use crate::telemetry::trace;

/// The maximum number of cached responses. The oldest is evicted first.
const KEYS_MAX: usize = 10_000;

/// The maximum bytes of all cached responses.
const CACHE_BYTES_MAX: usize = 32 << 20;

/// The maximum length of a key.
const KEY_BYTES_MAX: usize = 255;

const REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");

type Digested = [u8; 32];

/// This process's responses to calls with a key. They survive a reload.
#[derive(Debug, Default)]
pub(super) struct Idempotency {
    cache: Mutex<Cache>,
}

#[derive(Debug, Default)]
struct Cache {
    responses: HashMap<Digested, Arc<CachedResponse>>,
    order: VecDeque<Digested>,
    /// The size of all responses.
    bytes: usize,
}

#[derive(Debug)]
struct CachedResponse {
    until: Instant,
    request: Digested,
    value: SetOnce<Result<Bytes, ApiError>>,
}

impl Idempotency {
    /// Executes a call unless it was executed before. A concurrent call with the same key waits for
    /// the first. The call runs to completion even if the caller disconnects, so that a retry gets
    /// its outcome.
    pub(super) async fn once(
        self: &Arc<Self>,
        (token, key): (&Token, &[u8]),
        (target, body): (&str, &[u8]),
        expiry: Duration,
        tasks: &Tasks,
        work: impl Future<Output = Result<Value, ApiError>> + Send + 'static,
    ) -> Result<Response, ApiError> {
        let is_visible = |byte: &u8| (0x20..0x7f).contains(byte);
        if key.is_empty() || key.len() > KEY_BYTES_MAX || !key.iter().all(is_visible) {
            let message = "expected an Idempotency-Key of 1 to 255 visible characters";
            return Err(ApiError::bad_request("invalid_request", message));
        }
        // Two routes may use one name for different tokens.
        let name = digest(&[token.name.as_bytes(), token.token.0.as_bytes(), key]);
        let request = digest(&[target.as_bytes(), body]);
        let (answer, is_first) = self.answer(name, request, expiry);
        if answer.request != request {
            let message = "this Idempotency-Key was used for another request";
            let conflict = StatusCode::CONFLICT;
            return Err(ApiError::new(conflict, "idempotency_conflict", message));
        }
        if is_first {
            let (cache, answer) = (self.clone(), answer.clone());
            let call = async move {
                let work = AssertUnwindSafe(work).catch_unwind().await;
                let outcome = work.unwrap_or_else(|_| {
                    counter!("oneport_panics_total").increment(1);
                    let status = StatusCode::INTERNAL_SERVER_ERROR;
                    Err(ApiError::new(status, "internal_error", "the server failed"))
                });
                let outcome = outcome.map(|value| Bytes::from(value.to_string()));
                cache.answered(&name, &answer, outcome);
            };
            tasks.spawn("call with an idempotency key", trace::carry(call));
        }
        let mut response = match answer.value.wait().await {
            Ok(bytes) => json_bytes(StatusCode::OK, bytes.clone()),
            Err(error) => error.clone().into_response(),
        };
        if !is_first {
            let replayed = HeaderValue::from_static("true");
            response.headers_mut().insert(REPLAYED, replayed);
        }
        Ok(response)
    }

    /// Returns the slot for a call's response, and whether it is new, so that the caller must
    /// execute the call.
    fn answer(
        &self,
        name: Digested,
        request: Digested,
        expiry: Duration,
    ) -> (Arc<CachedResponse>, bool) {
        let mut cache = self.cache.lock();
        let now = Instant::now();
        if let Some(found) = cache.responses.get(&name) {
            if now < found.until {
                return (found.clone(), false);
            }
            cache.remove(&name);
        }
        while let Some(oldest) = cache.order.front()
            && (cache.order.len() >= KEYS_MAX
                || cache
                    .responses
                    .get(oldest)
                    .is_none_or(|cache| cache.until <= now))
            && let Some(oldest) = cache.order.pop_front()
        {
            cache.drop_answer(&oldest);
        }
        let answer = Arc::new(CachedResponse {
            until: now + expiry,
            request,
            value: SetOnce::new(),
        });
        cache.responses.insert(name, answer.clone());
        cache.order.push_back(name);
        (answer, true)
    }

    /// Records the response: all waiting calls receive it, and it is cached if there is room. A
    /// response that may differ on a retry is not cached.
    fn answered(
        &self,
        name: &Digested,
        answer: &Arc<CachedResponse>,
        outcome: Result<Bytes, ApiError>,
    ) {
        let mut cache = self.cache.lock();
        let is_kept = cache
            .responses
            .get(name)
            .is_some_and(|found| Arc::ptr_eq(found, answer));
        if is_kept {
            match &outcome {
                Err(error) if error.status.is_server_error() => cache.remove(name),
                Err(_) => {}
                Ok(bytes) => cache.count(name, bytes.len()),
            }
        }
        let _ = answer.value.set(outcome);
    }
}

impl Cache {
    /// Adds a response and evicts the oldest ones over the limits.
    fn count(&mut self, name: &Digested, bytes: usize) {
        self.bytes += bytes;
        while self.bytes > CACHE_BYTES_MAX
            && self.order.front().is_some_and(|oldest| oldest != name)
            && let Some(oldest) = self.order.pop_front()
        {
            self.drop_answer(&oldest);
        }
    }

    fn drop_answer(&mut self, name: &Digested) {
        let gone = self.responses.remove(name);
        let value = gone.as_ref().and_then(|gone| gone.value.get());
        if let Some(Ok(bytes)) = value {
            self.bytes = self.bytes.saturating_sub(bytes.len());
        }
    }

    fn remove(&mut self, name: &Digested) {
        self.drop_answer(name);
        self.order.retain(|cache| cache != name);
    }
}

fn digest(parts: &[&[u8]]) -> Digested {
    let mut digest = Sha256::new();
    for part in parts {
        digest.update(part.len().to_be_bytes());
        digest.update(part);
    }
    digest.finalize().into()
}

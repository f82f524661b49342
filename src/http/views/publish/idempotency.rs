//! Idempotency: a call with a key is carried out once, and answered the same again.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use http::{HeaderName, HeaderValue, StatusCode};
use serde_json::Value;
use sha2::{Digest, Sha256};
use tokio::sync::SetOnce;

use super::answer::{ApiError, json_response};
use crate::http::Response;
use crate::tasks::Tasks;

/// How many answers are kept; of more the oldest is forgotten.
const KEYS_MAX: usize = 10_000;

/// The longest key.
const KEY_BYTES_MAX: usize = 255;

const REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");

type Digested = [u8; 32];

/// The answers to calls with a key, of this process: they outlive a reload.
#[derive(Debug, Default)]
pub(super) struct Idempotency {
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    answers: HashMap<Digested, Arc<Answer>>,
    order: VecDeque<Digested>,
}

#[derive(Debug)]
struct Answer {
    until: Instant,
    request: Digested,
    value: SetOnce<Result<Value, ApiError>>,
}

impl Idempotency {
    /// Carries a call out, unless it was before. A second one that comes meanwhile waits for the first. It is carried out to
    /// its end even when the caller goes away: one who tries again wants to know what became of it.
    pub(super) async fn once(
        self: &Arc<Self>,
        (token, key): (&str, &[u8]),
        (target, body): (&str, &[u8]),
        expiry: Duration,
        tasks: &Tasks,
        work: impl Future<Output = Result<Value, ApiError>> + Send + 'static,
    ) -> Result<Response, ApiError> {
        let is_visible = |byte: &u8| (0x20..0x7f).contains(byte);
        if key.is_empty() || key.len() > KEY_BYTES_MAX || !key.iter().all(is_visible) {
            let message =
                "expected an Idempotency-Key of 1 to 255 visible characters, found another";
            return Err(ApiError::bad_request("invalid_request", message));
        }
        let name = digest(&[token.as_bytes(), key]);
        let request = digest(&[target.as_bytes(), body]);
        let (answer, is_first) = self.answer(name, request, expiry);
        if answer.request != request {
            let message =
                "expected the request that came first with this Idempotency-Key, found another";
            let conflict = StatusCode::CONFLICT;
            return Err(ApiError::new(conflict, "idempotency_conflict", message));
        }
        if is_first {
            let (kept, answer) = (self.clone(), answer.clone());
            tasks.spawn("call with an idempotency key", async move {
                let outcome = work.await;
                if outcome
                    .as_ref()
                    .is_err_and(|error| error.status.is_server_error())
                {
                    kept.forget(&name, &answer); // it may work the next time
                }
                let _ = answer.value.set(outcome);
            });
        }
        let mut response = match answer.value.wait().await {
            Ok(value) => json_response(StatusCode::OK, value),
            Err(error) => error.clone().into_response(),
        };
        if !is_first {
            let replayed = HeaderValue::from_static("true");
            response.headers_mut().insert(REPLAYED, replayed);
        }
        Ok(response)
    }

    /// Returns the answer of that name, and whether it is a new one, still to be found.
    fn answer(&self, name: Digested, request: Digested, expiry: Duration) -> (Arc<Answer>, bool) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if let Some(found) = kept.answers.get(&name) {
            if now < found.until {
                return (found.clone(), false);
            }
            kept.remove(&name);
        }
        while let Some(oldest) = kept.order.front()
            && (kept.order.len() >= KEYS_MAX
                || kept
                    .answers
                    .get(oldest)
                    .is_none_or(|kept| kept.until <= now))
            && let Some(oldest) = kept.order.pop_front()
        {
            kept.answers.remove(&oldest);
        }
        let answer = Arc::new(Answer {
            until: now + expiry,
            request,
            value: SetOnce::new(),
        });
        kept.answers.insert(name, answer.clone());
        kept.order.push_back(name);
        (answer, true)
    }

    fn forget(&self, name: &Digested, answer: &Arc<Answer>) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept
            .answers
            .get(name)
            .is_some_and(|found| Arc::ptr_eq(found, answer))
        {
            kept.remove(name);
        }
    }
}

impl Kept {
    fn remove(&mut self, name: &Digested) {
        self.answers.remove(name);
        self.order.retain(|kept| kept != name);
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

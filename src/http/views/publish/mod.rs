//! Publish: the server API, through which other programs reach groups and connections.

mod calls;
mod execute;
mod idempotency;
mod openapi;
mod response;
mod tokens;

use std::time::Duration;

use http::{HeaderName, Method, StatusCode};

use calls::Call;
use execute::Limits;
use idempotency::Idempotency;
use response::{ApiError, json_response};
pub(crate) use tokens::matches;
use tokens::{Token, Tokens};

use crate::config::{OptionErrors, Size, WrittenDuration};
use crate::http::{Failure, Request, Response, View};
use crate::scope::Scope;
use crate::services::Services;

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// `view = "publish"`: the server API. Its route ends in `{*call}`, which selects the call, such as
/// `groups/chat_lobby`.
///
/// `docs/API.md` describes all calls, and `openapi.json` does so for programs. A caller needs one
/// of the route's bearer tokens, each of which allows certain groups.
#[derive(Debug)]
pub struct Publish {
    tokens: Tokens,
    limits: Limits,
    idempotency_expiry: Duration,
}

/// The options of `publish`.
#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Options {
    /// The tokens and their permissions.
    tokens: Vec<Token>,
    /// The maximum size of an event.
    #[serde(default = "max_event")]
    max_event: Size,
    /// The maximum number of events in a batch.
    #[serde(default = "max_batch")]
    max_batch: usize,
    /// How long the response to a call with an idempotency key is kept.
    #[serde(default = "idempotency_expiry")]
    idempotency_expiry: WrittenDuration,
}

fn max_event() -> Size {
    Size::kib(64)
}

fn max_batch() -> usize {
    100
}

fn idempotency_expiry() -> WrittenDuration {
    WrittenDuration(Duration::from_secs(300))
}

impl View for Publish {
    type Options = Options;

    fn new(options: Options) -> Result<Self, OptionErrors> {
        Ok(Self {
            tokens: Tokens::new("tokens", options.tokens)?,
            limits: Limits {
                event_bytes: options.max_event.as_usize(),
                batch_events: options.max_batch,
            },
            idempotency_expiry: options.idempotency_expiry.0,
        })
    }

    /// Each call has its own methods, and rejects others with JSON.
    fn methods() -> &'static [Method] {
        &[]
    }

    fn refusal(&self, scope: &Scope) -> Option<Failure> {
        let path = call_path(scope);
        let is_refused = || Call::read(scope, path).err().map(ApiError::into_failure);
        (!is_document(scope, path)).then(is_refused).flatten()
    }

    /// Callers that may see connections may ask for the last ends.
    fn started(&self, services: &Services) {
        if self.tokens.may_use_connections() {
            services.recent_ends.keep();
        }
    }

    async fn call(&self, request: Request) -> Result<Response, Failure> {
        Ok(self
            .answer(request)
            .await
            .unwrap_or_else(ApiError::into_response))
    }
}

/// Returns the rest of the path, which selects the call.
fn call_path(scope: &Scope) -> &str {
    let params = &scope.url_route.params;
    let named = params.get("call");
    let path = named.or_else(|| params.iter().last().map(|(_, rest)| rest));
    path.unwrap_or_default().trim_end_matches('/')
}

/// Returns whether a request is for the description of the API, which needs no token.
fn is_document(scope: &Scope, path: &str) -> bool {
    path == "openapi.json" && matches!(scope.method, Method::GET | Method::HEAD)
}

impl Publish {
    async fn answer(&self, mut request: Request) -> Result<Response, ApiError> {
        let scope = request.scope.clone();
        let path = call_path(&scope);
        if is_document(&scope, path) {
            return Ok(openapi::document(&scope, path));
        }
        let token = self.tokens.check(&scope)?;
        let call = Call::read(&scope, path)?;
        let body = if scope.method == Method::POST {
            request
                .bytes()
                .await
                .map_err(|failure| ApiError::of_failure(&failure))?
        } else {
            bytes::Bytes::new()
        };
        let key = scope
            .headers
            .get(&IDEMPOTENCY_KEY)
            .filter(|_| scope.method == Method::POST);
        let services = request.services.clone();
        let Some(key) = key else {
            let value = self.limits.run(token, &call, &body, &services).await?;
            return Ok(json_response(StatusCode::OK, &value));
        };
        let tasks = services.tasks.clone();
        let idempotency = services.shared::<Idempotency>();
        let (limits, caller, content) = (self.limits, token.clone(), body.clone());
        let work = async move { limits.run(&caller, &call, &content, &services).await };
        let request = (scope.target.as_str(), &body[..]);
        idempotency
            .once((token, key), request, self.idempotency_expiry, &tasks, work)
            .await
    }
}

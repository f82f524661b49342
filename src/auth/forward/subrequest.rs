//! Upstream: the app, how it is asked, and the user in its answer.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Request, StatusCode, Uri};
use http_body_util::{BodyExt, Empty, LengthLimitError, Limited};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use serde_json::{Map, Value};
use tokio::sync::Semaphore;

use super::freshness::Reuse;
use super::{ForwardError, ForwardSettings, ForwardSettingsError, Subject};
use crate::auth::User;

/// The most subrequests at once; more wait, and their waiting counts into the timeout.
pub(super) const SUBREQUESTS_MAX: usize = 64;

/// The longest JSON body of an answer that is read.
pub(super) const BODY_BYTES_MAX: usize = 64 * 1024;

/// The longest head of an answer that is read.
pub(super) const HEAD_BYTES_MAX: usize = 64 * 1024;

/// The most bytes of a user's id or name.
pub(super) const TEXT_BYTES_MAX: usize = 256;

/// How long a connection to the app is kept for the next subrequest.
pub(super) const IDLE_TIMEOUT: Duration = Duration::from_secs(20);

/// What the subrequest says about the request, whatever the client has sent under these names.
pub(super) const ORIGINAL_METHOD: HeaderName = HeaderName::from_static("x-original-method");
pub(super) const ORIGINAL_URI: HeaderName = HeaderName::from_static("x-original-uri");
pub(super) const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
pub(super) const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
pub(super) const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// The names of what a question says about its request.
pub(super) const DESCRIPTION: [HeaderName; 5] = [
    ORIGINAL_METHOD,
    ORIGINAL_URI,
    FORWARDED_HOST,
    FORWARDED_PROTO,
    FORWARDED_FOR,
];

/// The app that is asked.
pub(super) struct Upstream {
    pub(super) uri: Uri,
    pub(super) settings: ForwardSettings,
    client: Client<HttpConnector, Empty<Bytes>>,
    pub(super) turns: Semaphore,
}

impl Upstream {
    pub(super) fn new(uri: Uri, settings: ForwardSettings) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_TIMEOUT)
            .pool_max_idle_per_host(SUBREQUESTS_MAX)
            .http1_max_buf_size(HEAD_BYTES_MAX)
            .build(connector);
        Self {
            uri,
            settings,
            client,
            turns: Semaphore::new(SUBREQUESTS_MAX),
        }
    }

    /// Returns the fields of a subrequest: the question. None: the request has none of those that say who the client is.
    pub(super) fn question(
        &self,
        subject: &Subject<'_>,
    ) -> Result<Option<HeaderMap>, ForwardError> {
        let mut headers = HeaderMap::new();
        for name in &self.settings.request_headers {
            for value in subject.headers.get_all(name) {
                headers.append(name, value.clone());
            }
        }
        if headers.is_empty() {
            return Ok(None);
        }
        let client = subject.client.map(|address| address.to_string());
        let host = Some(subject.host).filter(|host| !host.is_empty());
        for (name, value) in [
            (ORIGINAL_METHOD, Some(subject.method)),
            (ORIGINAL_URI, Some(subject.uri)),
            (FORWARDED_HOST, host),
            (FORWARDED_PROTO, Some(subject.scheme)),
            (FORWARDED_FOR, client.as_deref()),
        ] {
            headers.remove(&name); // what the client says of itself does not count
            let Some(value) = value else { continue };
            let Ok(value) = HeaderValue::from_bytes(value.as_bytes()) else {
                return Err(ForwardError::Subject { header: name });
            };
            headers.insert(name, value);
        }
        Ok(Some(headers))
    }

    /// Asks, and returns the user with what else the answer counts for.
    pub(super) async fn ask(
        &self,
        question: &HeaderMap,
    ) -> Result<(Option<Arc<User>>, Reuse), ForwardError> {
        let mut request = Request::new(Empty::new());
        *request.uri_mut() = self.uri.clone();
        *request.headers_mut() = question.clone();
        let timeout = self.settings.timeout;
        let exchange = async {
            let _turn = self.turns.acquire().await;
            self.exchange(request, question).await
        };
        tokio::time::timeout(timeout, exchange)
            .await
            .unwrap_or(Err(ForwardError::Timeout { timeout }))
    }

    async fn exchange(
        &self,
        request: Request<Empty<Bytes>>,
        question: &HeaderMap,
    ) -> Result<(Option<Arc<User>>, Reuse), ForwardError> {
        let response = self.client.request(request).await;
        let (head, body) = response.map_err(failed_connection)?.into_parts();
        let settings = &self.settings;
        let passed = &settings.request_headers;
        let reuse = Reuse::of(&head.headers, question, passed, settings.cache);
        match head.status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => return Ok((None, reuse)),
            status if status.is_success() => {}
            status => {
                let found = status.as_u16();
                return Err(ForwardError::Status { found });
            }
        }
        if let Some(user) = self.user_in(&head.headers)? {
            return Ok((Some(Arc::new(user)), reuse));
        }
        if head.status == StatusCode::NO_CONTENT || !is_json(&head.headers) {
            return Ok((None, reuse));
        }
        let body = Limited::new(body, BODY_BYTES_MAX).collect().await;
        let body = body.map_err(|error| match error.downcast::<LengthLimitError>() {
            Ok(_) => ForwardError::Body {
                expected: "at most 64 KiB",
                found: "more",
            },
            Err(error) => failed_connection(error),
        })?;
        let user = user_in_json(&body.to_bytes())?;
        Ok((user.map(Arc::new), reuse))
    }

    fn user_in(&self, headers: &HeaderMap) -> Result<Option<User>, ForwardError> {
        let settings = &self.settings;
        let id = single_text(headers, &settings.id_header).map_err(|found| {
            let header = settings.id_header.clone();
            ForwardError::IdHeader { header, found }
        })?;
        let Some(id) = id else {
            return Ok(None);
        };
        let name = single_text(headers, &settings.name_header);
        let staff = single_text(headers, &settings.staff_header);
        Ok(Some(User {
            id: id.to_owned(),
            name: name.ok().flatten().unwrap_or(id).to_owned(),
            is_staff: matches!(staff, Ok(Some("1" | "true"))),
        }))
    }
}

fn failed_connection(error: impl Into<Box<dyn Error + Send + Sync>>) -> ForwardError {
    ForwardError::Connection {
        source: Arc::from(error.into()),
    }
}

pub(super) fn parse_url(text: &str) -> Result<Uri, ForwardSettingsError> {
    if text.contains('@')
        && text
            .split(['/', '?'])
            .nth(2)
            .is_some_and(|a| a.contains('@'))
    {
        return Err(ForwardSettingsError::Credentials);
    }
    let refuse = || ForwardSettingsError::Url {
        found: text.to_owned(),
    };
    let uri: Uri = text.parse().map_err(|_| refuse())?;
    let authority = uri.authority().ok_or_else(refuse)?;
    // A port that cannot be read would be taken for none, which is 80.
    let has_bad_port = authority.as_str() != authority.host() && authority.port_u16().is_none();
    if uri.scheme_str() != Some("http") || authority.host().is_empty() || has_bad_port {
        return Err(refuse());
    }
    Ok(uri)
}

/// Returns the value of a header that occurs exactly once; an empty value counts as missing.
fn single_text<'h>(
    headers: &'h HeaderMap,
    name: &HeaderName,
) -> Result<Option<&'h str>, &'static str> {
    let mut values = headers.get_all(name).iter();
    let Some(value) = values.next() else {
        return Ok(None);
    };
    if values.next().is_some() {
        return Err("several");
    }
    let text = std::str::from_utf8(value.as_bytes()).map_err(|_| "other bytes than UTF-8")?;
    check_text(text.trim())
}

/// Returns a text that can be an id or a name. An empty one is as none.
fn check_text(text: &str) -> Result<Option<&str>, &'static str> {
    if text.len() > TEXT_BYTES_MAX {
        return Err("a longer text");
    }
    if text.contains(char::is_control) {
        return Err("control characters");
    }
    Ok(Some(text).filter(|text| !text.is_empty()))
}

fn is_json(headers: &HeaderMap) -> bool {
    let value = headers.get(header::CONTENT_TYPE);
    let text = value.and_then(|value| value.to_str().ok());
    let media_type = text.and_then(|text| text.split(';').next());
    media_type.is_some_and(|found| found.trim().eq_ignore_ascii_case("application/json"))
}

fn user_in_json(body: &[u8]) -> Result<Option<User>, ForwardError> {
    let refuse = |expected, found| ForwardError::Body { expected, found };
    let json: Map<String, Value> =
        serde_json::from_slice(body).map_err(|_| refuse("an object", "other text"))?;
    let expected = "an id of at most 256 bytes or an integer";
    let id = match json.get("id") {
        None | Some(Value::Null) => None,
        Some(Value::Number(number)) if !number.is_f64() => Some(number.to_string()),
        Some(Value::String(text)) => check_text(text)
            .map_err(|found| refuse(expected, found))?
            .map(str::to_owned),
        Some(_) => return Err(refuse(expected, "another value")),
    };
    let name = json.get("name").and_then(Value::as_str);
    let name = name.and_then(|name| check_text(name).ok().flatten());
    Ok(id.map(|id| User {
        name: name.unwrap_or(&id).to_owned(),
        is_staff: json.get("is_staff") == Some(&Value::Bool(true)),
        id,
    }))
}

//! Subrequest: the request to the app, and the user in its response.

use std::sync::Arc;

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Request, StatusCode};
use http_body_util::BodyExt;
use serde_json::{Map, Value};

use super::freshness::Reuse;
use super::{ForwardError, ForwardSettings, ForwardSettingsError, Subject};
use crate::auth::User;
use crate::client::{
    Address, Client, ClientError, ClientSettings, EndpointUrl, EndpointUrlError, Permit,
    RequestBody,
};
use crate::database::QueryTimer;

/// The most subrequests at once; others wait, and their wait counts against the timeout.
pub(super) const SUBREQUESTS_MAX: usize = 64;

/// The longest JSON body of a response.
pub(super) const BODY_BYTES_MAX: usize = 64 * 1024;

/// The longest head of a response.
pub(super) const HEAD_BYTES_MAX: usize = 64 * 1024;

/// The most bytes of a user's id or name.
pub(super) const TEXT_BYTES_MAX: usize = 256;

/// Fields that describe the original request. The client's own fields of these names are dropped.
pub(super) const ORIGINAL_METHOD: HeaderName = HeaderName::from_static("x-original-method");
pub(super) const ORIGINAL_URI: HeaderName = HeaderName::from_static("x-original-uri");
pub(super) const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
pub(super) const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
pub(super) const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// All fields that describe the original request.
pub(super) const DESCRIPTION: [HeaderName; 5] = [
    ORIGINAL_METHOD,
    ORIGINAL_URI,
    FORWARDED_HOST,
    FORWARDED_PROTO,
    FORWARDED_FOR,
];

/// The app.
pub(super) struct Upstream {
    pub(super) url: EndpointUrl,
    pub(super) settings: ForwardSettings,
    pub(super) client: Client,
}

impl Upstream {
    pub(super) fn new(
        url: EndpointUrl,
        settings: ForwardSettings,
    ) -> Result<Self, ForwardSettingsError> {
        let timeout = settings.timeout;
        let protocol = url.protocol(settings.ca.as_deref())?;
        let client = Client::new(
            &url.address,
            ClientSettings {
                protocol,
                concurrency: SUBREQUESTS_MAX,
                queue_timeout: timeout,
                connect_timeout: timeout,
                head_timeout: None, // `ask` has one deadline for all
                response_bytes_max: BODY_BYTES_MAX as u64,
                head_bytes_max: Some(HEAD_BYTES_MAX),
                ..ClientSettings::default()
            },
        );
        Ok(Self {
            url,
            settings,
            client,
        })
    }

    /// Returns the fields of a subrequest. `None`: the request has none of the fields that identify
    /// the client.
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
            headers.remove(&name); // the client's own
            let Some(value) = value else { continue };
            let Ok(value) = HeaderValue::from_bytes(value.as_bytes()) else {
                return Err(ForwardError::Subject { header: name });
            };
            headers.insert(name, value);
        }
        Ok(Some(headers))
    }

    /// Sends a subrequest; returns the user and how widely the response may be reused.
    pub(super) async fn ask(
        &self,
        question: &HeaderMap,
    ) -> Result<(Option<Arc<User>>, Reuse), ForwardError> {
        let mut request = Request::new(RequestBody::empty());
        *request.uri_mut() = self.url.uri.clone();
        *request.headers_mut() = question.clone();
        let timeout = self.settings.timeout;
        let exchange = async {
            let permit = self.client.acquire().await.map_err(failed)?;
            self.exchange(&permit, request, question).await
        };
        let timer = QueryTimer::start("forward");
        let answered = tokio::time::timeout(timeout, exchange)
            .await
            .unwrap_or(Err(ForwardError::Timeout { timeout }));
        timer.end(answered.is_ok());
        answered
    }

    async fn exchange(
        &self,
        permit: &Permit,
        request: Request<RequestBody>,
        question: &HeaderMap,
    ) -> Result<(Option<Arc<User>>, Reuse), ForwardError> {
        let response = permit.send(request).await.map_err(failed)?;
        let (head, body) = response.into_parts();
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
        let body = body.collect().await.map_err(|error| match error {
            ClientError::TooLarge(_) => ForwardError::Body {
                expected: "at most 64 KiB",
                found: "more",
            },
            error => failed(error),
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

fn failed(error: ClientError) -> ForwardError {
    match error {
        ClientError::Timeout { timeout } | ClientError::Busy { waited: timeout } => {
            ForwardError::Timeout { timeout }
        }
        error => ForwardError::Connection {
            source: Arc::new(error),
        },
    }
}

/// Parses the URL of `[auth.forward]`, which is reached over TCP.
pub(super) fn parse_url(text: &str) -> Result<EndpointUrl, ForwardSettingsError> {
    match EndpointUrl::parse(text) {
        Ok(url) if matches!(url.address, Address::Tcp { .. }) => Ok(url),
        Err(EndpointUrlError::Credentials) => Err(ForwardSettingsError::Credentials),
        Ok(_) | Err(EndpointUrlError::Form | EndpointUrlError::SocketPath(_)) => {
            Err(ForwardSettingsError::Url {
                found: text.to_owned(),
            })
        }
    }
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

/// Returns a text that can be an id or a name. An empty one counts as missing.
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

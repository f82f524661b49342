//! Forward: asks an app who a request is from, as nginx's `auth_request` does.

mod answers;
mod errors;

use std::error::Error;
use std::fmt;
use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::FutureExt;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Request, StatusCode, Uri};
use http_body_util::{BodyExt, Empty, LengthLimitError, Limited};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};
use tokio::sync::Semaphore;

use answers::{Answer, Answers, Key, Running, Subrequest, lock};

pub use errors::{ForwardError, ForwardSettingsError};

use crate::auth::User;
use crate::config::hide_url;

/// The most subrequests at once; more wait, and their waiting counts into the timeout.
const SUBREQUESTS_MAX: usize = 64;

/// The longest JSON body of an answer that is read.
const BODY_BYTES_MAX: usize = 64 * 1024;

/// The longest head of an answer that is read.
const HEAD_BYTES_MAX: usize = 64 * 1024;

/// The most bytes of a user's id or name.
const TEXT_BYTES_MAX: usize = 256;

/// How long a connection to the app is kept for the next subrequest.
const IDLE_TIMEOUT: Duration = Duration::from_secs(20);

/// What the subrequest says about the request, whatever the client has sent under these names.
const ORIGINAL_METHOD: HeaderName = HeaderName::from_static("x-original-method");
const ORIGINAL_URI: HeaderName = HeaderName::from_static("x-original-uri");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// Headers about one connection or one body: on the subrequest they would be wrong. (RFC 9110 §7.6.1)
const CONNECTION_HEADERS: [HeaderName; 10] = [
    header::CONNECTION,
    header::CONTENT_LENGTH,
    header::EXPECT,
    header::HOST,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

/// Whom to ask, with which headers, and where the user stands in the answer.
#[derive(Clone)]
pub struct ForwardSettings {
    /// An `http://` URL of the app.
    pub url: String,
    /// The headers that say who the client is, such as `cookie` and `authorization`. They are sent along, and an answer is
    /// used again for requests with the same ones.
    pub request_headers: Vec<HeaderName>,
    /// The header of the answer with the user's id.
    pub id_header: HeaderName,
    /// The header of the answer with the user's name.
    pub name_header: HeaderName,
    /// The header of the answer that is `1` or `true` for staff.
    pub staff_header: HeaderName,
    /// How long an answer may be used again. Zero: never, but requests that wait at the same time share one.
    pub cache: Duration,
    /// How long a subrequest may take, from its start or its place in the queue to the end of the answer.
    pub timeout: Duration,
}

/// The request that the question is about.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    /// Its method.
    pub method: &'a str,
    /// Its path and query.
    pub uri: &'a str,
    /// The host it is for. Empty: not known.
    pub host: &'a str,
    /// The address of the client, if it is known.
    pub client: Option<IpAddr>,
    /// Its headers.
    pub headers: &'a HeaderMap,
}

/// Asks an app who a request is from, and remembers what it said for a moment.
///
/// The question is a GET with the listed headers of the request and `x-original-method`, `x-original-uri`,
/// `x-forwarded-host` and `x-forwarded-for`. An answer counts for all requests with the same listed headers, so it may say
/// who the client is, and not what the client may see at this URI.
///
/// ```no_run
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
/// use http::header::{COOKIE, HeaderMap, HeaderName, HeaderValue};
/// use oneport::auth::forward::{Forward, ForwardSettings, Subject};
///
/// let forward = Forward::new(ForwardSettings {
///     url: "http://127.0.0.1:9000/auth".into(),
///     request_headers: vec![COOKIE],
///     id_header: HeaderName::from_static("x-user-id"),
///     name_header: HeaderName::from_static("x-user-name"),
///     staff_header: HeaderName::from_static("x-user-staff"),
///     cache: std::time::Duration::from_secs(5),
///     timeout: std::time::Duration::from_secs(2),
/// })?;
/// let headers = HeaderMap::from_iter([(COOKIE, HeaderValue::from_static("sessionid=a"))]);
/// let subject = Subject {
///     method: "GET",
///     uri: "/chat/?room=1",
///     host: "example.com",
///     client: None,
///     headers: &headers,
/// };
/// if let Some(user) = forward.ask(&subject).await? {
///     println!("{}", user.name);
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # }).unwrap();
/// ```
pub struct Forward {
    upstream: Arc<Upstream>,
    answers: Arc<Mutex<Answers>>,
}

impl Forward {
    /// Reads the settings. Nobody is asked yet.
    ///
    /// Fails if the URL is not an `http://` one with a host, or if the listed headers cannot say who a client is.
    pub fn new(mut settings: ForwardSettings) -> Result<Self, ForwardSettingsError> {
        let uri = parse_url(&settings.url)?;
        let mut names = Vec::new();
        for name in settings.request_headers {
            if CONNECTION_HEADERS.contains(&name) {
                return Err(ForwardSettingsError::RequestHeader { found: name });
            }
            if !names.contains(&name) {
                names.push(name);
            }
        }
        if names.is_empty() {
            return Err(ForwardSettingsError::NoRequestHeader);
        }
        settings.request_headers = names;
        Ok(Self {
            answers: Arc::new(Mutex::new(Answers::new(settings.cache))),
            upstream: Arc::new(Upstream::new(uri, settings)),
        })
    }

    /// Returns who a request is from. `None`: somebody anonymous.
    ///
    /// An answer with the status 2xx names the user in its headers, or in a JSON body `{"id", "name", "is_staff"}`, or
    /// nobody; 401 and 403 name nobody. A request without any of the listed headers is anonymous without asking. Fails if
    /// the app answers anything else, or not in time; that is not remembered.
    ///
    /// Cancel-safe: whoever else waits for the same answer gets it.
    pub async fn ask(&self, subject: &Subject<'_>) -> Result<Option<Arc<User>>, ForwardError> {
        let names = &self.upstream.settings.request_headers;
        match hash_headers(names, subject.headers) {
            None => Ok(None),
            Some(key) => match self.find_or_start(key, subject)? {
                Found::Answer(user) => Ok(user),
                Found::Subrequest(subrequest) => subrequest.await,
            },
        }
    }

    /// Looks for an answer and for a subrequest under one lock, so that no two are started for the same key.
    fn find_or_start(&self, key: Key, subject: &Subject<'_>) -> Result<Found, ForwardError> {
        let mut answers = lock(&self.answers);
        if let Some(user) = answers.recall(&key, Instant::now()) {
            return Ok(Found::Answer(user));
        }
        if let Some(subrequest) = answers.running(&key) {
            return Ok(Found::Subrequest(subrequest));
        }
        let request = self.upstream.request(subject)?;
        answers.started += 1;
        let running = Running {
            answers: Arc::clone(&self.answers),
            key,
            number: answers.started,
        };
        let upstream = Arc::clone(&self.upstream);
        let subrequest = async move {
            let answer = upstream.ask(request).await;
            if let Ok(user) = &answer {
                lock(&running.answers).remember(running.key, user.clone(), Instant::now());
            }
            drop(running);
            answer
        };
        let subrequest = subrequest.boxed().shared();
        if let Some(weak) = subrequest.downgrade() {
            let number = answers.started;
            answers.running.insert(key, (number, weak));
        }
        Ok(Found::Subrequest(subrequest))
    }
}

/// Without the secrets of the URL.
impl fmt::Debug for ForwardSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ForwardSettings")
            .field("url", &hide_url(&self.url))
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Forward {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Forward")
            .field("settings", &self.upstream.settings)
            .finish_non_exhaustive()
    }
}

enum Found {
    Answer(Option<Arc<User>>),
    Subrequest(Subrequest),
}

/// The app that is asked.
struct Upstream {
    uri: Uri,
    settings: ForwardSettings,
    client: Client<HttpConnector, Empty<Bytes>>,
    turns: Semaphore,
}

impl Upstream {
    fn new(uri: Uri, settings: ForwardSettings) -> Self {
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

    fn request(&self, subject: &Subject<'_>) -> Result<Request<Empty<Bytes>>, ForwardError> {
        let mut request = Request::new(Empty::new());
        *request.uri_mut() = self.uri.clone();
        let headers = request.headers_mut();
        for name in &self.settings.request_headers {
            for value in subject.headers.get_all(name) {
                headers.append(name, value.clone());
            }
        }
        let client = subject.client.map(|address| address.to_string());
        let host = Some(subject.host).filter(|host| !host.is_empty());
        for (name, value) in [
            (ORIGINAL_METHOD, Some(subject.method)),
            (ORIGINAL_URI, Some(subject.uri)),
            (FORWARDED_HOST, host),
            (FORWARDED_FOR, client.as_deref()),
        ] {
            headers.remove(&name); // what the client says of itself does not count
            let Some(value) = value else { continue };
            let Ok(value) = HeaderValue::from_bytes(value.as_bytes()) else {
                return Err(ForwardError::Subject { header: name });
            };
            headers.insert(name, value);
        }
        Ok(request)
    }

    async fn ask(&self, request: Request<Empty<Bytes>>) -> Answer {
        let timeout = self.settings.timeout;
        let exchange = async {
            let _turn = self.turns.acquire().await;
            self.exchange(request).await
        };
        tokio::time::timeout(timeout, exchange)
            .await
            .unwrap_or(Err(ForwardError::Timeout { timeout }))
    }

    async fn exchange(&self, request: Request<Empty<Bytes>>) -> Answer {
        let response = self.client.request(request).await;
        let (head, body) = response.map_err(failed_connection)?.into_parts();
        match head.status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => return Ok(None),
            status if status.is_success() => {}
            status => {
                let found = status.as_u16();
                return Err(ForwardError::Status { found });
            }
        }
        if let Some(user) = self.user_in(&head.headers)? {
            return Ok(Some(Arc::new(user)));
        }
        if head.status == StatusCode::NO_CONTENT || !is_json(&head.headers) {
            return Ok(None);
        }
        let body = Limited::new(body, BODY_BYTES_MAX).collect().await;
        let body = body.map_err(|error| match error.downcast::<LengthLimitError>() {
            Ok(_) => ForwardError::Body {
                expected: "at most 64 KiB",
                found: "more",
            },
            Err(error) => failed_connection(error),
        })?;
        Ok(user_in_json(&body.to_bytes())?.map(Arc::new))
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

fn parse_url(text: &str) -> Result<Uri, ForwardSettingsError> {
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

/// Returns a hash over these headers, each part with its length, or none if none of them is there.
fn hash_headers(names: &[HeaderName], headers: &HeaderMap) -> Option<Key> {
    let mut hash = Sha256::new();
    let mut part = |bytes: &[u8]| {
        hash.update(bytes.len().to_be_bytes());
        hash.update(bytes);
    };
    let mut count: usize = 0;
    for name in names {
        for value in headers.get_all(name) {
            part(name.as_str().as_bytes());
            part(value.as_bytes());
            count += 1;
        }
    }
    (count > 0).then(|| hash.finalize().into())
}

/// Returns the text of a header that is there once. An empty one is as none.
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

#[cfg(test)]
mod tests;

//! Forward: asks an app to identify the client of a request, as nginx's `auth_request` does.

mod cache;
mod errors;
mod freshness;
mod subrequest;

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use http::header::{self, HeaderMap, HeaderName};
use parking_lot::Mutex;

use cache::{Answer, AnswerCache, Running, Subrequest};
use freshness::{Reach, Reuse};
use subrequest::{Upstream, parse_url};

pub use errors::{ForwardError, ForwardSettingsError};

use crate::auth::User;
use crate::client::is_hop_by_hop;
use crate::config::hide_url;

/// Fields that belong to one message body, which a subrequest does not have, or to its target.
/// Those of one connection are [`is_hop_by_hop`].
const MESSAGE_HEADERS: [HeaderName; 3] = [header::CONTENT_LENGTH, header::EXPECT, header::HOST];

/// The URL of the app, the headers it gets, and the headers of its response that name the user.
#[derive(Clone)]
pub struct ForwardSettings {
    /// The URL of the app, `http://` or `https://`.
    pub url: String,
    /// The file of the certificates that are trusted with `https://`. `None`: those of the system.
    pub ca: Option<PathBuf>,
    /// The headers that identify the client, such as `cookie` and `authorization`. They are passed
    /// on to the app.
    pub request_headers: Vec<HeaderName>,
    /// The header of the response with the user's id.
    pub id_header: HeaderName,
    /// The header of the response with the user's name.
    pub name_header: HeaderName,
    /// The header of the response that is `1` or `true` for staff.
    pub staff_header: HeaderName,
    /// How long a response is cached, unless the response asks for less. Zero: not at all, but
    /// equal requests at the same time share one subrequest.
    pub cache: Duration,
    /// The longest time of a subrequest, from its place in the queue to the end of the response.
    pub timeout: Duration,
}

/// The original request.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    /// Its method.
    pub method: &'a str,
    /// Its path and query.
    pub uri: &'a str,
    /// Its host. Empty if unknown.
    pub host: &'a str,
    /// `http` or `https`, also for a WebSocket.
    pub scheme: &'a str,
    /// The client's address, if known.
    pub client: Option<IpAddr>,
    /// Its headers.
    pub headers: &'a HeaderMap,
}

/// Asks an app to identify clients, and caches its responses for a short time.
///
/// The subrequest is a GET with the listed headers of the request and `x-original-method`,
/// `x-original-uri`, `x-forwarded-host`, `x-forwarded-proto` and `x-forwarded-for`. A response is
/// reused for an equal subrequest only, field for field. With `Oneport-Vary` it is reused for all
/// subrequests that are equal in the listed fields.
///
/// ```no_run
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
/// use http::header::{COOKIE, HeaderMap, HeaderName, HeaderValue};
/// use oneport::auth::forward::{Forward, ForwardSettings, Subject};
///
/// let forward = Forward::new(ForwardSettings {
///     url: "http://127.0.0.1:9000/auth".into(),
///     ca: None,
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
///     scheme: "https",
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
    answers: Arc<Mutex<AnswerCache>>,
}

impl Forward {
    /// Validates the settings. Connects at the first subrequest.
    ///
    /// Fails if the URL is not an `http://` or `https://` one with a host, if `ca` cannot be read, or
    /// if the listed headers cannot identify a client.
    pub fn new(mut settings: ForwardSettings) -> Result<Self, ForwardSettingsError> {
        let url = parse_url(&settings.url)?;
        let mut names = Vec::new();
        for name in settings.request_headers {
            if is_hop_by_hop(&name) || MESSAGE_HEADERS.contains(&name) {
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
            answers: Arc::new(Mutex::new(AnswerCache::default())),
            upstream: Arc::new(Upstream::new(url, settings)?),
        })
    }

    /// Returns the user of a request. `None`: the client is anonymous.
    ///
    /// A 2xx response names the user in its headers or in a JSON body `{"id", "name", "is_staff"}`.
    /// Without a name, and with 401 or 403, the client is anonymous. A request without any of the
    /// listed headers is anonymous too, without a subrequest. Fails if the app responds otherwise,
    /// or not in time; failures are not cached.
    ///
    /// Cancel-safe: other requests that wait for the same subrequest still get the response.
    pub async fn ask(&self, subject: &Subject<'_>) -> Result<Option<Arc<User>>, ForwardError> {
        let Some(question) = self.upstream.question(subject)? else {
            return Ok(None);
        };
        let (subrequest, is_joined) = match self.find_or_start(&question) {
            Found::Answer(user) => return Ok(user),
            Found::Started(subrequest) => (subrequest, false),
            Found::Running(subrequest) => (subrequest, true),
        };
        let answer = subrequest.await?;
        if is_joined && !answer.is_shared {
            return Ok(self.upstream.ask(&question).await?.0);
        }
        Ok(answer.user)
    }

    /// Returns the headers that identify a client.
    #[must_use]
    pub fn request_headers(&self) -> &[HeaderName] {
        &self.upstream.settings.request_headers
    }

    /// Returns a cached response, the subrequest in flight, or a new one.
    ///
    /// Race: two equal requests may come at the same time. Both look under one lock, so only one
    /// starts a subrequest. How widely a response may be reused is known only once it has arrived,
    /// so waiting requests share one only if they are equal in every field.
    fn find_or_start(&self, question: &HeaderMap) -> Found {
        let key = Reach::Same.key(question);
        let mut answers = self.answers.lock();
        if let Some(user) = answers.recall(question, &key, Instant::now()) {
            return Found::Answer(user);
        }
        if let Some(subrequest) = answers.running(&key) {
            return Found::Running(subrequest);
        }
        let number = answers.next_number();
        let running = Running {
            answers: Arc::clone(&self.answers),
            key,
            number,
        };
        let (upstream, question) = (Arc::clone(&self.upstream), question.clone());
        let subrequest = async move {
            let (user, reuse) = upstream.ask(&question).await?;
            let now = Instant::now();
            running
                .answers
                .lock()
                .remember(&question, user.clone(), &reuse, now);
            drop(running);
            let is_shared = reuse != Reuse::Never;
            Ok(Answer { user, is_shared })
        };
        let subrequest = subrequest.boxed().shared();
        if let Some(weak) = subrequest.downgrade() {
            answers.running.insert(key, (number, weak));
        }
        Found::Started(subrequest)
    }
}

/// Hides the secrets of the URL.
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
    Started(Subrequest),
    Running(Subrequest),
}

#[cfg(test)]
mod tests;

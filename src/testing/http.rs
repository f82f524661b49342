//! HttpCommunicator: one request, without a network socket.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, Request, Response};
use http_body_util::BodyExt;

use super::{Application, DEADLINE};
use crate::auth::User;
use crate::gateway::{ConnectionInfo, Reply};
use crate::http::Body;
use crate::scope::Scheme;

/// One request, without a network socket (Channels' `HttpCommunicator`).
///
/// ```
/// use oneport::testing::{Application, HttpCommunicator};
///
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
/// let text = "[[http.route]]\npath = '/hi/'\nview = 'respond'\noptions = { body = 'hello' }\n";
/// let app = Application::parse(text).unwrap();
/// let response = HttpCommunicator::get("/hi/").send(&app).await;
/// assert_eq!((response.status().as_u16(), &response.body()[..]), (200, &b"hello"[..]));
/// # });
/// ```
#[derive(Debug)]
pub struct HttpCommunicator {
    request: Request<Body>,
    user: Option<Arc<User>>,
}

impl HttpCommunicator {
    /// Returns a request with a method to a path, with `Host: localhost`.
    #[must_use]
    pub fn new(method: Method, path: &str) -> Self {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "localhost")
            .body(Body::empty());
        match request {
            Ok(request) => Self {
                request,
                user: None,
            },
            Err(error) => panic!("expected a path, found {path:?}: {error}"),
        }
    }

    /// Returns a GET request.
    #[must_use]
    pub fn get(path: &str) -> Self {
        Self::new(Method::GET, path)
    }

    /// Sets a header field, replacing one of the same name.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        let (Ok(name), Ok(value)) = (name.parse::<HeaderName>(), value.parse::<HeaderValue>())
        else {
            panic!("expected a header field, found {name:?}: {value:?}");
        };
        self.request.headers_mut().insert(name, value);
        self
    }

    /// Sets the body.
    #[must_use]
    pub fn body(mut self, body: impl Into<Bytes>) -> Self {
        *self.request.body_mut() = Body::full(body);
        self
    }

    /// Logs a user in.
    #[must_use]
    pub fn user(mut self, user: User) -> Self {
        self.user = Some(Arc::new(user));
        self
    }

    /// Sends the request and returns the whole response, for HEAD without a body.
    pub async fn send(self, app: &Application) -> Response<Bytes> {
        let is_head = self.request.method() == Method::HEAD;
        let answer = tokio::time::timeout(DEADLINE, async {
            let info = info(self.user);
            let (Reply::Response(response) | Reply::Upgrade(response, _)) =
                app.gateway().serve(self.request, &info).await;
            let (parts, body) = response.into_parts();
            let body = if is_head {
                Bytes::new()
            } else {
                body.collect().await?.to_bytes()
            };
            Ok::<_, crate::http::body::BodyError>(Response::from_parts(parts, body))
        });
        match answer.await {
            Ok(Ok(response)) => response,
            Ok(Err(error)) => panic!("the answer's body broke off: {error}"),
            Err(_) => panic!("expected an answer within {DEADLINE:?}, found none"),
        }
    }
}

/// Describes a connection from this machine.
pub(super) fn info(user: Option<Arc<User>>) -> ConnectionInfo {
    ConnectionInfo {
        peer: Some(([127, 0, 0, 1], 40_000).into()),
        server: None,
        security: Scheme::Plain,
        user,
        ..Default::default()
    }
}

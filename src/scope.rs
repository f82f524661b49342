//! Scope: the facts of one request or one WebSocket, in ASGI's terms.

mod headers;

use std::borrow::Cow;
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::SocketAddr;
use std::sync::Arc;

use http::uri::PathAndQuery;
use http::{Method, Version, header};
use percent_encoding::percent_decode_str;

use crate::auth::{Login, User};
use crate::host::HostHeader;
pub use headers::Headers;

pub use crate::net::{ClientAddress, ClientCertificate, Scheme, ServerAddress, ServerEnd, TlsInfo};
use crate::routing::Params;
use crate::session::Session;
use crate::state::{MissingState, State};
use crate::telemetry::TraceId;
use crate::telemetry::access_log::{AccessKind, AccessRecord};
use crate::telemetry::trace::ScopeSpan;

/// The protocol type of a scope: ASGI's `scope["type"]`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ScopeType {
    /// A request for the HTTP table.
    Http,
    /// A handshake, or the socket that it became, for the WebSocket table.
    Websocket,
}

/// Identifies one request or one WebSocket in the log and in error responses.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum RequestId {
    /// Generated; shown as sixteen hexadecimal digits.
    Made(u64),
    /// Taken from `X-Request-Id` of a trusted proxy.
    Given(Box<str>),
}

impl RequestId {
    /// Generates an identifier.
    #[must_use]
    pub fn new() -> Self {
        Self::Made(fastrand::u64(..))
    }
}

impl RequestId {
    /// Returns a number that is the same for equal identifiers, and random otherwise.
    pub(crate) fn random(&self) -> u64 {
        match self {
            Self::Made(number) => *number,
            Self::Given(text) => {
                let mut hasher = DefaultHasher::new();
                text.hash(&mut hasher);
                hasher.finish()
            }
        }
    }
}

impl Default for RequestId {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Made(number) => write!(f, "{number:016x}"),
            Self::Given(text) => f.write_str(text),
        }
    }
}

/// The matched route: Channels' `scope["url_route"]`.
#[derive(Clone, Debug, Default)]
pub struct UrlRoute {
    /// The route's name in the file, if it has one.
    pub name: Option<Arc<str>>,
    /// The values of its parameters, decoded.
    pub params: Params,
}

/// The facts of one request or one WebSocket (ASGI's HTTP and WebSocket connection scope).
///
/// Views and middleware get it with the request; a consumer gets it in `connect`, and through its
/// `Context` for as long as the socket is open.
#[derive(Clone, Debug)]
pub struct Scope {
    /// `http` or `websocket`.
    pub scope_type: ScopeType,
    /// The HTTP version of the request.
    pub http_version: Version,
    /// The method; GET for a WebSocket over HTTP/1.1.
    pub method: Method,
    /// Plain or TLS; see [`Scope::scheme`].
    pub security: Scheme,
    /// The target as received: path and query, percent-encoded.
    pub target: PathAndQuery,
    /// Values that middleware stores for the handler, by type.
    pub extensions: http::Extensions,
    /// The request's header fields.
    pub headers: Headers,
    /// The client's address; `None` on a unix socket, unless a trusted proxy sent it.
    pub client: Option<ClientAddress>,
    /// The server's end of the connection: its address, and the encryption.
    pub server: Option<Arc<ServerEnd>>,
    /// The requested host and port; `None` if absent or malformed.
    pub host: Option<HostHeader>,
    /// The subprotocols the client offers, in its order.
    pub subprotocols: Box<[String]>,
    /// The route and its parameters.
    pub url_route: UrlRoute,
    /// Identifies this request in the log.
    pub request_id: RequestId,
    /// The number of the WebSocket in this process, also during its handshake; 0 for a request.
    pub connection: u64,
    /// The session; `None` without the middleware `session`.
    pub session: Option<Arc<Session>>,
    /// The user; `None` if anonymous.
    pub user: Option<Arc<User>>,
    /// The session or token that identifies the user, whose end closes the sockets; `None` if
    /// nothing can end it.
    pub login: Option<Arc<Login>>,
    /// The values that all scopes of a server share; `None` if there is no root path and no state.
    pub(crate) app: Option<Arc<App>>,
}

/// The values that all scopes of a server share.
#[derive(Debug)]
pub(crate) struct App {
    /// `server.root_path`, "" for none.
    pub(crate) root_path: Box<str>,
    /// The application's state.
    pub(crate) state: State,
}

/// Every idle WebSocket keeps a scope in an `Arc`: 256 bytes with its counters, and the next size
/// class of the allocator is 320.
#[cfg(target_pointer_width = "64")]
const _: () = assert!(size_of::<Scope>() <= 240);

impl Scope {
    /// Creates the scope of a request without header fields, for tests.
    #[must_use]
    pub fn new(scope_type: ScopeType, method: Method, target: PathAndQuery) -> Self {
        Self {
            scope_type,
            http_version: Version::HTTP_11,
            method,
            security: Scheme::Plain,
            target,
            extensions: http::Extensions::new(),
            headers: Headers::default(),
            client: None,
            server: None,
            host: None,
            subprotocols: Box::default(),
            url_route: UrlRoute::default(),
            request_id: RequestId::new(),
            connection: 0,
            session: None,
            user: None,
            login: None,
            app: None,
        }
    }

    /// Returns "http", "https", "ws" or "wss".
    #[must_use]
    pub fn scheme(&self) -> &'static str {
        match (self.scope_type, self.security) {
            (ScopeType::Http, Scheme::Plain) => "http",
            (ScopeType::Http, Scheme::Secure) => "https",
            (ScopeType::Websocket, Scheme::Plain) => "ws",
            (ScopeType::Websocket, Scheme::Secure) => "wss",
        }
    }

    /// Returns the facts of the encryption: ASGI's TLS extension. `None` if this server does not
    /// decrypt, but perhaps a proxy in front of it.
    #[must_use]
    pub fn tls(&self) -> Option<&TlsInfo> {
        self.server.as_ref()?.tls.as_ref()
    }

    /// Returns the verified certificate of the client, if it has sent one.
    #[must_use]
    pub fn client_certificate(&self) -> Option<&ClientCertificate> {
        self.tls()?.client_certificate.as_deref()
    }

    /// Returns the identifier of the trace that this request, or this socket, belongs to; `None`
    /// while nothing is traced.
    #[must_use]
    pub fn trace_id(&self) -> Option<TraceId> {
        ScopeSpan::of(&self.extensions).map(|span| span.context().trace_id)
    }

    /// Returns the same if the trace is exported.
    pub(crate) fn sampled_trace_id(&self) -> Option<TraceId> {
        let context = ScopeSpan::of(&self.extensions)?.context();
        context.is_sampled.then_some(context.trace_id)
    }

    /// Returns the prefix under which the server is mounted, "" for none: ASGI's
    /// `scope["root_path"]`.
    #[must_use]
    pub fn root_path(&self) -> &str {
        self.app.as_ref().map_or("", |app| &app.root_path)
    }

    /// Returns the application's value of a type, which its `main` passed to `Registry::state`.
    ///
    /// In a view or a consumer, `?` turns a missing value into a 500 or 1011, with the type in the
    /// log.
    ///
    /// ```
    /// use oneport::gateway::Registry;
    /// use oneport::http::{Failure, Request, Response, View, respond};
    /// # use oneport::config::OptionErrors;
    ///
    /// struct Greeting(&'static str);
    /// struct Hello;
    ///
    /// impl View for Hello {
    ///     type Options = ();
    ///     fn new((): ()) -> Result<Self, OptionErrors> { Ok(Self) }
    ///     async fn call(&self, request: Request) -> Result<Response, Failure> {
    ///         let greeting = request.scope.state::<Greeting>()?;
    ///         Ok(respond(200, "text/plain", greeting.0))
    ///     }
    /// }
    ///
    /// let registry = Registry::builtin().state(Greeting("hello")).view::<Hello>("hello");
    /// # use oneport::testing::{Application, HttpCommunicator};
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
    /// let app = Application::with(&registry, "[[http.route]]\npath = '/'\nview = 'hello'\n").unwrap();
    /// assert_eq!(HttpCommunicator::get("/").send(&app).await.body(), "hello");
    /// # });
    /// ```
    pub fn state<T: Send + Sync + 'static>(&self) -> Result<&T, MissingState> {
        match &self.app {
            Some(app) => app.state.get(),
            None => Err(MissingState::of::<T>()),
        }
    }

    /// Returns the path as received, percent-encoded, without the query.
    #[must_use]
    pub fn raw_path(&self) -> &str {
        self.target.path()
    }

    /// Returns the path, percent-decoded; bytes that are not UTF-8 become U+FFFD, as in ASGI.
    #[must_use]
    pub fn path(&self) -> Cow<'_, str> {
        percent_decode_str(self.raw_path()).decode_utf8_lossy()
    }

    /// Returns the query string as received, "" if there is none.
    #[must_use]
    pub fn query_string(&self) -> &str {
        self.target.query().unwrap_or_default()
    }

    /// Returns the value of a route parameter, "" if the route has none of that name.
    #[must_use]
    pub fn param(&self, name: &str) -> &str {
        self.url_route.params.get(name).unwrap_or_default()
    }

    /// Returns the first value of a query parameter, decoded (`+` is a space).
    ///
    /// ```
    /// use oneport::scope::{Scope, ScopeType};
    /// let target = "/news?since=a%2Db&x=1+2".parse().unwrap();
    /// let scope = Scope::new(ScopeType::Http, http::Method::GET, target);
    /// assert_eq!(scope.query("since").as_deref(), Some("a-b"));
    /// assert_eq!(scope.query("x").as_deref(), Some("1 2"));
    /// assert_eq!(scope.query("y"), None);
    /// ```
    #[must_use]
    pub fn query(&self, name: &str) -> Option<String> {
        self.query_pairs()
            .find_map(|(key, value)| (key == name).then_some(value))
    }

    /// Iterates over the query's parameters, decoded, in their order.
    pub fn query_pairs(&self) -> impl Iterator<Item = (String, String)> + '_ {
        self.query_string()
            .split('&')
            .filter(|pair| !pair.is_empty())
            .map(|pair| {
                let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
                (form_decode(key), form_decode(value))
            })
    }

    /// Returns a cookie's value. If several have the same name, the last one wins, as in Django.
    #[must_use]
    pub fn cookie(&self, name: &str) -> Option<String> {
        self.raw_cookies()
            .filter(|(key, _)| *key == name.as_bytes())
            .last()
            .map(|(_, value)| unquoted(value))
    }

    /// Iterates over the cookies of all `Cookie` fields, in their order, unquoted.
    pub fn cookies(&self) -> impl Iterator<Item = (String, String)> + '_ {
        self.raw_cookies().map(|(name, value)| {
            let name = String::from_utf8_lossy(name).into_owned();
            (name, unquoted(value))
        })
    }

    /// Iterates over the cookies as slices of their fields, so that a lookup allocates nothing.
    fn raw_cookies(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.headers
            .all(&header::COOKIE)
            .flat_map(|field| field.split(|byte| *byte == b';'))
            .filter_map(|pair| {
                let at = pair.iter().position(|byte| *byte == b'=')?;
                let name = pair[..at].trim_ascii();
                (!name.is_empty()).then(|| (name, pair[at + 1..].trim_ascii()))
            })
    }

    /// Returns the record of this scope for the access log, without the facts of its end.
    pub(crate) fn access_record<'r>(
        &'r self,
        kind: AccessKind,
        route: &'r str,
    ) -> AccessRecord<'r> {
        let client = |client: ClientAddress| SocketAddr::new(client.ip(), client.port());
        AccessRecord {
            kind,
            id: &self.request_id,
            trace_id: self.trace_id(),
            client: self.client.map(client),
            method: self.method.as_str(),
            scheme: self.scheme(),
            host: self.host.as_ref().map(|host| host as &dyn fmt::Display),
            path: self.target.path(),
            query: self.target.query(),
            version: self.http_version,
            route,
            user: self.user.as_ref().map(|user| user.name.as_str()),
            status: 0,
            bytes: None,
            seconds: None,
            end: None,
            request_headers: &self.headers,
            response_headers: None,
        }
    }

    /// Copies header values and target out of hyper's read buffer, so that the buffer can be freed.
    ///
    /// They are slices of that buffer (8 KiB and more), which the scope of a socket would keep
    /// until the socket ends.
    pub(crate) fn pack(&mut self) {
        self.headers.pack();
        if let Some(session) = &self.session {
            session.pack();
        }
        if let Ok(own) = PathAndQuery::try_from(self.target.as_str().to_owned()) {
            self.target = own;
        }
    }
}

/// Removes the quotes around a cookie's value (RFC 6265 §4.1.1).
fn unquoted(value: &[u8]) -> String {
    let inside = value
        .strip_prefix(b"\"")
        .and_then(|rest| rest.strip_suffix(b"\""));
    String::from_utf8_lossy(inside.unwrap_or(value)).into_owned()
}

fn form_decode(text: &str) -> String {
    let spaced = text.replace('+', " ");
    percent_decode_str(&spaced).decode_utf8_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use http::HeaderName;

    use super::*;

    fn scope_with(fields: &[(&'static str, &str)]) -> Scope {
        let mut scope = Scope::new(
            ScopeType::Websocket,
            Method::GET,
            PathAndQuery::from_static("/caf%C3%A9/?a=b"),
        );
        for (name, value) in fields {
            scope
                .headers
                .map_mut()
                .append(*name, value.parse().unwrap());
        }
        scope
    }

    #[test]
    fn packed_headers_answer_as_the_map_did() {
        let mut scope = scope_with(&[("origin", "http://a"), ("x-two", "1"), ("x-two", "2")]);
        let before: Vec<_> = scope
            .headers
            .iter()
            .map(|(name, value)| (name.to_owned(), value.to_vec()))
            .collect();
        scope.pack();
        let after: Vec<_> = scope
            .headers
            .iter()
            .map(|(name, value)| (name.to_owned(), value.to_vec()))
            .collect();
        assert_eq!(before, after);
        assert_eq!(scope.headers.text(&header::ORIGIN), Some("http://a"));
        assert_eq!(
            scope
                .headers
                .all(&HeaderName::from_static("x-two"))
                .collect::<Vec<_>>(),
            [b"1", b"2"]
        );
        assert_eq!(scope.headers.get(&header::HOST), None);
        assert_eq!(scope.headers.to_map().len(), 3);
    }

    #[test]
    fn path_is_decoded_and_raw_path_is_not() {
        let scope = scope_with(&[]);
        assert_eq!(
            (
                scope.path().as_ref(),
                scope.raw_path(),
                scope.query_string()
            ),
            ("/café/", "/caf%C3%A9/", "a=b")
        );
    }

    #[test]
    fn last_cookie_of_one_name_wins_over_several_fields() {
        let scope = scope_with(&[
            ("cookie", "sessionid=a; x=\"q\""),
            ("cookie", "sessionid=b"),
        ]);
        assert_eq!(scope.cookie("sessionid").as_deref(), Some("b"));
        assert_eq!(scope.cookie("x").as_deref(), Some("q"));
        assert_eq!(scope.cookie("y"), None);
    }

    /// One step for each cookie, and no allocation: the lookup walks slices of the field, once
    /// each.
    #[test]
    fn cookie_lookup_walks_each_cookie_once() {
        let many: String = (0..2_000).map(|number| format!("c{number}=v; ")).collect();
        let scope = scope_with(&[("cookie", &format!("{many}sessionid=\"a=b\""))]);
        assert_eq!(scope.raw_cookies().count(), 2_001);
        let bytes: usize = scope
            .raw_cookies()
            .map(|(name, value)| name.len() + 1 + value.len() + 2)
            .sum();
        assert_eq!(bytes, many.len() + "sessionid=\"a=b\"; ".len());
        assert_eq!(scope.cookie("sessionid").as_deref(), Some("a=b"));
        for malformed in ["sessionid", "=a", ";;", " = ", "x=\"", "\u{fc}=1"] {
            let scope = scope_with(&[("cookie", malformed)]);
            assert_eq!(scope.cookie("sessionid"), None, "{malformed}");
        }
    }

    #[test]
    fn websocket_over_tls_is_wss() {
        let mut scope = scope_with(&[]);
        assert_eq!(scope.scheme(), "ws");
        scope.security = Scheme::Secure;
        assert_eq!(scope.scheme(), "wss");
    }
}

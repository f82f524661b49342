//! Scope: what is known of one request or one WebSocket, in ASGI's words.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, Method, Version, header};
use percent_encoding::percent_decode_str;

use crate::auth::{Login, User};
use crate::host::HostHeader;
pub use crate::net::{ClientAddress, Scheme, ServerAddress};
use crate::routing::Params;
use crate::session::Session;

/// The protocol type of a scope: ASGI's `scope["type"]`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ScopeType {
    /// A request for the HTTP table.
    Http,
    /// A handshake, or the socket that it became, for the WebSocket table.
    Websocket,
}

/// Names one request or one WebSocket in the log and in answers.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum RequestId {
    /// Made here; shown as sixteen hexadecimal digits.
    Made(u64),
    /// Taken from `X-Request-Id` of a trusted proxy.
    Given(Box<str>),
}

impl RequestId {
    /// Makes a new one.
    #[must_use]
    pub fn new() -> Self {
        Self::Made(fastrand::u64(..))
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

/// The route that was found: ASGI's `scope["url_route"]`.
#[derive(Clone, Debug, Default)]
pub struct UrlRoute {
    /// The route's name in the file, if it has one.
    pub name: Option<Arc<str>>,
    /// What the path's parameters matched, decoded.
    pub params: Params,
}

/// What is known of one request or one WebSocket (ASGI HTTP and WebSocket connection scope).
///
/// Views and middleware see it with the request; a consumer sees it in `connect` and through its `Context` for as long as
/// the socket lives.
#[derive(Clone, Debug)]
pub struct Scope {
    /// `http` or `websocket`.
    pub scope_type: ScopeType,
    /// The version the client spoke.
    pub http_version: Version,
    /// The method; GET for a WebSocket over HTTP/1.1.
    pub method: Method,
    /// Plain or TLS; [`Scope::scheme`] gives the word.
    pub security: Scheme,
    /// The target as it came: path and query, still encoded.
    pub target: PathAndQuery,
    /// The prefix under which the server is mounted; none at the root.
    pub root_path: Option<Arc<str>>,
    /// The request's header fields.
    pub headers: Headers,
    /// Who asks; `None` on a unix socket without a trusted proxy's word.
    pub client: Option<ClientAddress>,
    /// Where the request arrived.
    pub server: Option<Arc<ServerAddress>>,
    /// The host the client asked for, and the port; `None` when absent or malformed.
    pub host: Option<HostHeader>,
    /// The subprotocols the client offers, in its order.
    pub subprotocols: Box<[String]>,
    /// The route and its parameters.
    pub url_route: UrlRoute,
    /// Names this request in the log.
    pub request_id: RequestId,
    /// The number that names the WebSocket in this process, or its handshake; 0 for a request.
    pub connection: u64,
    /// The session; `None` until a `session` middleware put one here.
    pub session: Option<Arc<Session>>,
    /// The user; `None` when anonymous.
    pub user: Option<Arc<User>>,
    /// What the user rests on; `None` for what ends by itself.
    pub login: Option<Arc<Login>>,
}

/// Every idle WebSocket keeps one behind two counters: 256 bytes with them, and an allocator's next size is 320.
#[cfg(target_pointer_width = "64")]
const _: () = assert!(size_of::<Scope>() <= 240);

impl Scope {
    /// Makes the scope of a request with no header fields: what tests and the test kit start from.
    #[must_use]
    pub fn new(scope_type: ScopeType, method: Method, target: PathAndQuery) -> Self {
        Self {
            scope_type,
            http_version: Version::HTTP_11,
            method,
            security: Scheme::Plain,
            target,
            root_path: None,
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

    /// Returns the path as it came, still encoded, without the query.
    #[must_use]
    pub fn raw_path(&self) -> &str {
        self.target.path()
    }

    /// Returns the path, percent-decoded; octets that are no UTF-8 become U+FFFD, as in ASGI.
    #[must_use]
    pub fn path(&self) -> Cow<'_, str> {
        percent_decode_str(self.raw_path()).decode_utf8_lossy()
    }

    /// Returns the query string as it came, "" when there is none.
    #[must_use]
    pub fn query_string(&self) -> &str {
        self.target.query().unwrap_or_default()
    }

    /// Returns what a parameter of the route matched, "" when the route has none of that name.
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

    /// Walks the query's parameters, decoded, in their order.
    pub fn query_pairs(&self) -> impl Iterator<Item = (String, String)> + '_ {
        self.query_string()
            .split('&')
            .filter(|pair| !pair.is_empty())
            .map(|pair| {
                let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
                (form_decode(key), form_decode(value))
            })
    }

    /// Returns a cookie's value. Of several with one name the last wins, as in Django.
    #[must_use]
    pub fn cookie(&self, name: &str) -> Option<String> {
        self.raw_cookies()
            .filter(|(key, _)| *key == name.as_bytes())
            .last()
            .map(|(_, value)| unquoted(value))
    }

    /// Walks the cookies of all `Cookie` fields, in their order, unquoted.
    pub fn cookies(&self) -> impl Iterator<Item = (String, String)> + '_ {
        self.raw_cookies().map(|(name, value)| {
            let name = String::from_utf8_lossy(name).into_owned();
            (name, unquoted(value))
        })
    }

    /// Walks the cookies as slices of their fields: a look-up compares a client's names and allocates for none of them.
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

    /// Lets go of the buffer that the request was read into.
    ///
    /// Header values are slices of that buffer (8 KiB and more); a scope that lives as long as a socket holds only its own
    /// bytes.
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

/// Takes the quotes off a cookie's value (RFC 6265 §4.1.1).
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

/// The header fields of a request: names in lower case, values as bytes, several of one name in their order.
#[derive(Clone, Debug)]
pub struct Headers(Fields);

#[derive(Clone, Debug)]
enum Fields {
    /// As hyper parsed them.
    Map(Box<HeaderMap>),
    /// One allocation: `u16` name length, name, `u16` value length, value, and so on.
    Packed(Box<[u8]>),
}

impl Default for Headers {
    fn default() -> Self {
        Self(Fields::Map(Box::default()))
    }
}

impl From<HeaderMap> for Headers {
    fn from(map: HeaderMap) -> Self {
        Self(Fields::Map(Box::new(map)))
    }
}

impl Headers {
    /// Returns the first value of a field.
    #[must_use]
    pub fn get(&self, name: &HeaderName) -> Option<&[u8]> {
        match &self.0 {
            Fields::Map(map) => map.get(name).map(http::HeaderValue::as_bytes),
            Fields::Packed(bytes) => {
                unpack(bytes).find_map(|(key, value)| (key == name.as_str()).then_some(value))
            }
        }
    }

    /// Returns the first value of a field when it is visible ASCII.
    #[must_use]
    pub fn text(&self, name: &HeaderName) -> Option<&str> {
        self.get(name)
            .filter(|value| value.iter().all(|byte| (0x20..0x7f).contains(byte)))
            .and_then(|value| std::str::from_utf8(value).ok())
    }

    /// Walks the values of a field.
    pub fn all<'a>(&'a self, name: &'a HeaderName) -> impl Iterator<Item = &'a [u8]> + 'a {
        let (map, packed) = match &self.0 {
            Fields::Map(map) => (Some(map.get_all(name).into_iter()), None),
            Fields::Packed(bytes) => (None, Some(unpack(bytes))),
        };
        let from_map = map.into_iter().flatten().map(http::HeaderValue::as_bytes);
        from_map.chain(
            packed
                .into_iter()
                .flatten()
                .filter(move |(key, _)| *key == name.as_str())
                .map(|(_, value)| value),
        )
    }

    /// Walks all fields.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &[u8])> + '_ {
        let (map, packed) = match &self.0 {
            Fields::Map(map) => (Some(map.iter()), None),
            Fields::Packed(bytes) => (None, Some(unpack(bytes))),
        };
        let from_map = map
            .into_iter()
            .flatten()
            .map(|(name, value)| (name.as_str(), value.as_bytes()));
        from_map.chain(packed.into_iter().flatten())
    }

    /// Returns the fields as a map; a scope that let go of it gets it made anew.
    pub(crate) fn map_mut(&mut self) -> &mut HeaderMap {
        if let Fields::Packed(bytes) = &self.0 {
            let map = unpack(bytes)
                .filter_map(|(name, value)| {
                    Some((
                        HeaderName::from_bytes(name.as_bytes()).ok()?,
                        http::HeaderValue::from_bytes(value).ok()?,
                    ))
                })
                .collect();
            self.0 = Fields::Map(Box::new(map));
        }
        match &mut self.0 {
            Fields::Map(map) => map,
            Fields::Packed(_) => unreachable!("replaced above"),
        }
    }

    /// Returns the fields as a map, a copy of one.
    #[must_use]
    pub fn to_map(&self) -> HeaderMap {
        self.clone().map_mut().clone()
    }

    fn pack(&mut self) {
        let Fields::Map(map) = &self.0 else { return };
        let mut bytes = Vec::with_capacity(
            map.iter()
                .map(|(name, value)| 4 + name.as_str().len() + value.len())
                .sum(),
        );
        for (name, value) in &**map {
            // Over 65,535 octets nothing passes the limit on the header size.
            let (Ok(name_len), Ok(value_len)) = (
                u16::try_from(name.as_str().len()),
                u16::try_from(value.len()),
            ) else {
                continue;
            };
            bytes.extend_from_slice(&name_len.to_be_bytes());
            bytes.extend_from_slice(name.as_str().as_bytes());
            bytes.extend_from_slice(&value_len.to_be_bytes());
            bytes.extend_from_slice(value.as_bytes());
        }
        self.0 = Fields::Packed(bytes.into_boxed_slice());
    }
}

fn unpack(mut bytes: &[u8]) -> impl Iterator<Item = (&str, &[u8])> {
    std::iter::from_fn(move || {
        let (name_len, rest) = bytes.split_first_chunk::<2>()?;
        let (name, rest) = rest.split_at_checked(u16::from_be_bytes(*name_len).into())?;
        let (value_len, rest) = rest.split_first_chunk::<2>()?;
        let (value, rest) = rest.split_at_checked(u16::from_be_bytes(*value_len).into())?;
        bytes = rest;
        Some((std::str::from_utf8(name).unwrap_or_default(), value))
    })
}

#[cfg(test)]
mod tests {
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

    /// One step for each cookie, and no allocation: what is walked are slices of the field, once each.
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

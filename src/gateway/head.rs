//! Head: what a request's first lines say, checked and made into a scope.

use http::request::Parts;
use http::uri::{Authority, PathAndQuery};
use http::{HeaderMap, HeaderValue, Method, StatusCode, Version, header};

use super::dispatch::Arrival;
use super::table::Table;
use crate::host::HostHeader;
use crate::http::upgrade::{ConnectProtocol, protocol_type};
use crate::http::{Failure, forwarded};
use crate::scope::{RequestId, Scope, ScopeType, UrlRoute};
use crate::websocket::handshake::{self, Handshake};

/// The longest `X-Request-Id` that is taken from a proxy.
const REQUEST_ID_BYTES_MAX: usize = 128;

/// What a request's first lines say.
pub(super) struct Head {
    scope_type: ScopeType,
    method: Method,
    version: Version,
    connect_protocol: Option<ConnectProtocol>,
    authority: Option<Authority>,
    target: PathAndQuery,
    headers: HeaderMap,
}

impl Head {
    pub(super) fn new(parts: Parts) -> Self {
        let Parts {
            method,
            uri,
            version,
            mut headers,
            mut extensions,
            ..
        } = parts;
        let connect_protocol: Option<ConnectProtocol> = extensions.remove();
        let uri = uri.into_parts();
        if version >= Version::HTTP_2
            && !headers.contains_key(header::HOST)
            && let Some(authority) = &uri.authority
            && let Ok(host) = HeaderValue::from_str(authority.as_str())
        {
            headers.insert(header::HOST, host); // ASGI: `:authority` is the host field
        }
        let scope_type = match &connect_protocol {
            Some(protocol) if protocol.is_websocket() => ScopeType::Websocket,
            _ => protocol_type(version, &headers),
        };
        Self {
            scope_type,
            method,
            version,
            connect_protocol,
            authority: uri.authority,
            target: uri
                .path_and_query
                .unwrap_or_else(|| PathAndQuery::from_static("/")),
            headers,
        }
    }

    /// Refuses what no table may see; a sound request for a WebSocket gives its handshake.
    pub(super) fn check(&self) -> Result<Option<Handshake>, Failure> {
        if self.version == Version::HTTP_11 {
            // RFC 9112 §3.2: exactly one.
            let mut hosts = self.headers.get_all(header::HOST).iter();
            match (hosts.next(), hosts.next()) {
                (Some(_), None) => {}
                (None, _) => return Err(Failure::bad_request("expected a Host, found none")),
                (Some(_), Some(_)) => {
                    return Err(Failure::bad_request("expected one Host, found several"));
                }
            }
        }
        if let Some(ConnectProtocol(protocol)) = &self.connect_protocol
            && self.scope_type == ScopeType::Http
        {
            let sentence = format!("expected the protocol websocket, found {protocol:?}");
            return Err(Failure::new(StatusCode::NOT_IMPLEMENTED, sentence));
        }
        if self.method == Method::CONNECT && self.connect_protocol.is_none() {
            let sentence = "expected a request for this server, found CONNECT";
            let allow = HeaderValue::from_static("GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS");
            let refusal = Failure::new(StatusCode::METHOD_NOT_ALLOWED, sentence);
            return Err(refusal.with_header(header::ALLOW, allow));
        }
        match self.scope_type {
            ScopeType::Http => Ok(None),
            ScopeType::Websocket => {
                handshake::check(&self.method, self.version, &self.headers).map(Some)
            }
        }
    }

    /// Makes the scope; what only a trusted proxy may say counts only from one.
    pub(super) fn into_scope(mut self, arrival: &Arrival, table: &Table) -> Scope {
        let is_trusted = table.is_trusted(arrival.peer.map(|peer| peer.ip()));
        forwarded::strip_ambiguous(&mut self.headers);
        let mut said = forwarded::Forwarded::default();
        let mut request_id = RequestId::new();
        if is_trusted {
            said = forwarded::read(&self.headers, &table.trusted_proxies);
            let given = self
                .headers
                .get("x-request-id")
                .and_then(|id| id.to_str().ok());
            if let Some(id) = given.filter(|id| (1..=REQUEST_ID_BYTES_MAX).contains(&id.len())) {
                request_id = RequestId::Given(id.into());
            }
        } else {
            forwarded::strip(&mut self.headers);
        }
        Scope {
            scope_type: self.scope_type,
            http_version: self.version,
            host: self.host(said.host.as_deref()),
            method: self.method,
            security: said.scheme.unwrap_or(arrival.security),
            target: self.target,
            root_path: table.root_path.clone(),
            headers: self.headers.into(),
            client: said.client.or(arrival.peer).map(Into::into),
            server: arrival.server.clone(),
            subprotocols: Box::default(),
            url_route: UrlRoute::default(),
            request_id,
            connection: 0,
            session: None,
            user: arrival.user.clone(),
            login: None,
        }
    }

    /// A trusted proxy's word first, then an absolute target's authority (RFC 9112 §3.2.2), then the field.
    fn host(&self, forwarded: Option<&str>) -> Option<HostHeader> {
        let authority = || self.authority.as_ref().map(Authority::as_str);
        let field = || {
            self.headers
                .get(header::HOST)
                .and_then(|host| host.to_str().ok())
        };
        HostHeader::parse(forwarded.or_else(authority).or_else(field)?).ok()
    }
}

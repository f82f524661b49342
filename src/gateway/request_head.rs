//! RequestHead: checks the request line and header fields of a request, and creates its scope.

use http::request::Parts;
use http::uri::PathAndQuery;
use http::{Extensions, HeaderMap, HeaderValue, Method, StatusCode, Version, header};
use metrics::counter;

use super::connection_info::ConnectionInfo;
use super::table::{HeadLimits, Table};
use crate::host::HostHeader;
use crate::http::Failure;
use crate::http::forwarded::{self, Forwarded};
use crate::http::upgrade::{ConnectProtocol, protocol_type};
use crate::scope::{RequestId, Scope, ScopeType, UrlRoute};
use crate::telemetry::LogThrottle;
use crate::websocket::handshake::{self, Handshake};

/// The longest `X-Request-Id` that is accepted from a proxy.
const REQUEST_ID_BYTES_MAX: usize = 128;

/// The request line and header fields of a request.
pub(super) struct RequestHead<'p> {
    /// Without the target and the extensions.
    parts: &'p mut Parts,
    scope_type: ScopeType,
    connect_protocol: Option<ConnectProtocol>,
    target: PathAndQuery,
    /// The host of an absolute target (RFC 9112 §3.2.2), or that of the `Host` field.
    host: Option<HostHeader>,
    /// Why one of the two is refused.
    bad_host: Option<Failure>,
    has_fragment: bool,
    /// Whether the target is a host and port alone (RFC 9112 §3.2.3).
    is_authority_form: bool,
}

/// Marks a request whose target had a fragment: the parser removes it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fragment;

impl<'p> RequestHead<'p> {
    pub(super) fn new(parts: &'p mut Parts) -> Self {
        let version = parts.version;
        let connect_protocol: Option<ConnectProtocol> = parts.extensions.remove();
        let has_fragment = parts.extensions.remove::<Fragment>().is_some();
        let uri = std::mem::take(&mut parts.uri).into_parts();
        let headers = &mut parts.headers;
        let (mut host, mut bad_host) = split(check_host(version, headers));
        if let Some(authority) = &uri.authority {
            // The host of an absolute target replaces that of the field (RFC 9112 §3.2.2, RFC 9113
            // §8.3.1), so that all code sees one host.
            let named = HostHeader::parse(authority.as_str()).map(Some);
            let (named, bad) = split(named.map_err(|_| no_host(authority.as_str())));
            (host, bad_host) = (named, bad_host.or(bad));
            if let Ok(value) = HeaderValue::from_str(authority.as_str()) {
                headers.insert(header::HOST, value);
            }
        }
        let scope_type = match &connect_protocol {
            Some(protocol) if protocol.is_websocket() => ScopeType::Websocket,
            _ => protocol_type(version, headers),
        };
        Self {
            scope_type,
            connect_protocol,
            is_authority_form: version < Version::HTTP_2
                && uri.scheme.is_none()
                && uri.authority.is_some(),
            target: uri
                .path_and_query
                .unwrap_or_else(|| PathAndQuery::from_static("/")),
            parts,
            host,
            bad_host,
            has_fragment,
        }
    }

    /// Refuses malformed requests. Returns the handshake of a request for a WebSocket.
    pub(super) fn check(
        &mut self,
        has_body: bool,
        limits: HeadLimits,
    ) -> Result<Option<Handshake>, Failure> {
        self.check_limits(limits)?;
        if self.is_authority_form && self.parts.method != Method::CONNECT {
            return Err(Failure::bad_request(
                "expected a path or an absolute URL as the target, found an authority",
            ));
        }
        if self.has_fragment {
            return Err(Failure::bad_request(
                "expected a target without a fragment, found \"#\"",
            ));
        }
        if let Some(refusal) = self.bad_host.take() {
            return Err(refusal);
        }
        self.check_one_length()?;
        if has_body {
            self.check_transfer_encoding()?;
            self.check_content_length()?;
        }
        if let Some(ConnectProtocol(protocol)) = &self.connect_protocol
            && self.scope_type == ScopeType::Http
        {
            let sentence = format!("expected the protocol websocket, found {protocol:?}");
            return Err(Failure::new(StatusCode::NOT_IMPLEMENTED, sentence));
        }
        if self.parts.method == Method::CONNECT && self.connect_protocol.is_none() {
            let sentence = "expected a request for this server, found CONNECT";
            let allow = HeaderValue::from_static("GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS");
            let refusal = Failure::new(StatusCode::METHOD_NOT_ALLOWED, sentence);
            return Err(refusal.with_header(header::ALLOW, allow));
        }
        match self.scope_type {
            ScopeType::Http => Ok(None),
            ScopeType::Websocket => {
                handshake::check(&self.parts.method, self.parts.version, &self.parts.headers)
                    .map(Some)
            }
        }
    }

    /// Refuses a target or a number of fields over the limits. The size of the whole head is the
    /// parser's limit.
    fn check_limits(&self, limits: HeadLimits) -> Result<(), Failure> {
        let (found, expected) = (self.target.as_str().len(), limits.uri_size);
        if found > expected {
            let sentence = format!("expected a target of at most {expected} bytes, found {found}");
            return Err(over_limit(StatusCode::URI_TOO_LONG, "uri_size", sentence));
        }
        let (found, expected) = (self.parts.headers.len(), limits.header_count);
        if found > expected {
            let sentence = format!("expected at most {expected} header fields, found {found}");
            let status = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
            return Err(over_limit(status, "header_count", sentence));
        }
        Ok(())
    }

    /// Refuses several lengths over HTTP/2. HTTP/1.1's parser has refused different ones; of these,
    /// hyper believes none, and takes a stream that is reset at once for one without a body.
    fn check_one_length(&self) -> Result<(), Failure> {
        let has_repeated = self.parts.headers.len() > self.parts.headers.keys_len();
        if !has_repeated || self.parts.version != Version::HTTP_2 {
            return Ok(());
        }
        match self
            .parts
            .headers
            .get_all(header::CONTENT_LENGTH)
            .iter()
            .count()
        {
            0 | 1 => Ok(()),
            _ => Err(Failure::bad_request(
                "expected one Content-Length, found several",
            )),
        }
    }

    /// Refuses an impossible length, even if the view does not read the body.
    fn check_content_length(&self) -> Result<(), Failure> {
        let length = self.parts.headers.get(header::CONTENT_LENGTH);
        let length = length.and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
        match length {
            Some(length) if i64::try_from(length).is_err() => Err(Failure::new(
                StatusCode::PAYLOAD_TOO_LARGE,
                "expected the length of a body, found more than 63 bits",
            )),
            _ => Ok(()),
        }
    }

    /// Accepts only `chunked`. With other codings, the server and a proxy in front of it could
    /// disagree on where the body ends (RFC 9112 §6.1, §11.2).
    fn check_transfer_encoding(&self) -> Result<(), Failure> {
        let fields = self.parts.headers.get_all(header::TRANSFER_ENCODING).iter();
        let codings: Vec<&[u8]> = fields
            .flat_map(|field| field.as_bytes().split(|byte| *byte == b','))
            .map(<[u8]>::trim_ascii)
            .filter(|coding| !coding.is_empty())
            .collect();
        let is_chunked = |coding: &&[u8]| coding.eq_ignore_ascii_case(b"chunked");
        match codings.as_slice() {
            [] => Ok(()),
            [only] if is_chunked(only) => Ok(()),
            [before @ .., last] if is_chunked(last) && !before.iter().any(is_chunked) => {
                Err(Failure::new(
                    StatusCode::NOT_IMPLEMENTED,
                    format!(
                        "expected the transfer coding chunked alone, found {:?} before it",
                        String::from_utf8_lossy(before[0])
                    ),
                ))
            }
            _ => Err(Failure::bad_request(
                "expected the transfer coding chunked once and last",
            )),
        }
        // The end of the body is uncertain, so the connection cannot be reused.
        .map_err(|refusal| {
            refusal.with_header(header::CONNECTION, HeaderValue::from_static("close"))
        })
    }

    /// Creates the scope. Forwarded fields count only from a trusted proxy.
    pub(super) fn into_scope(mut self, info: &ConnectionInfo, table: &Table) -> Scope {
        let (from_proxy, request_id) = self.forwarded(info, table);
        let extensions = self.extensions(info, table);
        Scope {
            scope_type: self.scope_type,
            http_version: self.parts.version,
            host: from_proxy.host.or(self.host),
            method: std::mem::take(&mut self.parts.method),
            security: from_proxy.scheme.unwrap_or(info.security),
            target: self.target,
            extensions,
            headers: std::mem::take(&mut self.parts.headers).into(),
            client: from_proxy.client.or(info.peer).map(Into::into),
            server: info.server.clone(),
            subprotocols: Box::default(),
            url_route: UrlRoute::default(),
            request_id,
            connection: 0,
            session: None,
            user: info.user.clone(),
            login: None,
            app: table.app.clone(),
        }
    }

    /// Reads the forwarded fields of a trusted proxy, and removes all others.
    fn forwarded(&mut self, info: &ConnectionInfo, table: &Table) -> (Forwarded, RequestId) {
        let peer = info.peer.map(|peer| peer.ip());
        let is_trusted = table.is_trusted(peer);
        if !is_trusted && !forwarded::has_strippable(&self.parts.headers) {
            return (Forwarded::default(), RequestId::new());
        }
        forwarded::strip_ambiguous(&mut self.parts.headers);
        if !is_trusted {
            if let Some(name) = forwarded::strip(&mut self.parts.headers, None) {
                forwarded::warn_of_ignored(&name, peer, None);
            }
            return (Forwarded::default(), RequestId::new());
        }
        let family = table.forwarded;
        let ignored = forwarded::strip(&mut self.parts.headers, Some(family));
        let (trusted, scheme) = (&table.trusted_proxies, info.security);
        let from_proxy = forwarded::read(&self.parts.headers, family, trusted, scheme);
        // If the proxy sent its own fields, those of the other family are the client's, which is
        // not a misconfiguration.
        if let Some(name) = ignored.filter(|_| from_proxy == Forwarded::default()) {
            forwarded::warn_of_ignored(&name, peer, Some(family));
        }
        let given = self
            .parts
            .headers
            .get("x-request-id")
            .and_then(|id| id.to_str().ok());
        let request_id = match given {
            Some(id)
                if (1..=REQUEST_ID_BYTES_MAX).contains(&id.len())
                    && id.bytes().all(handshake::is_token_octet) =>
            {
                RequestId::Given(id.into())
            }
            _ => RequestId::new(),
        };
        (from_proxy, request_id)
    }

    /// Returns the scope's extensions: the addresses that a route with an upstream passes on, if
    /// they are more than the client's.
    fn extensions(&self, info: &ConnectionInfo, table: &Table) -> Extensions {
        let mut extensions = Extensions::new();
        let peer = info.peer.map(|peer| peer.ip());
        if table.has_upstreams && table.is_trusted(peer) {
            let (family, trusted) = (table.forwarded, &table.trusted_proxies);
            extensions.insert(forwarded::chain(&self.parts.headers, family, trusted, peer));
        }
        extensions
    }
}

/// Counts and logs a head over a limit.
fn over_limit(status: StatusCode, limit: &'static str, sentence: String) -> Failure {
    static LOGGED: LogThrottle = LogThrottle::new();
    counter!("oneport_heads_refused_total", "limit" => limit).increment(1);
    if let Some(times) = LOGGED.count() {
        tracing::warn!(
            times,
            "server.limits.{limit} reached: the client gets {status}"
        );
    }
    Failure::new(status, sentence)
}

/// Splits a result into its host and its refusal.
fn split(host: Result<Option<HostHeader>, Failure>) -> (Option<HostHeader>, Option<Failure>) {
    match host {
        Ok(host) => (host, None),
        Err(refusal) => (None, Some(refusal)),
    }
}

/// Parses the `Host` field. HTTP/1.1 requires exactly one, HTTP/1.0 and HTTP/2 at most one (RFC
/// 9112 §3.2).
fn check_host(version: Version, headers: &HeaderMap) -> Result<Option<HostHeader>, Failure> {
    let hosts = match headers.len() == headers.keys_len() {
        true => (headers.get(header::HOST), None), // no field occurs twice
        false => {
            let mut hosts = headers.get_all(header::HOST).iter();
            (hosts.next(), hosts.next())
        }
    };
    match hosts {
        (None, _) if version == Version::HTTP_11 => {
            Err(Failure::bad_request("expected a Host, found none"))
        }
        (None, _) => Ok(None),
        (Some(_), Some(_)) => Err(Failure::bad_request("expected one Host, found several")),
        (Some(host), None) => match host.to_str().map(HostHeader::parse) {
            Ok(Ok(host)) => Ok(Some(host)),
            _ => Err(no_host(&String::from_utf8_lossy(host.as_bytes()))),
        },
    }
}

fn no_host(found: &str) -> Failure {
    Failure::bad_request(format!("expected the name of a host, found {found:?}"))
}

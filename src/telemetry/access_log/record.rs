//! Access record: the facts of one line of the access log.

use std::borrow::Cow;
use std::fmt::Display;
use std::net::SocketAddr;
use std::time::{SystemTime, UNIX_EPOCH};

use http::{HeaderMap, HeaderName, Version, header};

use super::field::AccessField;
use crate::telemetry::TraceId;

/// The event that a line is about.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum AccessKind {
    /// The response to a request.
    Http,
    /// The response to a handshake.
    Handshake,
    /// The end of a socket.
    Websocket,
}

impl AccessKind {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Handshake => "handshake",
            Self::Websocket => "websocket",
        }
    }
}

/// The header fields of a request.
pub(crate) trait RequestHeaders {
    /// Returns the first value of a field.
    fn first(&self, name: &HeaderName) -> Option<&[u8]>;
}

/// The facts of one line.
#[derive(Clone, Copy)]
pub(crate) struct AccessRecord<'r> {
    pub(crate) kind: AccessKind,
    pub(crate) id: &'r dyn Display,
    pub(crate) trace_id: Option<TraceId>,
    /// With port 0 if a proxy named none.
    pub(crate) client: Option<SocketAddr>,
    pub(crate) method: &'r str,
    pub(crate) scheme: &'static str,
    pub(crate) host: Option<&'r dyn Display>,
    pub(crate) path: &'r str,
    pub(crate) query: Option<&'r str>,
    pub(crate) version: Version,
    pub(crate) route: &'r str,
    pub(crate) user: Option<&'r str>,
    pub(crate) status: u16,
    pub(crate) bytes: Option<u64>,
    pub(crate) seconds: Option<f64>,
    /// Of a socket.
    pub(crate) end: Option<SocketEnd<'r>>,
    pub(crate) request_headers: &'r dyn RequestHeaders,
    pub(crate) response_headers: Option<&'r HeaderMap>,
}

/// How a socket ended.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SocketEnd<'r> {
    pub(crate) code: u16,
    /// Of a tunnel.
    pub(crate) client_code: Option<u16>,
    pub(crate) upstream_code: Option<u16>,
    pub(crate) cause: &'static str,
    pub(crate) reason: &'r str,
    pub(crate) messages: u64,
    pub(crate) bytes_in: u64,
    pub(crate) bytes_out: u64,
    /// `None` for a tunnel.
    pub(crate) dropped: Option<u64>,
}

/// The value of a field.
pub(super) enum Value<'r> {
    /// The server's own text, which needs neither quotes nor escapes.
    Own(String),
    /// A word that is quoted only if it has to be.
    Word(&'r dyn Display),
    Text(Cow<'r, str>),
    /// The value of a header field.
    Bytes(&'r [u8]),
    Number(u64),
    Decimal(f64),
}

impl<'r> AccessRecord<'r> {
    /// Returns the value of a field, if the line has one.
    pub(super) fn value(&self, field: &AccessField) -> Option<Value<'r>> {
        let number = |number: u16| Value::Number(number.into());
        let text = |text: &'r str| Value::Text(Cow::Borrowed(text));
        let own = Value::Own;
        let end = self.end.as_ref();
        match field {
            AccessField::Time => Some(own(rfc3339(SystemTime::now()))),
            AccessField::TimeLocal => Some(own(time_local(SystemTime::now()))),
            AccessField::Kind => Some(text(self.kind.as_str())),
            AccessField::Id => Some(Value::Word(self.id)),
            AccessField::TraceId => self.trace_id.map(|id| own(id.to_string())),
            AccessField::Client => self.client.map(|client| own(client.to_string())),
            AccessField::ClientIp => self.client.map(|client| own(client.ip().to_string())),
            AccessField::ClientPort => self.client.map(|client| number(client.port())),
            AccessField::Method => Some(text(self.method)),
            AccessField::Scheme => Some(text(self.scheme)),
            AccessField::Host => self.host.map(Value::Word),
            AccessField::Path => Some(text(self.path)),
            AccessField::Query => self
                .query
                .map(|query| Value::Text(without_credentials(query))),
            AccessField::Protocol => Some(text(protocol(self.version))),
            AccessField::Request => Some(Value::Text(Cow::Owned(self.request_line()))),
            AccessField::Route => Some(text(self.route)),
            AccessField::User => self.user.map(text),
            AccessField::Status => Some(number(self.status)),
            AccessField::Bytes => self.bytes.map(Value::Number),
            AccessField::Seconds => self.seconds.map(Value::Decimal),
            AccessField::Code => end.map(|end| number(end.code)),
            AccessField::ClientCode => end.and_then(|end| end.client_code).map(number),
            AccessField::UpstreamCode => end.and_then(|end| end.upstream_code).map(number),
            AccessField::Cause => end.map(|end| text(end.cause)),
            AccessField::Reason => {
                let reason = end.map(|end| end.reason);
                reason.filter(|reason| !reason.is_empty()).map(text)
            }
            AccessField::Messages => end.map(|end| Value::Number(end.messages)),
            AccessField::BytesIn => end.map(|end| Value::Number(end.bytes_in)),
            AccessField::BytesOut => end.map(|end| Value::Number(end.bytes_out)),
            AccessField::Dropped => end.and_then(|end| end.dropped).map(Value::Number),
            AccessField::RequestHeader(name) => {
                let value = self.request_headers.first(name);
                value.map(|value| header_value(field, name, value))
            }
            AccessField::ResponseHeader(name) => {
                let value = self.response_headers.and_then(|headers| headers.get(name));
                value.map(|value| header_value(field, name, value.as_bytes()))
            }
        }
    }

    fn request_line(&self) -> String {
        let (method, path, protocol) = (self.method, self.path, protocol(self.version));
        match self.query {
            Some(query) => {
                let query = without_credentials(query);
                format!("{method} {path}?{query} {protocol}")
            }
            None => format!("{method} {path} {protocol}"),
        }
    }
}

/// Returns a protocol as servers write it into their logs.
const fn protocol(version: Version) -> &'static str {
    match version {
        Version::HTTP_09 => "HTTP/0.9",
        Version::HTTP_10 => "HTTP/1.0",
        Version::HTTP_2 => "HTTP/2.0",
        Version::HTTP_3 => "HTTP/3.0",
        _ => "HTTP/1.1",
    }
}

/// The parameters whose values are credentials: those that the middleware `auth` reads, and the
/// usual names of others.
const CREDENTIALS: [&str; 19] = [
    "token",
    "ticket",
    "password",
    "passwd",
    "secret",
    "api_key",
    "apikey",
    "key",
    "auth",
    "jwt",
    "sig",
    "signature",
    "x-amz-signature",
    "x-amz-security-token",
    "x-goog-signature",
    "session",
    "sessionid",
    "session_id",
    "code",
];

/// The ends of the names of further ones, such as `id_token` and `client_secret`.
const CREDENTIAL_ENDS: [&str; 2] = ["_token", "_secret"];

/// In place of a credential.
const HIDDEN: &str = "(hidden)";

/// Returns the value of a header field, without credentials: as a whole, or in URLs and among
/// subprotocols.
fn header_value<'v>(field: &AccessField, name: &HeaderName, value: &'v [u8]) -> Value<'v> {
    if field.hidden().is_some() {
        return Value::Text(Cow::Borrowed(HIDDEN));
    }
    let hidden = match *name {
        header::REFERER | header::LOCATION => url_without_credentials(value),
        header::SEC_WEBSOCKET_PROTOCOL => Some(subprotocols_without_credentials(value)),
        _ => None,
    };
    match hidden {
        Some(text) => Value::Text(Cow::Owned(text)),
        None => Value::Bytes(value),
    }
}

/// Hides the token after `bearer` and the ticket after `ticket`.
fn subprotocols_without_credentials(value: &[u8]) -> String {
    let text = String::from_utf8_lossy(value);
    let mut is_credential = false;
    let names = text.split(',').map(str::trim).map(|name| {
        let shown = if is_credential { HIDDEN } else { name };
        is_credential = matches!(name, "bearer" | "ticket");
        shown
    });
    names.collect::<Vec<_>>().join(", ")
}

/// Hides the credentials in the query and the fragment of a URL; `None` if it has neither.
fn url_without_credentials(url: &[u8]) -> Option<String> {
    let start = url.iter().position(|byte| matches!(byte, b'?' | b'#'))?;
    let (rest, parts) = url.split_at(start);
    let mut out = String::from_utf8_lossy(rest).into_owned();
    for part in String::from_utf8_lossy(parts).split_inclusive(['?', '#']) {
        let end = part.trim_end_matches(['?', '#']).len();
        let (pairs, separator) = part.split_at(end);
        out.push_str(&without_credentials(pairs));
        out.push_str(separator);
    }
    Some(out)
}

/// Replaces the values of credentials.
fn without_credentials(query: &str) -> Cow<'_, str> {
    let is_credential = |pair: &str| {
        let name = pair.split('=').next().unwrap_or_default();
        let name = percent_encoding::percent_decode_str(name).decode_utf8_lossy();
        CREDENTIALS
            .iter()
            .any(|known| name.eq_ignore_ascii_case(known))
            || CREDENTIAL_ENDS.iter().any(|end| {
                let start = name.len().checked_sub(end.len());
                let found = start.and_then(|start| name.get(start..));
                found.is_some_and(|found| found.eq_ignore_ascii_case(end))
            })
    };
    if !query.split('&').any(is_credential) {
        return Cow::Borrowed(query);
    }
    let pairs = query.split('&').map(|pair| match pair.split_once('=') {
        Some((name, _)) if is_credential(pair) => Cow::Owned(format!("{name}={HIDDEN}")),
        _ => Cow::Borrowed(pair),
    });
    Cow::Owned(pairs.collect::<Vec<_>>().join("&"))
}

/// Returns the time of a line as RFC 3339 writes it. A clock before 1970 counts as 1970.
pub(super) fn rfc3339(time: SystemTime) -> String {
    humantime::format_rfc3339_micros(time.max(UNIX_EPOCH)).to_string()
}

/// Returns a time as Apache and nginx write it, in UTC: `30/Nov/2026:18:45:47 +0000`.
pub(super) fn time_local(time: SystemTime) -> String {
    const MONTHS: [&str; 12] = [
        "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
    ];
    // 2026-11-30T18:45:47Z
    let written = humantime::format_rfc3339_seconds(time.max(UNIX_EPOCH)).to_string();
    let part = |range| written.get(range).unwrap_or_default();
    let month = part(5..7).parse::<usize>().unwrap_or(1);
    let month = MONTHS.get(month.wrapping_sub(1)).unwrap_or(&MONTHS[0]);
    format!(
        "{}/{month}/{}:{} +0000",
        part(8..10),
        part(0..4),
        part(11..19)
    )
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn credentials_of_a_query_are_hidden() {
        for (query, expected) in [
            ("a=1&b=2", "a=1&b=2"),
            ("", ""),
            ("token", "token"),
            ("access_token=x.y&a=1", "access_token=(hidden)&a=1"),
            ("a=1&Ticket=abc=", "a=1&Ticket=(hidden)"),
            ("to%6ben=abc", "to%6ben=(hidden)"),
            ("tokens=1&my_tokens=2", "tokens=1&my_tokens=2"),
            ("id_token=1&a=2", "id_token=(hidden)&a=2"),
            ("Client_Secret=1", "Client_Secret=(hidden)"),
            ("X-Amz-Signature=1", "X-Amz-Signature=(hidden)"),
        ] {
            assert_eq!(without_credentials(query), expected, "{query}");
        }
    }

    #[test]
    fn credentials_of_header_fields_are_hidden() {
        for (url, expected) in [
            (&b"https://a/b"[..], None),
            (
                b"https://a/b?x=1&token=2",
                Some("https://a/b?x=1&token=(hidden)"),
            ),
            (
                b"/b?x=1#access_token=2",
                Some("/b?x=1#access_token=(hidden)"),
            ),
            (b"/\xff?code=1?", Some("/\u{fffd}?code=(hidden)?")),
        ] {
            assert_eq!(url_without_credentials(url).as_deref(), expected);
        }
        for name in ["authorization", "cookie", "set-cookie", "x-api-key"] {
            let name = HeaderName::from_static(name);
            let field = AccessField::RequestHeader(name.clone());
            let Value::Text(text) = header_value(&field, &name, b"secret") else {
                panic!("expected a text");
            };
            assert_eq!(text, HIDDEN);
        }
        for (offered, expected) in [
            ("chat.v1,chat.v2", "chat.v1, chat.v2"),
            ("chat.v1, bearer, ey.J, b", "chat.v1, bearer, (hidden), b"),
            ("ticket,secret", "ticket, (hidden)"),
            ("bearer, ticket, a", "bearer, (hidden), (hidden)"),
            ("ticket", "ticket"),
        ] {
            let found = subprotocols_without_credentials(offered.as_bytes());
            assert_eq!(found, expected);
        }
    }

    #[test]
    fn time_is_written_as_in_a_combined_log() {
        let time = UNIX_EPOCH + Duration::from_secs(971_186_136);
        assert_eq!(time_local(time), "10/Oct/2000:13:55:36 +0000");
        assert_eq!(time_local(UNIX_EPOCH), "01/Jan/1970:00:00:00 +0000");
    }
}

//! Access field: a fact that a line of the access log may have, by its name in the file.

use http::HeaderName;

/// Declares the fields without an argument: `AccessField`, `AccessField::NAMES` and `named`.
macro_rules! fields {
    ($($(#[$doc:meta])* $field:ident: $name:literal,)*) => {
        /// A fact that a line of the access log may have.
        #[derive(Clone, Debug, Eq, PartialEq)]
        pub enum AccessField {
            $($(#[$doc])* $field,)*
            /// A header field of the request: its first value.
            RequestHeader(HeaderName),
            /// A header field of the response: its first value.
            ResponseHeader(HeaderName),
        }

        impl AccessField {
            /// The names of all fields but header fields.
            pub const NAMES: &'static [&'static str] = &[$($name),*];

            fn named(name: &str) -> Option<Self> {
                match name {
                    $($name => Some(Self::$field),)*
                    _ => None,
                }
            }

            /// Returns the name, without that of a header field.
            pub(super) fn name(&self) -> &'static str {
                match self {
                    $(Self::$field => $name,)*
                    Self::RequestHeader(_) => REQUEST_HEADER,
                    Self::ResponseHeader(_) => RESPONSE_HEADER,
                }
            }
        }
    };
}

fields! {
    /// The time of the line, as RFC 3339 writes it.
    Time: "time",
    /// The time of the line, as Apache and nginx write it.
    TimeLocal: "time_local",
    /// `http`, `handshake` or `websocket`.
    Kind: "kind",
    /// The identifier of the request.
    Id: "id",
    /// The identifier of its trace.
    TraceId: "trace_id",
    /// The client's address and port.
    Client: "client",
    /// The client's address.
    ClientIp: "client_ip",
    /// The client's port.
    ClientPort: "client_port",
    /// The method.
    Method: "method",
    /// `http`, `https`, `ws` or `wss`.
    Scheme: "scheme",
    /// The requested host.
    Host: "host",
    /// The path as received.
    Path: "path",
    /// The query as received, without the values of credentials.
    Query: "query",
    /// The protocol and its version.
    Protocol: "protocol",
    /// Method, target and protocol: the request line.
    Request: "request",
    /// The route's name or pattern.
    Route: "route",
    /// The user's name.
    User: "user",
    /// The status of the response.
    Status: "status",
    /// The bytes of the response's body; of a socket, those sent.
    Bytes: "bytes",
    /// The seconds until the head of the response, or the socket's life.
    Seconds: "seconds",
    /// The close code.
    Code: "code",
    /// The close code of the client of a tunnel.
    ClientCode: "client_code",
    /// The close code of the upstream of a tunnel.
    UpstreamCode: "upstream_code",
    /// The cause of a socket's end.
    Cause: "cause",
    /// The reason in the first close frame.
    Reason: "reason",
    /// The messages that a socket received.
    Messages: "messages",
    /// The bytes that a socket received.
    BytesIn: "bytes_in",
    /// The bytes that a socket sent.
    BytesOut: "bytes_out",
    /// The messages that a socket's `slow_client` dropped.
    Dropped: "dropped",
}

const REQUEST_HEADER: &str = "header";
const RESPONSE_HEADER: &str = "response_header";

/// The header fields whose values are credentials.
const HIDDEN: [&str; 12] = [
    "authorization",
    "proxy-authorization",
    "cookie",
    "set-cookie",
    "x-api-key",
    "api-key",
    "x-auth-token",
    "x-access-token",
    "x-csrf-token",
    "x-csrftoken",
    "x-xsrf-token",
    "x-amz-security-token",
];

/// The fields of a request's or a handshake's line, unless others are chosen.
pub(super) const OF_RESPONSES: &[AccessField] = &[
    AccessField::Id,
    AccessField::TraceId,
    AccessField::Client,
    AccessField::Method,
    AccessField::Path,
    AccessField::Route,
    AccessField::User,
    AccessField::Status,
    AccessField::Bytes,
    AccessField::Seconds,
];

/// The fields of a socket's line, unless others are chosen.
pub(super) const OF_SOCKETS: &[AccessField] = &[
    AccessField::Id,
    AccessField::TraceId,
    AccessField::Client,
    AccessField::Path,
    AccessField::Route,
    AccessField::User,
    AccessField::Code,
    AccessField::ClientCode,
    AccessField::UpstreamCode,
    AccessField::Cause,
    AccessField::Reason,
    AccessField::Seconds,
    AccessField::Messages,
    AccessField::BytesIn,
    AccessField::BytesOut,
    AccessField::Dropped,
];

impl AccessField {
    /// Parses a name, such as `status`, `header:user-agent` or `response_header:content-type`.
    pub fn parse(name: &str) -> Result<Self, String> {
        if let Some(field) = Self::named(name) {
            return Ok(field);
        }
        let header = |name: &str| HeaderName::from_bytes(name.as_bytes()).ok();
        let parsed = match name.split_once(':') {
            Some((REQUEST_HEADER, name)) => header(name).map(Self::RequestHeader),
            Some((RESPONSE_HEADER, name)) => header(name).map(Self::ResponseHeader),
            _ => None,
        };
        parsed.ok_or_else(|| {
            format!(
                "expected one of {}, {REQUEST_HEADER}:NAME or {RESPONSE_HEADER}:NAME, found {name:?}",
                Self::NAMES.join(", ")
            )
        })
    }

    /// Returns the name of a header field whose values are credentials: lines do not have them.
    pub(crate) fn hidden(&self) -> Option<&HeaderName> {
        match self {
            Self::RequestHeader(name) | Self::ResponseHeader(name) => {
                HIDDEN.contains(&name.as_str()).then_some(name)
            }
            _ => None,
        }
    }

    /// Returns the key of the field in text and JSON, such as `status` or `header.user-agent`.
    pub(super) fn key(&self) -> String {
        match self {
            Self::RequestHeader(name) | Self::ResponseHeader(name) => {
                format!("{}.{name}", self.name())
            }
            _ => self.name().to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_parsed_and_others_are_refused_with_a_list() {
        for name in AccessField::NAMES {
            assert_eq!(AccessField::parse(name).unwrap().key(), *name);
        }
        for (written, key) in [
            ("header:User-Agent", "header.user-agent"),
            ("response_header:x-cache", "response_header.x-cache"),
        ] {
            assert_eq!(AccessField::parse(written).unwrap().key(), key);
        }
        for wrong in [
            "",
            "Status",
            "header:",
            "header:a b",
            "headers:a",
            "cookie:x",
        ] {
            let error = AccessField::parse(wrong).unwrap_err();
            assert!(error.contains("status"), "{error}");
            assert!(error.ends_with(&format!("found {wrong:?}")), "{error}");
        }
    }
}

//! HeaderTemplate: the value of a header field, with placeholders for facts of the request.

use std::fmt::Write as _;

use http::HeaderValue;

use crate::config::OptionError;
use crate::routing::ParamNames;
use crate::scope::Scope;

/// The value of a header field, such as `user-{user.id}`.
///
/// `{name}` is a parameter of the route; the other placeholders are in [`PLACEHOLDERS`]. Braces
/// around anything that is not a name are literal, so that a value can be JSON.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct HeaderTemplate(Box<[Part]>);

#[derive(Clone, Debug, Eq, PartialEq)]
enum Part {
    Literal(Box<str>),
    Param(Box<str>),
    Fact(Fact),
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Fact {
    UserId,
    UserName,
    ClientHost,
    ClientPort,
    RequestId,
    Scheme,
    Host,
    ClientCertSubject,
    ClientCertIssuer,
    ClientCertSerial,
    ClientCertFingerprint,
}

/// The placeholders that are not parameters of the route.
const PLACEHOLDERS: [(&str, Fact); 11] = [
    ("user.id", Fact::UserId),
    ("user.name", Fact::UserName),
    ("client.host", Fact::ClientHost),
    ("client.port", Fact::ClientPort),
    ("request.id", Fact::RequestId),
    ("request.scheme", Fact::Scheme),
    ("request.host", Fact::Host),
    ("client_cert.subject", Fact::ClientCertSubject),
    ("client_cert.issuer", Fact::ClientCertIssuer),
    ("client_cert.serial", Fact::ClientCertSerial),
    ("client_cert.fingerprint", Fact::ClientCertFingerprint),
];

impl HeaderTemplate {
    /// Parses a value. Every text is one.
    pub(super) fn parse(text: &str) -> Self {
        let mut parts = Vec::new();
        let mut literal = String::new();
        let mut rest = text;
        while let Some(open) = rest.find('{') {
            let (before, from) = rest.split_at(open);
            literal.push_str(before);
            let name = from[1..].split_once('}').map(|(name, _)| name);
            let Some(name) = name.filter(|name| is_name(name)) else {
                literal.push('{');
                rest = &from[1..];
                continue;
            };
            if !literal.is_empty() {
                parts.push(Part::Literal(std::mem::take(&mut literal).into()));
            }
            let known = PLACEHOLDERS.iter().find(|(known, _)| *known == name);
            parts.push(match known {
                Some((_, fact)) => Part::Fact(*fact),
                None => Part::Param(name.into()),
            });
            rest = &from[name.len() + 2..];
        }
        literal.push_str(rest);
        if !literal.is_empty() {
            parts.push(Part::Literal(literal.into()));
        }
        Self(parts.into())
    }

    /// Returns an error of the option `key` for each placeholder that the route cannot fill.
    pub(super) fn check(&self, key: &str, params: &ParamNames) -> Vec<OptionError> {
        let check = |part: &Part| match part {
            Part::Param(name) if name.contains('.') => {
                let known: Vec<String> = PLACEHOLDERS
                    .iter()
                    .map(|(known, _)| format!("{{{known}}}"))
                    .collect();
                let message = format!(
                    "expected {} or a parameter of the route, found {{{name}}}",
                    known.join(", ")
                );
                Some(OptionError::new(key, message))
            }
            Part::Param(name) => params.missing(name).map(|missing| missing.at(key)),
            Part::Fact(Fact::UserId | Fact::UserName) if !params.gives_user() => {
                let message =
                    "a field of the user needs the middleware \"auth\", which is not in the list";
                Some(OptionError::new(key, message).with_hint("add \"auth\""))
            }
            Part::Literal(_) | Part::Fact(_) => None,
        };
        self.0.iter().filter_map(check).collect()
    }

    /// Returns the value for a scope; `None` if a placeholder has no value, such as the user of an
    /// anonymous visitor. Bytes that no field can contain are percent-encoded.
    pub(super) fn fill(&self, scope: &Scope) -> Option<HeaderValue> {
        if let [Part::Literal(text)] = &*self.0 {
            return HeaderValue::from_str(text).ok();
        }
        let mut value = String::new();
        for part in &*self.0 {
            match part {
                Part::Literal(text) => value.push_str(text),
                Part::Param(name) => push(&mut value, scope.url_route.params.get(name)?),
                Part::Fact(fact) => fact.push(scope, &mut value)?,
            }
        }
        HeaderValue::from_bytes(value.as_bytes()).ok()
    }
}

impl Fact {
    fn push(self, scope: &Scope, value: &mut String) -> Option<()> {
        // Writing to a String cannot fail.
        match self {
            Self::UserId => push(value, &scope.user.as_ref()?.id),
            Self::UserName => push(value, &scope.user.as_ref()?.name),
            Self::ClientHost => write!(value, "{}", scope.client?.ip()).ok()?,
            Self::ClientPort => write!(value, "{}", scope.client?.port()).ok()?,
            Self::RequestId => write!(value, "{}", scope.request_id).ok()?,
            Self::Scheme => value.push_str(scope.scheme()),
            Self::Host => value.push_str(scope.host.as_ref()?.as_str()),
            Self::ClientCertSubject => push(value, &scope.client_certificate()?.subject),
            Self::ClientCertIssuer => push(value, &scope.client_certificate()?.issuer),
            Self::ClientCertSerial => push(value, &scope.client_certificate()?.serial),
            Self::ClientCertFingerprint => push(value, &scope.client_certificate()?.fingerprint),
        }
        Some(())
    }
}

/// Appends a text of the client's or the user's choice: a line break in it would begin another
/// field.
fn push(value: &mut String, text: &str) {
    for found in text.chars() {
        if found.is_ascii_control() {
            let _ = write!(value, "%{:02X}", u32::from(found));
        } else {
            value.push(found);
        }
    }
}

fn is_name(name: &str) -> bool {
    let is_part = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.');
    name.starts_with(|first: char| first.is_ascii_alphanumeric() || first == '_')
        && name.bytes().all(is_part)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use http::Method;

    use super::*;
    use crate::auth::User;
    use crate::host::HostHeader;
    use crate::routing::RoutePattern;
    use crate::scope::ScopeType;

    fn scope() -> Scope {
        let mut scope = Scope::new(ScopeType::Http, Method::GET, "/".parse().unwrap());
        scope.client = Some(
            "192.0.2.1:4000"
                .parse::<std::net::SocketAddr>()
                .unwrap()
                .into(),
        );
        scope.host = HostHeader::parse("example.com:8000").ok();
        scope.url_route.params = [("room", "a\r\nb: c")].into_iter().collect();
        scope.user = Some(Arc::new(User {
            id: "7".into(),
            name: "ännä".into(),
            is_staff: false,
        }));
        scope
    }

    #[test]
    fn placeholders_are_filled_and_other_braces_stay() {
        let check = |text: &str, expected: &str| {
            let value = HeaderTemplate::parse(text).fill(&scope()).unwrap();
            assert_eq!(value.as_bytes(), expected.as_bytes(), "{text}");
        };
        check("", "");
        check("plain", "plain");
        check("{user.id}", "7");
        check("id={user.id}; name={user.name}", "id=7; name=ännä");
        check("{client.host} {client.port}", "192.0.2.1 4000");
        check(
            "{request.scheme}://{request.host}/",
            "http://example.com:8000/",
        );
        check("{room}", "a%0D%0Ab: c");
        check(r#"{"group": "a"}"#, r#"{"group": "a"}"#);
        check("{", "{");
        check("{}{user.id", "{}{user.id");
        check("{{user.id}}", "{7}");
    }

    #[test]
    fn a_field_without_its_value_is_left_out() {
        let mut scope = scope();
        scope.user = None;
        scope.client = None;
        scope.host = None;
        for text in [
            "{user.id}",
            "a-{user.name}",
            "{client.host}",
            "{request.host}",
            "{x}",
        ] {
            assert_eq!(HeaderTemplate::parse(text).fill(&scope), None, "{text}");
        }
    }

    #[test]
    fn an_unknown_placeholder_is_an_error_of_its_option() {
        let pattern = RoutePattern::path("/{room}/").unwrap();
        let params = ParamNames::new(&pattern, []);
        let check = |text: &str, params: &ParamNames, expected: &[&str]| {
            let found = HeaderTemplate::parse(text).check("request_headers.x", params);
            let found: Vec<String> = found.iter().map(ToString::to_string).collect();
            assert_eq!(found, expected, "{text}");
        };
        check("{room} {user.id} {request.scheme}", &params, &[]);
        check(
            "{rom}",
            &params,
            &["request_headers.x: the route has no parameter {rom} (did you mean {room}?)"],
        );
        check(
            "{user.email}",
            &params,
            &[
                "request_headers.x: expected {user.id}, {user.name}, {client.host}, {client.port}, {request.id}, {request.scheme}, {request.host}, {client_cert.subject}, {client_cert.issuer}, {client_cert.serial}, {client_cert.fingerprint} or a parameter of the route, found {user.email}",
            ],
        );
        check(
            "{user.id}",
            &params.clone().with_user(false),
            &[
                "request_headers.x: a field of the user needs the middleware \"auth\", which is not in the list (add \"auth\")",
            ],
        );
    }
}

//! HeaderRules: the header fields that an option sets or removes.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use http::{HeaderMap, HeaderName};
use serde::de::{self, Deserialize, Deserializer, Visitor};

use super::header_template::HeaderTemplate;
use crate::config::{OptionError, OptionErrors};
use crate::http::framing;
use crate::routing::ParamNames;
use crate::scope::Scope;

/// The header fields that an option sets or removes, by name (cheap to clone).
#[derive(Clone, Debug, Default)]
pub(crate) struct HeaderRules(Option<Arc<[Rule]>>);

type Rule = (HeaderName, HeaderTemplate);

/// The rules as written: a value, or `false` or `""` to remove the field.
pub(crate) type WrittenHeaderRules = BTreeMap<String, WrittenValue>;

/// The value of one field as written; empty to remove the field.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(crate) struct WrittenValue(String);

impl<'de> Deserialize<'de> for WrittenValue {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Written;
        impl Visitor<'_> for Written {
            type Value = WrittenValue;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string, or false to remove the field")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<WrittenValue, E> {
                Ok(WrittenValue(text.to_owned()))
            }

            fn visit_bool<E: de::Error>(self, is_set: bool) -> Result<WrittenValue, E> {
                match is_set {
                    false => Ok(WrittenValue(String::new())),
                    true => Err(E::invalid_type(de::Unexpected::Bool(true), &self)),
                }
            }
        }
        deserializer.deserialize_any(Written)
    }
}

impl HeaderRules {
    /// Parses the rules of the option `key`.
    pub(crate) fn parse(
        key: &str,
        written: &WrittenHeaderRules,
        errors: &mut OptionErrors,
    ) -> Self {
        let mut rules = Vec::with_capacity(written.len());
        for (name, WrittenValue(value)) in written {
            let at = format!("{key}.{name}");
            let Ok(parsed) = HeaderName::from_bytes(name.as_bytes()) else {
                errors.error(
                    at,
                    format!("expected the name of a header field, found {name:?}"),
                );
                continue;
            };
            if parsed == http::header::HOST {
                let error = OptionError::new(at, "the option \"host\" sets the field Host");
                errors.push(error.with_hint("write host = \"upstream\" or host = \"example.com\""));
                continue;
            }
            if let Some(sentence) = framing::refusal(name) {
                errors.error(at, sentence);
                continue;
            }
            if value.chars().any(char::is_control) {
                let message = "expected a header value without line breaks and control characters";
                errors.error(at, message);
                continue;
            }
            rules.push((parsed, HeaderTemplate::parse(value)));
        }
        Self((!rules.is_empty()).then(|| rules.into()))
    }

    fn rules(&self) -> &[Rule] {
        self.0.as_deref().unwrap_or_default()
    }

    /// Returns an error for each placeholder that the route cannot fill.
    pub(crate) fn check(&self, key: &str, params: &ParamNames) -> Vec<OptionError> {
        let check = |(name, value): &Rule| value.check(&format!("{key}.{name}"), params);
        self.rules().iter().flat_map(check).collect()
    }

    /// Returns whether a field of this name is set or removed.
    pub(super) fn names(&self, name: &HeaderName) -> bool {
        self.rules().iter().any(|(known, _)| known == name)
    }

    /// Returns whether a field that is set or removed becomes the same variable as one of this
    /// name, see [`variable`].
    pub(super) fn names_variable(&self, name: &str) -> bool {
        let mut known = self.rules().iter().map(|(known, _)| known);
        known.any(|known| is_same_variable(known.as_str(), name))
    }

    /// Returns whether a rule's name has a character that [`variable`] replaces.
    pub(super) fn has_odd_name(&self) -> bool {
        self.rules().iter().any(|(name, _)| is_odd(name))
    }

    /// Sets and removes the fields. One whose placeholder has no value is removed, so that a
    /// client's own field never takes its place.
    pub(super) fn apply(&self, scope: &Scope, headers: &mut HeaderMap) {
        for (name, value) in self.rules() {
            match value.fill(scope).filter(|value| !value.is_empty()) {
                Some(value) => drop(headers.insert(name, value)),
                None => drop(headers.remove(name)),
            }
        }
    }
}

/// Returns a name as CGI and WSGI tell names apart: they replace every character that is not a
/// letter or a digit by `_`. It is written with `-`.
pub(super) fn variable(name: &str) -> String {
    name.replace(|found: char| !found.is_ascii_alphanumeric(), "-")
}

/// Returns whether a name has a character, other than `-`, that [`variable`] replaces.
pub(super) fn is_odd(name: &HeaderName) -> bool {
    let mut bytes = name.as_str().bytes();
    !bytes.all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

fn is_same_variable(one: &str, other: &str) -> bool {
    let plain = |byte: u8| match byte.is_ascii_alphanumeric() {
        true => byte.to_ascii_lowercase(),
        false => b'-',
    };
    one.len() == other.len() && one.bytes().map(plain).eq(other.bytes().map(plain))
}

#[cfg(test)]
mod tests {
    use http::{HeaderValue, Method};

    use super::*;
    use crate::config::Options;
    use crate::scope::ScopeType;

    fn read(toml: &str) -> Result<WrittenHeaderRules, String> {
        let options = Options::from_toml(toml).unwrap();
        options.read().map_err(|problems| problems.to_string())
    }

    #[test]
    fn fields_are_set_and_removed() {
        let written = read("x-a = 'b'\nX-User = '{user.id}'\nvia = ''\nserver = false").unwrap();
        let mut errors = OptionErrors::default();
        let rules = HeaderRules::parse("request_headers", &written, &mut errors);
        assert!(errors.is_empty(), "{errors}");
        let mut headers = HeaderMap::new();
        for name in ["x-a", "x-user", "via", "server", "kept"] {
            headers.append(name, HeaderValue::from_static("old"));
            headers.append(name, HeaderValue::from_static("older"));
        }
        let scope = Scope::new(ScopeType::Http, Method::GET, "/".parse().unwrap());
        rules.apply(&scope, &mut headers);
        let mut left: Vec<(&str, &str)> = headers
            .iter()
            .map(|(name, value)| (name.as_str(), value.to_str().unwrap()))
            .collect();
        left.sort_unstable();
        assert_eq!(left, [("kept", "old"), ("kept", "older"), ("x-a", "b")]);
        let name = HeaderName::from_static;
        assert!(rules.names(&name("x-user")) && !rules.names(&name("x_user")));
        assert!(rules.names_variable("x_user") && rules.names_variable("x.user"));
        assert!(!rules.names_variable("kept") && !rules.names_variable("x-users"));
        assert!(!rules.has_odd_name());
    }

    #[test]
    fn fields_that_the_server_sets_are_refused() {
        let check = |toml: &str, expected: &str| {
            let mut errors = OptionErrors::default();
            HeaderRules::parse("response_headers", &read(toml).unwrap(), &mut errors);
            assert_eq!(errors.to_string(), expected, "{toml}");
        };
        check(
            "'a b' = 'x'",
            "response_headers.a b: expected the name of a header field, found \"a b\"",
        );
        check(
            "content-length = '1'",
            "response_headers.content-length: the server sets \"content-length\" itself",
        );
        check(
            "host = 'a'",
            "response_headers.host: the option \"host\" sets the field Host (write host = \"upstream\" or host = \"example.com\")",
        );
        check(
            "x = \"a\\nb\"",
            "response_headers.x: expected a header value without line breaks and control characters",
        );
        assert_eq!(
            read("x = true").unwrap_err(),
            "options:1:5: x: expected a string, or false to remove the field, found boolean true"
        );
    }
}

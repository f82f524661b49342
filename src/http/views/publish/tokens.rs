//! Tokens: the bearer tokens of the server API and their permissions.

use std::sync::Arc;

use http::{HeaderValue, StatusCode, header};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::response::ApiError;
use crate::config::{OptionErrors, Secret};
use crate::scope::Scope;

/// The minimum length of a token: a shorter one could be guessed.
const CHARACTERS_MIN: usize = 16;

/// One of a route's tokens.
#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Token {
    /// The name of the token's owner, for the log.
    pub(super) name: String,
    /// The token itself.
    pub(super) token: Secret,
    /// The groups that the token allows. `*` matches any characters.
    groups: Vec<String>,
    /// Whether the token may list connections, send to them and close them.
    #[serde(default)]
    pub(super) connections: bool,
}

impl Token {
    /// Returns whether the token allows a group.
    pub(super) fn covers(&self, group: &str) -> bool {
        self.groups.iter().any(|pattern| matches(pattern, group))
    }

    pub(super) fn check_group(&self, group: &str) -> Result<(), ApiError> {
        if self.covers(group) {
            return Ok(());
        }
        let message = format!(
            "token {:?} is not allowed to use group {group:?}",
            self.name
        );
        Err(ApiError::new(StatusCode::FORBIDDEN, "forbidden", message))
    }

    pub(super) fn check_connections(&self) -> Result<(), ApiError> {
        if self.connections {
            return Ok(());
        }
        let message = format!("token {:?} is not allowed to use connections", self.name);
        Err(ApiError::new(StatusCode::FORBIDDEN, "forbidden", message))
    }
}

/// All tokens of a route, with the hashes by which they are found.
#[derive(Debug)]
pub(super) struct Tokens(Vec<([u8; 32], Arc<Token>)>);

impl Tokens {
    /// Checks the tokens of the option `key`: there is at least one, and each is unique, long
    /// enough, and allows something.
    pub(super) fn new(key: &str, tokens: Vec<Token>) -> Result<Self, OptionErrors> {
        let mut errors = OptionErrors::default();
        if tokens.is_empty() {
            errors.error(key, "expected at least one token, found none");
        }
        for at in 0..tokens.len() {
            check(&format!("{key}[{at}]"), &tokens, at, &mut errors);
        }
        let hashed = |token: Token| (hash(token.token.0.as_bytes()), Arc::new(token));
        errors.into_result(Self(tokens.into_iter().map(hashed).collect()))
    }

    /// Returns whether a token may list connections.
    pub(super) fn may_use_connections(&self) -> bool {
        self.0.iter().any(|(_, token)| token.connections)
    }

    /// Returns the token of a request (RFC 6750 §2.1). The time it takes does not reveal how close
    /// a guess was.
    pub(super) fn check(&self, scope: &Scope) -> Result<&Arc<Token>, ApiError> {
        let refuse = |message: &'static str| {
            Err(
                ApiError::new(StatusCode::UNAUTHORIZED, "unauthorized", message).with_header(
                    header::WWW_AUTHENTICATE,
                    HeaderValue::from_static("Bearer realm=\"oneport\""),
                ),
            )
        };
        let given = scope.headers.get(&header::AUTHORIZATION);
        let Some((scheme, given)) = given.and_then(|value| value.split_at_checked(7)) else {
            return refuse("missing header \"Authorization: Bearer TOKEN\"");
        };
        if !scheme.eq_ignore_ascii_case(b"bearer ") {
            return refuse("expected the scheme Bearer in the Authorization header");
        }
        let given = hash(given.trim_ascii());
        let mut found = None;
        for (hash, token) in &self.0 {
            if bool::from(hash.ct_eq(&given)) {
                found = Some(token);
            }
        }
        match found {
            Some(token) => Ok(token),
            None => refuse("invalid bearer token"),
        }
    }
}

fn hash(token: &[u8]) -> [u8; 32] {
    Sha256::digest(token).into()
}

/// Checks one token on its own and against those before it.
fn check(key: &str, tokens: &[Token], at: usize, errors: &mut OptionErrors) {
    let (earlier, token) = (&tokens[..at], &tokens[at]);
    let characters = token.token.0.chars().count();
    if characters < CHARACTERS_MIN {
        errors.error(
            format!("{key}.token"),
            format!("expected at least {CHARACTERS_MIN} characters, found {characters}"),
        );
    }
    let is_visible = |byte: u8| (0x21..0x7f).contains(&byte);
    if !token.token.0.bytes().all(is_visible) {
        errors.error(
            format!("{key}.token"),
            "expected visible ASCII characters, found others",
        );
    }
    if token.groups.is_empty() && !token.connections {
        errors.error(
            format!("{key}.groups"),
            "no groups and no connections: the token allows nothing",
        );
    }
    if let Some(same) = earlier.iter().position(|other| other.name == token.name) {
        errors.error(
            format!("{key}.name"),
            format!("tokens[{same}] has the same name"),
        );
    }
    if let Some(same) = earlier.iter().position(|other| other.token == token.token) {
        errors.error(
            format!("{key}.token"),
            format!("the same token as tokens[{same}]"),
        );
    }
}

/// Returns whether a name matches a pattern with `*`.
pub(crate) fn matches(pattern: &str, name: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = name.strip_prefix(first) else {
        return false;
    };
    let mut parts = parts.peekable();
    if parts.peek().is_none() {
        return rest.is_empty();
    }
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            return rest.ends_with(part);
        }
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn star_stands_for_any_characters() {
        for (pattern, name, is_match) in [
            ("*", "", true),
            ("*", "chat_lobby", true),
            ("chat_*", "chat_lobby", true),
            ("chat_*", "chat_", true),
            ("chat_*", "chat", false),
            ("chat_lobby", "chat_lobby", true),
            ("chat_lobby", "chat_lobby2", false),
            ("*_lobby", "chat_lobby", true),
            ("*_lobby", "chat_lobby_", false),
            ("a*b*c", "a-b-b-c", true),
            ("a*b*c", "a-c", false),
            ("a*a", "a", false),
            ("a**b", "ab", true),
        ] {
            assert_eq!(matches(pattern, name), is_match, "{pattern} {name}");
        }
    }
}

//! Secrets: which values no message may show.

/// A text that is never shown.
#[derive(Clone, Default, Eq, PartialEq, serde::Deserialize)]
#[serde(transparent)]
pub struct Secret(pub String);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(HIDDEN)
    }
}

/// What stands in a message where a secret was.
const HIDDEN: &str = "(hidden)";

/// A shorter secret is hidden only where it stands in quotes: it could be part of any word.
const BARE_LENGTH_MIN: usize = 4;

const SECRET_WORDS: [&str; 6] = ["secret", "token", "password", "passwd", "credential", "key"];

/// Whether a key or a variable of that name holds something secret.
pub(super) fn is_secret_name(name: &str) -> bool {
    name.to_lowercase().split(['_', '-', '.']).any(|word| {
        SECRET_WORDS
            .iter()
            .any(|secret| word == *secret || word.strip_suffix('s') == Some(*secret))
    })
}

/// The password in a URL such as `redis://:password@host`.
pub(super) fn url_password(text: &str) -> Option<&str> {
    let (_, after) = text.split_once("://")?;
    let authority = after.split(['/', '?', '#']).next()?;
    let (user, _) = authority.rsplit_once('@')?;
    let (_, password) = user.split_once(':')?;
    (!password.is_empty()).then_some(password)
}

/// The message without the secret.
pub(super) fn hide(message: &str, secret: &str) -> String {
    if secret.is_empty() {
        return message.to_owned();
    }
    let message = message.replace(&format!("{secret:?}"), HIDDEN);
    if secret.len() < BARE_LENGTH_MIN {
        message
    } else {
        message.replace(secret, HIDDEN)
    }
}

/// A line without what follows a key whose name says that it is secret: for a file that could not be parsed, where
/// nobody knows where the value ends.
pub(super) fn hide_line(line: &str) -> String {
    for (at, _) in line.match_indices('=') {
        let before = line[..at].trim_end().trim_end_matches(['"', '\'']);
        let key = before
            .rsplit([' ', '\t', '{', ',', '"', '\''])
            .next()
            .unwrap_or_default();
        if is_secret_name(key) && !line[at + 1..].trim().is_empty() {
            return format!("{}= {HIDDEN}", &line[..at]);
        }
    }
    line.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_secrets() {
        for name in [
            "secret_key",
            "ONEPORT_SECRET_KEY",
            "api-token",
            "tokens",
            "DB_PASSWORD",
            "key",
        ] {
            assert!(is_secret_name(name), "{name}");
        }
        for name in ["keyboard", "keep_alive", "monkey", "path", "tokenizer"] {
            assert!(!is_secret_name(name), "{name}");
        }
    }

    #[test]
    fn urls_show_no_password() {
        assert_eq!(
            url_password("redis://:hunter2@host:6379/0"),
            Some("hunter2")
        );
        assert_eq!(url_password("postgres://user:p@ss@host/db"), Some("p@ss"));
        assert_eq!(url_password("http://host/a:b@c"), None);
        assert_eq!(url_password("plain"), None);
    }

    #[test]
    fn messages_and_lines_show_no_secret() {
        assert_eq!(
            hide("found \"hunter2\", hunter2", "hunter2"),
            "found (hidden), (hidden)"
        );
        assert_eq!(hide("found \"a\" at a", "a"), "found (hidden) at a");
        assert_eq!(hide_line("secret_key = \"abc"), "secret_key = (hidden)");
        assert_eq!(
            hide_line("x = { n = 1, api_token= \"a=b"),
            "x = { n = 1, api_token= (hidden)"
        );
        assert_eq!(hide_line("path = \"abc"), "path = \"abc");
    }
}

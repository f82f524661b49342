//! Secrets: values that no message may show.

use crate::net::url::hide_url;
pub(in crate::config) use crate::net::url::{HIDDEN, is_secret_name};

/// A text that no message and no `Debug` shows.
#[derive(Clone, Default, Eq, PartialEq, serde::Deserialize)]
#[serde(transparent)]
pub struct Secret(pub String);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(HIDDEN)
    }
}

/// A shorter secret is hidden only inside quotes: it could be part of any word.
const BARE_LENGTH_MIN: usize = 4;

/// Hides the secrets of the URLs in a sentence: passwords, a whole `TOKEN@` of an HTTP URL, query
/// values such as `?token=`, and fragments.
///
/// ```
/// use oneport::config::hide_url_secrets;
/// assert_eq!(hide_url_secrets("at redis://:hunter2@db/0?pass=x"), "at redis://:(hidden)@db/0?pass=(hidden)");
/// ```
pub fn hide_url_secrets(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("://") {
        let is_scheme = |found: char| found.is_ascii_alphanumeric() || "+-.".contains(found);
        let start = rest[..at].trim_end_matches(is_scheme).len();
        let (before, url) = rest.split_at(start);
        shown.push_str(before);
        let (url, left) = url.split_at(url_end(before, url));
        shown.push_str(&hide_url(url));
        rest = left;
    }
    shown.push_str(rest);
    shown
}

/// Returns the end of the URL that a text begins with: the enclosing quote, or else the first space
/// or quote, but not before the last `@`.
fn url_end(before: &str, text: &str) -> usize {
    let quote = before.chars().next_back();
    if let Some(quote) = quote.filter(|quote| matches!(quote, '"' | '`'))
        && let Some(end) = closing(text, quote)
    {
        return end;
    }
    let word = text.find(char::is_whitespace).unwrap_or(text.len());
    let is_end = |found: char| matches!(found, '"' | '\'' | '`' | '<' | '>');
    let scheme = text.find("://").map_or(0, |at| at + 3);
    // Of a list of URLs in one text, the next one is handled by itself.
    let word = text[scheme..word].find("://").map_or(word, |next| {
        text[..scheme + next]
            .rfind(',')
            .map_or(word, |comma| comma + 1)
    });
    let user = text[..word].rfind('@').unwrap_or(0);
    let end = text[user..word].find(is_end).map_or(word, |at| user + at);
    text[..end].trim_end_matches([',', ';', ':', '.']).len()
}

/// Returns the end of a quoted text. A quote after a backslash belongs to it.
fn closing(text: &str, quote: char) -> Option<usize> {
    let mut is_escaped = false;
    text.char_indices().find_map(|(at, found)| {
        let is_end = found == quote && !is_escaped;
        is_escaped = found == '\\' && !is_escaped;
        is_end.then_some(at)
    })
}

/// Returns the message with the secret replaced.
pub(in crate::config) fn replace(message: &str, secret: &str, shown: &str) -> String {
    if secret.is_empty() {
        return message.to_owned();
    }
    let quoted = format!("{secret:?}");
    if shown == HIDDEN {
        let message = message.replace(&quoted, HIDDEN);
        if secret.len() < BARE_LENGTH_MIN {
            return message;
        }
        return message.replace(secret, HIDDEN);
    }
    message
        .replace(quoted.trim_matches('"'), shown)
        .replace(secret, shown)
}

/// Returns a line without the text after a key that names a secret. For a file that could not be
/// parsed, where the end of the value is unknown.
pub(in crate::config) fn hide_line(line: &str) -> String {
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
        for name in [
            "keyboard",
            "keep_alive",
            "monkey",
            "path",
            "tokenizer",
            "key_file",
            "token_in_query",
        ] {
            assert!(!is_secret_name(name), "{name}");
        }
    }

    #[test]
    fn texts_show_no_secret_of_a_url() {
        let check = |text: &str, expected: &str| assert_eq!(hide_url_secrets(text), expected);
        check("no URL at all: a@b?token=x", "no URL at all: a@b?token=x");
        check("redis://:ab@h:1/0", "redis://:(hidden)@h:1/0");
        check("\"redis://u:p@ss/w@h\" x", "\"redis://u:(hidden)@h\" x");
        check("postgres://user@h/db", "postgres://user@h/db");
        check(
            "postgres://h/db?user=u&password=p",
            "postgres://h/db?user=(hidden)&password=(hidden)",
        );
        check("http://token@h/a", "http://(hidden)@h/a");
        check("https://u:p@h/a@b", "https://u:(hidden)@b");
        check(
            "http://h/a?access_token=x&b=1 more",
            "http://h/a?access_token=(hidden)&b=(hidden) more",
        );
        check(
            "ws://h/?ticket=abc&Token=d",
            "ws://h/?ticket=(hidden)&Token=(hidden)",
        );
        check(
            "http://h/?api_key=x#f",
            "http://h/?api_key=(hidden)#(hidden)",
        );
        check("http://h/?token=", "http://h/?token=");
        check(
            "redis://:a@h,redis://:b@i",
            "redis://:(hidden)@h,redis://:(hidden)@i",
        );
        check("django+redis://:s@h/0", "django+redis://:(hidden)@h/0");
        check("http://h/a:b@c", "http://(hidden)@c");
        check(
            "found `mysql://u:a'b c@h/db`, x",
            "found `mysql://u:(hidden)@h/db`, x",
        );
        check(
            "at mysql://u:a'b<c@h/db: x",
            "at mysql://u:(hidden)@h/db: x",
        );
        check("at http://h/?a=b: x", "at http://h/?a=(hidden): x");
        check(
            "mail a@b about <http://h/a>, b@c",
            "mail a@b about <http://h/a>, b@c",
        );
    }

    #[test]
    fn messages_and_lines_show_no_secret() {
        let hide = |message: &str, secret: &str| replace(message, secret, HIDDEN);
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

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

/// Hides passwords and tokens in the URLs of a text: `user:PASSWORD@`, a whole `TOKEN@` of an HTTP URL, and query values
/// such as `?token=`.
///
/// ```
/// use oneport::config::hide_url_secrets;
/// assert_eq!(hide_url_secrets("at redis://:hunter2@db/0?pass=x"), "at redis://:(hidden)@db/0?pass=(hidden)");
/// ```
pub fn hide_url_secrets(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("://") {
        let (before, after) = rest.split_at(at + 3);
        shown.push_str(before);
        let is_end =
            |found: char| found.is_whitespace() || matches!(found, '"' | '\'' | '`' | '<' | '>');
        let end = after.find(is_end).unwrap_or(after.len());
        // A list of URLs in one text: the next one is looked at by itself.
        let end = after[..end].find("://").map_or(end, |next| {
            after[..next]
                .rfind([',', ' '])
                .map_or(end, |comma| comma + 1)
        });
        let (url, left) = after.split_at(end);
        let is_web = before.ends_with("http://") || before.ends_with("https://");
        push_url(&mut shown, url, is_web);
        rest = left;
    }
    shown.push_str(rest);
    shown
}

/// Appends what follows `://` in a URL, without its secrets.
fn push_url(shown: &mut String, url: &str, is_web: bool) {
    let (place, query) = match url.split_once('?') {
        Some((place, query)) => (place, Some(query)),
        None => (url, None),
    };
    // A password may hold a slash that nobody encoded, so the last "@" counts, and for the web that before the path.
    let authority_end = if is_web {
        place.find('/').unwrap_or(place.len())
    } else {
        place.len()
    };
    match place[..authority_end].rfind('@') {
        Some(at) => {
            match place[..at].split_once(':') {
                Some((user, password)) if !password.is_empty() => {
                    shown.push_str(user);
                    shown.push(':');
                    shown.push_str(HIDDEN);
                }
                Some(_) => shown.push_str(&place[..at]),
                None if is_web && at > 0 => shown.push_str(HIDDEN),
                None => shown.push_str(&place[..at]),
            }
            shown.push_str(&place[at..]);
        }
        None => shown.push_str(place),
    }
    let Some(query) = query else { return };
    for (index, pair) in query.split('&').enumerate() {
        shown.push(if index == 0 { '?' } else { '&' });
        match pair.split_once('=') {
            Some((name, value)) if is_secret_query(name) && !value.is_empty() => {
                shown.push_str(name);
                shown.push('=');
                shown.push_str(HIDDEN);
            }
            _ => shown.push_str(pair),
        }
    }
}

fn is_secret_query(name: &str) -> bool {
    let short = [
        "pass",
        "pwd",
        "auth",
        "sig",
        "signature",
        "jwt",
        "code",
        "ticket",
        "apikey",
    ];
    is_secret_name(name) || short.contains(&name.to_lowercase().as_str())
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
    fn texts_show_no_secret_of_a_url() {
        let check = |text: &str, expected: &str| assert_eq!(hide_url_secrets(text), expected);
        check("no URL at all: a@b?token=x", "no URL at all: a@b?token=x");
        check("redis://:ab@h:1/0", "redis://:(hidden)@h:1/0");
        check("\"redis://u:p@ss/w@h\" x", "\"redis://u:(hidden)@h\" x");
        check("postgres://user@h/db", "postgres://user@h/db");
        check(
            "postgres://h/db?user=u&password=p",
            "postgres://h/db?user=u&password=(hidden)",
        );
        check("http://token@h/a", "http://(hidden)@h/a");
        check("https://u:p@h/a@b", "https://u:(hidden)@h/a@b");
        check(
            "http://h/a?access_token=x&b=1 more",
            "http://h/a?access_token=(hidden)&b=1 more",
        );
        check(
            "ws://h/?ticket=abc&Token=d",
            "ws://h/?ticket=(hidden)&Token=(hidden)",
        );
        check("http://h/?api_key=x#f", "http://h/?api_key=(hidden)");
        check("http://h/?token=", "http://h/?token=");
        check(
            "redis://:a@h,redis://:b@i",
            "redis://:(hidden)@h,redis://:(hidden)@i",
        );
        check("django+redis://:s@h/0", "django+redis://:(hidden)@h/0");
        check("http://h/a:b@c", "http://h/a:b@c");
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

//! Redact: shows a URL without its secrets, even if it cannot be parsed.
//!
//! A password with a `/`, `?` or `#` that is not percent-encoded makes a parser see another URL,
//! with a part of the password in its path, query or fragment. So the text is cut at its `@`
//! instead, and hides too much rather than too little.

/// Replaces a secret in a message.
pub(crate) const HIDDEN: &str = "(hidden)";

const SECRET_WORDS: [&str; 6] = ["secret", "token", "password", "passwd", "credential", "key"];

/// The endings of names that mention a secret but do not hold one.
const NAMES_OF_OTHERS: [&str; 4] = ["_file", "_path", "_dir", "_in_query"];

/// Returns whether a key, a variable or a query parameter of that name holds a secret.
pub(crate) fn is_secret_name(name: &str) -> bool {
    let name = name.to_lowercase();
    if NAMES_OF_OTHERS.iter().any(|end| name.ends_with(end)) {
        return false;
    }
    name.split(['_', '-', '.']).any(|word| {
        SECRET_WORDS
            .iter()
            .any(|secret| word == *secret || word.strip_suffix('s') == Some(*secret))
    })
}

/// The parts of a URL.
pub(super) struct Parts<'u> {
    /// With its `://`; empty when there is none.
    scheme: &'u str,
    user: Option<User<'u>>,
    /// The host and the path.
    host_and_path: &'u str,
    query: Option<&'u str>,
    fragment: Option<&'u str>,
}

/// The text before the `@`.
#[derive(Clone, Copy)]
enum User<'u> {
    /// Without characters that end an authority.
    Plain(&'u str),
    /// With a `/`, `?` or `#` that should have been encoded, up to the last `@`.
    Unencoded(&'u str),
    /// The last `@` may belong to the query of another host, so the whole rest is hidden.
    Unclear(&'u str),
}

impl<'u> Parts<'u> {
    pub(super) fn of(url: &'u str) -> Self {
        let (scheme, after) = url.split_at(url.find("://").map_or(0, |at| at + 3));
        let end = after.find(['/', '?', '#']).unwrap_or(after.len());
        let at = if is_authority(&after[..end]) && !has_stray_at(&after[end..]) {
            after[..end].rfind('@')
        } else {
            after.rfind('@')
        };
        let user = at.map(|at| match &after[..at] {
            user if at < end => User::Plain(user),
            user if user.split_once('?').is_some_and(|(_, it)| it.contains('=')) => {
                User::Unclear(user)
            }
            user => User::Unencoded(user),
        });
        let rest = at.map_or(after, |at| &after[at + 1..]);
        let (rest, fragment) = cut(rest, '#');
        let (host_and_path, query) = cut(rest, '?');
        Self {
            scheme,
            user,
            host_and_path,
            query,
            fragment,
        }
    }

    fn is_web(&self) -> bool {
        self.scheme.ends_with("http://") || self.scheme.ends_with("https://")
    }
}

fn cut(text: &str, at: char) -> (&str, Option<&str>) {
    match text.split_once(at) {
        Some((before, after)) => (before, Some(after)),
        None => (text, None),
    }
}

/// Returns whether the authority of a URL is a host with at most a valid port.
pub(super) fn has_plain_authority(url: &str) -> bool {
    let after = url.split_once("://").map_or(url, |(_, after)| after);
    let end = after.find(['/', '?', '#']).unwrap_or(after.len());
    let authority = &after[..end];
    let has_port = match authority.rsplit_once(':') {
        Some((_, port)) if !port.ends_with(']') => matches!(port.parse::<u16>(), Ok(1..)),
        _ => true,
    };
    !authority.contains('@') && is_authority(authority) && has_port
}

/// Returns whether the whole text can be an authority: with an `@`, or a host with at most a port.
fn is_authority(text: &str) -> bool {
    if text.contains('@') {
        return true;
    }
    // A Redis URL may have several hosts.
    text.split(',').all(|host| match host.rsplit_once(':') {
        Some((_, port)) if port.ends_with(']') => true,
        Some((host, port)) => !host.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit()),
        None => true,
    })
}

/// Returns whether the text after the authority has an `@` outside of a query value, where it
/// cannot be part of the URL.
fn has_stray_at(tail: &str) -> bool {
    let (path, query) = cut(tail, '?');
    let is_stray = |pair: &str| match pair.split_once('=') {
        Some((name, value)) => name.contains(['@', '/', ':']) || value.contains(['#', '/']),
        None => true,
    };
    path.contains('@')
        || query.is_some_and(|query| {
            query
                .split('&')
                .any(|pair| pair.contains('@') && is_stray(pair))
        })
}

/// Returns a URL without its secrets: the password, or everything before the `@` of an HTTP URL,
/// every value of the query, and the fragment.
///
/// The text is the whole URL. [`hide_url_secrets`](crate::config::hide_url_secrets) searches for
/// URLs in a sentence, where an odd character may end a URL too early.
pub(crate) fn hide_url(url: &str) -> String {
    let parts = Parts::of(url);
    let mut shown = parts.scheme.to_owned();
    match parts.user {
        Some(User::Unclear(_)) => {
            shown.push_str(HIDDEN);
            return shown;
        }
        Some(User::Plain(user) | User::Unencoded(user)) => {
            push_user(&mut shown, user, parts.is_web());
            shown.push('@');
        }
        None => {}
    }
    shown.push_str(parts.host_and_path);
    if let Some(query) = parts.query {
        for (index, pair) in query.split('&').enumerate() {
            shown.push(if index == 0 { '?' } else { '&' });
            match pair.split_once('=') {
                Some((name, value)) => {
                    shown.push_str(name);
                    shown.push('=');
                    push_hidden(&mut shown, value);
                }
                None => push_hidden(&mut shown, pair),
            }
        }
    }
    if let Some(fragment) = parts.fragment {
        shown.push('#');
        push_hidden(&mut shown, fragment);
    }
    shown
}

fn push_user(shown: &mut String, user: &str, is_web: bool) {
    let is_plain = |name: &str| !name.contains(['/', '?', '#']);
    match user.split_once(':') {
        Some((name, password)) if is_plain(name) => {
            shown.push_str(name);
            shown.push(':');
            push_hidden(shown, password);
        }
        None if !is_web && is_plain(user) => shown.push_str(user),
        _ => push_hidden(shown, user),
    }
}

/// Appends the mark of a secret, once: a text that is already hidden keeps the punctuation after
/// it.
fn push_hidden(shown: &mut String, secret: &str) {
    if secret.is_empty() || secret.starts_with(HIDDEN) {
        shown.push_str(secret);
    } else {
        shown.push_str(HIDDEN);
    }
}

/// Returns the secrets of a URL that are hidden wherever they appear: the text before the `@`, the
/// password in it, and the values of the query whose names indicate a secret.
pub(crate) fn url_secrets(url: &str) -> Vec<&str> {
    let parts = Parts::of(url);
    let mut secrets = Vec::new();
    if let Some(User::Plain(user) | User::Unencoded(user)) = parts.user {
        match user.split_once(':') {
            Some((_, password)) => secrets.extend([user, password]),
            None if parts.is_web() => secrets.push(user),
            None => {}
        }
    }
    let pairs = parts.query.unwrap_or_default().split('&');
    secrets.extend(
        pairs
            .filter_map(|pair| pair.split_once('='))
            .filter(|(name, _)| is_secret_query(name))
            .map(|(_, value)| value),
    );
    secrets.retain(|secret| !secret.is_empty());
    secrets
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
        "session",
        "apikey",
    ];
    is_secret_name(name) || short.contains(&name.to_lowercase().as_str())
}

impl Parts<'_> {
    /// Returns whether a user is followed by a path, without a host.
    pub(super) fn is_path_of_user(&self) -> bool {
        self.user.is_some() && !self.is_web() && self.host_and_path.starts_with('/')
    }

    /// Returns the characters before the `@` that end an authority and should have been
    /// percent-encoded; empty if there are none.
    pub(super) fn unencoded(&self) -> String {
        let (Some(User::Unencoded(user)) | Some(User::Unclear(user))) = self.user else {
            return String::new();
        };
        let mut found = String::new();
        for char in user.chars().filter(|char| matches!(char, '/' | '?' | '#')) {
            if !found.contains(char) {
                found.push(char);
            }
        }
        found
    }

    /// Returns the list of hosts with their ports, and its offset in the text.
    pub(super) fn host_list<'t>(&self, text: &'t str) -> (usize, &'t str) {
        let tail = self.query.map_or(0, |query| query.len() + 1)
            + self.fragment.map_or(0, |fragment| fragment.len() + 1);
        let start = text.len() - tail - self.host_and_path.len();
        let length = self.host_and_path.find('/');
        let end = start + length.unwrap_or(self.host_and_path.len());
        (start, &text[start..end])
    }

    /// Returns the text of the port if it is not a number from 1 to 65535.
    pub(super) fn bad_port(&self) -> Option<&str> {
        let authority = self.host_and_path.split('/').next().unwrap_or_default();
        let (_, port) = authority.rsplit_once(':')?;
        let is_port = port.ends_with(']') || matches!(port.parse::<u16>(), Ok(1..));
        (!is_port).then_some(port)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_show_no_secret_whatever_characters_it_holds() {
        let check = |url: &str, expected: &str| assert_eq!(hide_url(url), expected, "{url}");
        for password in [
            "hunter2",
            "a?b#1",
            "a#b",
            "a/b",
            "a@b",
            "a'b",
            "a b",
            "a<b",
            "a`b",
            "a\"b",
            "a:b",
            "1/b",
            "1?b",
            "1#b",
            "a?b/c#d@e",
        ] {
            check(
                &format!("postgres://app:{password}@127.0.0.1:5432/app"),
                "postgres://app:(hidden)@127.0.0.1:5432/app",
            );
            check(
                &format!("https://u:{password}@h/api?token=t"),
                "https://u:(hidden)@h/api?token=(hidden)",
            );
            check(&format!("u:{password}@h/api"), "u:(hidden)@h/api");
        }
        check("https://tok/en@h/x", "https://(hidden)@h/x");
        check("https://token@h/x", "https://(hidden)@h/x");
        check("postgres://user@h/db", "postgres://user@h/db");
        check("postgres://u:a?b=c@h/db", "postgres://(hidden)");
        check(
            "https://h/x?session=s#token=t",
            "https://h/x?session=(hidden)#(hidden)",
        );
        check("https://h/x?bare&a=", "https://h/x?(hidden)&a=");
        check(
            "postgres://h/db?password=a@b",
            "postgres://h/db?password=(hidden)",
        );
        check("redis://a:1,b:2/0", "redis://a:1,b:2/0");
        check("redis://[::1]:1/0", "redis://[::1]:1/0");
        check("/plain", "/plain");
        for url in ["https://u:p@h/x?a=b#c", "postgres://u:a?b@h/db", "u:p@h"] {
            let shown = hide_url(url);
            assert_eq!(hide_url(&shown), shown);
        }
    }

    #[test]
    fn secrets_of_urls_are_found() {
        let check = |url: &str, expected: &[&str]| assert_eq!(url_secrets(url), expected, "{url}");
        check("redis://:hunter2@host:6379/0", &[":hunter2", "hunter2"]);
        check("postgres://user:p@ss@host/db", &["user:p@ss", "p@ss"]);
        check("postgres://u:a?b@host/db", &["u:a?b", "a?b"]);
        check("https://token@h/", &["token"]);
        check("https://h/?page=1&token=x", &["x"]);
        check("postgres://user@h/db", &[]);
        check("plain", &[]);
    }

    #[test]
    fn passwords_that_must_be_encoded_are_told_from_other_urls() {
        for url in [
            "postgres://app:Geheim?pw#1@127.0.0.1/app",
            "postgres://u:a/b@h/db",
            "postgres://u:a@b/c@h/db",
            "redis://:a#b@h",
            "redis://:a?b=c@h",
        ] {
            assert!(!Parts::of(url).unencoded().is_empty(), "{url}");
        }
        for url in [
            "postgres://u:p@h/db",
            "postgres://u:p@ss@h/db",
            "postgres:///db?host=/run",
            "postgres://h/db?password=a@b",
            "redis://:p%2F@h:1/0",
            "redis+sentinel://:p@a,b:1/s/0",
            "redis+unix:///run/r.sock?db=4&pass=x",
            "redis://h",
        ] {
            assert_eq!(Parts::of(url).unencoded(), "", "{url}");
        }
    }

    #[test]
    fn ports_are_numbers() {
        let check = |url: &str, expected: Option<&str>| {
            assert_eq!(Parts::of(url).bad_port(), expected, "{url}");
        };
        check("postgres://u:p@h:abc/db", Some("abc"));
        check("postgres://h:0/db", Some("0"));
        check("postgres://h:/db", Some(""));
        check("postgres://h:99999", Some("99999"));
        check("postgres://u:p@h:5432/db", None);
        check("postgres://[::1]/db", None);
        check("postgres://[::1]:5432/db", None);
        check("postgres:///db?host=/run", None);
    }
}

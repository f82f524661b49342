//! Url: the one URL parser for the configuration and the command line, and the display of URLs
//! without secrets.

mod redact;

use std::fmt;

use percent_encoding::percent_decode_str;
use thiserror::Error;

use redact::Parts;
pub(crate) use redact::{HIDDEN, hide_url, is_secret_name, url_secrets};

/// A URL (WHATWG URL Standard). Displayed without its secrets.
///
/// ```text
/// redis://user:p%40ss@host:6379/0?db=1
/// ─┬───   ──┬─ ──┬──  ─┬── ─┬── ┬ ──┬─
///  scheme username │   host port path query
///               password
/// ```
#[derive(Clone, Eq, Hash, PartialEq)]
pub(crate) struct Url {
    url: ::url::Url,
    /// The parser accepts a user only with a host, so `redis+unix://:PASSWORD@/PATH` is parsed with
    /// [`PLACEHOLDER`].
    has_placeholder: bool,
}

/// The host of a URL that has a user and no host.
const PLACEHOLDER: &str = "localhost";

/// The reason why a text is not a URL. Never shows a secret.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
pub(crate) enum UrlError {
    /// A password contains characters that end the authority, so the text parses as another URL.
    #[error("expected the password in the URL percent-encoded: {}", encodings(.characters))]
    Unencoded {
        /// The characters, each of them once.
        characters: String,
    },
    /// The port is not a number, is 0, or is too large.
    #[error("expected a port from 1 to 65535, found {found:?}")]
    Port {
        /// The port as written.
        found: String,
    },
    /// A name or a password is not UTF-8.
    #[error("expected UTF-8 behind the percent signs of the URL, found other bytes")]
    Encoding,
    /// Anything else; the sentence is the parser's.
    #[error("invalid URL: {0}")]
    Invalid(#[from] ::url::ParseError),
}

/// A host, and its port if one is written.
pub(crate) type HostPort = (String, Option<u16>);

impl Url {
    /// Parses an absolute URL.
    pub(crate) fn parse(text: &str) -> Result<Self, UrlError> {
        let parts = Parts::of(text);
        let characters = parts.unencoded();
        if !characters.is_empty() {
            return Err(UrlError::Unencoded { characters });
        }
        if let Some(found) = parts.bad_port() {
            let found = found.to_owned();
            return Err(UrlError::Port { found });
        }
        let (url, has_placeholder) = match ::url::Url::parse(text) {
            Err(::url::ParseError::EmptyHost) if parts.is_path_of_user() => {
                let (start, _) = parts.host_list(text);
                let (before, after) = text.split_at(start);
                let with_host = format!("{before}{PLACEHOLDER}{after}");
                (::url::Url::parse(&with_host)?, true)
            }
            parsed => (parsed?, false),
        };
        Ok(Self {
            url,
            has_placeholder,
        })
    }

    /// Parses a URL like [`Self::parse`], but an `@` in its path or query is only that if the
    /// authority is a host with at most a port, as in `http://app:9000/users/@me`.
    pub(crate) fn parse_endpoint(text: &str) -> Result<Self, UrlError> {
        if !redact::has_plain_authority(text) {
            return Self::parse(text);
        }
        Ok(Self {
            url: ::url::Url::parse(text)?,
            has_placeholder: false,
        })
    }

    /// Parses a URL with a list of hosts, `SCHEME://HOST:PORT,HOST:PORT/PATH`, as Redis has them.
    /// Returns it with the first of the hosts, and all of them.
    pub(crate) fn parse_list(text: &str) -> Result<(Self, Vec<HostPort>), UrlError> {
        let parts = Parts::of(text);
        let characters = parts.unencoded();
        if !characters.is_empty() {
            return Err(UrlError::Unencoded { characters });
        }
        let (start, list) = parts.host_list(text);
        let (before, after) = (&text[..start], &text[start + list.len()..]);
        let mut urls = list
            .split(',')
            .map(|host| Self::parse(&format!("{before}{host}{after}")))
            .collect::<Result<Vec<_>, _>>()?;
        let hosts = urls
            .iter()
            .map(|url| (url.host().unwrap_or_default(), url.port()))
            .collect();
        Ok((urls.swap_remove(0), hosts))
    }

    /// Returns the scheme, in lower case.
    pub(crate) fn scheme(&self) -> &str {
        self.url.scheme()
    }

    /// Returns the host, an IPv6 address without its brackets; `None` if the URL has none.
    pub(crate) fn host(&self) -> Option<String> {
        if self.has_placeholder {
            return None;
        }
        let host = match self.url.host()? {
            ::url::Host::Domain(name) => percent_decode_str(name).decode_utf8_lossy().into_owned(),
            ::url::Host::Ipv4(address) => address.to_string(),
            ::url::Host::Ipv6(address) => address.to_string(),
        };
        (!host.is_empty()).then_some(host)
    }

    /// Returns the port, if one is given that is not the scheme's default.
    pub(crate) fn port(&self) -> Option<u16> {
        self.url.port()
    }

    /// Returns the name of the user, decoded; `None` if the URL has none.
    pub(crate) fn username(&self) -> Result<Option<String>, UrlError> {
        let name = decoded(self.url.username())?;
        Ok((!name.is_empty()).then_some(name))
    }

    /// Returns the password, decoded; `None` if the URL has none.
    pub(crate) fn password(&self) -> Result<Option<String>, UrlError> {
        let password = decoded(self.url.password().unwrap_or_default())?;
        Ok((!password.is_empty()).then_some(password))
    }

    /// Returns the path, encoded.
    pub(crate) fn path(&self) -> &str {
        self.url.path()
    }

    /// Returns the names and values of the query, encoded.
    pub(crate) fn query(&self) -> impl Iterator<Item = (&str, &str)> {
        let pairs = self.url.query().unwrap_or_default().split('&');
        pairs
            .filter(|pair| !pair.is_empty())
            .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = hide_url(self.url.as_str());
        match self.has_placeholder {
            true => f.write_str(&shown.replacen(&format!("@{PLACEHOLDER}"), "@", 1)),
            false => f.write_str(&shown),
        }
    }
}

impl fmt::Debug for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Url({self})")
    }
}

/// Percent-decodes a part of a URL.
pub(crate) fn decoded(text: &str) -> Result<String, UrlError> {
    match percent_decode_str(text).decode_utf8() {
        Ok(text) => Ok(text.into_owned()),
        Err(_) => Err(UrlError::Encoding),
    }
}

/// Returns the percent-encodings of characters: `"?" is %3F, "#" is %23`.
fn encodings(characters: &str) -> String {
    let encodings = characters
        .chars()
        .map(|char| format!("\"{char}\" is %{:02X}", u32::from(char)));
    encodings.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_decoded() {
        let url = Url::parse("redis://u%40:p%2Fw@[::1]:7000/3?db=1&x").unwrap();
        assert_eq!(url.scheme(), "redis");
        assert_eq!(url.username(), Ok(Some("u@".to_owned())));
        assert_eq!(url.password(), Ok(Some("p/w".to_owned())));
        assert_eq!(url.host().as_deref(), Some("::1"));
        assert_eq!(url.port(), Some(7000));
        assert_eq!(url.path(), "/3");
        let query: Vec<_> = url.query().collect();
        assert_eq!(query, [("db", "1"), ("x", "")]);
        let url = Url::parse("redis+unix:///run/a%20b.sock").unwrap();
        assert_eq!((url.host(), url.path()), (None, "/run/a%20b.sock"));
        assert_eq!(Url::parse("redis://h").unwrap().port(), None);
        let url = Url::parse("redis+unix://:p%40@/run/r.sock?db=4").unwrap();
        assert_eq!((url.host(), url.path()), (None, "/run/r.sock"));
        assert_eq!(url.password(), Ok(Some("p@".to_owned())));
        assert_eq!(
            url.to_string(),
            "redis+unix://:(hidden)@/run/r.sock?db=(hidden)"
        );
    }

    #[test]
    fn each_of_several_hosts_is_parsed() {
        let (url, hosts) = Url::parse_list("redis+sentinel://:pw@a,[::1]:7/s/5?x=1").unwrap();
        assert_eq!(url.path(), "/s/5");
        assert_eq!(url.password(), Ok(Some("pw".to_owned())));
        let expected = [("a".to_owned(), None), ("::1".to_owned(), Some(7))];
        assert_eq!(hosts, expected);
        assert!(Url::parse_list("redis+cluster://a:1,b:x").is_err());
    }

    #[test]
    fn errors_say_what_to_write_and_show_no_secret() {
        let check = |text: &str, expected: &str| {
            let error = Url::parse(text).unwrap_err().to_string();
            assert_eq!(error, expected, "{text}");
        };
        let unencoded = "expected the password in the URL percent-encoded:";
        check("redis://:a#b@h", &format!("{unencoded} \"#\" is %23"));
        check(
            "postgres://u:a/b?c/d@h/db",
            &format!("{unencoded} \"/\" is %2F, \"?\" is %3F"),
        );
        check(
            "redis://h:abc/0",
            "expected a port from 1 to 65535, found \"abc\"",
        );
        check(
            "redis://h:0",
            "expected a port from 1 to 65535, found \"0\"",
        );
        let url = Url::parse("redis://u:hunter2@h/0?pass=hunter2").unwrap();
        assert!(!format!("{url:?}{url}").contains("hunter2"));
    }
}

//! Host: the parsed `Host` header, and the hosts that this server serves.

/// The reason why a `Host` header is refused. The response is 400.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum BadHost {
    /// Neither a host name nor an IP address.
    #[error(
        "expected letters, digits, hyphens and dots, or an IPv6 address in brackets, found {found:?}"
    )]
    Name {
        /// The value sent.
        found: String,
    },
    /// The port is not a number up to 65535.
    #[error("expected a port number in the host, found {found:?}")]
    Port {
        /// The text after the colon.
        found: String,
    },
}

/// The host of a request, parsed as by Django's `get_host`.
///
/// ```
/// use oneport::host::HostHeader;
///
/// let host = HostHeader::parse("Example.COM.:8000")?;
/// assert_eq!((host.name(), host.port()), ("example.com", Some(8000)));
/// assert!(HostHeader::parse("under_score").is_err());
/// # Ok::<(), oneport::host::BadHost>(())
/// ```
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct HostHeader {
    /// `name` or `name:port`: one allocation, because each live WebSocket keeps it.
    text: Box<str>,
}

impl std::fmt::Display for HostHeader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text)
    }
}

impl HostHeader {
    /// Parses the value of a `Host` header or the authority of a request target.
    pub fn parse(text: &str) -> Result<Self, BadHost> {
        let bad_name = || BadHost::Name {
            found: text.to_owned(),
        };
        if is_canonical_name(text) {
            return Ok(Self { text: text.into() });
        }
        let name_end = match text.strip_prefix('[') {
            Some(inside) => inside.find(']').map_or(text.len(), |end| end + 2),
            None => text.find(':').unwrap_or(text.len()),
        };
        let (name, behind) = text.split_at(name_end);
        let is_valid = match name.starts_with('[') {
            true => is_bracketed(name),
            false => is_name(name),
        };
        if !is_valid {
            return Err(bad_name());
        }
        let port = match behind.strip_prefix(':') {
            None if behind.is_empty() => None,
            None => return Err(bad_name()),
            Some(digits) => Some(parse_port(digits)?),
        };
        let mut text = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
        if let Some(port) = port {
            text = format!("{text}:{port}");
        }
        Ok(Self { text: text.into() })
    }

    /// The name and, if the client sent one, the port: `example.com:8000`.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The name or address in lower case, without the trailing dot; an IPv6 address in its
    /// brackets.
    pub fn name(&self) -> &str {
        self.parts().0
    }

    /// The port, if the client sent one.
    pub fn port(&self) -> Option<u16> {
        self.parts().1.parse().ok()
    }

    /// Splits the text into the name and the digits of the port (empty without a port).
    fn parts(&self) -> (&str, &str) {
        let bytes = self.text.as_bytes();
        match bytes.iter().rposition(|byte| !byte.is_ascii_digit()) {
            Some(colon) if bytes[colon] == b':' => (&self.text[..colon], &self.text[colon + 1..]),
            _ => (&self.text, ""),
        }
    }
}

/// The hosts that this server serves: Django's `ALLOWED_HOSTS`.
///
/// ```
/// use oneport::host::{AllowedHosts, HostHeader};
///
/// let allowed = AllowedHosts::new(&["localhost".into(), ".example.com".into()]);
/// assert!(allowed.allows(&HostHeader::parse("a.example.com:8000")?));
/// assert!(!allowed.allows(&HostHeader::parse("notexample.com")?));
/// # Ok::<(), oneport::host::BadHost>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct AllowedHosts {
    patterns: Vec<Pattern>,
}

#[derive(Clone, Debug)]
enum Pattern {
    Any,
    /// A domain and its subdomains, with its leading dot.
    Domain(String),
    Host(String),
}

impl AllowedHosts {
    /// Creates the list from `*` (every host), `.example.com` (a domain and its subdomains) or host
    /// names without a port.
    pub fn new(patterns: &[String]) -> Self {
        Self {
            patterns: patterns
                .iter()
                .map(|pattern| match pattern.to_ascii_lowercase() {
                    any if any == "*" => Pattern::Any,
                    domain if domain.starts_with('.') => Pattern::Domain(domain),
                    host => Pattern::Host(host),
                })
                .collect(),
        }
    }

    /// Returns whether `host` matches one of the patterns.
    pub fn allows(&self, host: &HostHeader) -> bool {
        let name = host.name();
        self.patterns.iter().any(|pattern| match pattern {
            Pattern::Any => true,
            Pattern::Domain(domain) => is_same_domain(name, domain),
            Pattern::Host(host) => name == host,
        })
    }
}

/// Returns whether `host` equals the pattern or, if the pattern has a leading dot, belongs to its
/// domain. Both are in lower case.
pub(super) fn is_same_domain(host: &str, pattern: &str) -> bool {
    match pattern.strip_prefix('.') {
        Some(domain) => host.ends_with(pattern) || host == domain,
        None => !pattern.is_empty() && host == pattern,
    }
}

/// Returns whether the text is a name in lower case with no trailing dot, and perhaps a port
/// without leading zeros: nearly every host. It needs no change, and one look at each byte.
fn is_canonical_name(text: &str) -> bool {
    let bytes = text.as_bytes();
    let end = bytes
        .iter()
        .position(|byte| !NAME_BYTES[usize::from(*byte)]);
    let (name, port) = bytes.split_at(end.unwrap_or(bytes.len()));
    let is_port = match port {
        [] => true,
        [b':', b'1'..=b'9', rest @ ..] if rest.len() < 5 => {
            let mut number = u32::from(port[1] - b'0');
            let mut are_digits = true;
            for byte in rest {
                are_digits &= byte.is_ascii_digit();
                number = number * 10 + u32::from(byte.wrapping_sub(b'0'));
            }
            are_digits && number <= u32::from(u16::MAX)
        }
        _ => false,
    };
    is_port && name.last().is_some_and(|last| *last != b'.')
}

/// The bytes of a name in lower case.
const NAME_BYTES: [bool; 256] = {
    let mut allowed = [false; 256];
    let bytes = b"abcdefghijklmnopqrstuvwxyz0123456789-.";
    let mut at = 0;
    while at < bytes.len() {
        allowed[bytes[at] as usize] = true;
        at += 1;
    }
    allowed
};

fn is_name(name: &str) -> bool {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.');
    !name.is_empty() && name != "." && name.bytes().all(is_allowed)
}

/// Returns whether the text is `[`, then hexadecimal digits, colons and dots with a colon before
/// any dot, then `]`.
fn is_bracketed(name: &str) -> bool {
    let inside = name
        .strip_prefix('[')
        .and_then(|name| name.strip_suffix(']'));
    inside
        .and_then(|inside| inside.split_once(':'))
        .is_some_and(|(first, rest)| {
            let is_hex = |byte: u8| byte.is_ascii_hexdigit();
            let is_allowed = |byte: u8| is_hex(byte) || matches!(byte, b':' | b'.');
            first.bytes().all(is_hex) && !rest.is_empty() && rest.bytes().all(is_allowed)
        })
}

fn parse_port(digits: &str) -> Result<u16, BadHost> {
    let refuse = || BadHost::Port {
        found: digits.to_owned(),
    };
    // `u16::from_str` also accepts a leading plus sign.
    if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(refuse());
    }
    digits.parse().map_err(|_| refuse())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_host_vector_has_the_same_outcome() {
        let vectors: serde_json::Value =
            serde_json::from_str(include_str!("../tests/vectors/routing.json")).unwrap();
        for vector in vectors["host_validation"].as_array().unwrap() {
            let patterns: Vec<String> =
                serde_json::from_value(vector["allowed_hosts"].clone()).unwrap();
            let parsed = HostHeader::parse(vector["host"].as_str().unwrap());
            let (domain, port) = match &parsed {
                Ok(host) => (host.name(), host.port().map(|port| port.to_string())),
                Err(_) => ("", None),
            };
            assert_eq!(domain, vector["domain"], "{vector}");
            assert_eq!(port.unwrap_or_default(), vector["port"], "{vector}");
            let allowed = parsed.is_ok_and(|host| AllowedHosts::new(&patterns).allows(&host));
            assert_eq!(allowed, vector["ok"], "{vector}");
        }
    }

    #[test]
    fn refuses_what_is_no_host() {
        for text in [
            "",
            ".",
            ":80",
            "a:",
            "a:+80",
            "a:65536",
            "a_b",
            "a b",
            "\u{212a}",
            "[]",
            "[::1",
            "[::1]x",
            "[1]",
            "[:]",
            "[fe80::1%eth0]",
            "[::1].",
            "a/b",
            "a@b",
        ] {
            assert!(HostHeader::parse(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_host_is_shown_in_one_form() {
        for (written, name, port) in [
            ("localhost", "localhost", None),
            ("Example.COM.:080", "example.com", Some(80)),
            ("a:0", "a", Some(0)),
            ("10.0.0.1", "10.0.0.1", None),
            ("123", "123", None),
            ("123:45", "123", Some(45)),
            ("[FE80::1]", "[fe80::1]", None),
            ("[::1]:8000", "[::1]", Some(8000)),
        ] {
            let host = HostHeader::parse(written).unwrap();
            assert_eq!((host.name(), host.port()), (name, port), "{written}");
            let port = port.map(|port| format!(":{port}")).unwrap_or_default();
            let canonical = HostHeader::parse(&format!("{name}{port}")).unwrap();
            assert_eq!(host, canonical, "{written}");
        }
    }

    #[test]
    fn an_empty_list_allows_none() {
        let host = HostHeader::parse("localhost").unwrap();
        assert!(!AllowedHosts::new(&[]).allows(&host));
        assert!(!AllowedHosts::new(&[String::new()]).allows(&host));
        assert!(AllowedHosts::new(&["LOCALHOST".to_owned()]).allows(&host));
    }
}

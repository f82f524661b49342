//! Urlparse: splits an origin as Python's `urlparse` does, which Channels relies on; other URLs are
//! parsed by `net::url`.

/// The parts of an origin: scheme, host and port.
#[derive(Debug, Eq, PartialEq)]
pub(super) struct Url {
    /// In lower case; empty if absent.
    pub(super) scheme: String,
    /// In lower case, an IPv6 address without its brackets.
    pub(super) host: Option<String>,
    pub(super) port: Port,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Port {
    None,
    Number(u16),
    Bad,
}

impl Url {
    /// Splits a URL; `None` if its brackets are unbalanced.
    pub(super) fn split(text: &str) -> Option<Self> {
        let is_control_or_space = |character: char| character <= ' ';
        let text: String = text
            .trim_start_matches(is_control_or_space)
            .chars()
            .filter(|character| !matches!(character, '\t' | '\r' | '\n'))
            .collect();
        let (scheme, rest) = match text.split_once(':') {
            Some((scheme, rest)) if is_scheme(scheme) => (scheme.to_ascii_lowercase(), rest),
            _ => (String::new(), text.as_str()),
        };
        let Some(behind) = rest.strip_prefix("//") else {
            return Some(Self {
                scheme,
                host: None,
                port: Port::None,
            });
        };
        let authority = behind.split(['/', '?', '#']).next().unwrap_or_default();
        let host_and_port = authority
            .rsplit_once('@')
            .map_or(authority, |(_, behind)| behind);
        let (host, port) = match (authority.contains('['), authority.contains(']')) {
            (false, false) => host_and_port.split_once(':').unwrap_or((host_and_port, "")),
            (true, true) => split_bracketed(host_and_port)?,
            _ => return None,
        };
        let host = (!host.is_empty()).then(|| host.to_lowercase());
        Some(Self {
            scheme,
            host,
            port: Port::parse(port),
        })
    }
}

impl Port {
    fn parse(digits: &str) -> Self {
        match digits {
            "" => Self::None,
            _ if !digits.bytes().all(|byte| byte.is_ascii_digit()) => Self::Bad,
            _ => digits.parse().map_or(Self::Bad, Self::Number),
        }
    }

    /// Returns the port, or the scheme's default, if known.
    pub(super) fn or_default_of(self, scheme: &str) -> Result<Option<u16>, BadPort> {
        match (self, scheme) {
            (Self::Bad, _) => Err(BadPort),
            (Self::Number(port), _) => Ok(Some(port)),
            (Self::None, "http" | "ws") => Ok(Some(80)),
            (Self::None, "https" | "wss") => Ok(Some(443)),
            (Self::None, _) => Ok(None),
        }
    }
}

/// A port that is not a number up to 65535. It equals no port.
#[derive(Debug, Eq, PartialEq)]
pub(super) struct BadPort;

fn is_scheme(text: &str) -> bool {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.');
    text.starts_with(|first: char| first.is_ascii_alphabetic()) && text.bytes().all(is_allowed)
}

/// Splits `[address]:port`; `None` if the brackets contain no IPv6 address or have text around
/// them.
fn split_bracketed(text: &str) -> Option<(&str, &str)> {
    let (address, behind) = text.strip_prefix('[')?.split_once(']')?;
    let without_zone = address.split('%').next().unwrap_or_default();
    without_zone.parse::<std::net::Ipv6Addr>().ok()?;
    match behind.strip_prefix(':') {
        Some(port) => Some((address, port)),
        None => behind.is_empty().then_some((address, "")),
    }
}

//! Element: one proxy's element in a list of forwarded fields, parsed byte by byte.

use std::net::{IpAddr, SocketAddr};

use crate::host::HostHeader;
use crate::scope::Scheme;

/// One element of `Forwarded` (RFC 7239 §4). A malformed or repeated parameter is ignored.
#[derive(Clone, Debug, Default)]
pub(super) struct Element {
    pub(super) client: Option<SocketAddr>,
    pub(super) scheme: Option<Scheme>,
    pub(super) host: Option<HostHeader>,
}

impl Element {
    pub(super) fn parse(text: &[u8]) -> Self {
        let mut pairs: Vec<&[u8]> = Vec::new();
        split(text, b';', &mut pairs);
        let parameter = |wanted: &[u8]| {
            let mut values = pairs.iter().filter_map(|pair| {
                let at = pair.iter().position(|byte| *byte == b'=')?;
                let (name, value) = (&pair[..at], &pair[at + 1..]);
                let is_wanted = name.trim_ascii().eq_ignore_ascii_case(wanted);
                is_wanted.then(|| unquote(value.trim_ascii()))
            });
            match (values.next(), values.next()) {
                (Some(value), None) => value,
                _ => None,
            }
        };
        Self {
            client: parameter(b"for").and_then(address),
            scheme: parameter(b"proto").and_then(scheme),
            host: parameter(b"host").and_then(host),
        }
    }
}

/// Splits a `Forwarded` field at the commas outside quotes, without empty elements.
///
/// An unclosed quote is not a quote: a client could send one so that everything a proxy appends
/// would be inside it.
pub(super) fn split_quoted<'t>(field: &'t [u8], elements: &mut Vec<&'t [u8]>) {
    split(field, b',', elements);
}

/// Splits a text at a separator outside quotes, without empty parts.
fn split<'t>(text: &'t [u8], separator: u8, parts: &mut Vec<&'t [u8]>) {
    let known = parts.len();
    let add = |parts: &mut Vec<&'t [u8]>, part: &'t [u8]| {
        if !part.trim_ascii().is_empty() {
            parts.push(part);
        }
    };
    let (mut start, mut is_quoted, mut is_escaped) = (0, false, false);
    for (at, byte) in text.iter().copied().enumerate() {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' if is_quoted => is_escaped = true,
            b'"' => is_quoted = !is_quoted,
            _ if byte == separator && !is_quoted => {
                add(parts, &text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    if is_quoted {
        parts.truncate(known);
        for part in text.split(|byte| *byte == separator) {
            add(parts, part);
        }
    } else {
        add(parts, &text[start..]);
    }
}

/// Removes the quotes of a quoted string. No address, token or host needs an escape, so a value
/// with one is ignored.
fn unquote(value: &[u8]) -> Option<&[u8]> {
    let inside = match value.strip_prefix(b"\"") {
        Some(rest) => rest.strip_suffix(b"\"")?,
        None => value,
    };
    let is_plain = !inside.iter().any(|byte| matches!(byte, b'"' | b'\\'));
    is_plain.then_some(inside)
}

/// Reads `192.0.2.1`, `192.0.2.1:80`, `2001:db8::1`, `[2001:db8::1]` or `[2001:db8::1]:80`; port 0
/// if there is none, or if the proxy obfuscates it (`:_name`, RFC 7239 §6.3).
pub(super) fn address(text: &[u8]) -> Option<SocketAddr> {
    let text = std::str::from_utf8(text).ok()?;
    let text = match text.rsplit_once(":_") {
        Some((node, hidden)) if is_obfuscated(hidden) => node,
        _ => text,
    };
    let whole = text.parse::<SocketAddr>().ok().or_else(|| {
        let inside = text
            .strip_prefix('[')
            .and_then(|rest| rest.strip_suffix(']'));
        let ip: IpAddr = match inside {
            Some(inside) => inside.parse::<std::net::Ipv6Addr>().ok()?.into(),
            None => text.parse().ok()?,
        };
        Some(SocketAddr::new(ip, 0))
    })?;
    // Drops an IPv6 zone and unmaps an IPv4 address, so that limits by address count one client
    // once.
    Some(SocketAddr::new(whole.ip().to_canonical(), whole.port()))
}

fn is_obfuscated(text: &str) -> bool {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    !text.is_empty() && text.bytes().all(is_allowed)
}

pub(super) fn scheme(word: &[u8]) -> Option<Scheme> {
    let is = |known: &[u8]| word.eq_ignore_ascii_case(known);
    if is(b"http") || is(b"ws") {
        Some(Scheme::Plain)
    } else if is(b"https") || is(b"wss") {
        Some(Scheme::Secure)
    } else {
        None
    }
}

pub(super) fn host(text: &[u8]) -> Option<HostHeader> {
    HostHeader::parse(std::str::from_utf8(text).ok()?).ok()
}

pub(super) fn port(text: &[u8]) -> Option<u16> {
    let digits = std::str::from_utf8(text).ok()?;
    let is_number = digits.bytes().all(|byte| byte.is_ascii_digit());
    let port = digits.parse().ok()?;
    (is_number && port > 0).then_some(port)
}

pub(super) fn with_port(host: HostHeader, port: u16) -> HostHeader {
    HostHeader::parse(&format!("{}:{port}", host.name())).unwrap_or(host)
}

//! Extension: negotiates permessage-deflate, as a pure function (RFC 7692 §5 and §7.1).

use std::fmt;

/// A route's compression settings.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct DeflateSettings {
    /// Messages shorter than this many bytes are not compressed.
    pub threshold: usize,
    /// From 1, the fastest, to 9, the smallest.
    pub level: u8,
    /// Context takeover for the server's messages: they may refer to earlier ones. Costs about 300
    /// KiB a connection.
    pub server_context_takeover: bool,
    /// Context takeover for the client's messages. Costs about 40 KiB a connection.
    pub client_context_takeover: bool,
    /// The largest window of the server's messages, as a power of two: 9 to 15.
    pub server_max_window_bits: u8,
    /// The largest window of the client's messages, if the client lets the server choose: 9 to 15.
    pub client_max_window_bits: u8,
}

impl Default for DeflateSettings {
    fn default() -> Self {
        Self {
            threshold: 256,
            level: 1,
            server_context_takeover: false,
            client_context_takeover: false,
            server_max_window_bits: WINDOW_BITS_MAX,
            client_max_window_bits: WINDOW_BITS_MAX,
        }
    }
}

/// The negotiated parameters. Displayed as the value of `Sec-WebSocket-Extensions`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Deflate {
    /// The window of the server's messages, 9 to 15.
    pub server_window_bits: u8,
    /// The window of the client's messages, 8 to 15.
    pub client_window_bits: u8,
    /// Context takeover for the server's messages.
    pub server_context_takeover: bool,
    /// Context takeover for the client's messages.
    pub client_context_takeover: bool,
    /// True if the client or the route limits the server's window: the response has to name it
    /// (§7.1.2.1).
    pub names_server_window: bool,
}

/// The largest window of DEFLATE.
pub const WINDOW_BITS_MAX: u8 = 15;

/// The smallest window that our compressor supports.
pub const WINDOW_BITS_MIN: u8 = 9;

/// The most offers read; later ones are ignored.
pub const OFFERS_MAX: usize = 32;

const NAME: &str = "permessage-deflate";
const SERVER_NO_CONTEXT_TAKEOVER: &str = "server_no_context_takeover";
const CLIENT_NO_CONTEXT_TAKEOVER: &str = "client_no_context_takeover";
const SERVER_MAX_WINDOW_BITS: &str = "server_max_window_bits";
const CLIENT_MAX_WINDOW_BITS: &str = "client_max_window_bits";

/// Accepts the first acceptable offer, from the values of `Sec-WebSocket-Extensions` in their
/// order.
///
/// It skips offers that are malformed or of another extension, that have an unknown, repeated or
/// invalid parameter, or that ask for a window of 256 bytes, which the compressor does not support.
/// It ignores all offers after the first [`OFFERS_MAX`]. `None`: nothing is compressed.
///
/// ```
/// use oneport::websocket::extension::{DeflateSettings, negotiate};
/// let offers: [&[u8]; 2] = [b"x-webkit-deflate-frame", b"permessage-deflate; client_max_window_bits"];
/// let agreed = negotiate(offers.into_iter(), &DeflateSettings::default()).unwrap();
/// assert_eq!(agreed.to_string(), "permessage-deflate; server_no_context_takeover; client_no_context_takeover");
/// ```
pub fn negotiate<'a>(
    fields: impl Iterator<Item = &'a [u8]>,
    settings: &DeflateSettings,
) -> Option<Deflate> {
    fields
        .filter_map(|field| std::str::from_utf8(field).ok())
        .flat_map(|field| split(field, ','))
        .filter(|offer| !offer.is_empty())
        .take(OFFERS_MAX)
        .find_map(|offer| accept(offer, settings))
}

fn accept(offer: &str, settings: &DeflateSettings) -> Option<Deflate> {
    let mut parts = split(offer, ';');
    if parts.next() != Some(NAME) {
        return None;
    }
    let mut agreed = Deflate {
        server_window_bits: settings.server_max_window_bits,
        client_window_bits: WINDOW_BITS_MAX,
        server_context_takeover: settings.server_context_takeover,
        client_context_takeover: settings.client_context_takeover,
        names_server_window: settings.server_max_window_bits < WINDOW_BITS_MAX,
    };
    let mut seen: Vec<&str> = Vec::new();
    for part in parts {
        let (name, value) = match part.split_once('=') {
            Some((name, value)) => (name.trim(), Some(value.trim())),
            None => (part, None),
        };
        if seen.contains(&name) {
            return None;
        }
        seen.push(name);
        match (name, value) {
            (SERVER_NO_CONTEXT_TAKEOVER, None) => agreed.server_context_takeover = false,
            (CLIENT_NO_CONTEXT_TAKEOVER, None) => agreed.client_context_takeover = false,
            (SERVER_MAX_WINDOW_BITS, Some(value)) => {
                agreed.server_window_bits = agreed.server_window_bits.min(window_bits(value)?);
                agreed.names_server_window = true;
            }
            (CLIENT_MAX_WINDOW_BITS, None) => {
                agreed.client_window_bits = settings.client_max_window_bits;
            }
            (CLIENT_MAX_WINDOW_BITS, Some(value)) => {
                agreed.client_window_bits =
                    settings.client_max_window_bits.min(window_bits(value)?);
            }
            _ => return None,
        }
    }
    (agreed.server_window_bits >= WINDOW_BITS_MIN).then_some(agreed)
}

/// Reads 8 to 15, without leading zeros (RFC 7692 §7.1.2.1), quoted or not.
fn window_bits(value: &str) -> Option<u8> {
    let value = value
        .strip_prefix('"')
        .and_then(|value| value.strip_suffix('"'))
        .unwrap_or(value);
    match value {
        "8" => Some(8),
        "9" => Some(9),
        "10" => Some(10),
        "11" => Some(11),
        "12" => Some(12),
        "13" => Some(13),
        "14" => Some(14),
        "15" => Some(15),
        _ => None,
    }
}

/// Splits a field at the separators outside quotes.
fn split(field: &str, separator: char) -> impl Iterator<Item = &str> {
    let mut rest = Some(field);
    std::iter::from_fn(move || {
        let now = rest?;
        let (mut is_quoted, mut is_escaped) = (false, false);
        let at = now.find(|found| {
            if is_quoted && !is_escaped && found == '\\' {
                is_escaped = true;
                return false;
            }
            if found == '"' && !is_escaped {
                is_quoted = !is_quoted;
            }
            is_escaped = false;
            found == separator && !is_quoted
        });
        let (part, later) = match at {
            Some(at) => (&now[..at], Some(&now[at + separator.len_utf8()..])),
            None => (now, None),
        };
        rest = later;
        Some(part.trim_matches([' ', '\t']))
    })
}

impl fmt::Display for Deflate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(NAME)?;
        if !self.server_context_takeover {
            write!(f, "; {SERVER_NO_CONTEXT_TAKEOVER}")?;
        }
        if !self.client_context_takeover {
            write!(f, "; {CLIENT_NO_CONTEXT_TAKEOVER}")?;
        }
        if self.names_server_window {
            write!(f, "; {SERVER_MAX_WINDOW_BITS}={}", self.server_window_bits)?;
        }
        if self.client_window_bits < WINDOW_BITS_MAX {
            write!(f, "; {CLIENT_MAX_WINDOW_BITS}={}", self.client_window_bits)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;

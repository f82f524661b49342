//! Canonical path: a raw request path, percent-decoded once without losing its segments.

use std::borrow::Cow;

use percent_encoding::percent_decode_str;

/// The reason why a request path is rejected with 400 before any route is tried.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum BadPath {
    /// The path does not begin with a slash (`*`, or an authority).
    #[error("expected a path that begins with \"/\"")]
    NoLeadingSlash,
    /// A percent sign that is not followed by two hexadecimal digits.
    #[error("expected two hexadecimal digits after \"%\" at byte {at} of the path")]
    BadEscape {
        /// Byte offset of the percent sign in the raw path.
        at: usize,
    },
    /// The decoded bytes are not UTF-8.
    #[error("expected UTF-8 in the percent-decoded path")]
    NotUtf8,
    /// A control character, plain or percent-encoded.
    #[error("expected no control character in the path, found U+{:04X}", u32::from(*.found))]
    Control {
        /// The character.
        found: char,
    },
    /// A segment that is `.` or `..`, plain or percent-encoded.
    #[error("expected no \".\" or \"..\" segment in the path")]
    DotSegment,
    /// A path that an application may take for one of another route, see
    /// [`UrlRouter::is_ambiguous`](super::UrlRouter::is_ambiguous).
    #[error(
        "expected a path without encoded slashes, backslashes, \"//\" and \";\" that can lead to another route"
    )]
    Ambiguous,
}

/// The bytes of which nearly all paths consist, and whose order makes no path dangerous.
const PLAIN: [bool; 256] = {
    let mut plain = [false; 256];
    let bytes = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789/-_~";
    let mut at = 0;
    while at < bytes.len() {
        plain[bytes[at] as usize] = true;
        at += 1;
    }
    plain
};

/// A decoded path that keeps two escapes: `%2F`, which does not end a segment, and `%25`.
///
/// Everything else is decoded, so equal paths have equal text however the client encoded them.
#[derive(Debug)]
pub(super) struct CanonicalPath<'a> {
    text: Cow<'a, str>,
}

impl<'a> CanonicalPath<'a> {
    /// Parses the path of a request target, without query. Borrows it if nothing is encoded.
    pub(super) fn parse(raw: &'a str) -> Result<Self, BadPath> {
        // The empty path and "/" name the same resource (RFC 9110 section 4.2.3).
        let raw = if raw.is_empty() { "/" } else { raw };
        if !raw.starts_with('/') {
            return Err(BadPath::NoLeadingSlash);
        }
        if raw.bytes().all(|byte| PLAIN[usize::from(byte)]) {
            return Ok(Self { text: raw.into() });
        }
        let mut suspect = false;
        let mut encoded = false;
        let mut previous = 0;
        for &byte in raw.as_bytes() {
            suspect |= !(0x20..0x7f).contains(&byte) || (byte == b'.' && previous == b'/');
            encoded |= byte == b'%';
            previous = byte;
        }
        let text = if encoded {
            Cow::Owned(canonicalize(raw)?)
        } else {
            Cow::Borrowed(raw)
        };
        if suspect || encoded {
            refuse_dangerous(&decode(&text))?;
        }
        Ok(Self { text })
    }

    /// Returns the canonical text, with its leading slash.
    pub(super) fn as_str(&self) -> &str {
        &self.text
    }

    /// Returns the text after the leading slash.
    pub(super) fn relative(&self) -> &str {
        self.text.strip_prefix('/').unwrap_or_default()
    }
}

/// Decodes the two escapes that a canonical text can contain.
pub(super) fn decode(canonical: &str) -> Cow<'_, str> {
    if !canonical.contains('%') {
        return Cow::Borrowed(canonical);
    }
    Cow::Owned(canonical.replace("%2F", "/").replace("%25", "%"))
}

/// Decodes every escape except those of `/` and `%`, which become `%2F` and `%25`.
fn canonicalize(raw: &str) -> Result<String, BadPath> {
    let mut bytes = Vec::with_capacity(raw.len());
    let mut rest = raw;
    while let Some(percent) = rest.find('%') {
        bytes.extend_from_slice(&rest.as_bytes()[..percent]);
        let at = raw.len() - rest.len() + percent;
        let escape = rest
            .get(percent..percent + 3)
            .ok_or(BadPath::BadEscape { at })?;
        match percent_decode_str(escape).next() {
            // An invalid escape is left undecoded, so its first byte is the percent sign.
            Some(b'%') if escape != "%25" => return Err(BadPath::BadEscape { at }),
            Some(b'%') | None => bytes.extend_from_slice(b"%25"),
            Some(b'/') => bytes.extend_from_slice(b"%2F"),
            Some(byte) => bytes.push(byte),
        }
        rest = &rest[percent + 3..];
    }
    bytes.extend_from_slice(rest.as_bytes());
    String::from_utf8(bytes).map_err(|_| BadPath::NotUtf8)
}

/// Rejects control characters and dot segments. An encoded slash counts as a slash, because a
/// parameter's value contains it decoded.
fn refuse_dangerous(decoded: &str) -> Result<(), BadPath> {
    if let Some(found) = decoded.chars().find(|found| found.is_control()) {
        return Err(BadPath::Control { found });
    }
    if decoded
        .split('/')
        .any(|segment| matches!(segment, "." | ".."))
    {
        return Err(BadPath::DotSegment);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn canonical(raw: &str) -> Result<String, BadPath> {
        CanonicalPath::parse(raw).map(|path| path.as_str().to_owned())
    }

    #[test]
    fn decodes_everything_but_slash_and_percent() {
        let check = |raw: &str, expected: &str| {
            assert_eq!(canonical(raw).as_deref(), Ok(expected), "{raw}");
        };
        check("", "/");
        check("/foo", "/foo");
        check("/%66oo/", "/foo/");
        check("/caf%C3%A9/", "/café/");
        check("/a%2fb%2Fc", "/a%2Fb%2Fc");
        check("/a%252Fb", "/a%252Fb");
        check("/%25", "/%25");
        check("/.well-known/..a", "/.well-known/..a");
        check("//a//", "//a//");
    }

    #[test]
    fn refuses_what_cannot_be_decoded_or_is_dangerous() {
        let check =
            |raw: &str, expected: BadPath| assert_eq!(canonical(raw), Err(expected), "{raw}");
        check("*", BadPath::NoLeadingSlash);
        check("/a%zz", BadPath::BadEscape { at: 2 });
        check("/%66%", BadPath::BadEscape { at: 4 });
        check("/%2", BadPath::BadEscape { at: 1 });
        check("/%2é", BadPath::BadEscape { at: 1 });
        check("/%ff", BadPath::NotUtf8);
        check("/%00", BadPath::Control { found: '\0' });
        check("/a\u{7f}", BadPath::Control { found: '\u{7f}' });
        check("/%C2%85", BadPath::Control { found: '\u{85}' });
        for raw in [
            "/..",
            "/a/../b",
            "/./",
            "/%2e%2E/",
            "/.%2e",
            "/a%2F..%2Fb",
            "/%2E",
        ] {
            check(raw, BadPath::DotSegment);
        }
    }

    #[test]
    fn borrows_a_path_without_escapes() {
        let path = CanonicalPath::parse("/ws/chat/lobby/").unwrap();
        assert!(matches!(path.text, Cow::Borrowed(_)));
    }

    #[test]
    fn decodes_the_two_left_escapes_once() {
        assert_eq!(decode("a%2Fb"), "a/b");
        assert_eq!(decode("a%252Fb"), "a%2Fb");
    }
}

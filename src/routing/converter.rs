//! Converters: the text that a parameter of a path accepts.

use std::fmt;

/// The text that one parameter accepts, as in Django's `path()`.
///
/// A converter only accepts or rejects a value and never changes it: `007` stays `007`
/// ([`Params::int`](super::Params::int) reads it as 7).
///
/// ```
/// use oneport::routing::Converter;
///
/// assert!(Converter::Slug.accepts("room-1"));
/// assert!(!Converter::Slug.accepts("room 1"));
/// assert!(!Converter::Int.accepts("-1"));
/// ```
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Converter {
    /// Non-empty text without a slash. The default: `{name}` means `{name:str}`.
    Str,
    /// One or more ASCII digits.
    Int,
    /// ASCII letters, digits, `-` and `_`.
    Slug,
    /// A hyphenated UUID in lower case.
    Uuid,
    /// The non-empty rest of the path, slashes included. Written `{*name}`.
    Path,
}

impl Converter {
    /// The converters that a pattern can name after the colon.
    pub(super) const NAMED: [Self; 4] = [Self::Int, Self::Slug, Self::Str, Self::Uuid];

    /// Returns the converter with this name, as written after the colon in `{name:converter}`.
    pub(super) fn named(name: &str) -> Option<Self> {
        Self::NAMED
            .into_iter()
            .find(|converter| converter.name() == name)
    }

    /// Returns the name used in patterns and messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::Str => "str",
            Self::Int => "int",
            Self::Slug => "slug",
            Self::Uuid => "uuid",
            Self::Path => "path",
        }
    }

    /// Returns whether this decoded text is a valid value.
    pub fn accepts(self, value: &str) -> bool {
        let bytes = value.as_bytes();
        match self {
            Self::Str => !bytes.is_empty() && !bytes.contains(&b'/'),
            Self::Int => !bytes.is_empty() && bytes.iter().all(u8::is_ascii_digit),
            Self::Slug => {
                !bytes.is_empty()
                    && bytes
                        .iter()
                        .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
            }
            Self::Uuid => is_uuid(bytes),
            Self::Path => !bytes.is_empty(),
        }
    }

    /// Returns whether this converter accepts every value that `other` accepts.
    pub(super) fn covers(self, other: Self) -> bool {
        match self {
            Self::Path => true,
            Self::Str => other != Self::Path,
            Self::Slug => matches!(other, Self::Slug | Self::Int | Self::Uuid),
            Self::Int | Self::Uuid => self == other,
        }
    }
}

impl fmt::Display for Converter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Returns whether the bytes are 8-4-4-4-12 hexadecimal digits in lower case.
fn is_uuid(bytes: &[u8]) -> bool {
    bytes.len() == 36
        && bytes.iter().enumerate().all(|(at, byte)| match at {
            8 | 13 | 18 | 23 => *byte == b'-',
            _ => matches!(byte, b'0'..=b'9' | b'a'..=b'f'),
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(converter: Converter, accepted: &[&str], refused: &[&str]) {
        for value in accepted {
            assert!(
                converter.accepts(value),
                "{converter} should accept {value:?}"
            );
        }
        for value in refused {
            assert!(
                !converter.accepts(value),
                "{converter} should refuse {value:?}"
            );
        }
    }

    #[test]
    fn each_converter_accepts_what_django_accepts() {
        check(
            Converter::Int,
            &["0", "007", "99999999999999999999"],
            &["", "-1", "+1", "x", "1.0", "\u{0661}"],
        );
        check(Converter::Str, &["a", "a b", "é", "a%2Fb"], &["", "a/b"]);
        check(Converter::Slug, &["a_b-9", "-"], &["", "a.b", "é"]);
        check(Converter::Path, &["a/b", "/", "a"], &[""]);
        let uuid = "12345678-1234-1234-1234-1234567890ab";
        check(
            Converter::Uuid,
            &[uuid],
            &["", &uuid.to_uppercase(), &uuid.replace('-', "")],
        );
    }
}

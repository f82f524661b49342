//! Checked values: rules beyond a value's type, checked while it is read.

use std::fmt;
use std::time::Duration;

use http::{HeaderName, HeaderValue, Method};
use serde::de::{Deserialize, Deserializer, Error, MapAccess, Visitor};

use crate::config::sections::headers::HeaderFields;
use crate::config::values::units::{Size, WrittenDuration};
use crate::telemetry::{AccessField, AccessFormat, Ratio};

/// Reads a value as `Raw` and converts it to `T`, for `#[serde(deserialize_with)]`.
pub(in crate::config) fn via<'de, Raw, T, D>(deserializer: D) -> Result<T, D::Error>
where
    Raw: Deserialize<'de> + Into<T>,
    D: Deserializer<'de>,
{
    Raw::deserialize(deserializer).map(Into::into)
}

/// Declares a type that is read as another one, checked, and converted into its content.
macro_rules! checked {
    ($(#[$doc:meta])* $name:ident($content:ty) from $raw:ty as $text:literal, |$value:ident| $check:expr) => {
        $(#[$doc])*
        #[derive(Debug, serde::Deserialize)]
        #[serde(try_from = $text)]
        pub(in crate::config) struct $name($content);

        impl TryFrom<$raw> for $name {
            type Error = String;

            fn try_from($value: $raw) -> Result<Self, String> {
                $check.map(Self)
            }
        }

        impl From<$name> for $content {
            fn from(checked: $name) -> Self {
                checked.0
            }
        }
    };
}

pub(in crate::config) use checked;

checked! {
    /// A count that cannot be zero.
    PositiveCount(usize) from std::num::NonZeroUsize as "std::num::NonZeroUsize", |count| {
        Ok::<usize, String>(count.get())
    }
}

checked! {
    /// A number of header fields. A map of fields holds 24,576, and the parser has room for as many
    /// as are allowed in each head.
    HeaderCount(usize) from usize as "usize", |count| match count {
        1..=10_000 => Ok(count),
        other => Err(format!("expected a number from 1 to 10_000, found {other}")),
    }
}

checked! {
    /// A compression level.
    CompressionLevel(u8) from u8 as "u8", |level| match level {
        1..=9 => Ok(level),
        other => Err(format!("expected a level from 1 (fast) to 9 (small), found {other}")),
    }
}

checked! {
    /// A window of permessage-deflate, as a power of two.
    WindowBits(u8) from u8 as "u8", |bits| match bits {
        9..=15 => Ok(bits),
        other => Err(format!("expected window bits from 9 to 15, found {other}")),
    }
}

checked! {
    /// A size that cannot be zero.
    PositiveSize(Size) from Size as "Size", |size| match size {
        Size(0) => Err(format!("expected a size of at least \"1 B\", found \"{size}\"")),
        size => Ok(size),
    }
}

checked! {
    /// A duration that cannot be zero.
    PositiveDuration(Duration) from WrittenDuration as "WrittenDuration", |written| match written.0 {
        Duration::ZERO => Err(format!("expected a duration longer than zero, found \"{written}\"")),
        duration => Ok(duration),
    }
}

checked! {
    /// A host, or with a leading dot a domain and all its subdomains, or `*`.
    HostPattern(String) from String as "String", |text| host_pattern(&text).map_or(Ok(text.clone()), |why| {
        Err(format!("expected a host such as \"example.com\" or \".example.com\", found {text:?}; {why}"))
    })
}

checked! {
    /// A cookie name (RFC 6265 §4.1.1: a token, like a header name).
    CookieName(String) from String as "String", |text| match HeaderName::from_bytes(text.as_bytes()) {
        Ok(_) => Ok(text),
        Err(_) => Err(format!("expected the name of a cookie such as \"sessionid\", found {text:?}")),
    }
}

checked! {
    /// The path of a cookie.
    CookiePath(String) from String as "String", |text| {
        if text.starts_with('/') && text.bytes().all(|byte| (0x21..0x7f).contains(&byte) && byte != b';') {
            Ok(text)
        } else {
            Err(format!("expected a path such as \"/\", found {text:?}"))
        }
    }
}

checked! {
    /// The domain of a cookie, or nothing.
    CookieDomain(String) from String as "String", |text| {
        let is_domain = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-'));
        if is_domain { Ok(text) } else { Err(format!("expected a domain such as \"example.com\", found {text:?}")) }
    }
}

checked! {
    /// The name of a table or a column.
    Identifier(String) from String as "String", |text| identifier(text)
}

checked! {
    /// The name of a column, or nothing.
    OptionalIdentifier(String) from String as "String", |text| {
        if text.is_empty() { Ok(text) } else { identifier(text) }
    }
}

checked! {
    /// The login page: a path or a URL.
    LoginUrl(String) from String as "String", |text| {
        let is_url = text.starts_with('/') || text.starts_with("http://") || text.starts_with("https://");
        if is_url && HeaderValue::from_str(&text).is_ok() {
            Ok(text)
        } else {
            Err(format!("expected a path such as \"/login/\" or a URL, found {text:?}"))
        }
    }
}

checked! {
    /// An HTTP method.
    MethodName(String) from String as "String", |text| {
        if Method::from_bytes(text.as_bytes()).is_ok() && !text.bytes().any(|byte| byte.is_ascii_lowercase()) {
            Ok(text)
        } else {
            Err(format!("expected a method in upper case such as \"GET\", found {text:?}"))
        }
    }
}

checked! {
    /// The form of a line of the access log.
    LogLine(AccessFormat) from String as "String", |text| AccessFormat::parse(&text)
}

/// A share of traces, from 0 to 1.
#[derive(Debug)]
pub(in crate::config) struct SampleRatio(Ratio);

impl From<SampleRatio> for Ratio {
    fn from(sample: SampleRatio) -> Self {
        sample.0
    }
}

impl<'de> Deserialize<'de> for SampleRatio {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Written;
        impl Visitor<'_> for Written {
            type Value = SampleRatio;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a share from 0 to 1")
            }

            fn visit_f64<E: Error>(self, share: f64) -> Result<SampleRatio, E> {
                let ratio = Ratio::new(share).map(SampleRatio);
                ratio.ok_or_else(|| {
                    E::custom(format_args!("expected a share from 0 to 1, found {share}"))
                })
            }

            fn visit_i64<E: Error>(self, share: i64) -> Result<SampleRatio, E> {
                match share {
                    0 => self.visit_f64(0.0),
                    1 => self.visit_f64(1.0),
                    other => Err(E::custom(format_args!(
                        "expected a share from 0 to 1, found {other}"
                    ))),
                }
            }
        }
        deserializer.deserialize_any(Written)
    }
}

checked! {
    /// A field of such a line.
    LogField(AccessField) from String as "String", |text| AccessField::parse(&text)
}

checked! {
    /// A WebSocket subprotocol (RFC 6455 §4.1: a token, like a header name).
    Subprotocol(String) from String as "String", |text| match HeaderName::from_bytes(text.as_bytes()) {
        Ok(_) => Ok(text),
        Err(_) => Err(format!("expected a subprotocol such as \"chat.v1\" (no spaces, commas or slashes), found {text:?}")),
    }
}

checked! {
    /// A path prefix: empty, or with a leading slash and no trailing one.
    Prefix(String) from String as "String", |text| {
        if text.is_empty() || (text.starts_with('/') && !text.ends_with('/')) {
            Ok(text)
        } else {
            let meant = text.trim_matches('/');
            let meant = if meant.is_empty() { String::new() } else { format!("/{meant}") };
            Err(format!("expected a path with a / in front and none at the end, such as {meant:?}, found {text:?}"))
        }
    }
}

fn identifier(text: String) -> Result<String, String> {
    let is_sound = !text.is_empty()
        && text
            .chars()
            .all(|found| found.is_alphanumeric() || found == '_' || found == '.');
    if is_sound {
        Ok(text)
    } else {
        Err(format!(
            "expected the name of a table or a column: letters, digits, \"_\", \".\", found {text:?}"
        ))
    }
}

/// A list of checked texts.
#[derive(Debug, serde::Deserialize)]
#[serde(transparent, bound(deserialize = "T: Deserialize<'de>"))]
pub(in crate::config) struct ListOf<T>(Vec<T>);

impl<T: Into<String>> From<ListOf<T>> for Vec<String> {
    fn from(list: ListOf<T>) -> Self {
        list.0.into_iter().map(Into::into).collect()
    }
}

/// Names of header fields.
pub(in crate::config) type HeaderNames = ListOf<WrittenName>;

/// Response headers: a table from name to value, in the order of the file.
#[derive(Debug)]
pub(in crate::config) struct HeaderTable(HeaderFields);

checked! {
    /// The name of a header.
    WrittenName(String) from String as "String", |text| match HeaderName::from_bytes(text.as_bytes()) {
        Ok(_) => Ok(text),
        Err(_) => Err(format!("expected a header name such as \"x-frame-options\", found {text:?}")),
    }
}

checked! {
    /// The header field of the CSRF token. Django names it as WSGI does; a name with `_` would
    /// never arrive.
    CsrfHeader(HeaderName) from String as "String", |text| {
        let wsgi = text.strip_prefix("HTTP_").map(|rest| rest.to_ascii_lowercase().replace('_', "-"));
        match (HeaderName::from_bytes(text.as_bytes()), wsgi) {
            (_, Some(meant)) => Err(format!("expected a header name such as {meant:?}, found {text:?}, which is Django's name of it")),
            (Ok(name), None) if !name.as_str().contains('_') => Ok(name),
            _ => Err(format!("expected a header name without underscores such as \"x-csrftoken\", found {text:?}")),
        }
    }
}

checked! {
    /// The value of a header.
    WrittenValue(String) from String as "String", |text| match HeaderValue::from_str(&text) {
        Ok(_) => Ok(text),
        Err(_) => Err("expected a header value without line breaks and control characters".to_owned()),
    }
}

impl<'de> Deserialize<'de> for HeaderTable {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Written;
        impl<'de> Visitor<'de> for Written {
            type Value = HeaderTable;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a table from header names to values")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut table: A) -> Result<HeaderTable, A::Error> {
                let mut headers = HeaderFields::default();
                while let Some(WrittenName(name)) = table.next_key()? {
                    if name == "preset" {
                        headers.preset = Some(table.next_value()?);
                    } else {
                        let WrittenValue(value) = table.next_value()?;
                        headers.written.push((name, value));
                    }
                }
                Ok(HeaderTable(headers))
            }
        }
        deserializer.deserialize_map(Written)
    }
}

impl From<HeaderTable> for HeaderFields {
    fn from(table: HeaderTable) -> Self {
        table.0
    }
}

impl From<PositiveSize> for Option<Size> {
    fn from(size: PositiveSize) -> Self {
        Some(size.0)
    }
}

impl From<PositiveDuration> for Option<Duration> {
    fn from(duration: PositiveDuration) -> Self {
        Some(duration.0)
    }
}

/// Returns what is wrong with a host pattern, if anything.
fn host_pattern(text: &str) -> Option<&'static str> {
    let inside_brackets = text
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'));
    if text == "*"
        || inside_brackets.is_some_and(|inside| inside.parse::<std::net::Ipv6Addr>().is_ok())
    {
        None
    } else if text.trim_start_matches('.').is_empty() {
        Some("it is empty")
    } else if text.contains("://") {
        Some("leave out the scheme")
    } else if text.parse::<std::net::Ipv6Addr>().is_ok() {
        Some("put an IPv6 address in brackets")
    } else if text.starts_with("*.") {
        Some("write a leading dot, without the *, for subdomains")
    } else if text.contains('/') {
        Some("leave out the path")
    } else if text.contains(':') {
        Some("leave out the port")
    } else if text
        .bytes()
        .any(|byte| !(byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-')))
    {
        Some("a host consists of letters, digits, dots and hyphens")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_patterns() {
        for good in [
            "localhost",
            "127.0.0.1",
            "[::1]",
            ".example.com",
            "*",
            "a-b.example.com",
        ] {
            assert_eq!(host_pattern(good), None, "{good}");
        }
        for bad in [
            "",
            ".",
            "http://a",
            "a:80",
            "a/b",
            "::1",
            "*.example.com",
            "a b",
            "[::x]",
        ] {
            assert!(host_pattern(bad).is_some(), "{bad}");
        }
    }
}

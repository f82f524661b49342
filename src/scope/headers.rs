//! Headers: the header fields of a request.

use std::borrow::Cow;

use http::{HeaderMap, HeaderName};

use crate::telemetry::access_log::RequestHeaders;

/// The header fields of a request: names in lower case, values as bytes; fields of the same name
/// keep their order.
#[derive(Clone, Debug)]
pub struct Headers(Fields);

#[derive(Clone, Debug)]
enum Fields {
    /// As hyper parsed them.
    Map(Box<HeaderMap>),
    /// One allocation: `u16` name length, name, `u16` value length, value, and so on.
    Packed(Box<[u8]>),
}

impl Default for Headers {
    fn default() -> Self {
        Self(Fields::Map(Box::default()))
    }
}

impl From<HeaderMap> for Headers {
    fn from(map: HeaderMap) -> Self {
        Self(Fields::Map(Box::new(map)))
    }
}

impl RequestHeaders for Headers {
    fn first(&self, name: &HeaderName) -> Option<&[u8]> {
        self.get(name)
    }
}

impl Headers {
    /// Returns the first value of a field.
    #[must_use]
    pub fn get(&self, name: &HeaderName) -> Option<&[u8]> {
        match &self.0 {
            Fields::Map(map) => map.get(name).map(http::HeaderValue::as_bytes),
            Fields::Packed(bytes) => {
                unpack(bytes).find_map(|(key, value)| (key == name.as_str()).then_some(value))
            }
        }
    }

    /// Returns the first value of a field, if it is visible ASCII.
    #[must_use]
    pub fn text(&self, name: &HeaderName) -> Option<&str> {
        self.get(name)
            .filter(|value| value.iter().all(|byte| (0x20..0x7f).contains(byte)))
            .and_then(|value| std::str::from_utf8(value).ok())
    }

    /// Iterates over the values of a field.
    pub fn all<'a>(&'a self, name: &'a HeaderName) -> impl Iterator<Item = &'a [u8]> + 'a {
        let (map, packed) = match &self.0 {
            Fields::Map(map) => (Some(map.get_all(name).into_iter()), None),
            Fields::Packed(bytes) => (None, Some(unpack(bytes))),
        };
        let from_map = map.into_iter().flatten().map(http::HeaderValue::as_bytes);
        from_map.chain(
            packed
                .into_iter()
                .flatten()
                .filter(move |(key, _)| *key == name.as_str())
                .map(|(_, value)| value),
        )
    }

    /// Iterates over all fields.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &[u8])> + '_ {
        let (map, packed) = match &self.0 {
            Fields::Map(map) => (Some(map.iter()), None),
            Fields::Packed(bytes) => (None, Some(unpack(bytes))),
        };
        let from_map = map
            .into_iter()
            .flatten()
            .map(|(name, value)| (name.as_str(), value.as_bytes()));
        from_map.chain(packed.into_iter().flatten())
    }

    /// Returns the fields as a map; packed fields are unpacked first.
    pub(crate) fn map_mut(&mut self) -> &mut HeaderMap {
        if let Fields::Packed(bytes) = &self.0 {
            let map = unpack(bytes)
                .filter_map(|(name, value)| {
                    Some((
                        HeaderName::from_bytes(name.as_bytes()).ok()?,
                        http::HeaderValue::from_bytes(value).ok()?,
                    ))
                })
                .collect();
            self.0 = Fields::Map(Box::new(map));
        }
        match &mut self.0 {
            Fields::Map(map) => map,
            Fields::Packed(_) => unreachable!("replaced above"),
        }
    }

    /// Returns the fields as a map; packed fields are unpacked into a copy.
    pub(crate) fn as_map(&self) -> Cow<'_, HeaderMap> {
        match &self.0 {
            Fields::Map(map) => Cow::Borrowed(map),
            Fields::Packed(_) => Cow::Owned(self.to_map()),
        }
    }

    /// Returns a copy of the fields as a map.
    #[must_use]
    pub fn to_map(&self) -> HeaderMap {
        match &self.0 {
            Fields::Map(map) => HeaderMap::clone(map),
            Fields::Packed(_) => std::mem::take(self.clone().map_mut()),
        }
    }

    pub(super) fn pack(&mut self) {
        let Fields::Map(map) = &self.0 else { return };
        let mut bytes = Vec::with_capacity(
            map.iter()
                .map(|(name, value)| 4 + name.as_str().len() + value.len())
                .sum(),
        );
        for (name, value) in &**map {
            // A field over 65,535 bytes does not pass the limit of the header size.
            let (Ok(name_len), Ok(value_len)) = (
                u16::try_from(name.as_str().len()),
                u16::try_from(value.len()),
            ) else {
                continue;
            };
            bytes.extend_from_slice(&name_len.to_be_bytes());
            bytes.extend_from_slice(name.as_str().as_bytes());
            bytes.extend_from_slice(&value_len.to_be_bytes());
            bytes.extend_from_slice(value.as_bytes());
        }
        self.0 = Fields::Packed(bytes.into_boxed_slice());
    }
}

fn unpack(mut bytes: &[u8]) -> impl Iterator<Item = (&str, &[u8])> {
    std::iter::from_fn(move || {
        let (name_len, rest) = bytes.split_first_chunk::<2>()?;
        let (name, rest) = rest.split_at_checked(u16::from_be_bytes(*name_len).into())?;
        let (value_len, rest) = rest.split_first_chunk::<2>()?;
        let (value, rest) = rest.split_at_checked(u16::from_be_bytes(*value_len).into())?;
        bytes = rest;
        Some((std::str::from_utf8(name).unwrap_or_default(), value))
    })
}

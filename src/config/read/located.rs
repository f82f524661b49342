//! Located values: a value with the path it was read from.

use std::fmt;
use std::marker::PhantomData;

use serde::de::{
    self, Deserialize, DeserializeSeed, Deserializer, IntoDeserializer, SeqAccess, Visitor,
};

use crate::config::read::document::path_text;
use crate::config::read::read_error::ReadError;
use crate::config::read::reader::Reader;

/// The type name by which the reader recognizes a [`Located`].
pub(in crate::config) const NAME: &str = "$oneport::Located";

const FIELDS: &[&str] = &["path", "value"];

/// A value with the path it was read from.
#[derive(Clone, Debug)]
pub(in crate::config) struct Located<T> {
    pub(in crate::config) path: String,
    pub(in crate::config) value: T,
}

/// The two parts of a [`Located`]: first the path, then the value.
pub(in crate::config) struct Parts<'de, 't> {
    reader: Reader<'de, 't>,
    next: usize,
}

impl<'de, 't> Parts<'de, 't> {
    pub(in crate::config) fn new(reader: Reader<'de, 't>) -> Self {
        Self { reader, next: 0 }
    }
}

impl<'de> SeqAccess<'de> for Parts<'de, '_> {
    type Error = ReadError;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, ReadError> {
        self.next += 1;
        if self.next == 1 {
            let path = path_text(&self.reader.trail.segments());
            return seed.deserialize(path.into_deserializer()).map(Some);
        }
        seed.deserialize(self.reader).map(Some)
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Located<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Pair<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Pair<T> {
            type Value = Located<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a value")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut parts: A) -> Result<Located<T>, A::Error> {
                let missing = || de::Error::custom("expected a path and a value");
                let path = parts.next_element()?.ok_or_else(missing)?;
                let value = parts.next_element()?.ok_or_else(missing)?;
                Ok(Located { path, value })
            }
        }
        deserializer.deserialize_struct(NAME, FIELDS, Pair(PhantomData))
    }
}

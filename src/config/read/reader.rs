//! Reader: a serde `Deserializer` over a document's tree that knows its location.

use std::path::Path;

use serde::de::value::{BorrowedStrDeserializer, StringDeserializer};
use serde::de::{
    self, Deserialize, DeserializeSeed, Deserializer, EnumAccess, MapAccess, SeqAccess, Unexpected,
    VariantAccess, Visitor,
};
use serde::forward_to_deserialize_any;

use crate::config::read::located;
use crate::config::read::path::Trail;
use crate::config::read::placeholder;
use crate::config::read::read_error::{Kind, ReadError, one_of};
use crate::config::read::value::{Entry, Node, Value};
use crate::config::values::{config_path, config_url};

/// Reads one value.
#[derive(Clone, Copy)]
pub(in crate::config) struct Reader<'de, 't> {
    pub(in crate::config) node: &'de Node,
    pub(in crate::config) trail: Trail<'t>,
    /// The directory that relative paths start from.
    pub(in crate::config) base: &'t Path,
}

impl<'de, 't> Reader<'de, 't> {
    fn any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ReadError> {
        match &self.node.value {
            Value::String(text) => visitor.visit_borrowed_str(text),
            Value::Integer(number) => visitor.visit_i64(*number),
            Value::Float(number) => visitor.visit_f64(*number),
            Value::Boolean(boolean) => visitor.visit_bool(*boolean),
            Value::Datetime(text) => visitor.visit_str(text),
            Value::Array(items) => visitor.visit_seq(Items {
                items,
                next: 0,
                within: self,
            }),
            Value::Table(entries) => visitor.visit_map(Entries {
                entries,
                next: 0,
                within: self,
            }),
            Value::Removed | Value::Placeholder(_) => Err(de::Error::custom("expected a value")),
        }
    }

    /// One of a fixed set of words, or `{ word = content }` for a variant with content.
    fn word<V: Visitor<'de>>(
        self,
        known: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, ReadError> {
        match &self.node.value {
            Value::String(text) => visitor.visit_enum(BorrowedStrDeserializer::new(text)),
            Value::Table(entries) if entries.len() == 1 => visitor.visit_enum(Variant {
                entry: &entries[0],
                within: self,
            }),
            Value::Placeholder(attempt) => visitor.visit_enum(BorrowedStrDeserializer::new(
                known.get(*attempt).unwrap_or(&""),
            )),
            _ => Err(ReadError::new(Kind::Type {
                expected: one_of(known),
                found: self.describe(),
            })),
        }
    }

    /// Reads a table. serde would also accept an array in the order of the fields, which is
    /// unreadable in a file.
    fn table<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ReadError> {
        match &self.node.value {
            Value::Array(_) => Err(de::Error::invalid_type(Unexpected::Seq, &visitor)),
            Value::Placeholder(_) => visitor.visit_map(Entries {
                entries: &[],
                next: 0,
                within: self,
            }),
            _ => self.deserialize_any(visitor),
        }
    }

    fn describe(self) -> String {
        match &self.node.value {
            Value::Integer(number) => format!("integer {number}"),
            Value::Float(number) => format!("number {number}"),
            Value::Boolean(boolean) => format!("boolean {boolean}"),
            Value::Datetime(text) => format!("date {text}"),
            Value::String(_) => "a string".to_owned(),
            Value::Array(_) => "an array".to_owned(),
            Value::Table(_) => "a table".to_owned(),
            Value::Removed | Value::Placeholder(_) => "nothing".to_owned(),
        }
    }
}

impl<'de> Deserializer<'de> for Reader<'de, '_> {
    type Error = ReadError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ReadError> {
        let read = match self.node.value {
            Value::Placeholder(attempt) => placeholder::any(attempt, visitor),
            _ => self.any(visitor),
        };
        read.map_err(|error| error.at(self.trail))
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ReadError> {
        visitor
            .visit_some(self)
            .map_err(|error| error.at(self.trail))
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, ReadError> {
        let read = match &self.node.value {
            Value::String(text)
                if name == config_path::NAME
                    || name == config_path::OPTIONAL_NAME && !text.is_empty() =>
            {
                let resolved = self.base.join(text).to_string_lossy().into_owned();
                visitor.visit_newtype_struct(StringDeserializer::new(resolved))
            }
            Value::String(text) if name == config_url::NAME => {
                let resolved = match config_url::socket(text) {
                    Some(path) => config_url::with_socket(&self.base.join(path)),
                    None => text.clone(),
                };
                visitor.visit_newtype_struct(StringDeserializer::new(resolved))
            }
            _ => visitor.visit_newtype_struct(self),
        };
        read.map_err(|error: ReadError| error.at(self.trail))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        _fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, ReadError> {
        if name == located::NAME {
            return visitor
                .visit_seq(located::Parts::new(self))
                .map_err(|error| error.at(self.trail));
        }
        self.table(visitor).map_err(|error| error.at(self.trail))
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, ReadError> {
        self.word(variants, visitor)
            .map_err(|error| error.at(self.trail))
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ReadError> {
        visitor.visit_unit()
    }

    /// `()` reads as a table without keys: the options of a view or consumer that takes none.
    fn deserialize_unit<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ReadError> {
        Nothing::deserialize(self)?;
        visitor.visit_unit()
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit_struct seq tuple
        tuple_struct map identifier
    }
}

/// A table without keys.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Nothing {}

/// The items of an array. Removed items are skipped, but keep their index.
struct Items<'de, 't> {
    items: &'de [Node],
    next: usize,
    within: Reader<'de, 't>,
}

impl<'de> SeqAccess<'de> for Items<'de, '_> {
    type Error = ReadError;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, ReadError> {
        while let Some(node) = self.items.get(self.next) {
            let index = self.next;
            self.next += 1;
            if !node.is_removed() {
                let trail = Trail::Index(&self.within.trail, index);
                let item = Reader {
                    node,
                    trail,
                    base: self.within.base,
                };
                return seed
                    .deserialize(item)
                    .map(Some)
                    .map_err(|error| error.at(trail));
            }
        }
        Ok(None)
    }
}

/// The entries of a table, without the removed ones.
struct Entries<'de, 't> {
    entries: &'de [Entry],
    next: usize,
    within: Reader<'de, 't>,
}

impl<'de> MapAccess<'de> for Entries<'de, '_> {
    type Error = ReadError;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, ReadError> {
        while let Some(entry) = self.entries.get(self.next) {
            if entry.node.is_removed() {
                self.next += 1;
                continue;
            }
            let trail = Trail::Key(&self.within.trail, &entry.key);
            return seed
                .deserialize(KeyReader(&entry.key))
                .map(Some)
                .map_err(|error| match error.kind {
                    Kind::UnknownKey { .. } => error.at(self.within.trail),
                    _ => error.at(trail),
                });
        }
        Ok(None)
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, ReadError> {
        let Some(entry) = self.entries.get(self.next) else {
            return Err(de::Error::custom("expected a value after a key"));
        };
        self.next += 1;
        let trail = Trail::Key(&self.within.trail, &entry.key);
        let reader = Reader {
            node: &entry.node,
            trail,
            base: self.within.base,
        };
        seed.deserialize(reader).map_err(|error| error.at(trail))
    }
}

/// Reads the key of an entry.
struct KeyReader<'de>(&'de str);

impl<'de> Deserializer<'de> for KeyReader<'de> {
    type Error = ReadError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ReadError> {
        visitor.visit_borrowed_str(self.0)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, ReadError> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, ReadError> {
        visitor.visit_enum(BorrowedStrDeserializer::new(self.0))
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct seq
        tuple tuple_struct map struct identifier ignored_any
    }
}

/// A variant with content: the only entry of a table.
struct Variant<'de, 't> {
    entry: &'de Entry,
    within: Reader<'de, 't>,
}

impl<'de, 't> EnumAccess<'de> for Variant<'de, 't> {
    type Error = ReadError;
    type Variant = Self;

    fn variant_seed<V: DeserializeSeed<'de>>(self, seed: V) -> Result<(V::Value, Self), ReadError> {
        let word = seed.deserialize(KeyReader(&self.entry.key))?;
        Ok((word, self))
    }
}

impl<'de> Variant<'de, '_> {
    fn content<T>(
        &self,
        read: impl FnOnce(Reader<'de, '_>) -> Result<T, ReadError>,
    ) -> Result<T, ReadError> {
        let trail = Trail::Key(&self.within.trail, &self.entry.key);
        read(Reader {
            node: &self.entry.node,
            trail,
            base: self.within.base,
        })
        .map_err(|error| error.at(trail))
    }
}

impl<'de> VariantAccess<'de> for Variant<'de, '_> {
    type Error = ReadError;

    fn unit_variant(self) -> Result<(), ReadError> {
        Err(de::Error::invalid_type(Unexpected::Map, &"a string"))
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, ReadError> {
        self.content(|reader| seed.deserialize(reader))
    }

    fn tuple_variant<V: Visitor<'de>>(
        self,
        _length: usize,
        visitor: V,
    ) -> Result<V::Value, ReadError> {
        self.content(|reader| reader.deserialize_any(visitor))
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        _fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, ReadError> {
        self.content(|reader| reader.table(visitor))
    }
}

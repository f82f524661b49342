//! Placeholders: values in place of required ones that are missing, so that reading can continue
//! and find more errors.
//!
//! They are never used: a placeholder is inserted only after an error, and then the whole result is
//! discarded.

use serde::de::{self, Visitor};

use crate::config::read::read_error::ReadError;

/// Texts of which one probably parses as the expected type.
const TEXTS: [&str; 6] = ["", "x", "/", "1s", "1 B", "http://localhost:80"];

/// The number of placeholders to try.
pub(in crate::config) const ATTEMPTS: usize = TEXTS.len() + 5;

/// Passes one of the placeholders to the visitor.
pub(in crate::config) fn any<'de, V: Visitor<'de>>(
    attempt: usize,
    visitor: V,
) -> Result<V::Value, ReadError> {
    let Some(other) = attempt.checked_sub(TEXTS.len()) else {
        return visitor.visit_borrowed_str(TEXTS[attempt]);
    };
    let nothing = std::iter::empty::<(&str, &str)>();
    match other {
        0 => visitor.visit_i64(1),
        1 => visitor.visit_bool(false),
        2 => visitor.visit_seq(de::value::SeqDeserializer::<_, ReadError>::new(
            std::iter::empty::<&str>(),
        )),
        3 => visitor.visit_map(de::value::MapDeserializer::<_, ReadError>::new(nothing)),
        _ => visitor.visit_f64(1.0),
    }
}

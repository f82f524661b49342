//! Read error: why a value cannot be read as its type, in the file's terms.

use std::fmt;

use serde::de::{self, Expected, Unexpected};

use crate::config::read::path::{Segment, Trail};

/// Longer texts are cut to this length in messages.
const SHOWN_CHARS_MAX: usize = 60;

/// Why reading stopped, and where. Keeps its parts, so that the value at fault can be removed and
/// reading can continue.
#[derive(Debug)]
pub(in crate::config) struct ReadError {
    pub(in crate::config) kind: Kind,
    /// The path from the value being read; set by the innermost reader that sees the error.
    pub(in crate::config) path: Option<Vec<Segment>>,
}

/// The kinds of read errors.
#[derive(Debug)]
pub(in crate::config) enum Kind {
    /// A key that its table does not know.
    UnknownKey {
        key: String,
        known: &'static [&'static str],
    },
    /// A text that is not one of the allowed words.
    UnknownWord {
        word: String,
        known: &'static [&'static str],
    },
    /// A missing required key.
    Missing(&'static str),
    /// Too few or too many items.
    Length(String),
    /// A value of the wrong type.
    Type { expected: String, found: String },
    /// Any other error, as a sentence.
    Sentence(String),
}

impl ReadError {
    /// An error at the value that is being read.
    pub(in crate::config) fn new(kind: Kind) -> Self {
        Self { kind, path: None }
    }

    /// Sets the path, unless the error already has one.
    pub(in crate::config) fn at(mut self, trail: Trail<'_>) -> Self {
        self.path.get_or_insert_with(|| trail.segments());
        self
    }
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            Kind::UnknownKey { key, .. } => write!(f, "unknown key {key:?}"),
            Kind::UnknownWord { word, known } => {
                write!(f, "expected {}, found {:?}", one_of(known), shorten(word))
            }
            Kind::Missing(key) => write!(f, "missing key {key:?}"),
            Kind::Length(sentence) | Kind::Sentence(sentence) => f.write_str(sentence),
            Kind::Type { expected, found } => write!(f, "expected {expected}, found {found}"),
        }
    }
}

impl std::error::Error for ReadError {}

impl de::Error for ReadError {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self::new(Kind::Sentence(message.to_string()))
    }

    fn invalid_type(found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::new(Kind::Type {
            expected: plain(&expected.to_string()),
            found: describe(found),
        })
    }

    fn invalid_value(found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::invalid_type(found, expected)
    }

    fn invalid_length(length: usize, expected: &dyn Expected) -> Self {
        Self::new(Kind::Length(format!(
            "expected {}, found {length} items",
            plain(&expected.to_string())
        )))
    }

    fn unknown_variant(word: &str, known: &'static [&'static str]) -> Self {
        Self::new(Kind::UnknownWord {
            word: word.to_owned(),
            known,
        })
    }

    fn unknown_field(key: &str, known: &'static [&'static str]) -> Self {
        Self::new(Kind::UnknownKey {
            key: key.to_owned(),
            known,
        })
    }

    fn missing_field(key: &'static str) -> Self {
        Self::new(Kind::Missing(key))
    }

    fn duplicate_field(key: &'static str) -> Self {
        Self::new(Kind::Sentence(format!(
            "{key:?} is set twice, under two names"
        )))
    }
}

/// Formats alternatives: `"a" or "b"`, `one of "a", "b" or "c"`.
pub(in crate::config) fn one_of(words: &[&str]) -> String {
    let quoted: Vec<String> = words.iter().map(|word| format!("{word:?}")).collect();
    match quoted.as_slice() {
        [] => "nothing".to_owned(),
        [only] => only.clone(),
        [first, second] => format!("{first} or {second}"),
        [firsts @ .., last] => format!("one of {} or {last}", firsts.join(", ")),
    }
}

/// Translates serde's name of a type into the terms of a TOML file.
fn plain(expected: &str) -> String {
    let whole = |least: &str, most: &str| format!("a whole number from {least} to {most}");
    let words = match expected {
        "usize" | "u64" | "u128" => "a whole number, 0 or more",
        "a nonzero usize" | "a nonzero u64" | "a nonzero u32" | "a nonzero u16" => {
            "a whole number, 1 or more"
        }
        "i64" | "isize" | "i128" => "a whole number",
        "u8" => return whole("0", "255"),
        "u16" => return whole("0", "65535"),
        "u32" => return whole("0", "4294967295"),
        "i8" => return whole("-128", "127"),
        "i16" => return whole("-32768", "32767"),
        "i32" => return whole("-2147483648", "2147483647"),
        "f32" | "f64" => "a number",
        "a boolean" => "true or false",
        "a sequence" => "an array",
        "a map" | "unit" => "a table",
        "path string" => "a path",
        "a character" => "a single character",
        "option" => "a value",
        _ if expected.starts_with("struct ") || expected.starts_with("internally tagged enum ") => {
            "a table"
        }
        _ if expected.starts_with("tuple ") || expected.starts_with("a tuple") => "an array",
        _ if expected.starts_with("enum ") => "a string",
        other => other,
    };
    words.to_owned()
}

/// Describes the value that was found, in the same terms.
fn describe(found: Unexpected<'_>) -> String {
    match found {
        Unexpected::Bool(boolean) => format!("boolean {boolean}"),
        Unexpected::Unsigned(number) => format!("integer {number}"),
        Unexpected::Signed(number) => format!("integer {number}"),
        Unexpected::Float(number) => format!("number {number}"),
        Unexpected::Char(character) => format!("{character:?}"),
        Unexpected::Str(text) => format!("string {:?}", shorten(text)),
        Unexpected::Seq => "an array".to_owned(),
        Unexpected::Map => "a table".to_owned(),
        other => other.to_string(),
    }
}

/// Returns the text, cut if it is long.
pub(in crate::config) fn shorten(text: &str) -> String {
    match text.char_indices().nth(SHOWN_CHARS_MAX) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::de::Error as _;

    #[test]
    fn types_are_named_in_the_words_of_the_file() {
        let check = |found, expected: &str, message: &str| {
            assert_eq!(
                ReadError::invalid_type(found, &expected).to_string(),
                message
            );
        };
        check(
            Unexpected::Signed(10),
            "a sequence",
            "expected an array, found integer 10",
        );
        check(
            Unexpected::Str("x"),
            "usize",
            "expected a whole number, 0 or more, found string \"x\"",
        );
        check(
            Unexpected::Bool(true),
            "struct Server",
            "expected a table, found boolean true",
        );
        check(
            Unexpected::Map,
            "a string",
            "expected a string, found a table",
        );
    }

    #[test]
    fn lists_read_like_sentences() {
        assert_eq!(one_of(&["a", "b"]), "\"a\" or \"b\"");
        assert_eq!(one_of(&["a", "b", "c"]), "one of \"a\", \"b\" or \"c\"");
    }
}

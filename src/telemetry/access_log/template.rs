//! Access template: a line of the access log as a text with fields in braces, such as the formats
//! `common` and `combined` of Apache and nginx.
//!
//! A value cannot end its line or be mistaken for another one. Every byte that is no visible ASCII
//! is written as `\xHH`, as are the backslash and the quote. Outside quotes, so are the space and
//! the brackets. nginx escapes the same way, and readers of Apache's logs know it.

use std::fmt::Write;

use super::field::AccessField;
use super::record::{AccessRecord, Value};
use crate::telemetry::log_format::write_decimal;

/// Apache's Common Log Format.
pub(super) const COMMON: &str =
    r#"{client_ip} - {user} [{time_local}] "{request}" {status} {bytes}"#;

/// Apache's and nginx's Combined Log Format.
pub(super) const COMBINED: &str = r#"{client_ip} - {user} [{time_local}] "{request}" {status} {bytes} "{header:referer}" "{header:user-agent}""#;

/// The most bytes of one value; a longer one is cut and ends in `...`.
const VALUE_BYTES_MAX: usize = 2048;

/// A line with fields in braces.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct AccessTemplate(Vec<Piece>);

#[derive(Clone, Debug, Eq, PartialEq)]
enum Piece {
    Text(String),
    Field { field: AccessField, is_quoted: bool },
}

impl AccessTemplate {
    /// Parses a line, such as `{client_ip} "{request}" {status}`. `{{` and `}}` are braces.
    pub fn parse(line: &str) -> Result<Self, String> {
        if line.contains(char::is_control) {
            return Err(format!("expected one line of text, found {line:?}"));
        }
        let mut pieces = Vec::new();
        let mut text = String::new();
        let mut is_quoted = false;
        let mut rest = line;
        while let Some(at) = rest.find(['{', '}', '"']) {
            text.push_str(&rest[..at]);
            let after = &rest[at + 1..];
            rest = match &rest[at..=at] {
                "\"" => {
                    is_quoted = !is_quoted;
                    text.push('"');
                    after
                }
                brace if after.starts_with(brace) => {
                    text.push_str(brace);
                    &after[1..]
                }
                "{" => {
                    let Some((name, after)) = after.split_once('}') else {
                        return Err(format!(
                            "expected a \"}}\" after {:?}, found none",
                            &rest[at..]
                        ));
                    };
                    let field = AccessField::parse(name)?;
                    if !text.is_empty() {
                        pieces.push(Piece::Text(std::mem::take(&mut text)));
                    }
                    pieces.push(Piece::Field { field, is_quoted });
                    after
                }
                _ => {
                    return Err(format!(
                        "expected a \"{{\" before {:?}, found none",
                        &rest[at..]
                    ));
                }
            };
        }
        text.push_str(rest);
        if !text.is_empty() {
            pieces.push(Piece::Text(text));
        }
        if !pieces
            .iter()
            .any(|piece| matches!(piece, Piece::Field { .. }))
        {
            return Err(format!(
                "expected \"text\", \"json\", \"common\", \"combined\" or a line with fields such as \"{{status}}\", found {line:?}"
            ));
        }
        Ok(Self(pieces))
    }

    /// Returns its fields.
    pub(crate) fn fields(&self) -> impl Iterator<Item = &AccessField> {
        self.0.iter().filter_map(|piece| match piece {
            Piece::Field { field, .. } => Some(field),
            Piece::Text(_) => None,
        })
    }

    /// Writes a line with its end.
    pub(super) fn write(&self, line: &mut String, record: &AccessRecord<'_>) {
        for piece in &self.0 {
            match piece {
                Piece::Text(text) => line.push_str(text),
                Piece::Field { field, is_quoted } => {
                    write_value(line, record.value(field), *is_quoted);
                }
            }
        }
        line.push('\n');
    }
}

/// Writes a value, `-` for none and for an empty one.
fn write_value(line: &mut String, value: Option<Value<'_>>, is_quoted: bool) {
    let start = line.len();
    match value {
        None => {}
        Some(Value::Number(number)) => {
            let _ = write!(line, "{number}");
        }
        Some(Value::Decimal(number)) => {
            let _ = write_decimal(line, number);
        }
        Some(Value::Own(text)) => line.push_str(&text),
        Some(Value::Text(text)) => escape(line, text.as_bytes(), is_quoted),
        Some(Value::Bytes(bytes)) => escape(line, bytes, is_quoted),
        Some(Value::Word(word)) => escape(line, word.to_string().as_bytes(), is_quoted),
    }
    if line.len() == start {
        line.push('-');
    }
}

fn escape(line: &mut String, value: &[u8], is_quoted: bool) {
    for byte in value.iter().take(VALUE_BYTES_MAX) {
        let is_plain = match byte {
            b'"' | b'\\' => false,
            b' ' | b'[' | b']' => is_quoted,
            byte => byte.is_ascii_graphic(),
        };
        if is_plain {
            line.push(char::from(*byte));
        } else {
            let _ = write!(line, "\\x{byte:02X}");
        }
    }
    if value.len() > VALUE_BYTES_MAX {
        line.push_str("...");
    }
}

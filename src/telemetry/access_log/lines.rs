//! Access lines: a line of the access log in the form of the log's other lines.

use std::fmt::{self, Write};
use std::time::SystemTime;

use super::AccessField;
use super::field::{OF_RESPONSES, OF_SOCKETS};
use super::record::{AccessKind, AccessRecord, Value, rfc3339};
use crate::telemetry::log::ACCESS;
use crate::telemetry::log_format::{is_plain, write_decimal, write_head, write_json, write_quoted};

/// The form of a line.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(in crate::telemetry) enum Style {
    Text { is_colored: bool },
    Json,
}

/// Writes lines with a list of fields.
pub(in crate::telemetry) struct Lines {
    style: Style,
    responses: Vec<(String, AccessField)>,
    sockets: Vec<(String, AccessField)>,
}

impl Lines {
    /// Creates one with these fields; empty for the usual ones.
    pub(in crate::telemetry) fn new(style: Style, fields: &[AccessField]) -> Self {
        let with_keys = |fields: &[AccessField]| -> Vec<(String, AccessField)> {
            let fields = fields.iter();
            fields.map(|field| (field.key(), field.clone())).collect()
        };
        let (responses, sockets) = match fields {
            [] => (OF_RESPONSES, OF_SOCKETS),
            chosen => (chosen, chosen),
        };
        Self {
            style,
            responses: with_keys(responses),
            sockets: with_keys(sockets),
        }
    }

    /// Writes a line with its end.
    pub(super) fn write(&self, line: &mut String, record: &AccessRecord<'_>) {
        let fields = match record.kind {
            AccessKind::Http | AccessKind::Handshake => &self.responses,
            AccessKind::Websocket => &self.sockets,
        };
        let _ = match self.style {
            Style::Text { is_colored } => write_text(line, record, fields, is_colored),
            Style::Json => write_object(line, record, fields),
        };
    }
}

fn write_text(
    line: &mut String,
    record: &AccessRecord<'_>,
    fields: &[(String, AccessField)],
    is_colored: bool,
) -> fmt::Result {
    write_head(line, tracing::Level::INFO, ACCESS, is_colored)?;
    write!(line, " {}", record.kind.as_str())?;
    for (key, field) in fields {
        let Some(value) = record.value(field) else {
            continue;
        };
        write!(line, " {key}=")?;
        match value {
            Value::Number(number) => write!(line, "{number}")?,
            Value::Decimal(number) => write_decimal(line, number)?,
            Value::Own(text) => line.push_str(&text),
            Value::Text(text) => write_quoted(line, &text)?,
            Value::Bytes(bytes) => write_quoted(line, &String::from_utf8_lossy(bytes))?,
            Value::Word(word) => {
                let word = word.to_string();
                match is_plain(&word) {
                    true => line.push_str(&word),
                    false => write_quoted(line, &word)?,
                }
            }
        }
    }
    line.write_char('\n')
}

fn write_object(
    line: &mut String,
    record: &AccessRecord<'_>,
    fields: &[(String, AccessField)],
) -> fmt::Result {
    let (time, level) = (rfc3339(SystemTime::now()), tracing::Level::INFO);
    let message = record.kind.as_str();
    write!(
        line,
        "{{\"timestamp\":\"{time}\",\"level\":\"{level}\",\"message\":\"{message}\""
    )?;
    for (key, field) in fields {
        let Some(value) = record.value(field) else {
            continue;
        };
        line.write_char(',')?;
        write_json(line, key)?;
        line.write_char(':')?;
        match value {
            Value::Number(number) => write!(line, "{number}")?,
            Value::Decimal(number) => write_decimal(line, number)?,
            Value::Own(text) => write_json(line, &text)?,
            Value::Text(text) => write_json(line, &text)?,
            Value::Bytes(bytes) => write_json(line, &String::from_utf8_lossy(bytes))?,
            Value::Word(word) => write_json(line, &word.to_string())?,
        }
    }
    writeln!(line, ",\"target\":\"{ACCESS}\"}}")
}

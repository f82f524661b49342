//! Log format: a line as text, or as a JSON object.
//!
//! Values are untrusted: paths, names, responses of peers. No value can end its line, escape its
//! quotes, or send a control character to a terminal. Values are cut at 2,048 characters.

use std::fmt::{self, Debug, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use super::log::Format;

/// The maximum number of characters of one value.
const VALUE_MAX: usize = 2048;

/// The field of an event's message.
const MESSAGE: &str = "message";

/// Lines in the format that is set at the moment. Clones share it.
#[derive(Clone)]
pub(in crate::telemetry) struct LogLines(Arc<AtomicU8>);

const TEXT: u8 = 0;
const COLORED: u8 = 1;
const JSON: u8 = 2;

impl LogLines {
    pub(in crate::telemetry) fn new(format: Format, is_colored: bool) -> Self {
        let lines = Self(Arc::default());
        lines.set(format, is_colored);
        lines
    }

    pub(in crate::telemetry) fn set(&self, format: Format, is_colored: bool) {
        let format = match (format, is_colored) {
            (Format::Json, _) => JSON,
            (Format::Text, true) => COLORED,
            (Format::Text, false) => TEXT,
        };
        self.0.store(format, Ordering::Relaxed);
    }
}

impl<S, N> FormatEvent<S, N> for LogLines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        cx: &FmtContext<'_, S, N>,
        writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        match self.0.load(Ordering::Relaxed) {
            JSON => JsonLines.format_event(cx, writer, event),
            format => {
                let is_colored = format == COLORED;
                TextLines { is_colored }.format_event(cx, writer, event)
            }
        }
    }
}

/// `TIME LEVEL TARGET: MESSAGE NAME=VALUE ...`.
pub(in crate::telemetry) struct TextLines {
    pub(in crate::telemetry) is_colored: bool,
}

/// `{"timestamp": ..., "level": ..., "message": ..., NAME: VALUE, ..., "target": ...}`.
pub(in crate::telemetry) struct JsonLines;

impl<S, N> FormatEvent<S, N> for TextLines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let metadata = event.metadata();
        write_head(
            &mut writer,
            *metadata.level(),
            metadata.target(),
            self.is_colored,
        )?;
        let mut message = Message(String::new());
        event.record(&mut message);
        if !message.0.is_empty() {
            writer.write_char(' ')?;
            write_plain(&mut writer, &message.0)?;
        }
        let mut fields = TextFields {
            writer: writer.by_ref(),
            result: Ok(()),
        };
        event.record(&mut fields);
        fields.result?;
        writer.write_char('\n')
    }
}

impl<S, N> FormatEvent<S, N> for JsonLines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let metadata = event.metadata();
        write!(
            writer,
            "{{\"timestamp\":\"{}\",\"level\":\"{}\"",
            now(),
            metadata.level()
        )?;
        let mut fields = JsonFields {
            writer: writer.by_ref(),
            result: Ok(()),
        };
        event.record(&mut fields);
        fields.result?;
        writer.write_str(",\"target\":")?;
        write_json(&mut writer, metadata.target())?;
        writer.write_str("}\n")
    }
}

/// Writes the beginning of a line of text: `TIME LEVEL TARGET:`.
pub(in crate::telemetry) fn write_head(
    writer: &mut impl Write,
    level: Level,
    target: &str,
    is_colored: bool,
) -> fmt::Result {
    let time = now();
    if is_colored {
        let color = color(&level);
        write!(
            writer,
            "\x1b[2m{time}\x1b[0m \x1b[{color}m{level:>5}\x1b[0m \x1b[2m{target}:\x1b[0m"
        )
    } else {
        write!(writer, "{time} {level:>5} {target}:")
    }
}

/// Returns the time of a line. A clock before 1970 counts as 1970.
fn now() -> humantime::Rfc3339Timestamp {
    humantime::format_rfc3339_micros(SystemTime::now().max(UNIX_EPOCH))
}

const fn color(level: &Level) -> u8 {
    match *level {
        Level::ERROR => 31,
        Level::WARN => 33,
        Level::INFO => 32,
        Level::DEBUG => 34,
        Level::TRACE => 35,
    }
}

/// Collects the message of an event.
struct Message(String);

impl Visit for Message {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        if field.name() == MESSAGE {
            let _ = write!(self.0, "{value:?}");
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == MESSAGE {
            self.0.push_str(value);
        }
    }
}

struct TextFields<'a> {
    writer: Writer<'a>,
    result: fmt::Result,
}

impl TextFields<'_> {
    fn field(&mut self, field: &Field, write: impl FnOnce(&mut Writer<'_>) -> fmt::Result) {
        if field.name() == MESSAGE || self.result.is_err() {
            return;
        }
        self.result =
            write!(self.writer, " {}=", field.name()).and_then(|()| write(&mut self.writer));
    }
}

impl Visit for TextFields<'_> {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.field(field, |writer| write_decimal(writer, value));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.field(field, |writer| write_quoted(writer, value));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.field(field, |writer| {
            let value = format!("{value:?}");
            if is_plain(&value) {
                writer.write_str(&value)
            } else {
                write_quoted(writer, &value)
            }
        });
    }
}

struct JsonFields<'a> {
    writer: Writer<'a>,
    result: fmt::Result,
}

impl JsonFields<'_> {
    fn field(&mut self, field: &Field, write: impl FnOnce(&mut Writer<'_>) -> fmt::Result) {
        if self.result.is_ok() {
            self.result = write!(self.writer, ",\"{}\":", field.name())
                .and_then(|()| write(&mut self.writer));
        }
    }
}

impl Visit for JsonFields<'_> {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.field(field, |writer| {
            if value.is_finite() {
                write_decimal(writer, value)
            } else {
                writer.write_str("null")
            }
        });
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.field(field, |writer| write!(writer, "{value}"));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.field(field, |writer| write!(writer, "{value}"));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.field(field, |writer| write!(writer, "{value}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.field(field, |writer| write_json(writer, value));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.field(field, |writer| write_json(writer, &format!("{value:?}")));
    }
}

/// Writes a number with at most six decimals, and never with an exponent.
pub(in crate::telemetry) fn write_decimal(writer: &mut impl Write, value: f64) -> fmt::Result {
    let text = format!("{value:.6}");
    let short = text.trim_end_matches('0').trim_end_matches('.');
    writer.write_str(if short.is_empty() { "0" } else { short })
}

/// Returns whether a value needs no quotes: an address, a number, a word.
pub(in crate::telemetry) fn is_plain(value: &str) -> bool {
    (1..=VALUE_MAX).contains(&value.len())
        && value
            .bytes()
            .all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'\\' | b'='))
}

/// Returns whether a character would control a terminal, end a line, or change its reading order.
fn is_unsafe(char: char) -> bool {
    char.is_control()
        || matches!(char, '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

/// Writes at most [`VALUE_MAX`] characters, each with `write`.
fn write_cut<W: Write>(
    writer: &mut W,
    value: &str,
    mut write: impl FnMut(&mut W, char) -> fmt::Result,
) -> fmt::Result {
    for (at, char) in value.chars().enumerate() {
        if at == VALUE_MAX {
            return writer.write_char('…');
        }
        write(writer, char)?;
    }
    Ok(())
}

fn write_plain(writer: &mut impl Write, value: &str) -> fmt::Result {
    write_cut(writer, value, |writer, char| {
        if is_unsafe(char) {
            write!(writer, "{}", char.escape_default())
        } else {
            writer.write_char(char)
        }
    })
}

pub(in crate::telemetry) fn write_quoted(writer: &mut impl Write, value: &str) -> fmt::Result {
    writer.write_char('"')?;
    write_cut(writer, value, |writer, char| {
        if is_unsafe(char) || matches!(char, '"' | '\\') {
            write!(writer, "{}", char.escape_default())
        } else {
            writer.write_char(char)
        }
    })?;
    writer.write_char('"')
}

pub(in crate::telemetry) fn write_json(writer: &mut impl Write, value: &str) -> fmt::Result {
    writer.write_char('"')?;
    write_cut(writer, value, |writer, char| match char {
        '"' => writer.write_str("\\\""),
        '\\' => writer.write_str("\\\\"),
        '\n' => writer.write_str("\\n"),
        '\r' => writer.write_str("\\r"),
        '\t' => writer.write_str("\\t"),
        _ if is_unsafe(char) => {
            let mut units = [0; 2];
            char.encode_utf16(&mut units)
                .iter()
                .try_for_each(|unit| write!(writer, "\\u{unit:04x}"))
        }
        _ => writer.write_char(char),
    })?;
    writer.write_char('"')
}

#[cfg(test)]
mod tests;

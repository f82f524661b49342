//! Tests of the form of log lines.

use std::sync::{Arc, Mutex};

use serde_json::Value;
use tracing_subscriber::fmt::MakeWriter;

use super::*;

#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

impl Lines {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

fn text(log: impl FnOnce()) -> String {
    let lines = Lines::default();
    let subscriber = tracing_subscriber::fmt()
        .with_writer(lines.clone())
        .event_format(TextLines { is_colored: false })
        .finish();
    tracing::subscriber::with_default(subscriber, log);
    let text = lines.text();
    let (_, line) = text.split_once(' ').unwrap(); // the time
    line.to_owned()
}

fn json(log: impl FnOnce()) -> Value {
    let lines = Lines::default();
    let subscriber = tracing_subscriber::fmt()
        .with_writer(lines.clone())
        .event_format(JsonLines)
        .finish();
    tracing::subscriber::with_default(subscriber, log);
    let text = lines.text();
    assert_eq!(text.lines().count(), 1, "{text}");
    assert!(!text.trim_end().contains(char::is_control), "{text:?}");
    serde_json::from_str(&text).unwrap()
}

/// Values that try to forge a line or to act on a terminal.
const FORGERIES: [&str; 9] = [
    "x\" allowed=[",
    "a\nINFO access: http user=\"admin\"",
    "\r\x1b[2Jgone",
    "\u{9b}31m red",
    "\u{202e}txt.exe",
    "back\\slash\\\"",
    "\u{85}next\u{2028}line",
    "tab\there",
    "\u{e0041}tag\u{61c}",
];

/// Returns the text after a quoted one.
fn behind_quoted(line: &str) -> &str {
    let mut is_escaped = false;
    for (at, char) in line.char_indices().skip(1) {
        match char {
            '"' if !is_escaped => return &line[at + 1..],
            '\\' => is_escaped = !is_escaped,
            _ => is_escaped = false,
        }
    }
    panic!("no quotes in {line}");
}

#[test]
fn values_cannot_forge_a_line_of_text() {
    for value in FORGERIES {
        let line =
            text(|| tracing::warn!(value, shown = %format_args!("<{value}>"), after = 1, "said"));
        assert!(!line.trim_end().contains(is_unsafe), "{line:?}");
        let rest = line
            .strip_prefix(" WARN oneport::telemetry::log_format::tests: said value=")
            .unwrap();
        let rest = behind_quoted(rest).strip_prefix(" shown=").unwrap();
        assert_eq!(behind_quoted(rest), " after=1\n", "{line}");
        let line = text(|| tracing::warn!("said {value}"));
        assert!(!line.trim_end().contains(is_unsafe), "{line:?}");
        assert_eq!(line.lines().count(), 1);
    }
}

#[test]
fn values_arrive_whole_in_json() {
    for value in FORGERIES {
        let object = json(|| tracing::info!(value, shown = %value, "said {value}"));
        assert_eq!(object["value"], value);
        assert_eq!(object["shown"], value);
        assert_eq!(object["message"], format!("said {value}"));
        assert_eq!(object["level"], "INFO");
    }
}

#[test]
fn lines_of_text_are_readable() {
    let line = text(|| {
        tracing::info!(
            client = %"127.0.0.1:5000",
            path = "/a b/",
            seconds = 0.000_042,
            limit = 30.0,
            user = Option::<&str>::None,
            count = 3,
            is_full = true,
            "http"
        );
    });
    assert_eq!(
        line,
        " INFO oneport::telemetry::log_format::tests: http client=127.0.0.1:5000 path=\"/a b/\" seconds=0.000042 limit=30 count=3 is_full=true\n"
    );
}

#[test]
fn decimals_have_no_exponent() {
    for (value, expected) in [
        (0.0, "0"),
        (1e-9, "0"),
        (0.000_001, "0.000001"),
        (1.5, "1.5"),
        (30.0, "30"),
        (1e15, "1000000000000000"),
    ] {
        let mut written = String::new();
        write_decimal(&mut written, value).unwrap();
        assert_eq!(written, expected);
    }
    let object = json(|| tracing::info!(seconds = 0.000_000_5, odd = f64::NAN, "x"));
    assert!(object["seconds"].as_f64().is_some());
    assert_eq!(object["odd"], Value::Null);
}

#[test]
fn long_values_are_cut() {
    let long = "é".repeat(20_000);
    let line = text(|| tracing::info!(long, shown = %long, "{long}"));
    assert_eq!(line.matches('…').count(), 3);
    assert!(line.len() < 3 * 2 * VALUE_MAX + 200, "{}", line.len());
    let object = json(|| tracing::info!(long, "x"));
    assert_eq!(
        object["long"].as_str().unwrap().chars().count(),
        VALUE_MAX + 1
    );
}

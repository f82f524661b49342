//! Look: asks the server for its figures.

use std::path::PathBuf;
use std::time::Duration;

use http::StatusCode;
use serde_json::Value;

use crate::cli::server_api::Caller;
use crate::stats::Snapshot;
use crate::telemetry::recent_ends::End;

/// How long one answer may take.
const TIMEOUT: Duration = Duration::from_secs(5);

/// The longest sentence of a server that is shown.
const SENTENCE_CHARS_MAX: usize = 200;

/// The server and the token.
pub(super) struct Source {
    caller: Caller,
    ca: Option<PathBuf>,
}

/// One answer of the server.
#[derive(Clone, Debug, Default)]
pub(super) struct Look {
    pub(super) snapshot: Snapshot,
    /// The last ends, the newest first.
    pub(super) ends: Vec<End>,
}

impl Source {
    pub(super) fn new(caller: Caller, ca: Option<PathBuf>) -> Self {
        Self { caller, ca }
    }

    /// Returns a sentence if the URL, the token or the certificates are invalid.
    pub(super) fn check(&self) -> Result<(), String> {
        let call = self.caller.call("stats", None, self.ca.as_deref());
        call.map(drop)
    }

    /// Returns the URL without its secrets.
    pub(super) fn shown(&self) -> String {
        self.caller.shown()
    }

    /// Asks for the figures; fails with a sentence.
    pub(super) async fn look(&self) -> Result<Look, String> {
        let call = self.caller.call("stats", None, self.ca.as_deref())?;
        let (status, body) = call.send(TIMEOUT).await?;
        match status {
            StatusCode::OK => parse(&body).ok_or_else(|| {
                let url = self.shown();
                format!("expected figures from {url}, found something else; is it a server of this version?")
            }),
            status => {
                let body: String = body.trim().chars().take(SENTENCE_CHARS_MAX).collect();
                Err(format!("{} said {status}: {}{}", self.shown(), printable(&body), advice(status)))
            }
        }
    }
}

fn advice(status: StatusCode) -> &'static str {
    match status {
        StatusCode::UNAUTHORIZED => " (is the token one of the route's options.tokens?)",
        StatusCode::FORBIDDEN => " (has the token connections = true?)",
        StatusCode::NOT_FOUND => " (is it the path of a route with view = \"publish\"?)",
        _ => "",
    }
}

fn parse(body: &str) -> Option<Look> {
    let mut body: Value = serde_json::from_str(body).ok()?;
    clean(&mut body);
    let ends = body.get_mut("recent_ends").map(Value::take);
    Some(Look {
        ends: ends.and_then(|ends| serde_json::from_value(ends).ok())?,
        snapshot: serde_json::from_value(body).ok()?,
    })
}

/// Makes all texts printable: paths and names come from strangers, and a terminal obeys control
/// characters.
fn clean(value: &mut Value) {
    match value {
        Value::String(text) if text.contains(is_unprintable) => *text = printable(text),
        Value::Array(values) => values.iter_mut().for_each(clean),
        Value::Object(map) => {
            if map.keys().any(|key| key.contains(is_unprintable)) {
                let entries = std::mem::take(map);
                *map = entries
                    .into_iter()
                    .map(|(key, value)| (printable(&key), value))
                    .collect();
            }
            map.values_mut().for_each(clean);
        }
        _ => {}
    }
}

fn printable(text: &str) -> String {
    text.replace(is_unprintable, "\u{fffd}")
}

/// Returns whether a character moves the cursor, changes the terminal, or the order of the text.
fn is_unprintable(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_of_strangers_do_not_reach_the_terminal() {
        let mut snapshot = serde_json::to_value(Snapshot::default()).unwrap();
        snapshot["name"] = "a\u{1b}]0;title\u{7}\r\n\u{202e}b".into();
        snapshot["store_errors"] = serde_json::json!({"x\u{9b}1m": 3});
        snapshot["recent_ends"] = serde_json::json!([]);
        let look = parse(&snapshot.to_string()).unwrap();
        let replaced = "\u{fffd}";
        assert_eq!(
            look.snapshot.name,
            format!("a{replaced}]0;title{replaced}{replaced}{replaced}{replaced}b")
        );
        assert_eq!(look.snapshot.store_errors[&format!("x{replaced}1m")], 3);
    }

    #[test]
    fn other_json_is_no_look() {
        for body in ["", "[]", "{}", "{\"recent_ends\": []}", "<html>"] {
            assert!(parse(body).is_none(), "{body}");
        }
    }
}

//! `oneport explain-close`: a cause, a close code or a status in words.

use std::fmt::Write;

use serde::Serialize;

use super::arguments::{CheckFormat, ExplainCloseArguments};
use super::output::{print, print_error};
use super::{OK, USAGE};
use crate::config::did_you_mean;
use crate::net::{ConnectionCause, ConnectionExplanation};
use crate::websocket::Cause;
use crate::websocket::explanation::{CodeExplanation, Explanation, explain_code, explain_refusal};

/// The tables of the documentation: of sockets, and of connections.
const TABLE: &str = "docs/BEHAVIOUR.md#causes-and-close-codes";
const CONNECTIONS: &str = "docs/BEHAVIOUR.md#connections-that-end-before-a-request";

/// What there is to say about a word.
#[derive(Debug, Serialize)]
struct Explained {
    #[serde(flatten)]
    code: Option<CodeExplanation>,
    /// The status of a refused handshake, in words.
    #[serde(skip_serializing_if = "Option::is_none")]
    refusal: Option<Refusal>,
    /// The causes with this label, or those that close with this code.
    causes: Vec<Explanation>,
    /// The cause with this label why connections end before a request.
    #[serde(skip_serializing_if = "Option::is_none")]
    connection: Option<ConnectionExplanation>,
    documentation: &'static str,
}

#[derive(Debug, Serialize)]
struct Refusal {
    status: u16,
    happened: &'static str,
}

pub(super) fn run(arguments: &ExplainCloseArguments) -> u8 {
    let word = arguments.word.trim();
    let Some(explained) = explain(word) else {
        let hint = did_you_mean(word, labels_in_order())
            .map_or_else(String::new, |hint| format!("; {hint}"));
        print_error(&format!(
            "oneport: expected a cause, a close code from 1000 to 4999 or the status of a handshake, found {word:?}{hint}\nthe causes are {}",
            labels_in_order().join(", ")
        ));
        return USAGE;
    };
    match arguments.format {
        CheckFormat::Text => print(text(&explained).trim_end()),
        CheckFormat::Json => print(&serde_json::to_string(&explained).unwrap_or_default()),
    }
    OK
}

fn explain(word: &str) -> Option<Explained> {
    let explained = match word.parse::<u16>() {
        Ok(number) => Explained {
            code: explain_code(number),
            refusal: explain_refusal(number).map(|happened| Refusal {
                status: number,
                happened,
            }),
            causes: explanations(Cause::ALL.iter().copied())
                .filter(|cause| cause.code == Some(number))
                .collect(),
            connection: None,
            documentation: TABLE,
        },
        Err(_) => {
            let label = word.to_lowercase().replace('-', "_");
            let connection = ConnectionCause::with_label(&label);
            Explained {
                code: None,
                refusal: None,
                causes: explanations(Cause::with_label(&label)).collect(),
                connection: connection.map(ConnectionCause::explanation),
                documentation: if connection.is_some() {
                    CONNECTIONS
                } else {
                    TABLE
                },
            }
        }
    };
    let is_known = explained.code.is_some()
        || explained.refusal.is_some()
        || !explained.causes.is_empty()
        || explained.connection.is_some();
    is_known.then_some(explained)
}

fn explanations(causes: impl Iterator<Item = Cause>) -> impl Iterator<Item = Explanation> {
    causes.map(Cause::explanation)
}

/// Returns each label once.
fn labels_in_order() -> Vec<&'static str> {
    let mut labels: Vec<&str> = Cause::ALL.iter().map(|cause| cause.as_str()).collect();
    labels.dedup();
    labels.extend(ConnectionCause::ALL.iter().map(|cause| cause.as_str()));
    labels
}

fn text(explained: &Explained) -> String {
    let mut text = String::new();
    if let Some(CodeExplanation { code, meaning }) = explained.code {
        let _ = writeln!(text, "{code}  {meaning}\n");
        if !explained.causes.is_empty() {
            text.push_str("The server closes with it because of:\n\n");
        }
    }
    if let Some(Refusal { status, happened }) = &explained.refusal {
        let _ = writeln!(text, "Handshake refused with {status}\n  {happened}\n");
    }
    for cause in &explained.causes {
        let code = match cause.code {
            Some(code) => format!("close code {code}"),
            None => "the close code of the other side".to_owned(),
        };
        let reason = match cause.reason {
            "" => String::new(),
            reason => format!(", reason {reason:?}"),
        };
        let Explanation {
            cause,
            happened,
            remedy,
            ..
        } = cause;
        let _ = writeln!(text, "{cause}  {code}{reason}\n  {happened}\n  {remedy}\n");
    }
    if let Some(connection) = explained.connection {
        let answer = match connection.status {
            Some(status) => format!("answered with {status}"),
            None => "closed without an answer".to_owned(),
        };
        let ConnectionExplanation {
            cause,
            happened,
            remedy,
            ..
        } = connection;
        let _ = writeln!(
            text,
            "{cause}  a connection, {answer}\n  {happened}\n  {remedy}\n"
        );
    }
    let _ = write!(text, "See {}", explained.documentation);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_and_numbers_are_explained() {
        for (word, found) in [
            ("slow_client", "send_queue was full"),
            ("Slow-Client", "send_queue was full"),
            ("1013", "slow_client"),
            ("1006", "ping_timeout"),
            ("4401", "session_ended"),
            ("4242", "For applications"),
            ("3001", "IANA"),
            ("403", "origin"),
            ("consumer_error", "close code 1013"),
            ("connections_per_ip", "answered with 503"),
            ("TLS-failed", "closed without an answer"),
            ("tls_failed", "#connections-that-end-before-a-request"),
        ] {
            let explained = explain(word).map(|explained| text(&explained));
            let explained = explained.unwrap_or_default();
            assert!(explained.contains(found), "{word}: {explained}");
        }
        for unknown in ["", "slow", "999", "5000", "65536", "-1", "200", "1000.0"] {
            assert!(explain(unknown).is_none(), "{unknown}");
        }
    }

    #[test]
    fn every_label_is_explained_and_printed_as_json() {
        for label in labels_in_order() {
            let explained = explain(label).unwrap();
            let json = serde_json::to_value(&explained).unwrap();
            let causes = [&json["causes"][0]["cause"], &json["connection"]["cause"]];
            assert!(causes.iter().any(|cause| **cause == label), "{label}");
        }
        let json = serde_json::to_value(explain("1013").unwrap()).unwrap();
        assert_eq!(json["code"], 1013);
    }
}

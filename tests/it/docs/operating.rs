//! Operating: the signals, exit codes and log fields of docs/OPERATING.md are those of the code, and what
//! config/ has for Prometheus and Grafana names metrics that exist.

use std::collections::BTreeMap;

use oneport::telemetry::AccessField;
use regex::Regex;

use super::{Row, Words, page, tables, words_in_source};

/// The words in backticks that begin the rows under a heading of docs/OPERATING.md. A row may have
/// several.
fn listed(heading: &str) -> Words {
    let quoted = Regex::new("`([^`]+)`").unwrap();
    let tables = tables(&page("docs/OPERATING.md"));
    let mut words = Words::new();
    for Row { cells, .. } in &tables[heading] {
        for captures in quoted.captures_iter(&cells[0]) {
            let is_new = words.insert(captures[1].to_owned());
            assert!(is_new, "{} stands twice under {heading:?}", &captures[1]);
        }
    }
    words
}

/// The signals of `SignalKind`'s constructors.
const KINDS: [(&str, &str); 8] = [
    ("alarm", "SIGALRM"),
    ("child", "SIGCHLD"),
    ("hangup", "SIGHUP"),
    ("interrupt", "SIGINT"),
    ("quit", "SIGQUIT"),
    ("terminate", "SIGTERM"),
    ("user_defined1", "SIGUSR1"),
    ("user_defined2", "SIGUSR2"),
];

#[test]
fn every_signal_is_in_the_list_and_no_other() {
    let file = "src/server/signals.rs";
    let kinds = words_in_source(file, r"SignalKind::([a-z_0-9]+)\(");
    let mut handled = words_in_source(file, r"SignalKind::from_raw\(libc::(SIG[A-Z0-9]+)\)");
    assert!(kinds.contains("terminate"), "{kinds:?}");
    for kind in kinds.iter().filter(|kind| *kind != "from_raw") {
        let name = KINDS.iter().find(|(known, _)| known == kind);
        handled.insert(name.unwrap().1.to_owned());
    }
    assert_eq!(listed("Signals"), handled);
}

#[test]
fn every_exit_code_is_in_the_list_and_no_other() {
    let codes = words_in_source("src/cli/mod.rs", r"const [A-Z]+: u8 = ([0-9]+);");
    assert_eq!(codes.len(), 4, "{codes:?}");
    assert_eq!(listed("Exit codes"), codes);
}

/// The manual page names the same signals and exit codes.
#[test]
fn manual_has_the_signals_that_an_operator_sends() {
    let mut named = Words::new();
    for list in words_in_source("src/cli/man.rs", r#"\(\s*"(SIG[A-Z0-9, ]+)","#) {
        named.extend(list.split(", ").map(str::to_owned));
    }
    let mut listed = listed("Signals");
    listed.remove("SIGXFSZ"); // nothing that an operator sends
    assert_eq!(named, listed);
}

/// Every name in backticks under "Metrics", with the headings below it.
fn metrics() -> Words {
    let page = page("docs/OPERATING.md");
    let (_, rest) = page.split_once("\n## Metrics\n").unwrap();
    let (section, _) = rest.split_once("\n## ").unwrap();
    let row = Regex::new(r"(?m)^\| `((?:oneport|process)_[a-z0-9_]+)").unwrap();
    row.captures_iter(section)
        .map(|captures| captures[1].to_owned())
        .collect()
}

#[test]
fn alerts_and_dashboard_name_metrics_that_exist() {
    let exist = metrics();
    assert!(exist.len() > 60, "only {} were found", exist.len());
    let files = [
        "config/prometheus/oneport.yml",
        "config/prometheus/oneport_test.yml",
        "config/grafana/oneport.json",
    ];
    for file in files {
        for name in words_in_source(file, r"\b((?:oneport|process)_[a-z0-9_]+)[{\[ ,)]") {
            let of_histogram = ["_bucket", "_count", "_sum"]
                .iter()
                .find_map(|end| name.strip_suffix(end));
            let exists = exist.contains(&name) || of_histogram.is_some_and(|of| exist.contains(of));
            assert!(exists, "{file}: {name}");
        }
    }
}

/// The labels of each metric under "Metrics".
fn labels() -> BTreeMap<String, Words> {
    let row = Regex::new(r"^(?:oneport|process)_[a-z0-9_]+$").unwrap();
    let label = Regex::new(r"(?:^|; )`([a-z_]+)`").unwrap();
    let mut labels = BTreeMap::new();
    for Row { key, cells } in tables(&page("docs/OPERATING.md")).into_values().flatten() {
        if row.is_match(&key) {
            let found = label.captures_iter(&cells[2]);
            labels.insert(key, found.map(|captures| captures[1].to_owned()).collect());
        }
    }
    labels
}

/// A query that names a label which the metric does not have finds nothing, without an error.
#[test]
fn alerts_and_dashboard_select_by_labels_that_the_metrics_have() {
    let labels = labels();
    let selector = Regex::new(r#"\b((?:oneport|process)_[a-z0-9_]+)\{([^}]*)\}"#).unwrap();
    let label = Regex::new(r#"([a-z_]+)\s*(?:=~|!~|!=|=)\s*\\?""#).unwrap();
    let grouped = Regex::new(r"(?:by|without) ?\(([a-z_, ]*)\)").unwrap();
    let mut selected = 0;
    for file in [
        "config/prometheus/oneport.yml",
        "config/grafana/oneport.json",
    ] {
        let text = page(file);
        for captures in selector.captures_iter(&text) {
            let name = &captures[1];
            let base = ["_bucket", "_count", "_sum"].iter();
            let base = base.filter_map(|end| name.strip_suffix(end));
            let known = std::iter::once(name)
                .chain(base)
                .find_map(|name| labels.get(name));
            let known = known.unwrap_or_else(|| panic!("{file}: {name}"));
            for label in label.captures_iter(&captures[2]) {
                let of_scrape = ["job", "instance", "le"].contains(&&label[1]);
                let exists = of_scrape || known.contains(&label[1]);
                assert!(exists, "{file}: {name} has no label {}", &label[1]);
                selected += 1;
            }
        }
        let all: Words = labels.values().flatten().cloned().collect();
        for captures in grouped.captures_iter(&text) {
            for label in captures[1]
                .split(',')
                .map(str::trim)
                .filter(|label| !label.is_empty())
            {
                let of_scrape = ["job", "instance", "le"].contains(&label);
                assert!(of_scrape || all.contains(label), "{file}: by {label}");
                selected += 1;
            }
        }
    }
    assert!(selected > 60, "only {selected} were found");
}

#[test]
fn every_alert_is_explained_and_no_other() {
    let row = Regex::new(r"(?m)^\| (Oneport[A-Za-z]+) \|").unwrap();
    let page = page("docs/OPERATING.md");
    let explained: Words = row
        .captures_iter(&page)
        .map(|captures| captures[1].to_owned())
        .collect();
    let alerts = words_in_source("config/prometheus/oneport.yml", r"- alert: (\w+)");
    assert_eq!(explained, alerts);
    assert!(alerts.len() > 15, "{alerts:?}");
}

#[test]
fn every_field_of_the_access_log_is_in_the_list_and_no_other() {
    let mut known: Words = AccessField::NAMES.iter().map(ToString::to_string).collect();
    known.insert("header:NAME".to_owned());
    known.insert("response_header:NAME".to_owned());
    assert_eq!(listed("Log fields"), known);
}

/// The names of the fields of an event of `tracing`, from the arguments of its macro.
fn fields_of_event(arguments: &str) -> Words {
    let (mut depth, mut in_text, mut part, mut parts) = (0, false, String::new(), Vec::new());
    let mut previous = ' ';
    for char in arguments.chars() {
        match char {
            '"' if previous != '\\' => in_text = !in_text,
            _ if in_text => {}
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' if depth == 0 => break,
            ')' | ']' | '}' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(std::mem::take(&mut part));
                previous = char;
                continue;
            }
            _ => {}
        }
        if !in_text {
            part.push(char);
        }
        previous = char;
    }
    parts.push(part);
    let name = Regex::new(r"^\s*[%?]?([a-z_]+)\s*(=[^=]|$)").unwrap();
    let names = parts.iter().filter_map(|part| name.captures(part));
    names.map(|captures| captures[1].to_owned()).collect()
}

/// The fields of all lines but those of the access log and those for debugging.
#[test]
fn every_field_of_other_lines_is_in_the_list_and_no_other() {
    fn below(directory: &std::path::Path, text: &mut String) {
        for entry in std::fs::read_dir(directory).unwrap().flatten() {
            let path = entry.path();
            if path.is_dir() {
                below(&path, text);
            } else if !path.ends_with("tests.rs") {
                let file = std::fs::read_to_string(&path).unwrap();
                text.push_str(file.split("#[cfg(test)]\nmod tests {").next().unwrap());
            }
        }
    }
    let mut text = String::new();
    below(&super::root().join("src"), &mut text);
    let comment = Regex::new(r"(?m)^\s*//.*$").unwrap();
    let text = comment.replace_all(&text, "");
    let start = Regex::new(r"tracing::(?:error|warn|info)!\(").unwrap();
    let mut fields = Words::new();
    for event in start.find_iter(&text) {
        let arguments = &text[event.end()..];
        if !arguments.trim_start().starts_with("target: ACCESS") {
            fields.extend(fields_of_event(arguments));
        }
    }
    assert!(fields.len() > 40, "{fields:?}");
    assert_eq!(listed("Fields of other lines"), fields);
}

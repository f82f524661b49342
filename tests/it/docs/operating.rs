//! Operating: the signals and exit codes of docs/OPERATING.md are those of the code, and what
//! config/ has for Prometheus and Grafana names metrics that exist.

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

//! Operating: the signals and exit codes of docs/OPERATING.md are those of the code.

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

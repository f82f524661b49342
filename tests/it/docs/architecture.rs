//! Architecture: the tables of layers and crates in docs/ come from the code, and every file that a
//! page names exists.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;

use regex::Regex;

use super::{page, pages, root};
use crate::layers::{LAYERS, OUTSIDE, SIBLINGS};

/// Returns the first paragraph of a module's documentation and the path of the module.
fn module(name: &str) -> (String, String) {
    let (file, shown) = match root().join(format!("src/{name}.rs")).exists() {
        true => (format!("src/{name}.rs"), format!("src/{name}.rs")),
        false => (format!("src/{name}/mod.rs"), format!("src/{name}/")),
    };
    let text = page(&file);
    let lines = text.lines().map_while(|line| line.strip_prefix("//! "));
    let paragraph = lines.collect::<Vec<_>>().join(" ");
    (shown, paragraph)
}

fn layers() -> String {
    let mut table = String::from("| layer | module | what |\n|---|---|---|\n");
    for (at, names) in LAYERS.iter().enumerate() {
        let mut names = names.to_vec();
        names.sort_unstable();
        for name in names {
            let (path, what) = module(name);
            let _ = writeln!(table, "| {} | `{path}` | {what} |", at + 1);
        }
    }
    let siblings = SIBLINGS
        .iter()
        .map(|(one, other, reason)| format!("`{one}` uses `{other}`: {reason}."));
    let _ = write!(
        table,
        "\nWithin a layer:\n\n- {}\n",
        siblings.collect::<Vec<_>>().join("\n- ")
    );
    table
}

fn crates() -> String {
    let mut crates_of: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for (name, places) in OUTSIDE {
        let places: Vec<String> = places
            .iter()
            .map(|place| format!("`src/{place}`"))
            .collect();
        crates_of.entry(places.join(", ")).or_default().push(name);
    }
    let mut table = String::from("| where | crates |\n|---|---|\n");
    for (places, names) in crates_of {
        let _ = writeln!(table, "| {places} | {} |", names.join(", "));
    }
    table
}

/// Compares what lies between two markers of the page with what it should be; `ONEPORT_BLESS=1`
/// writes it instead.
fn check(file: &str, name: &str, generated: &str) {
    let text = page(file);
    let (begin, end) = (
        format!("<!-- begin {name} -->\n"),
        format!("<!-- end {name} -->"),
    );
    let (before, rest) = text.split_once(&begin).unwrap();
    let (found, after) = rest.split_once(&end).unwrap();
    if std::env::var_os("ONEPORT_BLESS").is_some() {
        fs::write(
            root().join(file),
            format!("{before}{begin}{generated}{end}{after}"),
        )
        .unwrap();
        return;
    }
    assert_eq!(
        found, generated,
        "{file} differs from the code; `ONEPORT_BLESS=1 cargo test --test it docs::architecture` writes it"
    );
}

#[test]
fn layers_and_crates_are_those_of_the_layer_test() {
    check("docs/ARCHITECTURE.md", "layers", &layers());
    check("docs/internals/crates.md", "crates", &crates());
}

#[test]
fn files_that_a_page_names_exist() {
    let named =
        Regex::new(r"`((?:src|tests|config|templates|examples|benches|docs)/[\w./-]*[\w/])`")
            .unwrap();
    let mut missing = Vec::new();
    let mut checked = 0;
    for name in pages() {
        // A page of an example names files of the example.
        let own = root().join(&name).parent().unwrap().to_owned();
        for captures in named.captures_iter(&page(&name)) {
            if !root().join(&captures[1]).exists() && !own.join(&captures[1]).exists() {
                missing.push(format!("{name}: {}", &captures[1]));
            }
            checked += 1;
        }
    }
    assert!(missing.is_empty(), "{missing:#?}");
    assert!(checked > 60, "only {checked} files were found");
}

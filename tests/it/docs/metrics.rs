//! Metrics: the tables of docs/OPERATING.md are those of the code, with their labels and their
//! words.

use std::collections::BTreeMap;

use oneport::telemetry::{Values, all_metrics};
use regex::Regex;

use super::{Row, Words, page, tables};

/// The words in backticks, in their order.
fn quoted(text: &str) -> Vec<String> {
    let quoted = Regex::new("`([^`]+)`").unwrap();
    quoted
        .captures_iter(text)
        .map(|captures| captures[1].to_owned())
        .collect()
}

/// The labels that several metrics share, with their words; none for those that the configuration
/// names.
fn shared_labels() -> BTreeMap<String, Vec<String>> {
    let tables = tables(&page("docs/OPERATING.md"));
    let row = |Row { key, cells }: &Row| (key.clone(), quoted(&cells[1]));
    tables["Labels"].iter().map(row).collect()
}

/// The labels of a row, with the words of each.
fn labels(cell: &str) -> Vec<(String, Vec<String>)> {
    let shared = shared_labels();
    let labels = cell.split("; ").filter(|label| !label.is_empty());
    let label = |text: &str| {
        let (name, own) = match text.split_once(": ") {
            Some((name, words)) => (name, Some(quoted(words))),
            None => (text, None),
        };
        let name = name.trim_matches('`').to_owned();
        let words = own.or_else(|| shared.get(&name).cloned());
        let words = words.unwrap_or_else(|| {
            panic!(
                "expected the words of the label {name:?}, or a row under Labels, found {cell:?}"
            )
        });
        (name, words)
    };
    labels.map(label).collect()
}

#[test]
fn every_metric_is_listed_with_its_kind_and_labels_and_no_other() {
    let mut listed = BTreeMap::new();
    for (heading, rows) in tables(&page("docs/OPERATING.md")) {
        for Row { key, cells } in rows {
            if heading.starts_with("Metrics of ") {
                let row = (cells[1].clone(), labels(&cells[2]));
                assert!(
                    listed.insert(key.clone(), row).is_none(),
                    "{key} stands twice"
                );
                assert!(!cells[3].is_empty(), "{key} has no meaning");
            }
        }
    }
    let mut known = BTreeMap::new();
    for metric in all_metrics() {
        let labels = metric.labels.iter().map(|label| {
            let words = match label.values {
                Values::Words(words) => words.iter().map(ToString::to_string).collect(),
                Values::Named => Vec::new(),
            };
            (label.name.to_owned(), words)
        });
        let row = (metric.kind.as_str().to_owned(), labels.collect());
        known.insert(metric.name.to_owned(), row);
    }
    for (name, row) in &known {
        assert_eq!(listed.get(name), Some(row), "{name}");
    }
    let listed: Words = listed.into_keys().collect();
    assert_eq!(listed, known.into_keys().collect());
}

#[test]
fn every_shared_label_is_one_of_some_metric() {
    let used: Words = all_metrics()
        .flat_map(|metric| metric.labels.iter().map(|label| label.name.to_owned()))
        .collect();
    for label in shared_labels().into_keys() {
        assert!(used.contains(&label), "{label}");
    }
}

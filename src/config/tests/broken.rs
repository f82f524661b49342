//! Tests of broken files: each beside the problems it has, and any text at all.

use std::fs;
use std::path::{Path, PathBuf};

use super::env;
use crate::config::Config;

/// Each `NN_name.toml` is refused with exactly the lines in `NN_name.txt`. After a change of
/// wording, run with `ONEPORT_BLESS=1` and read the diff.
#[test]
fn every_broken_file_has_its_problems() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/config/broken");
    let mut files: Vec<PathBuf> = fs::read_dir(&dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.retain(|path| {
        path.extension()
            .is_some_and(|extension| extension == "toml")
    });
    files.sort();
    assert!(files.len() >= 30, "{} files", files.len());
    let mut different = Vec::new();
    for file in files {
        let text = fs::read_to_string(&file).unwrap();
        let name = file.file_name().unwrap().to_str().unwrap();
        let found = match Config::parse(name, &text, &dir, &env) {
            Ok((_, warnings)) => format!("accepted\n{warnings}"),
            Err(problems) => problems.to_string(),
        };
        let expected_file = file.with_extension("txt");
        if std::env::var_os("ONEPORT_BLESS").is_some() {
            fs::write(&expected_file, format!("{found}\n")).unwrap();
        }
        let expected = fs::read_to_string(&expected_file).unwrap_or_default();
        if found.trim_end() != expected.trim_end() {
            different.push(format!(
                "{name}\n--- expected\n{expected}\n--- found\n{found}\n"
            ));
        }
    }
    assert!(different.is_empty(), "{}", different.join("\n"));
}

proptest::proptest! {
    /// Pieces of real files in any order and state of repair are read or refused, and every problem
    /// can be shown.
    #[test]
    fn no_file_makes_it_panic(pieces in proptest::collection::vec(piece(), 0..12)) {
        if let Err(problems) = Config::parse("oneport.toml", &pieces.concat(), Path::new("/none"), &env) {
            for problem in &problems {
                assert!(!problem.snippet().to_string().is_empty());
            }
            assert!(!problems.to_string().is_empty());
        }
    }
}

fn piece() -> impl proptest::strategy::Strategy<Value = String> {
    use proptest::prelude::*;
    prop_oneof![
        proptest::sample::select(vec![
            "[server]\n",
            "[[http.route]]\n",
            "[[websocket.route]]\n",
            "[websocket]\n",
            "path = ",
            "\"/é/{x}\"\n",
            "bind = [",
            "]\n",
            "options = { a = 1, token = \"secret\" }\n",
            "max_message = 1\n",
            "headers = { \"ä\" = \"\\u0000\" }\n",
            "consumer.x = \"${\"\n",
            "view = \"${HOST:-}$$\"\r\n",
            "'''",
            "include = [\"*\", \"é[\", 3]\n",
        ])
        .prop_map(str::to_owned),
        "\\PC{0,6}",
    ]
}

//! Every target passes its corpus, without libFuzzer.

use std::fs;
use std::path::{Path, PathBuf};

use oneport_fuzz::{TARGETS, Target, targets, with_targets};

fn corpus(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("corpus")
        .join(name)
}

/// Runs a target over the files of its corpus, in the order of their names.
fn replay(name: &str, target: Target) {
    let mut files: Vec<PathBuf> = fs::read_dir(corpus(name))
        .expect("a directory")
        .map(|entry| entry.expect("an entry").path())
        .collect();
    files.sort();
    assert!(!files.is_empty(), "no corpus");
    for file in files {
        let data = fs::read(&file).expect("a file");
        let outcome = std::panic::catch_unwind(|| target(&data));
        assert!(outcome.is_ok(), "{}", file.display());
    }
}

macro_rules! tests {
    ($($name:ident),* $(,)?) => {
        mod passes {
            $(#[test]
            fn $name() {
                super::replay(stringify!($name), super::targets::$name::run);
            })*
        }
    };
}

with_targets!(tests);

/// `cargo fuzz` knows the programs in the manifest.
#[test]
fn every_target_has_its_program_and_its_corpus() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR"));
    let manifest = fs::read_to_string(directory.join("Cargo.toml")).expect("a manifest");
    let names = |lines: std::str::Lines<'_>| -> Vec<String> {
        let mut names: Vec<String> = lines
            .filter_map(|line| {
                line.strip_prefix("path = \"fuzz_targets/")?
                    .strip_suffix(".rs\"")
            })
            .map(str::to_owned)
            .collect();
        names.sort();
        names
    };
    let known: Vec<String> = TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(names(manifest.lines()), known);
    for name in &known {
        let program = directory.join("fuzz_targets").join(format!("{name}.rs"));
        let text = fs::read_to_string(program).expect("a program");
        assert!(text.contains(&format!("targets::{name}::run")), "{name}");
        assert!(corpus(name).is_dir(), "{name} has no corpus");
    }
}

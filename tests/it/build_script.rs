//! The build script, which names the commit that a release is built from.

use std::env;
use std::fs;
use std::path::Path;
use std::process::Command;

use crate::support::Directory;

/// Runs a program in a directory, without the user's settings of git; returns what it prints.
fn run(directory: &Path, program: impl AsRef<std::ffi::OsStr>, arguments: &[&str]) -> String {
    let output = Command::new(program)
        .args(arguments)
        .current_dir(directory)
        .env("PROFILE", "release")
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env_remove("ONEPORT_REVISION")
        // A hook of git sets these for the repository that it runs in.
        .env_remove("GIT_DIR")
        .env_remove("GIT_COMMON_DIR")
        .env_remove("GIT_INDEX_FILE")
        .env_remove("GIT_WORK_TREE")
        .output()
        .unwrap();
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// Returns the revision, and the paths whose change runs the script again.
fn revision(script: &Path, directory: &Path) -> (String, Vec<String>) {
    let printed = run(directory, script, &[]);
    let all = |key: &str| {
        let values = printed.lines().filter_map(|line| line.strip_prefix(key));
        values.map(str::to_owned).collect::<Vec<_>>()
    };
    let [revision] = &all("cargo::rustc-env=ONEPORT_REVISION=")[..] else {
        panic!("{printed}");
    };
    (revision.clone(), all("cargo::rerun-if-changed="))
}

#[test]
fn revision_tells_a_changed_tree_from_its_commit_and_follows_each_commit() {
    let out = Directory::new();
    let script = out.path("script");
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/build.rs");
    let rustc = env::var("RUSTC").unwrap_or_else(|_| "rustc".to_owned());
    let script_path = script.to_str().unwrap();
    run(
        out.as_path(),
        rustc,
        &["--edition", "2024", "-o", script_path, source],
    );

    let tree = Directory::new()
        .with("Cargo.toml", "")
        .with("src/lib.rs", "")
        .with("README.md", "");
    let directory = tree.as_path();
    let git = |arguments: &[&str]| run(directory, "git", arguments);
    let commit = || {
        git(&["add", "--all"]);
        let who = ["-c", "user.name=a", "-c", "user.email=a@localhost"];
        let what = ["commit", "-q", "--allow-empty", "-m", "x"];
        git(&[&who[..], &what[..]].concat());
        git(&["rev-parse", "HEAD"])
    };
    git(&["init", "-q", "-b", "a/main"]);
    git(&["config", "core.logAllRefUpdates", "false"]);
    let first = commit();

    let (found, watched) = revision(&script, directory);
    assert_eq!(found, first);
    let branch = ".git/refs/heads/a/main".to_owned();
    assert!(watched.contains(&branch), "{watched:?}");
    assert!(watched.contains(&"src".to_owned()), "{watched:?}");

    fs::write(tree.path("README.md"), "not built").unwrap();
    assert_eq!(revision(&script, directory).0, first);
    fs::write(tree.path("src/lib.rs"), "// changed").unwrap();
    assert_eq!(revision(&script, directory).0, format!("{first}-dirty"));
    let second = commit();
    fs::write(tree.path("src/new.rs"), "").unwrap();
    assert_eq!(revision(&script, directory).0, format!("{second}-dirty"));

    // A branch whose file is packed away: the next commit makes it again.
    let third = commit();
    git(&["pack-refs", "--all"]);
    let (found, watched) = revision(&script, directory);
    assert_eq!(found, third);
    for path in [".git/packed-refs", ".git/refs/heads"] {
        assert!(watched.contains(&path.to_owned()), "{watched:?}");
    }
    // Each path is there, or the script would run for every build.
    for path in watched {
        assert!(path == "build.rs" || tree.path(&path).exists(), "{path}");
    }
}

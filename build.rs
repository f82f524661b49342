//! Tells the program its compiler and the commit of its source, for `oneport_build_info`.
//!
//! Both depend on the source and the compiler alone, so builds stay reproducible.

use std::env;
use std::fs;
use std::path::Path;
use std::process::Command;

const UNKNOWN: &str = "unknown";

/// What the program is built from.
const BUILT_FROM: [&str; 6] = [
    "build.rs",
    "Cargo.lock",
    "Cargo.toml",
    "config/oneport.toml",
    "src",
    "templates",
];

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=ONEPORT_REVISION");
    let rustc = env::var("RUSTC").unwrap_or_else(|_| "rustc".to_owned());
    // "rustc 1.95.0 (59807616e 2026-04-14)"
    let rustc = output(&rustc, &["--version"]);
    let rustc = rustc.as_deref().and_then(|text| text.split(' ').nth(1));
    println!(
        "cargo::rustc-env=ONEPORT_RUSTC={}",
        rustc.unwrap_or(UNKNOWN)
    );
    let revision = revision().unwrap_or_else(|| UNKNOWN.to_owned());
    println!("cargo::rustc-env=ONEPORT_REVISION={revision}");
}

/// Returns the commit: the one that the packager names, that of the package on a registry, or the one
/// that is checked out, with `-dirty` if what is built differs from it. A debug build does not look
/// for the latter, or each commit would build all anew.
fn revision() -> Option<String> {
    if let Some(named) = env::var("ONEPORT_REVISION")
        .ok()
        .filter(|named| !named.is_empty())
    {
        return Some(named);
    }
    if let Ok(packaged) = fs::read_to_string(".cargo_vcs_info.json") {
        // {"git": {"sha1": "..."}}
        let (_, rest) = packaged.split_once("\"sha1\"")?;
        return rest.split('"').nth(1).map(str::to_owned);
    }
    if env::var("PROFILE").as_deref() != Ok("release") || !Path::new(".git").exists() {
        return None;
    }
    let commit = output("git", &["rev-parse", "HEAD"])?;
    let place = |name: &str| {
        let path = output("git", &["rev-parse", "--git-path", name])?;
        Path::new(&path).exists().then_some(path)
    };
    let branch = output("git", &["symbolic-ref", "-q", "HEAD"]);
    // Without a reflog, a commit changes the file of the branch alone, or makes it.
    let branch = branch.map_or_else(Vec::new, |branch| match place(&branch) {
        Some(path) => vec![path],
        None => ["packed-refs", "refs/heads"]
            .into_iter()
            .filter_map(place)
            .collect(),
    });
    let head = ["HEAD", "logs/HEAD"].into_iter().filter_map(place);
    for path in head.chain(branch) {
        println!("cargo::rerun-if-changed={path}");
    }
    for path in BUILT_FROM.iter().filter(|path| Path::new(path).exists()) {
        println!("cargo::rerun-if-changed={path}");
    }
    let mut status = vec!["--no-optional-locks", "status", "--porcelain", "--"];
    status.extend(BUILT_FROM);
    let is_changed = output("git", &status).is_some();
    Some(if is_changed {
        commit + "-dirty"
    } else {
        commit
    })
}

/// Returns what a command prints, if it succeeds.
fn output(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let text = text.trim();
    (output.status.success() && !text.is_empty()).then(|| text.to_owned())
}

//! Configuration files: the input is one. Each Problem has a place, and can be shown.

use std::path::Path;

use oneport::config::Config;
use oneport::gateway::{Registry, compile_draft};

/// Directories with files that never end.
const DEVICES: [&str; 3] = ["dev", "proc", "sys"];

pub fn run(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    // A pattern of absolute paths would search the whole disk.
    let searches = text.contains("include") && text.contains("*") && text.contains("\"/");
    if searches || DEVICES.iter().any(|name| text.contains(name)) {
        return;
    }
    let base = Path::new("/nonexistent");
    let env = |name: &str| (name.len() < 4).then(|| "value".to_owned());
    let problems = match Config::draft_of("oneport.toml", text, base, &env) {
        Err(problems) => problems,
        Ok(draft) => match compile_draft(&draft, &Registry::builtin()) {
            Err(problems) | Ok((_, problems)) => problems,
        },
    };
    for problem in &problems {
        assert!(!problem.message().is_empty());
        assert!(!problem.snippet().to_string().is_empty());
        let place = problem.location().to_string();
        assert!(place.starts_with("oneport.toml"), "{place}: {problem}");
    }
    assert_eq!(problems.to_string().is_empty(), problems.is_empty());
}

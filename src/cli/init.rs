//! `oneport init`.

use std::fs;
use std::io;
use std::path::Path;

use super::arguments::InitArguments;
use super::output::{print, print_error};
use super::{FAILURE, OK};

/// A file of the demo, copied unchanged into a new project.
macro_rules! demo {
    ($($path:literal),* $(,)?) => {
        &[$(($path, include_str!(concat!("../../", $path)))),*]
    };
}

/// The files that a new project takes from the demo.
const DEMO: &[(&str, &str)] = demo![
    "config/oneport.toml",
    "templates/404.html",
    "templates/base.html",
    "templates/chat/index.html",
    "templates/chat/room.html",
    "templates/error.html",
    "templates/login.html",
    "templates/static/chat.js",
    "templates/static/icon.svg",
    "templates/static/index.js",
    "templates/static/links.js",
    "templates/static/message_list.js",
    "templates/static/oneport.css",
    "templates/static/oneport.js",
    "templates/static/visitor.js",
];

/// The files that only a new project has.
const OWN: &[(&str, &str)] = &[
    ("Cargo.toml", include_str!("init/Cargo.toml.txt")),
    ("src/main.rs", include_str!("init/main.rs.txt")),
    ("README.md", include_str!("init/README.md.txt")),
    (".gitignore", "/target\n*.db\n*.db-*\n*.secret_key\n"),
];

pub(super) fn run(arguments: &InitArguments) -> u8 {
    let dir = &arguments.dir;
    let files = DEMO.iter().chain(OWN);
    let existing: Vec<&str> = files
        .clone()
        .map(|(path, _)| *path)
        .filter(|path| dir.join(path).exists())
        .collect();
    if !existing.is_empty() {
        print_error(&format!(
            "oneport init: {1} already exists in {0}; nothing was written",
            dir.display(),
            existing.join(", ")
        ));
        return FAILURE;
    }
    for (path, text) in files {
        if let Err(error) = write(&dir.join(path), text) {
            print_error(&format!(
                "oneport init: cannot write {}: {error}",
                dir.join(path).display()
            ));
            return FAILURE;
        }
    }
    print(&format!(
        "a new project in {0}\n\n  cd {0}\n  oneport serve --watch    then http://127.0.0.1:8000/\n  cargo run -- serve       with the consumer in src/main.rs",
        dir.display()
    ));
    OK
}

fn write(path: &Path, text: &str) -> io::Result<()> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    fs::write(path, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns every file below a directory, relative to the repository.
    fn files_below(directory: &str) -> Vec<String> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let mut found = Vec::new();
        for entry in fs::read_dir(root.join(directory)).unwrap().flatten() {
            let path = format!("{directory}/{}", entry.file_name().to_string_lossy());
            if entry.path().is_dir() {
                found.extend(files_below(&path));
            } else {
                found.push(path);
            }
        }
        found
    }

    #[test]
    fn new_project_has_every_template_of_the_demo() {
        let mut expected = files_below("templates");
        expected.retain(|path| !path.starts_with("templates/tutorial/"));
        expected.sort();
        let taken: Vec<&str> = DEMO
            .iter()
            .map(|(path, _)| *path)
            .filter(|path| path.starts_with("templates/"))
            .collect();
        assert_eq!(taken, expected);
    }
}

//! Includes: the files that a pattern in `include` matches.

use std::fs::{self, File};
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};

use glob::{MatchOptions, Pattern};

use crate::config::Size;

/// A file to read.
#[derive(Clone, Debug)]
pub(in crate::config) struct Source {
    /// The name for messages.
    pub(in crate::config) name: String,
    /// The path.
    pub(in crate::config) path: PathBuf,
    /// The path with all links resolved, which identifies the file under any name.
    identity: PathBuf,
}

impl Source {
    pub(in crate::config) fn new(name: String, path: PathBuf) -> Self {
        let identity = fs::canonicalize(&path).unwrap_or_else(|_| path.clone());
        Self {
            name,
            path,
            identity,
        }
    }

    /// Returns the directory that relative paths in it start from.
    pub(in crate::config) fn base(&self) -> PathBuf {
        match self.path.parent() {
            Some(parent) if parent != Path::new("") => parent.to_owned(),
            _ => PathBuf::from("."),
        }
    }

    /// Returns the source of a file named relative to this one.
    fn neighbour(&self, relative: &Path) -> Self {
        let shown = Path::new(&self.name)
            .parent()
            .unwrap_or(Path::new(""))
            .join(relative);
        Self::new(shown.display().to_string(), self.base().join(relative))
    }
}

impl PartialEq for Source {
    fn eq(&self, other: &Self) -> bool {
        self.identity == other.identity
    }
}

impl Eq for Source {}

/// Returns the files that a pattern in `includer` matches, sorted by name.
///
/// A name without `*`, `?` and `[` matches itself, whether that file exists or not. A pattern
/// matches existing files, possibly none, except hidden files and the including file itself.
pub(in crate::config) fn expand(includer: &Source, written: &str) -> Result<Vec<Source>, String> {
    if written.is_empty() {
        return Err("expected the name of a file, found \"\"".to_owned());
    }
    if !written.contains(['*', '?', '[']) {
        return Ok(vec![includer.neighbour(Path::new(written))]);
    }
    let base = includer.base();
    let pattern = if Path::new(written).is_absolute() {
        written.to_owned()
    } else {
        format!("{}/{written}", Pattern::escape(&base.to_string_lossy()))
    };
    let options = MatchOptions {
        case_sensitive: true,
        require_literal_separator: true,
        require_literal_leading_dot: true,
    };
    let refuse = |why: &str| {
        format!(
            "expected a file name or a pattern such as \"conf.d/*.toml\", found {written:?}; {why}"
        )
    };
    let paths = glob::glob_with(&pattern, options).map_err(|error| refuse(error.msg))?;
    let mut sources = Vec::new();
    for path in paths {
        let path = path.map_err(|error| {
            format!("cannot read {}: {}", error.path().display(), error.error())
        })?;
        let relative = path.strip_prefix(&base).unwrap_or(&path);
        let source = includer.neighbour(relative);
        if !source.path.is_dir() && source != *includer {
            sources.push(source);
        }
    }
    Ok(sources)
}

/// Why a file cannot be read as text.
pub(in crate::config) struct Unreadable {
    pub(in crate::config) message: String,
    /// The operating system's error; none if the file is not UTF-8.
    pub(in crate::config) kind: Option<ErrorKind>,
}

/// The most bytes that are read from a file: a device may have no end.
const FILE_BYTES_MAX: u64 = 16 << 20;

/// Reads a file as text.
pub(in crate::config) fn read(source: &Source) -> Result<String, Unreadable> {
    let mut bytes = Vec::new();
    let file = File::open(&source.path);
    file.and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes))
        .map_err(|error| Unreadable {
            message: format!("cannot read the file: {}", reason(&error)),
            kind: Some(error.kind()),
        })?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(Unreadable {
            message: format!(
                "expected a file of at most {}, found more",
                Size(FILE_BYTES_MAX)
            ),
            kind: None,
        });
    }
    String::from_utf8(bytes).map_err(|error| {
        let valid = error.utf8_error().valid_up_to();
        let line = error.as_bytes()[..valid]
            .iter()
            .filter(|byte| **byte == b'\n')
            .count()
            + 1;
        Unreadable {
            message: format!("expected UTF-8 text, found other bytes in line {line}"),
            kind: None,
        }
    })
}

/// Returns the operating system's message without its error number.
pub(crate) fn reason(error: &std::io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error")
        .next()
        .unwrap_or(&text)
        .to_lowercase()
}

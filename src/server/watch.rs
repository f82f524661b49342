//! Watch: whether somebody saved a file of the configuration.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::config::Document;

/// How often `--watch` looks.
pub(super) const WATCH_EVERY: Duration = Duration::from_millis(500);

/// What a look at the watched files found: it differs when somebody saved one of them.
///
/// Symbolic links are followed, so that a link, or a directory, that is swapped for another one counts: so Kubernetes updates the
/// files of a ConfigMap.
#[derive(Debug, Default, Eq, PartialEq)]
pub(super) struct Seen(Vec<SeenFile>);

#[derive(Debug, Eq, Ord, PartialEq, PartialOrd)]
struct SeenFile {
    path: PathBuf,
    modified: SystemTime,
    length: u64,
    /// Device and inode.
    identity: (u64, u64),
}

impl Seen {
    /// Looks at the files of a configuration: those that were read, others of their kind beside them, and all templates.
    pub(super) fn look(documents: &[Arc<Document>], main: &Path, templates: &Path) -> Self {
        let mut seen = Vec::new();
        let mut directories: Vec<PathBuf> = vec![
            main.parent()
                .map_or_else(|| PathBuf::from("."), Path::to_owned),
        ];
        directories.extend(documents.iter().map(|document| document.base().to_owned()));
        directories.sort();
        directories.dedup();
        for directory in directories {
            look_into(&directory, 0, &mut seen, &|path| {
                path.extension()
                    .is_some_and(|extension| extension == "toml")
            });
        }
        look_into(templates, 8, &mut seen, &|_| true);
        seen.sort();
        Self(seen)
    }
}

fn look_into(
    directory: &Path,
    depth: usize,
    seen: &mut Vec<SeenFile>,
    wanted: &dyn Fn(&Path) -> bool,
) {
    let Ok(entries) = std::fs::read_dir(directory) else {
        return;
    };
    for entry in entries.flatten() {
        let path = entry.path();
        let Ok(found) = std::fs::metadata(&path) else {
            continue;
        };
        if found.is_dir() {
            if depth > 0 {
                look_into(&path, depth - 1, seen, wanted);
            }
        } else if wanted(&path) {
            seen.push(SeenFile {
                path,
                modified: found.modified().unwrap_or(SystemTime::UNIX_EPOCH),
                length: found.len(),
                identity: (found.dev(), found.ino()),
            });
        }
    }
}

//! File watch: detects changes to configuration files, templates and certificates, by polling.

use std::collections::HashSet;
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::config::Document;

/// How often `--watch` takes a snapshot.
pub(super) const WATCH_EVERY: Duration = Duration::from_millis(500);

/// The maximum number of files and directories in one snapshot. A link may lead anywhere.
const ENTRIES_MAX: usize = 10_000;

/// The state of the watched files. Two snapshots differ if a file was saved in between.
///
/// Symbolic links are followed, because swapping a link or a directory is a change too: Kubernetes
/// updates the files of a ConfigMap that way.
#[derive(Debug, Default, Eq, PartialEq)]
pub(super) struct FileSnapshot(Vec<FileStamp>);

#[derive(Debug, Eq, Ord, PartialEq, PartialOrd)]
struct FileStamp {
    path: PathBuf,
    modified: SystemTime,
    length: u64,
    /// Device and inode.
    identity: (u64, u64),
}

impl FileSnapshot {
    /// Takes a snapshot of the files of a configuration: those that were read, other TOML files in
    /// their directories, and all templates.
    pub(super) fn take(documents: &[Arc<Document>], main: &Path, templates: &Path) -> Self {
        let mut scan = Scan::default();
        let mut directories: Vec<PathBuf> = vec![
            main.parent()
                .map_or_else(|| PathBuf::from("."), Path::to_owned),
        ];
        directories.extend(documents.iter().map(|document| document.base().to_owned()));
        directories.sort();
        directories.dedup();
        for directory in directories {
            scan.scan_directory(&directory, 0, &|path| {
                path.extension()
                    .is_some_and(|extension| extension == "toml")
            });
        }
        scan.visited.clear();
        scan.scan_directory(templates, 8, &|_| true);
        scan.files.sort();
        Self(scan.files)
    }

    /// Takes a snapshot of these files. One that does not exist is not in it.
    pub(super) fn of_files<'p>(paths: impl Iterator<Item = &'p Path>) -> Self {
        let stamp = |path: &Path| {
            let found = std::fs::metadata(path).ok()?;
            Some(FileStamp::new(path.to_owned(), &found))
        };
        Self(paths.filter_map(stamp).collect())
    }
}

impl FileStamp {
    fn new(path: PathBuf, found: &Metadata) -> Self {
        Self {
            path,
            modified: found.modified().unwrap_or(SystemTime::UNIX_EPOCH),
            length: found.len(),
            identity: (found.dev(), found.ino()),
        }
    }
}

/// A snapshot that is being taken.
#[derive(Default)]
struct Scan {
    files: Vec<FileStamp>,
    /// Directories, by device and inode: links may form a cycle.
    visited: HashSet<(u64, u64)>,
    entries: usize,
}

impl Scan {
    fn scan_directory(&mut self, directory: &Path, depth: usize, wanted: &dyn Fn(&Path) -> bool) {
        let is_new = std::fs::metadata(directory)
            .is_ok_and(|found| self.visited.insert((found.dev(), found.ino())));
        let Some(entries) = is_new.then(|| std::fs::read_dir(directory).ok()).flatten() else {
            return;
        };
        for entry in entries.flatten() {
            if self.entries == ENTRIES_MAX {
                return;
            }
            self.entries += 1;
            let path = entry.path();
            let Ok(found) = std::fs::metadata(&path) else {
                continue;
            };
            if found.is_dir() {
                if depth > 0 {
                    self.scan_directory(&path, depth - 1, wanted);
                }
            } else if wanted(&path) {
                self.files.push(FileStamp::new(path, &found));
            }
        }
    }
}

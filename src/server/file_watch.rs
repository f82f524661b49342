//! File watch: detects changes to configuration files and templates, by polling.

use std::collections::HashSet;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::{Interval, MissedTickBehavior};

use crate::config::Document;
use crate::file_stamp::FileStamp;

/// How often `--watch` takes a snapshot.
const WATCH_EVERY: Duration = Duration::from_millis(500);

/// The maximum number of files and directories in one snapshot. A link may lead anywhere.
const ENTRIES_MAX: usize = 10_000;

/// Compares the watched files with their state at the last scan.
pub(super) struct Watch {
    is_enabled: bool,
    interval: Interval,
    /// The running scan, on a thread of the blocking pool.
    scanning: Option<JoinHandle<FileSnapshot>>,
    last: Option<FileSnapshot>,
}

impl Watch {
    pub(super) fn new(is_enabled: bool) -> Self {
        let mut interval = tokio::time::interval(WATCH_EVERY);
        interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self {
            is_enabled,
            interval,
            scanning: None,
            last: None,
        }
    }

    /// Waits for the next change; `take` takes a snapshot. Cancel-safe: an interrupted scan is
    /// awaited by the next call.
    pub(super) async fn changed(&mut self, take: impl Fn() -> JoinHandle<FileSnapshot>) {
        if !self.is_enabled {
            return std::future::pending().await;
        }
        loop {
            let scanning = match &mut self.scanning {
                Some(scanning) => scanning,
                None => {
                    self.interval.tick().await;
                    self.scanning.insert(take())
                }
            };
            let scanned = scanning.await;
            self.scanning = None;
            if let Ok(snapshot) = scanned {
                let before = self.last.replace(snapshot);
                if before.is_some() && before != self.last {
                    return;
                }
            }
        }
    }
}

/// The state of the watched files. Two snapshots differ if a file was saved in between.
#[derive(Debug, Default, Eq, PartialEq)]
pub(super) struct FileSnapshot(Vec<(PathBuf, FileStamp)>);

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
}

/// A snapshot that is being taken.
#[derive(Default)]
struct Scan {
    files: Vec<(PathBuf, FileStamp)>,
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
                self.files.push((path, FileStamp::from(&found)));
            }
        }
    }
}

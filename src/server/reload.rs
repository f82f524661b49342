//! Reload: a new table out of the file, or the old one and every Problem.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::config::{Bind, Config, Document, Listen, Problems, process_environment};
use crate::gateway::{Registry, Table, compile_draft};
use crate::telemetry;

/// How often `--watch` looks.
pub(super) const WATCH_EVERY: Duration = Duration::from_millis(500);

/// Where the configuration comes from, and how it is made anew.
#[derive(Clone, Debug)]
pub struct Reload {
    /// The main file.
    pub file: PathBuf,
    /// The names in it.
    pub registry: Registry,
    /// Where to listen instead of at the file's `bind`; empty: there.
    pub bind: Vec<Bind>,
    /// Is the file watched?
    pub watch: bool,
}

/// A configuration that was read and compiled.
#[derive(Debug)]
pub struct Loaded {
    /// What is written.
    pub config: Config,
    /// What runs.
    pub table: Table,
    /// What is to be mended some time.
    pub warnings: Problems,
}

impl Reload {
    /// Reads and compiles the file. All Problems of both are returned at once.
    pub fn load(&self) -> Result<Loaded, Problems> {
        telemetry::start_metrics();
        let mut draft = Config::draft(&self.file, &process_environment)?;
        if !self.bind.is_empty() {
            draft.config.server.bind = self.bind.iter().cloned().map(Listen::from).collect();
        }
        let (table, warnings) = compile_draft(&draft, &self.registry)?;
        Ok(Loaded {
            config: draft.config,
            table,
            warnings,
        })
    }
}

/// What a look at the watched files found: it differs when somebody saved one of them.
#[derive(Debug, Default, Eq, PartialEq)]
pub(super) struct Seen(Vec<(PathBuf, SystemTime, u64)>);

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
    seen: &mut Vec<(PathBuf, SystemTime, u64)>,
    wanted: &dyn Fn(&Path) -> bool,
) {
    let Ok(entries) = std::fs::read_dir(directory) else {
        return;
    };
    for entry in entries.flatten() {
        let (path, Ok(found)) = (entry.path(), entry.metadata()) else {
            continue;
        };
        if found.is_dir() {
            if depth > 0 {
                look_into(&path, depth - 1, seen, wanted);
            }
        } else if wanted(&path) {
            seen.push((
                path,
                found.modified().unwrap_or(SystemTime::UNIX_EPOCH),
                found.len(),
            ));
        }
    }
}

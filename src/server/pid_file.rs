//! PidFile: the file with the number of the process that serves.
//!
//! ```text
//! write ──> draft ── publish ──> the file ──┬── drop ──> removed, unless it names another process
//!             └── drop: removed             │ ▲
//!                                     leave │ │ take_back: the next process has ended
//!                                           ▼ │
//!                                          left ── drop ──> replaced by the next process
//! ```
//!
//! The draft shows at the start whether the directory takes a file. It becomes the file once the
//! server serves: before that, and when it does not start, the file of an earlier process stays.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::atomic_file::DRAFT_SUFFIX;

/// The file, or its draft.
#[derive(Debug)]
pub(super) struct PidFile {
    path: PathBuf,
    draft: PathBuf,
    is_left: bool,
}

impl PidFile {
    /// Writes the draft beside the file. The directory is created if it is missing.
    pub(super) fn write(path: &Path) -> io::Result<Self> {
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        if path.is_dir() {
            return Err(io::ErrorKind::IsADirectory.into());
        }
        let mut draft = path.as_os_str().to_owned();
        draft.push(DRAFT_SUFFIX);
        let file = Self {
            path: path.to_owned(),
            draft: draft.into(),
            is_left: false,
        };
        // A process that was killed while it started has left its draft.
        let _ = fs::remove_file(&file.draft);
        let mut written = File::create_new(&file.draft)?;
        writeln!(written, "{}", std::process::id())?;
        Ok(file)
    }

    /// Makes the draft the file, in place of an earlier one. Warns if the process that the earlier
    /// one names runs this program too and is not `replaced`.
    pub(super) fn publish(&self, replaced: Option<u32>) {
        let path = self.path.display();
        let other = read(&self.path).filter(|pid| *pid != std::process::id());
        if let Some(pid) = other.filter(|pid| Some(*pid) != replaced && runs_this_program(*pid)) {
            tracing::warn!("{path} named process {pid}, which runs this program too");
        }
        if let Err(error) = fs::rename(&self.draft, &self.path) {
            tracing::error!("cannot write {path}: {error}");
        }
    }

    /// Returns the path of the file.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Leaves the file to another process. To remove it as long as it names this one would be a race
    /// with that process, which replaces it.
    pub(super) fn leave(&mut self) {
        self.is_left = true;
    }

    /// Takes the file back from a process that has ended: it is removed if it still names this one.
    pub(super) fn take_back(&mut self) {
        self.is_left = false;
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        if self.is_left {
            return;
        }
        let _ = fs::remove_file(&self.draft);
        if read(&self.path) == Some(std::process::id()) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Returns the process that a file names.
fn read(path: &Path) -> Option<u32> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// Returns whether a process runs, and has the name of this one.
fn runs_this_program(pid: u32) -> bool {
    let name = |pid: &str| fs::read(format!("/proc/{pid}/comm")).ok();
    let theirs = name(&pid.to_string());
    theirs.is_some() && theirs == name("self")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A directory of its own, removed at the end.
    struct Directory(PathBuf);

    impl Directory {
        fn new() -> Self {
            let path = std::env::temp_dir().join(format!("oneport-{:016x}", fastrand::u64(..)));
            fs::create_dir(&path).unwrap();
            Self(path)
        }

        fn names(&self) -> Vec<String> {
            let entries = fs::read_dir(&self.0).unwrap();
            entries
                .map(|entry| entry.unwrap().file_name().into_string().unwrap())
                .collect()
        }
    }

    impl Drop for Directory {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn the_file_appears_when_it_is_published_and_goes_with_its_process() {
        let directory = Directory::new();
        let path = directory.0.join("oneport.pid");
        fs::write(&path, "4194305\n").unwrap(); // of a process that cannot be
        let file = PidFile::write(&path).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "4194305\n");
        file.publish(None);
        let written = fs::read_to_string(&path).unwrap();
        assert_eq!(written, format!("{}\n", std::process::id()));
        drop(file);
        assert!(directory.names().is_empty());
    }

    #[test]
    fn a_start_that_fails_leaves_the_file_of_the_running_process() {
        let directory = Directory::new();
        let path = directory.0.join("oneport.pid");
        fs::write(&path, "1\n").unwrap();
        drop(PidFile::write(&path).unwrap());
        assert_eq!(directory.names(), ["oneport.pid"]);
    }

    #[test]
    fn a_file_that_names_the_next_process_is_left_to_it() {
        let directory = Directory::new();
        let path = directory.0.join("run/oneport.pid");
        let file = PidFile::write(&path).unwrap();
        file.publish(None);
        fs::write(&path, "1\n").unwrap();
        drop(file);
        assert_eq!(fs::read_to_string(&path).unwrap(), "1\n");
    }

    #[test]
    fn a_file_that_is_left_stays() {
        let directory = Directory::new();
        let path = directory.0.join("oneport.pid");
        let mut file = PidFile::write(&path).unwrap();
        file.publish(None);
        file.leave();
        drop(file);
        assert_eq!(directory.names(), ["oneport.pid"]);
    }

    #[test]
    fn a_file_that_is_taken_back_goes_unless_the_next_process_has_replaced_it() {
        let directory = Directory::new();
        let path = directory.0.join("oneport.pid");
        for next in [None, Some("1\n")] {
            let mut file = PidFile::write(&path).unwrap();
            file.publish(None);
            file.leave();
            if let Some(written) = next {
                fs::write(&path, written).unwrap();
            }
            file.take_back();
            drop(file);
            assert_eq!(path.exists(), next.is_some());
        }
    }

    #[test]
    fn a_directory_in_its_place_is_an_error() {
        let directory = Directory::new();
        let error = PidFile::write(&directory.0).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::IsADirectory);
        assert!(directory.names().is_empty());
    }
}

//! Program: the file that this process was started from, by the path that its user gave.

use std::env;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// A program with its arguments.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Program {
    path: PathBuf,
    arguments: Vec<OsString>,
}

impl Program {
    /// Returns the program of this process.
    ///
    /// The path is that of the command, with its links: an upgrade may replace the file or point a
    /// link to another one. It is kept from the start on, because the path that the system knows
    /// (`/proc/self/exe`) follows the running file, also to where it was moved.
    pub(super) fn of_this_process() -> io::Result<Self> {
        let running = env::current_exe()?;
        let mut words = env::args_os();
        let command = words.next().unwrap_or_default();
        let directory = env::current_dir()?;
        let search = env::var_os("PATH");
        Ok(Self {
            path: path_of(&command, &directory, search.as_deref(), &running),
            arguments: words.collect(),
        })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn arguments(&self) -> &[OsString] {
        &self.arguments
    }
}

/// Returns the path of a command, as a shell in `directory` finds it, if that is the running file;
/// otherwise the path of the running file.
fn path_of(command: &OsStr, directory: &Path, search: Option<&OsStr>, running: &Path) -> PathBuf {
    let candidates: Vec<PathBuf> = if command.as_encoded_bytes().contains(&b'/') {
        vec![directory.join(command)]
    } else {
        let folders = search.map(env::split_paths).into_iter().flatten();
        folders
            .map(|folder| directory.join(folder).join(command))
            .collect()
    };
    let identity = |path: &Path| {
        let metadata = fs::metadata(path).ok()?;
        Some((metadata.dev(), metadata.ino()))
    };
    let wanted = identity(running);
    candidates
        .into_iter()
        .find(|path| wanted.is_some() && identity(path) == wanted)
        .unwrap_or_else(|| running.to_owned())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn the_path_keeps_the_links_of_the_command() {
        let root = env::temp_dir().join(format!("oneport-{:016x}", fastrand::u64(..)));
        let (releases, bin) = (root.join("releases"), root.join("bin"));
        fs::create_dir_all(&releases).unwrap();
        fs::create_dir(&bin).unwrap();
        let running = releases.join("1");
        fs::write(&running, "").unwrap();
        let link = bin.join("server");
        symlink(&running, &link).unwrap();
        let other = root.join("server");
        fs::write(&other, "").unwrap();
        let search = env::join_paths([&root, &bin]).unwrap();
        let found = |command: &str| path_of(OsStr::new(command), &bin, Some(&search), &running);
        assert_eq!(found("./server"), bin.join("./server"));
        assert_eq!(found(link.to_str().unwrap()), link);
        // Not `root/server`, which comes first on the path and is another file.
        assert_eq!(found("server"), link);
        assert_eq!(found("renamed"), running);
        assert_eq!(found(other.to_str().unwrap()), running);
        fs::remove_dir_all(root).unwrap();
    }
}

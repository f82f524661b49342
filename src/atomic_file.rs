//! AtomicFile: writes a file whole or not at all.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// The ending of a file that is being written. A process that dies while it writes leaves one
/// behind.
pub(crate) const DRAFT_SUFFIX: &str = ".draft";

/// Who may read a file.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Access {
    /// Its owner only: a private key.
    Owner,
    /// Everyone, as far as the umask allows.
    Everyone,
}

/// Writes a file, which replaces an earlier one. A reader sees the earlier file or this one, never
/// a part: the bytes go into a file of another name in the same directory, which is renamed once
/// they are on the disk.
pub(crate) fn write(path: &Path, bytes: &[u8], access: Access) -> io::Result<()> {
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    // Not from the file's own name, which may be as long as a name can be.
    let draft = directory.join(format!("{:016x}{DRAFT_SUFFIX}", fastrand::u64(..)));
    let written = write_new(&draft, bytes, access).and_then(|()| fs::rename(&draft, path));
    if written.is_err() {
        let _ = fs::remove_file(&draft);
    }
    written?;
    // The rename itself must survive a power failure. Some file systems refuse this.
    let _ = File::open(directory).and_then(|directory| directory.sync_all());
    Ok(())
}

fn write_new(path: &Path, bytes: &[u8], access: Access) -> io::Result<()> {
    let mode = match access {
        Access::Owner => 0o600,
        Access::Everyone => 0o644,
    };
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_file_is_replaced_whole_and_nothing_else_is_left() {
        let directory = std::env::temp_dir().join(format!("oneport-{:016x}", fastrand::u64(..)));
        fs::create_dir(&directory).unwrap();
        let path = directory.join("key.pem");
        write(&path, b"one", Access::Everyone).unwrap();
        write(&path, b"two", Access::Owner).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        // A directory cannot be replaced by a file.
        fs::create_dir(directory.join("taken")).unwrap();
        write(&directory.join("taken"), b"", Access::Owner).unwrap_err();
        write(&directory.join("missing/key.pem"), b"", Access::Owner).unwrap_err();
        let mut names: Vec<_> = fs::read_dir(&directory)
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        names.sort();
        assert_eq!(names, ["key.pem", "taken"]);
        let longest = directory.join("x".repeat(255));
        write(&longest, b"", Access::Owner).unwrap();
        assert!(longest.exists());
        fs::remove_dir_all(directory).unwrap();
    }
}

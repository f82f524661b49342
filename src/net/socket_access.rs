//! Socket access: the permissions and the group of a unix socket's file.
//!
//! A process that may write to the directory may put a symlink to another file in the socket's
//! place at any time, so a name is looked up once, without following a symlink, and the file that it
//! named then is changed. On Linux a descriptor keeps that file (`O_PATH`), and `/proc/self/fd` is
//! its name.

use std::fs::{File, Metadata, OpenOptions, Permissions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use super::unix_listener::FileIdentity;

/// The file of a unix socket, as it was found.
#[derive(Debug)]
pub(super) struct SocketAccess {
    file: File,
    found: Metadata,
}

impl SocketAccess {
    /// Looks up a file; a symlink is itself the file.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_PATH | libc::O_NOFOLLOW)
            .open(path)?;
        let found = file.metadata()?;
        Ok(Self { file, found })
    }

    pub(super) fn identity(&self) -> FileIdentity {
        (self.found.dev(), self.found.ino())
    }

    /// Returns the permissions, as they were found.
    pub(super) fn mode(&self) -> u32 {
        self.found.mode() & 0o7777
    }

    /// Returns the group, as it was found.
    pub(super) fn group(&self) -> u32 {
        self.found.gid()
    }

    /// Sets the group, then the permissions.
    pub(super) fn set(&self, group: Option<u32>, mode: Option<u32>) -> io::Result<()> {
        if let Some(group) = group {
            chown(self.name(), None, Some(group))?;
        }
        if let Some(mode) = mode {
            std::fs::set_permissions(self.name(), Permissions::from_mode(mode))?;
        }
        Ok(())
    }

    fn name(&self) -> PathBuf {
        format!("/proc/self/fd/{}", self.file.as_raw_fd()).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode_of(path: &Path) -> u32 {
        path.metadata().unwrap().permissions().mode() & 0o7777
    }

    #[test]
    fn symlink_in_the_place_of_the_file_changes_no_other_file() {
        let directory = std::env::temp_dir().join(format!("oneport-{:016x}", fastrand::u64(..)));
        std::fs::create_dir(&directory).unwrap();
        let [path, moved, other] = ["socket", "moved", "other"].map(|name| directory.join(name));
        std::fs::write(&other, "").unwrap();
        std::fs::set_permissions(&other, Permissions::from_mode(0o600)).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let access = SocketAccess::open(&path).unwrap();
        access.set(None, Some(0o640)).unwrap();
        assert_eq!(mode_of(&path), 0o640);
        // After the look, and before the change.
        std::fs::rename(&path, &moved).unwrap();
        std::os::unix::fs::symlink(&other, &path).unwrap();
        access.set(Some(access.group()), Some(0o666)).unwrap();
        assert_eq!((mode_of(&moved), mode_of(&other)), (0o666, 0o600));
        // The symlink itself is not the socket.
        let found = SocketAccess::open(&path).unwrap();
        assert_ne!(found.identity(), access.identity());
        assert!(found.set(None, Some(0o666)).is_err());
        assert_eq!(mode_of(&other), 0o600);
        std::fs::remove_dir_all(&directory).unwrap();
    }
}

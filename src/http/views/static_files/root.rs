//! Root: the directory of a view, below which files are found by the rule for symbolic links.

use std::fs::{File, Metadata};
use std::io::{self, ErrorKind};
use std::ops::Range;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat, openat2};
use rustix::io::Errno;

use crate::http::file_threads::DirectoryThreads;

/// How often a lookup is repeated that a concurrent rename has disturbed.
const LOOKUPS_MAX: usize = 16;

/// The rule for symbolic links below the directory. The directory itself may be one.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Symlinks {
    /// None is followed.
    Deny,
    /// Those that lead to a place below the directory are followed.
    Inside,
    /// All are followed.
    #[default]
    Follow,
}

/// The directory of a view.
#[derive(Debug)]
pub(super) struct Root {
    dir: PathBuf,
    symlinks: Symlinks,
    threads: Arc<DirectoryThreads>,
}

/// Distinguishes a file from another one, and from its state before a change.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Identity {
    device: u64,
    inode: u64,
    len: u64,
    modified: (i64, i64),
    /// When the content, the permissions or the name were changed.
    changed: (i64, i64),
}

/// A file by its name, opened for each read, and read only if its identity is unchanged.
#[derive(Debug)]
pub(super) struct NamedFile {
    pub(super) root: Arc<Root>,
    pub(super) name: Box<str>,
    pub(super) identity: Identity,
}

impl Identity {
    pub(super) fn of(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            len: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }

    /// Returns whether the content is the same. A file may be renamed while it is sent.
    fn has_content_of(self, other: Self) -> bool {
        let changed = other.changed;
        Self { changed, ..self } == other
    }
}

impl Root {
    pub(super) fn new(dir: PathBuf, symlinks: Symlinks, threads: Arc<DirectoryThreads>) -> Self {
        Self {
            dir,
            symlinks,
            threads,
        }
    }

    /// Returns the threads that wait for the directory.
    pub(super) fn threads(&self) -> &Arc<DirectoryThreads> {
        &self.threads
    }

    /// Runs `work`, which may wait for the file system, on a thread.
    pub(super) async fn run<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Arc<Self>) -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let root = self.clone();
        self.threads.run(move || work(&root)).await
    }

    /// Returns the metadata of a file or a directory, without opening it: that can have side
    /// effects for a device.
    pub(super) fn metadata(&self, name: &str) -> io::Result<Metadata> {
        let path = self.look_up(name, OFlags::PATH)?;
        File::from(path).metadata()
    }

    /// Opens a regular file.
    ///
    /// The type is checked before opening and again afterwards. `O_NONBLOCK` keeps a FIFO that
    /// replaced the file in between from blocking the thread.
    pub(super) fn open(&self, name: &str) -> io::Result<(File, Metadata)> {
        let path = File::from(self.look_up(name, OFlags::PATH)?);
        if !path.metadata()?.is_file() {
            return Err(ErrorKind::NotFound.into());
        }
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
        let file = match self.look_up(name, flags) {
            // A lease of another process, such as Samba, which the kernel gives time to end it.
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                let same = format!("/proc/self/fd/{}", path.as_raw_fd());
                let flags = OFlags::RDONLY | OFlags::NOCTTY | OFlags::CLOEXEC;
                File::from(openat(CWD, same, flags, Mode::empty())?)
            }
            opened => File::from(opened?),
        };
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(ErrorKind::NotFound.into());
        }
        Ok((file, metadata))
    }

    /// Opens a directory to read its entries.
    pub(super) fn open_directory(&self, name: &str) -> io::Result<OwnedFd> {
        self.look_up(name, OFlags::RDONLY | OFlags::DIRECTORY)
    }

    /// The kernel applies the rule for symbolic links while it follows the path, so no rename in
    /// between can lead out of the directory.
    fn look_up(&self, name: &str, flags: OFlags) -> io::Result<OwnedFd> {
        let flags = flags | OFlags::CLOEXEC;
        let rule = match self.symlinks {
            Symlinks::Follow => {
                let path = self.dir.join(name);
                return Ok(openat(CWD, &path, flags, Mode::empty())?);
            }
            Symlinks::Inside => ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS,
            Symlinks::Deny => ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS,
        };
        // Opened each time: a deployment may replace the directory.
        let as_path = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = openat(CWD, &self.dir, as_path, Mode::empty())?;
        let name = if name.is_empty() { "." } else { name };
        for _ in 0..LOOKUPS_MAX {
            match openat2(&dir, name, flags, Mode::empty(), rule) {
                Err(Errno::AGAIN) => {}
                found => return Ok(found?),
            }
        }
        Err(Errno::AGAIN.into())
    }
}

impl NamedFile {
    /// Reads a range. Another file at the name is an error, because the length is already sent.
    pub(super) fn read(&self, range: &Range<u64>) -> io::Result<Bytes> {
        use std::os::unix::fs::FileExt;

        let (file, metadata) = self.root.open(&self.name)?;
        if !Identity::of(&metadata).has_content_of(self.identity) {
            return Err(io::Error::other("the file was changed while it was sent"));
        }
        let count = usize::try_from(range.end - range.start).map_err(io::Error::other)?;
        let mut buffer = vec![0; count];
        file.read_exact_at(&mut buffer, range.start)?;
        Ok(buffer.into())
    }
}

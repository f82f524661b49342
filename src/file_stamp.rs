//! FileStamp: the state of a file, which shows whether it was written.

use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// The state of a file or a directory. Two differ if it was written or replaced in between.
///
/// A symbolic link is followed, because swapping a link or a directory is a change too: Kubernetes
/// updates the files of a ConfigMap that way.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) struct FileStamp {
    /// Seconds and nanoseconds since 1970.
    modified: (i64, i64),
    length: u64,
    /// Device and inode.
    identity: (u64, u64),
}

impl FileStamp {
    /// Returns the state of a file; `None` if there is none.
    pub(crate) fn of(path: &Path) -> Option<Self> {
        fs::metadata(path).ok().map(|found| Self::from(&found))
    }
}

impl From<&Metadata> for FileStamp {
    fn from(found: &Metadata) -> Self {
        Self {
            modified: (found.mtime(), found.mtime_nsec()),
            length: found.len(),
            identity: (found.dev(), found.ino()),
        }
    }
}

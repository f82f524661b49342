//! Log file: a file that log lines are appended to, and that is opened again when it was renamed.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::LogThrottle;
use super::log_queue::LogOutput;

/// A new file is for the server's user and group: its lines have addresses and names of clients.
const MODE: u32 = 0o640;

/// How often a write looks whether the file is still at its path.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// A file that log lines are appended to.
///
/// [`LogOutput::reopen`] opens the path again. A file that was renamed or removed without it is
/// noticed by a write, at most a second later. If the path cannot be opened, lines go on to the
/// file that is open.
#[derive(Debug)]
pub(crate) struct LogFile {
    path: PathBuf,
    file: File,
    looked_at: Instant,
    failures: LogThrottle,
}

impl LogFile {
    /// Opens a file at its end, and creates it if there is none. Its directory must exist.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        Ok(Self {
            path: path.to_owned(),
            file: open(path)?,
            looked_at: Instant::now(),
            failures: LogThrottle::new(),
        })
    }

    /// Returns whether the open file is the one at the path.
    fn is_at_path(&self) -> bool {
        let identity = |metadata: &std::fs::Metadata| (metadata.dev(), metadata.ino());
        let (Ok(open), Ok(found)) = (self.file.metadata(), self.path.metadata()) else {
            return false;
        };
        identity(&open) == identity(&found)
    }

    /// Returns whether another file is open now.
    fn open_again(&mut self) -> bool {
        let is_another = !self.is_at_path();
        let path = self.path.display();
        match open(&self.path) {
            Ok(file) => {
                self.file = file;
                tracing::info!(%path, "opened the log file again");
                is_another
            }
            Err(error) => {
                if let Some(times) = self.failures.count() {
                    tracing::error!(%path, %error, times, "cannot open the log file again; lines go on to the file that is open");
                }
                false
            }
        }
    }
}

impl Write for LogFile {
    fn write(&mut self, lines: &[u8]) -> io::Result<usize> {
        if self.looked_at.elapsed() >= LOOK_INTERVAL {
            self.looked_at = Instant::now();
            if !self.is_at_path() {
                self.open_again();
            }
        }
        self.file.write(lines)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl LogOutput for LogFile {
    fn reopen(&mut self) -> bool {
        self.looked_at = Instant::now();
        self.open_again()
    }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .append(true)
        .create(true)
        .mode(MODE)
        // A pipe without a reader fails instead of waiting for one.
        .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
        .open(path)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    struct Directory(PathBuf);

    impl Directory {
        fn new() -> Self {
            let name = format!("oneport-log-{:016x}", fastrand::u64(..));
            let path = std::env::temp_dir().join(name);
            fs::create_dir(&path).unwrap();
            Self(path)
        }

        fn join(&self, name: &str) -> PathBuf {
            self.0.join(name)
        }
    }

    impl Drop for Directory {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn read(path: &Path) -> String {
        fs::read_to_string(path).unwrap()
    }

    #[test]
    fn a_renamed_file_is_left_at_the_signal_or_a_second_later() {
        let directory = Directory::new();
        let (path, old) = (directory.join("log"), directory.join("log.1"));
        fs::write(&path, "kept\n").unwrap();
        let mut log = LogFile::open(&path).unwrap();
        log.write_all(b"one\n").unwrap();
        fs::rename(&path, &old).unwrap();
        log.write_all(b"two\n").unwrap();
        log.reopen();
        log.write_all(b"three\n").unwrap();
        assert_eq!(
            (&*read(&old), &*read(&path)),
            ("kept\none\ntwo\n", "three\n")
        );
        fs::remove_file(&path).unwrap();
        log.write_all(b"lost\n").unwrap();
        log.looked_at = Instant::now().checked_sub(LOOK_INTERVAL).unwrap();
        log.write_all(b"four\n").unwrap();
        assert_eq!(read(&path), "four\n");
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o137, 0, "{mode:o}");
    }

    #[test]
    fn a_path_that_cannot_be_opened_again_keeps_the_open_file() {
        let directory = Directory::new();
        let inner = directory.join("inner");
        fs::create_dir(&inner).unwrap();
        let mut log = LogFile::open(&inner.join("log")).unwrap();
        let moved = directory.join("moved");
        fs::rename(&inner, &moved).unwrap();
        log.reopen();
        log.write_all(b"still\n").unwrap();
        assert_eq!(read(&moved.join("log")), "still\n");
        assert_eq!(
            LogFile::open(&inner.join("log")).unwrap_err().kind(),
            io::ErrorKind::NotFound
        );
    }
}

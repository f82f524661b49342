//! Open file: a regular file that is being sent, and ranges of it.

use std::fs::{File, Metadata};
use std::io::{self, IoSliceMut};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use bytes::Bytes;
use rustix::io::{Errno, ReadWriteFlags, preadv2};
use tokio::sync::SemaphorePermit;

use super::file_threads::{DirectoryThreads, FileWork};

/// The distance of the bytes that [`OpenFile::is_in_memory`] looks at. The kernel reads ahead in
/// windows of at least this size.
const PROBE_BYTES: u64 = 128 * 1024;

/// A regular file that is open to be sent, with the permit for its descriptor.
#[derive(Debug)]
pub(crate) struct OpenFile {
    /// `None` while it is dropped.
    file: Option<(File, SemaphorePermit<'static>)>,
    /// Whether the file system tells that a read would wait for a disk or a network.
    tells_waits: bool,
    /// Those that wait for its directory.
    threads: Arc<DirectoryThreads>,
}

impl OpenFile {
    /// May wait for the disk.
    pub(crate) fn new(
        file: File,
        permit: SemaphorePermit<'static>,
        threads: &Arc<DirectoryThreads>,
    ) -> Self {
        let probe = preadv2(
            &file,
            &mut [IoSliceMut::new(&mut [0])],
            0,
            ReadWriteFlags::NOWAIT,
        );
        Self {
            tells_waits: matches!(probe, Ok(_) | Err(Errno::AGAIN)),
            file: Some((file, permit)),
            threads: threads.clone(),
        }
    }

    #[expect(clippy::unwrap_used, reason = "taken only when dropped")]
    pub(crate) fn file(&self) -> &File {
        &self.file.as_ref().unwrap().0
    }

    /// Returns whether the file can be read and sent without a thread that may wait: a local file
    /// system, as opposed to one over a network.
    pub(crate) fn tells_waits(&self) -> bool {
        self.tells_waits
    }

    /// Returns the metadata of the open file, without waiting if [`OpenFile::tells_waits`].
    pub(crate) fn metadata(&self) -> io::Result<Metadata> {
        self.file().metadata()
    }

    /// Reads what is in memory, without waiting; `None` if the first byte is not. Returns 0 at the
    /// end of the file.
    pub(crate) fn read_now(&self, buffer: &mut [u8], from: u64) -> io::Result<Option<usize>> {
        if !self.tells_waits {
            return Ok(None);
        }
        let mut slices = [IoSliceMut::new(buffer)];
        match preadv2(self.file(), &mut slices, from, ReadWriteFlags::NOWAIT) {
            Ok(count) => Ok(Some(count)),
            Err(Errno::AGAIN | Errno::INTR) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Returns whether a range seems to be in memory: its first and last byte are, and one in every
    /// 128 KiB between them.
    pub(crate) fn is_in_memory(&self, range: &Range<u64>) -> bool {
        let mut byte = [0];
        let last = range.end.saturating_sub(1);
        let step = usize::try_from(PROBE_BYTES).unwrap_or(usize::MAX);
        let mut probes = (range.start..last).step_by(step).chain([last]);
        probes.all(|at| matches!(self.read_now(&mut byte, at), Ok(Some(_))))
    }

    /// Begins work on a thread that may wait for the disk.
    pub(crate) fn start<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Self) -> io::Result<T> + Send + 'static,
    ) -> FileWork<T> {
        let file = self.clone();
        self.threads.read(move || work(&file))
    }

    /// Reads a range completely. Waits for the disk.
    pub(crate) fn read(&self, range: &Range<u64>) -> io::Result<Bytes> {
        let count = usize::try_from(range.end - range.start).map_err(io::Error::other)?;
        let mut buffer = vec![0; count];
        self.file().read_exact_at(&mut buffer, range.start)?;
        Ok(buffer.into())
    }

    /// Reads a range into the kernel's memory. Waits for the disk. The end of the file is no error.
    pub(crate) fn load(&self, range: &Range<u64>) -> io::Result<()> {
        let mut buffer = vec![0; 64 * 1024];
        let mut at = range.start;
        while at < range.end {
            let left = usize::try_from(range.end - at).unwrap_or(usize::MAX);
            let count = left.min(buffer.len());
            match self.file().read_at(&mut buffer[..count], at) {
                Ok(0) => return Ok(()),
                Ok(count) => at += count as u64,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

impl Drop for OpenFile {
    /// On a file system over a network, closing may wait, so a thread does it.
    fn drop(&mut self) {
        if !self.tells_waits
            && let Some(file) = self.file.take()
        {
            self.threads.close(file);
        }
    }
}

/// A range of an open file, which is to be sent.
#[derive(Clone, Debug)]
pub(crate) struct FileRange {
    pub(crate) file: Arc<OpenFile>,
    pub(crate) range: Range<u64>,
}

impl FileRange {
    pub(crate) fn len(&self) -> u64 {
        self.range.end - self.range.start
    }

    /// Splits off the first part, of at most `count` bytes.
    pub(crate) fn split_off_first(&mut self, count: u64) -> Self {
        let first = self.range.start..self.range.end.min(self.range.start.saturating_add(count));
        self.range.start = first.end;
        Self {
            file: self.file.clone(),
            range: first,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use rustix::fs::{Advice, fadvise};

    use super::*;
    use crate::http::file_threads::FileThreads;
    use crate::net::descriptors;

    /// Writes a file of 1 MiB that is on the disk, and removes its name.
    fn written() -> OpenFile {
        let path = std::env::temp_dir().join(format!("oneport-open-{:x}", fastrand::u64(..)));
        let mut file = File::options()
            .create_new(true)
            .read(true)
            .write(true)
            .open(&path)
            .unwrap();
        std::fs::remove_file(&path).unwrap();
        file.write_all(&vec![7; 1 << 20]).unwrap();
        file.sync_all().unwrap();
        let threads = FileThreads::default().of(&std::env::temp_dir());
        let permit = descriptors::sent_files().try_acquire().unwrap();
        OpenFile::new(file, permit, &threads)
    }

    #[test]
    fn a_file_that_is_not_in_memory_is_not_read_without_a_thread() {
        let open = written();
        if !open.tells_waits() {
            return; // the temporary directory is on a file system that does not tell
        }
        let whole = 0..1 << 20;
        assert!(open.is_in_memory(&whole));
        // The pages are clean, so the kernel drops them, unless the file system has no disk.
        fadvise(open.file(), 0, None, Advice::DontNeed).unwrap();
        let mut buffer = [0; 10];
        if open.is_in_memory(&whole) {
            return;
        }
        assert!(matches!(open.read_now(&mut buffer, 0), Ok(None)));
        open.load(&whole).unwrap();
        assert!(open.is_in_memory(&whole));
        assert!(matches!(open.read_now(&mut buffer, 0), Ok(Some(10))));
        assert_eq!(buffer, [7; 10]);
    }

    #[test]
    fn the_end_of_a_file_is_told_apart_from_a_wait() {
        let open = written();
        let mut buffer = [0; 10];
        if open.tells_waits() {
            assert!(matches!(open.read_now(&mut buffer, 1 << 20), Ok(Some(0))));
        }
        assert!(open.read(&((1 << 20) - 1..(1 << 20) + 1)).is_err());
        open.load(&((1 << 20) - 1..(1 << 20) + 1)).unwrap();
    }

    #[test]
    fn a_range_is_split_into_parts_that_follow_each_other() {
        let mut rest = FileRange {
            file: Arc::new(written()),
            range: 5..17,
        };
        let first = rest.split_off_first(10);
        assert_eq!((first.range, rest.range.clone()), (5..15, 15..17));
        let last = rest.split_off_first(10);
        assert_eq!((last.range, rest.len()), (15..17, 0));
    }
}

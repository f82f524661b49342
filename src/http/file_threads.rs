//! File threads: the threads that wait for file systems, bounded for each directory and in all.
//!
//! The runtime's blocking threads also hash passwords, look names up and read the configuration. A
//! mount that does not answer keeps each thread that looks at its files, so these take only a part:
//!
//! ```text
//!  the runtime's blocking threads
//! ├──────────── files: half ────────────┤── everything else ──────────────┤
//! ├─ a directory: an eighth ─┤
//! ```
//!
//! A permit belongs to the thread, not to the request: a request that times out does not end it.

use std::any::Any;
use std::collections::HashMap;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use metrics::counter;
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use crate::net::descriptors;

/// The longest wait of a request for a thread.
const WAIT_MAX: Duration = Duration::from_secs(5);

/// The most requests and bodies that wait for a thread of one directory; one more is refused.
const QUEUE_MAX: usize = 4096;

/// The longest wait of a body for a thread, and then for its next bytes. It is longer than that of
/// a request, because the client has part of the body already. Requests have the `request_timeout`
/// of their route.
const READ_TIMEOUT: Duration = Duration::from_secs(30);

/// The threads of a server that wait for file systems.
#[derive(Debug)]
pub(crate) struct FileThreads {
    pool: Arc<Pool>,
    /// The most threads of one directory.
    each: usize,
    directories: Mutex<HashMap<PathBuf, Weak<DirectoryThreads>>>,
}

/// The threads of all directories.
#[derive(Debug)]
struct Pool {
    permits: Arc<Semaphore>,
    /// Directories with unused files, for which there was no permit.
    waiting: Mutex<Vec<Weak<DirectoryThreads>>>,
}

/// The threads that wait for the files of one directory.
#[derive(Debug)]
pub(crate) struct DirectoryThreads {
    pool: Arc<Pool>,
    each: Arc<Semaphore>,
    queue: Semaphore,
    /// Open files that are no longer used.
    unused: Mutex<Vec<Box<dyn Any + Send>>>,
}

/// The right to occupy a thread. Unused files that have found no permit get it when it is dropped.
struct Permits {
    threads: Arc<DirectoryThreads>,
    each: Option<OwnedSemaphorePermit>,
    /// `None` while it waits for the pool's.
    in_all: Option<OwnedSemaphorePermit>,
}

impl Drop for Permits {
    fn drop(&mut self) {
        self.each = None;
        self.in_all = None;
        self.threads.close_unused();
        let waiting = std::mem::take(&mut *self.threads.pool.waiting.lock());
        for threads in waiting.iter().filter_map(Weak::upgrade) {
            threads.close_unused();
        }
    }
}

/// The outcome of work on a thread, for a body that is polled.
pub(crate) struct FileWork<T>(
    /// The lock only makes a body `Sync`; it is never contended.
    Mutex<Pin<Box<dyn Future<Output = io::Result<T>> + Send>>>,
);

impl Default for FileThreads {
    fn default() -> Self {
        Self::new(descriptors::blocking_threads(descriptors::limit()))
    }
}

impl FileThreads {
    /// Takes the number of blocking threads of the runtime.
    fn new(threads: usize) -> Self {
        Self {
            pool: Arc::new(Pool {
                permits: Arc::new(Semaphore::new((threads / 2).max(1))),
                waiting: Mutex::default(),
            }),
            each: (threads / 8).max(1),
            directories: Mutex::default(),
        }
    }

    /// Returns the threads of a directory, by its canonical path. All views of the directory share
    /// them, also those of an earlier configuration.
    pub(crate) fn of(&self, directory: &Path) -> Arc<DirectoryThreads> {
        let mut directories = self.directories.lock();
        if let Some(known) = directories.get(directory).and_then(Weak::upgrade) {
            return known;
        }
        directories.retain(|_, threads| threads.strong_count() > 0);
        let threads = Arc::new(DirectoryThreads {
            pool: self.pool.clone(),
            each: Arc::new(Semaphore::new(self.each)),
            queue: Semaphore::new(QUEUE_MAX),
            unused: Mutex::default(),
        });
        directories.insert(directory.to_owned(), Arc::downgrade(&threads));
        threads
    }
}

impl DirectoryThreads {
    /// Runs `work`, which may wait for the file system, on a thread. Fails with
    /// [`ErrorKind::ResourceBusy`] if none is free in time.
    pub(crate) async fn run<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let permits = self.acquire(WAIT_MAX).await?;
        self.run_with(permits, work).await
    }

    async fn run_with<T: Send + 'static>(
        &self,
        permits: Permits,
        work: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let work = move || {
            let _permits = permits;
            work()
        };
        tokio::task::spawn_blocking(work)
            .await
            .map_err(io::Error::other)?
    }

    /// Begins to read for a body, which waits for a thread and then for the bytes, for at most 30 s
    /// each.
    pub(crate) fn read<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> FileWork<T> {
        let threads = self.clone();
        let read = async move {
            let permits = threads.acquire(READ_TIMEOUT).await?;
            let read = timeout(READ_TIMEOUT, threads.run_with(permits, work)).await;
            read.unwrap_or_else(|_| {
                counter!("oneport_file_timeouts_total", "waited_for" => "read").increment(1);
                let sentence = "the file system did not read the file in time";
                Err(io::Error::new(ErrorKind::TimedOut, sentence))
            })
        };
        FileWork(Mutex::new(Box::pin(read)))
    }

    /// Drops an open file on a thread: to close it may wait for the file system. If no thread is
    /// free, the next one that is done with its work does.
    pub(crate) fn close(self: &Arc<Self>, file: impl Send + 'static) {
        self.unused.lock().push(Box::new(file));
        self.close_unused();
    }

    fn close_unused(self: &Arc<Self>) {
        if self.unused.lock().is_empty() {
            return;
        }
        let Ok(runtime) = Handle::try_current() else {
            let unused = std::mem::take(&mut *self.unused.lock());
            return drop(unused);
        };
        let permits = self.try_acquire().or_else(|| {
            self.pool.waiting.lock().push(Arc::downgrade(self));
            self.try_acquire() // one may have been dropped before the pool knew
        });
        let Some(permits) = permits else {
            return;
        };
        // In the work itself, so that a runtime that ends and does not run it drops them.
        let unused = std::mem::take(&mut *self.unused.lock());
        let close = move || {
            let _permits = permits;
            drop(unused);
        };
        drop(runtime.spawn_blocking(close));
    }

    fn try_acquire(self: &Arc<Self>) -> Option<Permits> {
        Some(Permits {
            each: Some(self.each.clone().try_acquire_owned().ok()?),
            in_all: Some(self.pool.permits.clone().try_acquire_owned().ok()?),
            threads: self.clone(),
        })
    }

    async fn acquire(self: &Arc<Self>, wait: Duration) -> io::Result<Permits> {
        if let Some(permits) = self.try_acquire() {
            return Ok(permits);
        }
        let both = async {
            let _place = self.queue.try_acquire().ok()?;
            let mut permits = Permits {
                each: Some(self.each.clone().acquire_owned().await.ok()?),
                in_all: None,
                threads: self.clone(),
            };
            permits.in_all = Some(self.pool.permits.clone().acquire_owned().await.ok()?);
            Some(permits)
        };
        let permits = timeout(wait, both).await.ok().flatten();
        permits.ok_or_else(|| {
            counter!("oneport_file_timeouts_total", "waited_for" => "thread").increment(1);
            let sentence = "all threads for the files of this directory are occupied";
            io::Error::new(ErrorKind::ResourceBusy, sentence)
        })
    }
}

impl<T> FileWork<T> {
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<T>> {
        self.0.get_mut().as_mut().poll(cx)
    }
}

impl<T> std::fmt::Debug for FileWork<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FileWork").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::sync::mpsc::{Receiver, Sender, channel};

    use tokio::task::JoinSet;

    use super::*;

    /// Work of a file system that answers when the senders are dropped.
    struct Silent(JoinSet<io::Result<bool>>, Vec<Sender<()>>);

    impl Silent {
        async fn occupy(threads: &Arc<DirectoryThreads>, count: usize) -> Self {
            let mut silent = Self(JoinSet::new(), Vec::new());
            for _ in 0..count {
                let (answer, answered): (Sender<()>, Receiver<()>) = channel();
                let (begin, begun) = tokio::sync::oneshot::channel();
                let work = move || {
                    begin.send(()).unwrap();
                    Ok(answered.recv().is_err())
                };
                let threads = threads.clone();
                silent.0.spawn(async move { threads.run(work).await });
                silent.1.push(answer);
                begun.await.unwrap();
            }
            silent
        }

        async fn answer(self) {
            drop(self.1);
            for work in self.0.join_all().await {
                assert!(work.unwrap());
            }
        }
    }

    /// A file that tells the thread that closes it.
    struct Closing(Option<tokio::sync::oneshot::Sender<std::thread::ThreadId>>);

    impl Drop for Closing {
        fn drop(&mut self) {
            let closed = self.0.take().unwrap();
            let _ = closed.send(std::thread::current().id());
        }
    }

    /// Polls until the future waits, then lets time pass until it ends.
    async fn after(wait: Duration, waiting: impl Future<Output = io::Result<()>>) -> io::Error {
        let mut waiting = std::pin::pin!(waiting);
        let early = poll_fn(|cx| Poll::Ready(waiting.as_mut().poll(cx).is_ready())).await;
        assert!(!early);
        tokio::time::advance(wait).await;
        waiting.await.unwrap_err()
    }

    #[tokio::test(start_paused = true)]
    async fn directory_that_does_not_answer_leaves_threads_to_others() {
        let files = FileThreads::new(16);
        let silent_directory = files.of(Path::new("/silent"));
        let silent = Silent::occupy(&silent_directory, 2).await;

        let error = after(WAIT_MAX, silent_directory.run(|| Ok(()))).await;
        assert_eq!(error.kind(), ErrorKind::ResourceBusy);
        let other = files.of(Path::new("/other"));
        assert_eq!(other.run(|| Ok(7)).await.unwrap(), 7);

        silent.answer().await;
        silent_directory.run(|| Ok(())).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn all_directories_together_take_half_of_the_threads() {
        let files = FileThreads::new(16);
        let mut silent = Vec::new();
        for name in ["/a", "/b", "/c", "/d"] {
            silent.push(Silent::occupy(&files.of(Path::new(name)), 2).await);
        }
        let fifth = files.of(Path::new("/e"));
        let error = after(WAIT_MAX, fifth.run(|| Ok(()))).await;
        assert_eq!(error.kind(), ErrorKind::ResourceBusy);
        assert_eq!(fifth.each.available_permits(), 2);
        // Nothing runs for the fifth, so a thread of the others closes its file.
        let (sender, mut closed) = tokio::sync::oneshot::channel();
        fifth.close(Closing(Some(sender)));
        assert!(closed.try_recv().is_err());
        for silent in silent {
            silent.answer().await;
        }
        closed.await.unwrap();
        fifth.run(|| Ok(())).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn read_that_takes_too_long_fails_and_keeps_its_thread() {
        let threads = FileThreads::new(8).of(Path::new("/"));
        let (answer, answered) = channel::<()>();
        let mut read = threads.read(move || {
            assert!(answered.recv().is_err());
            Ok(())
        });
        let error = after(READ_TIMEOUT, poll_fn(|cx| read.poll(cx))).await;
        assert_eq!(error.kind(), ErrorKind::TimedOut);
        assert!(threads.try_acquire().is_none());
        drop(answer);
        threads.run(|| Ok(())).await.unwrap();
    }

    #[tokio::test]
    async fn views_of_one_directory_share_its_threads_until_the_last_is_gone() {
        let files = FileThreads::new(16);
        let first = files.of(Path::new("/a"));
        assert!(Arc::ptr_eq(&first, &files.of(Path::new("/a"))));
        drop(first);
        files.of(Path::new("/b"));
        assert_eq!(files.directories.lock().len(), 1);
    }

    /// The permit that a request gives up while it waits for the other one.
    #[tokio::test(start_paused = true)]
    async fn request_that_leaves_the_queue_leaves_its_permit_to_a_file() {
        let files = FileThreads::new(8);
        let mut silent = Vec::new();
        for name in ["/a", "/b", "/c", "/d"] {
            silent.push(Silent::occupy(&files.of(Path::new(name)), 1).await);
        }
        let threads = files.of(Path::new("/e"));
        let mut waiting = Box::pin(threads.run(|| Ok(())));
        assert!(futures_util::poll!(&mut waiting).is_pending());
        assert_eq!(threads.each.available_permits(), 0);
        let (sender, closed) = tokio::sync::oneshot::channel();
        threads.close(Closing(Some(sender)));
        drop(waiting);
        for silent in silent {
            silent.answer().await;
        }
        closed.await.unwrap();
    }

    #[tokio::test]
    async fn file_is_closed_once_a_thread_is_free() {
        let threads = FileThreads::new(8).of(Path::new("/"));
        let silent = Silent::occupy(&threads, 1).await;
        let (sender, mut closed) = tokio::sync::oneshot::channel();
        threads.close(Closing(Some(sender)));
        assert!(closed.try_recv().is_err());
        silent.answer().await;
        assert_ne!(closed.await.unwrap(), std::thread::current().id());
    }
}

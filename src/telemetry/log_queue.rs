//! Log queue: writes log lines on a separate thread, so that no worker waits for the log's reader.
//!
//! ```text
//! workers ──push──> waiting: chunks ──one at a time──> taken ──write(2)──> output
//!             │     └───────── at most 4 MiB ───────────┘         │
//!             └─ full: dropped, counted                           └─ failed: dropped, counted
//! ```
//!
//! A stalled reader fills the queue, and a full disk fails the write. Both lose lines but never
//! delay a request. Once the output accepts lines again, the log reports how many were dropped, at
//! most every 10 s.
//!
//! A chunk has the lines of one write, 64 KiB, so that the reader of a pipe gets lines early, and a
//! thread that leaves keeps little memory.
//!
//! [`reopen_logs`] makes every thread open its output again, before it writes the lines that wait.
//!
//! Each output has a thread of its own, because one that is replaced may be in a write that does
//! not return:
//!
//! ```text
//! thread: Prepared ──> Writing ── replaced ──> Leaving ── its chunk is written, or refused ──> ended
//!                         │                       │
//!  takes chunk for chunk ─┘                       └── takes no more; at most LEAVING_MAX of them
//! ```
//!
//! A [`Replacement`] is prepared, which may fail, and then made, which may not: several logs change
//! together or not at all.
//!
//! Races: one lock guards the [`State`], and one condition variable signals every change of it.
//! `taken` is cleared only after the write, so if a flush finds both empty, everything is written.
//! The writing thread itself pushes the notice, but not while the queue is more than half full,
//! because a full queue would drop it too.

mod writer;

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak, mpsc};
use std::time::{Duration, Instant};

use metrics::counter;
use parking_lot::{Condvar, Mutex, MutexGuard};

use self::writer::Writer;

/// The maximum bytes that are queued, or being written by the current thread. Each thread that
/// leaves has up to [`CHUNK_SIZE`] more.
const WAITING_MAX: usize = 4 << 20;

/// The bytes of a chunk, if a line alone has not more; and the maximum bytes of one write.
const CHUNK_SIZE: usize = 64 << 10;

/// The minimum time between two notices of dropped lines.
const NOTICE_INTERVAL: Duration = Duration::from_secs(10);

/// How long the last lines have: before the process exits, and before a thread that leaves gives up
/// an output that is non-blocking and full.
const FLUSH_DEADLINE: Duration = Duration::from_secs(1);

/// The maximum number of threads that wait for an output that was replaced, or whose queue was
/// closed.
const LEAVING_MAX: usize = 4;

/// The number of lines dropped by all queues of the process.
static DROPPED: AtomicU64 = AtomicU64::new(0);

/// The queues of the process.
static QUEUES: Mutex<Vec<Weak<Shared>>> = Mutex::new(Vec::new());

/// Where the lines of a queue go.
pub(crate) trait LogOutput: Write + Send {
    /// Opens a file again, which may have been renamed. Returns whether another file is open now.
    /// The default is for an output without a name.
    fn reopen(&mut self) -> bool {
        false
    }
}

impl LogOutput for File {}

/// Opens the files of all logs again: a program such as logrotate has renamed them.
///
/// Returns at once; the threads of the logs do it, before they write their next lines.
pub fn reopen_logs() {
    for queue in QUEUES.lock().iter().filter_map(Weak::upgrade) {
        queue.state.lock().reopens = true;
        queue.changed.notify_all();
    }
}

/// Returns how many log lines the process has dropped because the log could not be written, or not
/// fast enough.
#[must_use]
pub fn log_lines_dropped() -> u64 {
    DROPPED.load(Ordering::Relaxed)
}

/// The workers' side, which never waits for the writing thread. Clones share one queue.
#[derive(Clone)]
pub(crate) struct LogQueue(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    /// Notified of new lines, written lines, and closing.
    changed: Condvar,
    waiting_max: usize,
    /// Called with the number of lines dropped since the last call.
    notice: Box<dyn Fn(u64) + Send + Sync>,
}

#[derive(Default)]
struct State {
    /// Chunks of whole lines, none of them empty.
    waiting: VecDeque<Vec<u8>>,
    waiting_bytes: usize,
    /// An empty chunk whose memory the next one uses.
    spare: Vec<u8>,
    /// The number of bytes that the current thread is writing.
    taken: usize,
    /// Whether the current thread has to open its output again.
    reopens: bool,
    /// The number of the current thread, and how many of the earlier ones have not ended.
    writer: u64,
    leaving: usize,
    /// The count of dropped lines at the last notice, and when that was.
    noticed: u64,
    noticed_at: Option<Instant>,
    is_closing: bool,
}

impl State {
    fn push(&mut self, lines: &[u8]) {
        self.waiting_bytes += lines.len();
        if let Some(last) = self.waiting.back_mut()
            && last.len() + lines.len() <= CHUNK_SIZE
        {
            last.extend_from_slice(lines);
            return;
        }
        let mut chunk = std::mem::take(&mut self.spare);
        chunk.extend_from_slice(lines);
        self.waiting.push_back(chunk);
    }

    /// Moves the first chunk that waits into `lines`, which are empty. Returns whether there is
    /// one.
    fn take(&mut self, lines: &mut Vec<u8>) -> bool {
        let Some(chunk) = self.waiting.pop_front() else {
            return false;
        };
        self.waiting_bytes -= chunk.len();
        self.taken = chunk.len();
        self.spare = std::mem::replace(lines, chunk);
        true
    }

    fn is_unwritten(&self) -> bool {
        self.taken > 0 || !self.waiting.is_empty()
    }

    /// Returns how long the next notice has to wait.
    fn until_notice(&self) -> Duration {
        self.noticed_at.map_or(Duration::ZERO, |at| {
            NOTICE_INTERVAL.saturating_sub(at.elapsed())
        })
    }
}

/// Dropping it waits for the lines still in the queue, and for those of earlier outputs, for at
/// most a second.
#[derive(Default)]
pub(crate) struct Flush(Option<LogQueue>);

impl LogQueue {
    /// Starts the thread that writes to `output`.
    ///
    /// `notice` is called on that thread with the number of lines dropped since its last call.
    pub(crate) fn start(
        output: impl LogOutput + 'static,
        notice: impl Fn(u64) + Send + Sync + 'static,
    ) -> io::Result<(Self, Flush)> {
        let queue = Self::without_output(notice);
        queue.prepare(output)?.make();
        Ok((queue.clone(), Flush(Some(queue))))
    }

    /// Returns a queue whose first output is to be [prepared](Self::prepare).
    pub(crate) fn without_output(notice: impl Fn(u64) + Send + Sync + 'static) -> Self {
        Self::with_room(WAITING_MAX, notice)
    }

    fn with_room(waiting_max: usize, notice: impl Fn(u64) + Send + Sync + 'static) -> Self {
        Self(Arc::new(Shared {
            state: Mutex::new(State {
                noticed: log_lines_dropped(),
                ..State::default()
            }),
            changed: Condvar::new(),
            waiting_max,
            notice: Box::new(notice),
        }))
    }

    /// Makes [`reopen_logs`] reach the queue.
    fn register(&self) {
        let mut queues = QUEUES.lock();
        queues.retain(|queue| queue.strong_count() > 0);
        queues.push(Arc::downgrade(&self.0));
    }

    /// Prepares the next output, with a thread of its own. At [`Replacement::make`] the lines that
    /// wait go to it; those that are being written stay with the old one, which may take its time.
    ///
    /// Fails without a thread, and while [`LEAVING_MAX`] earlier outputs do not take their lines.
    pub(crate) fn prepare(&self, output: impl LogOutput + 'static) -> io::Result<Replacement> {
        refuse_after(self.state().leaving)?;
        let (begin, begins) = mpsc::channel();
        let queue = self.clone();
        let run = move || {
            if let Ok(number) = begins.recv() {
                Writer::new(queue, number, Box::new(output)).run();
            }
        };
        std::thread::Builder::new()
            .name("log".to_owned())
            .spawn(run)?;
        Ok(Replacement {
            queue: self.clone(),
            begin,
        })
    }

    /// Queues whole lines, or drops and counts them if there is no room.
    pub(crate) fn push(&self, lines: &[u8]) {
        let mut state = self.state();
        if state.waiting_bytes + state.taken + lines.len() > self.0.waiting_max {
            drop(state);
            count_dropped(lines_in(lines));
            return;
        }
        let was_empty = state.waiting.is_empty();
        if !lines.is_empty() {
            state.push(lines);
        }
        drop(state);
        if was_empty {
            self.0.changed.notify_all();
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock()
    }

    /// Waits for at most `deadline`. Returns whether the condition has ended.
    fn wait_while(&self, condition: impl Fn(&State) -> bool, deadline: Duration) -> bool {
        let mut state = self.state();
        self.0
            .changed
            .wait_while_for(&mut state, |state| condition(state), deadline);
        !condition(&state)
    }
}

/// Fails if so many earlier outputs are left as may be.
fn refuse_after(leaving: usize) -> io::Result<()> {
    if leaving < LEAVING_MAX {
        return Ok(());
    }
    Err(io::Error::other(format!(
        "{LEAVING_MAX} earlier outputs of this log do not take their last lines"
    )))
}

/// The queues of a log that were closed, and whose threads may wait for their outputs.
#[derive(Default)]
pub(crate) struct Closed(Vec<Weak<Shared>>);

impl Closed {
    /// Closes a queue. Its thread ends once it has written the lines in the queue.
    pub(crate) fn close(&mut self, mut flush: Flush) {
        if let Some(queue) = flush.0.take() {
            queue.state().is_closing = true;
            queue.0.changed.notify_all();
            self.0.push(Arc::downgrade(&queue.0));
        }
    }

    /// Fails while as many threads as may be have not ended.
    pub(crate) fn admit(&mut self) -> io::Result<()> {
        self.0.retain(|queue| queue.strong_count() > 0);
        refuse_after(self.0.len())
    }
}

/// An output whose thread is there. Dropping it ends the thread.
#[must_use = "the output is not the queue's before"]
pub(crate) struct Replacement {
    queue: LogQueue,
    begin: mpsc::Sender<u64>,
}

impl Replacement {
    /// Makes it the output of its queue.
    pub(crate) fn make(self) {
        let mut state = self.queue.state();
        let is_first = state.writer == 0;
        state.leaving += usize::from(!is_first);
        state.writer += 1;
        state.taken = 0;
        let number = state.writer;
        drop(state);
        let _ = self.begin.send(number);
        if is_first {
            self.queue.register();
        }
        self.queue.0.changed.notify_all();
    }
}

impl Write for LogQueue {
    fn write(&mut self, lines: &[u8]) -> io::Result<usize> {
        self.push(lines);
        Ok(lines.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Flush {
    fn drop(&mut self) {
        if let Some(queue) = self.0.take() {
            let is_unwritten = |state: &State| state.is_unwritten() || state.leaving > 0;
            queue.wait_while(is_unwritten, FLUSH_DEADLINE);
            queue.state().is_closing = true;
            queue.0.changed.notify_all();
        }
    }
}

impl Flush {
    pub(crate) fn of(queue: LogQueue) -> Self {
        Self(Some(queue))
    }
}

fn lines_in(bytes: &[u8]) -> u64 {
    memchr::memchr_iter(b'\n', bytes).count() as u64
}

fn count_dropped(lines: u64) {
    DROPPED.fetch_add(lines, Ordering::Relaxed);
    counter!("oneport_log_lines_dropped_total").increment(lines);
}

#[cfg(test)]
mod tests;

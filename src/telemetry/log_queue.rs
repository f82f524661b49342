//! Log queue: writes log lines on a separate thread, so that no worker waits for the log's reader.
//!
//! ```text
//! workers ──push──> waiting ──swapped out──> taken ──write(2), 64 KiB at a time──> output
//!             │     └────── at most 4 MiB ──────┘         │
//!             └─ full: dropped, counted                   └─ failed: the rest dropped, counted
//! ```
//!
//! A stalled reader fills the queue, and a full disk fails the write. Both lose lines but never
//! delay a request. Once the output accepts lines again, the log reports how many were dropped, at
//! most every 10 s.
//!
//! [`reopen_logs`] makes every thread open its output again, before it writes the lines that wait.
//!
//! Races: one lock guards `waiting`, `taken`, `reopens` and `is_closing`, and one condition
//! variable signals every change of them. `taken` is cleared only after the write, so if a flush
//! finds both empty, everything is written. The writing thread itself pushes the notice, but not
//! while the queue is more than half full, because a full queue would drop it too.

use std::fs::File;
use std::io::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use metrics::counter;
use parking_lot::{Condvar, Mutex, MutexGuard};

/// The maximum bytes that are queued or being written.
const WAITING_MAX: usize = 4 << 20;

/// The maximum bytes of one write, so that the reader of a pipe gets lines early.
const WRITE_MAX: usize = 64 << 10;

/// The minimum time between two notices of dropped lines.
const NOTICE_INTERVAL: Duration = Duration::from_secs(10);

/// How long the process waits for the last lines before it exits.
const FLUSH_DEADLINE: Duration = Duration::from_secs(1);

/// How long the thread waits when the output is non-blocking and full.
const WOULD_BLOCK: Duration = Duration::from_millis(20);

/// The number of lines dropped by all queues of the process.
static DROPPED: AtomicU64 = AtomicU64::new(0);

/// The queues of the process.
static QUEUES: Mutex<Vec<Weak<Shared>>> = Mutex::new(Vec::new());

/// Where the lines of a queue go.
pub(crate) trait LogOutput: Write + Send {
    /// Opens a file again, which may have been renamed. The default is for an output without a
    /// name.
    fn reopen(&mut self) {}
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
}

#[derive(Default)]
struct State {
    waiting: Vec<u8>,
    /// The number of bytes that the thread is writing.
    taken: usize,
    /// Whether the thread has to open its output again.
    reopens: bool,
    /// The output for the next lines.
    replacement: Option<Box<dyn LogOutput>>,
    is_closing: bool,
}

/// Dropping it waits for the lines still in the queue, for at most a second.
#[derive(Default)]
pub(crate) struct Flush(Option<LogQueue>);

impl LogQueue {
    /// Starts the thread that writes to `output`.
    ///
    /// `notice` is called on that thread with the number of lines dropped since its last call.
    pub(crate) fn start(
        output: impl LogOutput + 'static,
        notice: impl Fn(u64) + Send + 'static,
    ) -> io::Result<(Self, Flush)> {
        let queue = Self::with_room(WAITING_MAX);
        queue.register();
        let writing = queue.clone();
        std::thread::Builder::new()
            .name("log".to_owned())
            .spawn(move || Writer::new(writing, Box::new(output), notice).run())?;
        Ok((queue.clone(), Flush(Some(queue))))
    }

    fn with_room(waiting_max: usize) -> Self {
        Self(Arc::new(Shared {
            state: Mutex::default(),
            changed: Condvar::new(),
            waiting_max,
        }))
    }

    /// Makes [`reopen_logs`] reach the queue.
    fn register(&self) {
        let mut queues = QUEUES.lock();
        queues.retain(|queue| queue.strong_count() > 0);
        queues.push(Arc::downgrade(&self.0));
    }

    /// Replaces the output. The lines that wait go to the new one.
    pub(crate) fn replace_output(&self, output: Box<dyn LogOutput>) {
        self.state().replacement = Some(output);
        self.0.changed.notify_all();
    }

    /// Queues whole lines, or drops and counts them if there is no room.
    pub(crate) fn push(&self, lines: &[u8]) {
        let mut state = self.state();
        if state.waiting.len() + state.taken + lines.len() > self.0.waiting_max {
            drop(state);
            count_dropped(lines_in(lines));
            return;
        }
        let was_empty = state.waiting.is_empty();
        state.waiting.extend_from_slice(lines);
        drop(state);
        if was_empty {
            self.0.changed.notify_all();
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock()
    }

    /// Waits until all lines are written, for at most `deadline`. Returns whether they are.
    fn flush(&self, deadline: Duration) -> bool {
        let is_unwritten = |state: &mut State| state.taken > 0 || !state.waiting.is_empty();
        let mut state = self.state();
        self.0
            .changed
            .wait_while_for(&mut state, is_unwritten, deadline);
        !is_unwritten(&mut state)
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
            queue.flush(FLUSH_DEADLINE);
            queue.state().is_closing = true;
            queue.0.changed.notify_all();
        }
    }
}

impl Flush {
    /// Ends the thread once it has written the lines in the queue, without waiting for it.
    pub(crate) fn detach(mut self) {
        if let Some(queue) = self.0.take() {
            queue.state().is_closing = true;
            queue.0.changed.notify_all();
        }
    }
}

/// The thread's side.
struct Writer<N> {
    queue: LogQueue,
    output: Box<dyn LogOutput>,
    notice: N,
    /// The count of dropped lines at the last notice.
    noticed: u64,
    noticed_at: Option<Instant>,
    /// Whether the output ends within a line because a write failed there. The next write then
    /// begins with a line feed.
    is_torn: bool,
}

impl<N: Fn(u64)> Writer<N> {
    fn new(queue: LogQueue, output: Box<dyn LogOutput>, notice: N) -> Self {
        Self {
            queue,
            output,
            notice,
            noticed: log_lines_dropped(),
            noticed_at: None,
            is_torn: false,
        }
    }

    fn run(mut self) {
        let mut lines = Vec::new();
        let mut can_write = true;
        while self.take(&mut lines, can_write) {
            self.renew_output();
            if !lines.is_empty() {
                can_write = self.write(&lines);
                lines.clear();
                lines.shrink_to(WRITE_MAX);
            }
            self.queue.state().taken = 0;
            self.queue.0.changed.notify_all();
            if can_write {
                self.notice_dropped();
            }
        }
    }

    /// Replaces the output, or opens it again, if that is asked for.
    fn renew_output(&mut self) {
        let mut state = self.queue.state();
        let reopens = std::mem::take(&mut state.reopens);
        let replacement = state.replacement.take();
        drop(state);
        if reopens || replacement.is_some() {
            self.is_torn = false; // the line of another file
        }
        match replacement {
            Some(output) => self.output = output,
            None if reopens => self.output.reopen(),
            None => {}
        }
    }

    /// Waits for lines and takes them all, or none if a notice is due or the output has to be
    /// opened again. Returns `false` once the queue is closed and empty.
    fn take(&self, lines: &mut Vec<u8>, can_write: bool) -> bool {
        let mut state = self.queue.state();
        loop {
            if !state.waiting.is_empty() {
                std::mem::swap(&mut state.waiting, lines);
                state.taken = lines.len();
                return true;
            }
            if state.is_closing {
                return false;
            }
            if state.reopens || state.replacement.is_some() {
                return true;
            }
            let until_notice = if can_write && log_lines_dropped() > self.noticed {
                self.until_notice()
            } else {
                Duration::MAX
            };
            if until_notice.is_zero() {
                return true;
            }
            if until_notice == Duration::MAX {
                self.queue.0.changed.wait(&mut state);
            } else {
                self.queue.0.changed.wait_for(&mut state, until_notice);
            }
        }
    }

    /// Writes lines, and drops and counts those that the output does not accept. Returns whether it
    /// accepted all.
    fn write(&mut self, lines: &[u8]) -> bool {
        if self.is_torn && self.write_all(b"\n").is_err() {
            count_dropped(lines_in(lines));
            return false;
        }
        self.is_torn = false;
        let Err(written) = self.write_all(lines) else {
            return true;
        };
        self.is_torn = written > 0 && lines[written - 1] != b'\n';
        count_dropped(lines_in(&lines[written..]));
        false
    }

    /// Writes all bytes. The error is the number of bytes written before the output failed.
    fn write_all(&mut self, bytes: &[u8]) -> Result<(), usize> {
        let mut written = 0;
        while written < bytes.len() {
            let end = bytes.len().min(written + WRITE_MAX);
            match self.output.write(&bytes[written..end]) {
                Ok(0) => return Err(written),
                Ok(count) => written += count,
                Err(error) => match error.kind() {
                    io::ErrorKind::Interrupted => {}
                    // Another process made the shared descriptor non-blocking.
                    io::ErrorKind::WouldBlock => std::thread::sleep(WOULD_BLOCK),
                    _ => return Err(written),
                },
            }
        }
        Ok(())
    }

    fn until_notice(&self) -> Duration {
        self.noticed_at.map_or(Duration::ZERO, |at| {
            NOTICE_INTERVAL.saturating_sub(at.elapsed())
        })
    }

    fn notice_dropped(&mut self) {
        let dropped = log_lines_dropped();
        // A queue that is still full would drop the notice too.
        let has_room = self.queue.state().waiting.len() <= self.queue.0.waiting_max / 2;
        if has_room && dropped > self.noticed && self.until_notice().is_zero() {
            (self.notice)(dropped - self.noticed);
            self.noticed = dropped;
            self.noticed_at = Some(Instant::now());
        }
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

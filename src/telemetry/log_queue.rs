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
//! Each output has a thread of its own, because one that is replaced may be in a write that does
//! not return:
//!
//! ```text
//! thread of an output: Writing ── replaced ──> Leaving ── its lines are written, or refused ──> ended
//!                         │                       │
//!  takes all that waits ──┘                       └── takes no more; at most LEAVING_MAX of them
//! ```
//!
//! Races: one lock guards the [`State`], and one condition variable signals every change of it.
//! `taken` is cleared only after the write, so if a flush finds both empty, everything is written.
//! The writing thread itself pushes the notice, but not while the queue is more than half full,
//! because a full queue would drop it too.

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

/// How long the last lines have: before the process exits, and before a thread that leaves gives up
/// an output that is non-blocking and full.
const FLUSH_DEADLINE: Duration = Duration::from_secs(1);

/// How long the thread waits when the output is non-blocking and full.
const WOULD_BLOCK: Duration = Duration::from_millis(20);

/// The maximum number of threads that wait for an output that was replaced.
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
    waiting: Vec<u8>,
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
    /// Returns how long the next notice has to wait.
    fn until_notice(&self) -> Duration {
        self.noticed_at.map_or(Duration::ZERO, |at| {
            NOTICE_INTERVAL.saturating_sub(at.elapsed())
        })
    }
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
        notice: impl Fn(u64) + Send + Sync + 'static,
    ) -> io::Result<(Self, Flush)> {
        let queue = Self::with_room(WAITING_MAX, notice);
        queue.register();
        queue.replace_output(Box::new(output))?;
        Ok((queue.clone(), Flush(Some(queue))))
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

    /// Replaces the output, by a thread of its own. The lines that wait go to the new one; those
    /// that are being written stay with the old one, which may take its time.
    ///
    /// Fails without a thread, and while [`LEAVING_MAX`] earlier outputs do not take their lines.
    pub(crate) fn replace_output(&self, output: Box<dyn LogOutput>) -> io::Result<()> {
        let mut state = self.state();
        if state.leaving == LEAVING_MAX {
            return Err(io::Error::other(format!(
                "{LEAVING_MAX} earlier outputs of this log do not take their last lines"
            )));
        }
        let number = state.writer + 1;
        let writer = Writer::new(self.clone(), number, output);
        std::thread::Builder::new()
            .name("log".to_owned())
            .spawn(move || writer.run())?;
        state.leaving += usize::from(state.writer > 0);
        state.writer = number;
        state.taken = 0;
        state.reopens = false;
        drop(state);
        self.0.changed.notify_all();
        Ok(())
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

/// A thread's side.
struct Writer {
    queue: LogQueue,
    number: u64,
    output: Box<dyn LogOutput>,
    /// Whether the output ends within a line because a write failed there. The next write then
    /// begins with a line feed.
    is_torn: bool,
    /// Since when the thread has to end.
    leaves_since: Option<Instant>,
}

/// Why a write has stopped.
enum Stop {
    /// The output takes no more, or will not in time.
    Failed,
    /// It is full, and has to be opened again.
    Reopen,
}

impl Writer {
    fn new(queue: LogQueue, number: u64, output: Box<dyn LogOutput>) -> Self {
        Self {
            queue,
            number,
            output,
            is_torn: false,
            leaves_since: None,
        }
    }

    fn run(mut self) {
        let mut lines = Vec::new();
        let mut can_write = true;
        while self.take(&mut lines, can_write) {
            if std::mem::take(&mut self.queue.state().reopens) && self.output.reopen() {
                self.is_torn = false; // the line of another file
            }
            if !lines.is_empty() {
                can_write = self.write(&lines);
                lines.clear();
                lines.shrink_to(WRITE_MAX);
            }
            let mut state = self.queue.state();
            if state.writer == self.number {
                state.taken = 0;
            }
            drop(state);
            self.queue.0.changed.notify_all();
            if can_write {
                self.notice_dropped();
            }
        }
        let mut state = self.queue.state();
        if state.writer != self.number {
            state.leaving -= 1;
        }
    }

    /// Waits for lines and takes them all, or none if a notice is due or the output has to be
    /// opened again. Returns `false` if another thread takes them, and once the queue is closed and
    /// empty.
    fn take(&self, lines: &mut Vec<u8>, can_write: bool) -> bool {
        let mut state = self.queue.state();
        loop {
            if state.writer != self.number {
                return false;
            }
            if !state.waiting.is_empty() {
                std::mem::swap(&mut state.waiting, lines);
                state.taken = lines.len();
                return true;
            }
            if state.is_closing {
                return false;
            }
            if state.reopens {
                return true;
            }
            let until_notice = if can_write && log_lines_dropped() > state.noticed {
                state.until_notice()
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
    fn write(&mut self, mut lines: &[u8]) -> bool {
        loop {
            let Err((written, stop)) = self.write_lines(lines) else {
                return true;
            };
            match stop {
                Stop::Failed => {
                    if written > 0 {
                        self.is_torn = lines[written - 1] != b'\n';
                    }
                    count_dropped(lines_in(&lines[written..]));
                    return false;
                }
                // The new file gets the line from its beginning.
                Stop::Reopen if self.output.reopen() => {
                    self.is_torn = false;
                    let last = memchr::memrchr(b'\n', &lines[..written]);
                    lines = &lines[last.map_or(0, |at| at + 1)..];
                }
                Stop::Reopen => lines = &lines[written..],
            }
        }
    }

    /// Writes lines, after a line feed if it is needed. The error has the number of bytes of the
    /// lines that are written.
    fn write_lines(&mut self, lines: &[u8]) -> Result<(), (usize, Stop)> {
        if self.is_torn {
            self.write_all(b"\n").map_err(|(_, stop)| (0, stop))?;
        }
        self.is_torn = false;
        self.write_all(lines)
    }

    /// Writes all bytes. The error has the number of bytes written before it.
    fn write_all(&mut self, bytes: &[u8]) -> Result<(), (usize, Stop)> {
        let mut written = 0;
        while written < bytes.len() {
            let end = bytes.len().min(written + WRITE_MAX);
            match self.output.write(&bytes[written..end]) {
                Ok(0) => return Err((written, Stop::Failed)),
                Ok(count) => written += count,
                Err(error) => match error.kind() {
                    io::ErrorKind::Interrupted => {}
                    // A pipe at the path of a file; or another process made the shared descriptor
                    // non-blocking.
                    io::ErrorKind::WouldBlock => match self.stop() {
                        Some(stop) => return Err((written, stop)),
                        None => std::thread::sleep(WOULD_BLOCK),
                    },
                    _ => return Err((written, Stop::Failed)),
                },
            }
        }
        Ok(())
    }

    /// Returns whether to stop waiting for a full output.
    fn stop(&mut self) -> Option<Stop> {
        let mut state = self.queue.state();
        if state.is_closing || state.writer != self.number {
            let since = self.leaves_since.get_or_insert_with(Instant::now);
            return (since.elapsed() >= FLUSH_DEADLINE).then_some(Stop::Failed);
        }
        std::mem::take(&mut state.reopens).then_some(Stop::Reopen)
    }

    fn notice_dropped(&self) {
        let dropped = log_lines_dropped();
        let mut state = self.queue.state();
        // A queue that is still full would drop the notice too.
        let has_room = state.waiting.len() <= self.queue.0.waiting_max / 2;
        let is_current = state.writer == self.number;
        if has_room && is_current && dropped > state.noticed && state.until_notice().is_zero() {
            let lines = dropped - state.noticed;
            state.noticed = dropped;
            state.noticed_at = Some(Instant::now());
            drop(state); // the notice is a line
            (self.queue.0.notice)(lines);
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

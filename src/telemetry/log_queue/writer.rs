//! Writer: the thread of an output.

use std::io;
use std::time::{Duration, Instant};

use super::{
    CHUNK_SIZE, FLUSH_DEADLINE, LogOutput, LogQueue, count_dropped, lines_in, log_lines_dropped,
};

/// How long the thread waits when the output is non-blocking and full.
const WOULD_BLOCK: Duration = Duration::from_millis(20);

/// A thread's side.
pub(super) struct Writer {
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
    pub(super) fn new(queue: LogQueue, number: u64, output: Box<dyn LogOutput>) -> Self {
        Self {
            queue,
            number,
            output,
            is_torn: false,
            leaves_since: None,
        }
    }

    pub(super) fn run(mut self) {
        let mut lines = Vec::new();
        let mut can_write = true;
        while let Some(reopens) = self.take(&mut lines, can_write) {
            if reopens && self.output.reopen() {
                self.is_torn = false; // the line of another file
            }
            if !lines.is_empty() {
                can_write = self.write(&lines);
                lines.clear();
                lines.shrink_to(CHUNK_SIZE);
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
            drop(state);
            self.queue.0.changed.notify_all();
        }
    }

    /// Waits for lines and takes a chunk, or none if a notice is due or the output has to be opened
    /// again. Returns whether it has to be, or `None` if another thread takes the lines, and once
    /// the queue is closed and empty.
    pub(super) fn take(&self, lines: &mut Vec<u8>, can_write: bool) -> Option<bool> {
        let mut state = self.queue.state();
        loop {
            if state.writer != self.number {
                return None; // `reopens` is for the current thread
            }
            if state.take(lines) {
                return Some(std::mem::take(&mut state.reopens));
            }
            if state.is_closing {
                return None;
            }
            if std::mem::take(&mut state.reopens) {
                return Some(true);
            }
            let until_notice = if can_write && log_lines_dropped() > state.noticed {
                state.until_notice()
            } else {
                Duration::MAX
            };
            if until_notice.is_zero() {
                return Some(false);
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
        let mut done = 0;
        loop {
            let Err((written, stop)) = self.write_lines(&lines[done..]) else {
                return true;
            };
            done += written;
            match stop {
                Stop::Failed => {
                    self.is_torn |= done > 0 && lines[done - 1] != b'\n';
                    count_dropped(lines_in(&lines[done..]));
                    return false;
                }
                // The new file gets the line from its beginning.
                Stop::Reopen if self.output.reopen() => {
                    self.is_torn = false;
                    done = memchr::memrchr(b'\n', &lines[..done]).map_or(0, |at| at + 1);
                }
                Stop::Reopen => {}
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
            let end = bytes.len().min(written + CHUNK_SIZE);
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
        let has_room = state.waiting_bytes <= self.queue.0.waiting_max / 2;
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

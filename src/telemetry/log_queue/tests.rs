//! Tests of the log queue.

use std::sync::atomic::AtomicBool;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};

use super::*;

const PATIENCE: Duration = Duration::from_secs(10);

/// An output that a test controls: each write waits for a permit; `Err` fails it.
struct Gate {
    permits: Receiver<io::Result<usize>>,
    written: Sender<Vec<u8>>,
    reopened: Sender<()>,
    is_renamed: Arc<AtomicBool>,
}

impl LogOutput for Gate {
    fn reopen(&mut self) -> bool {
        let _ = self.reopened.send(());
        self.is_renamed.load(Ordering::Relaxed)
    }
}

impl Write for Gate {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let most = self
            .permits
            .recv_timeout(PATIENCE)
            .map_err(io::Error::other)??;
        let count = bytes.len().min(most);
        let _ = self.written.send(bytes[..count].to_vec());
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct Bench {
    queue: LogQueue,
    output: Output,
    notices: Receiver<u64>,
}

/// The test's side of a [`Gate`].
struct Output {
    permits: Sender<io::Result<usize>>,
    written: Receiver<Vec<u8>>,
    reopened: Receiver<()>,
    /// Whether another file is at the path when it is opened again.
    is_renamed: Arc<AtomicBool>,
}

impl std::ops::Deref for Bench {
    type Target = Output;

    fn deref(&self) -> &Output {
        &self.output
    }
}

fn bench(waiting_max: usize) -> Bench {
    let (notice, notices) = channel();
    let queue = LogQueue::with_room(waiting_max, move |lines| {
        let _ = notice.send(lines);
    });
    let output = Output::of(&queue).unwrap();
    Bench {
        queue,
        output,
        notices,
    }
}

impl Output {
    /// Replaces the output of a queue.
    fn of(queue: &LogQueue) -> io::Result<Self> {
        let (permits, permitted) = channel();
        let (write, written) = channel();
        let (reopen, reopened) = channel();
        let is_renamed = Arc::new(AtomicBool::new(true));
        let output = queue.prepare(Gate {
            permits: permitted,
            written: write,
            reopened: reopen,
            is_renamed: Arc::clone(&is_renamed),
        })?;
        output.make();
        Ok(Self {
            permits,
            written,
            reopened,
            is_renamed,
        })
    }

    fn permit(&self, write: io::Result<usize>) {
        self.permits.send(write).unwrap();
    }

    fn read(&self) -> String {
        String::from_utf8(self.written.recv_timeout(PATIENCE).unwrap()).unwrap()
    }

    /// Waits until the thread has ended.
    fn is_gone(&self) -> bool {
        self.written.recv_timeout(PATIENCE) == Err(RecvTimeoutError::Disconnected)
    }
}

impl LogQueue {
    /// Waits until all lines are written. Returns whether they are.
    fn flush(&self, deadline: Duration) -> bool {
        self.wait_while(State::is_unwritten, deadline)
    }

    /// Waits until the thread has taken all that waits.
    pub(in crate::telemetry) fn until_taken(&self) {
        let began = Instant::now();
        while !self.state().waiting.is_empty() {
            assert!(began.elapsed() < PATIENCE);
            std::thread::yield_now();
        }
    }
}

impl Bench {
    fn until_taken(&self) {
        self.queue.until_taken();
    }
}

/// Held by tests that lose lines: the process has one count of them.
static LOSES_LINES: Mutex<()> = Mutex::new(());

#[test]
fn lines_are_written_whole_or_dropped_and_counted_with_a_notice() {
    let _alone = LOSES_LINES.lock();
    // A line written in pieces arrives whole.
    let pieces = bench(1 << 10);
    pieces.queue.push(b"one line\n");
    pieces.permit(Ok(4));
    pieces.permit(Ok(100));
    assert_eq!(pieces.read() + &pieces.read(), "one line\n");
    assert!(pieces.queue.flush(PATIENCE));

    // A stalled reader loses lines once the queue is full. The notice follows when it reads
    // again.
    let stalled = bench(100);
    let before = log_lines_dropped();
    stalled.queue.push(b"taken\n");
    stalled.until_taken();
    for _ in 0..20 {
        stalled.queue.push(b"123456789\n");
    }
    assert_eq!(log_lines_dropped() - before, 11);
    assert!(!stalled.queue.flush(Duration::ZERO));
    stalled.permit(Ok(1_000));
    stalled.permit(Ok(1_000));
    assert_eq!(stalled.read(), "taken\n");
    assert_eq!(stalled.read(), "123456789\n".repeat(9));
    assert_eq!(stalled.notices.recv_timeout(PATIENCE), Ok(11));

    // A failed write loses the lines after the failure, and the next write begins a new line.
    let full = bench(1 << 10);
    full.queue.push(b"first\nsecond\nthird\n");
    full.permit(Ok(8));
    full.permit(Err(io::ErrorKind::StorageFull.into()));
    assert_eq!(full.read(), "first\nse");
    assert!(full.queue.flush(PATIENCE));
    assert!(
        full.notices.try_recv().is_err(),
        "no notice while the output fails"
    );
    full.queue.push(b"fourth\n");
    full.permit(Ok(100));
    full.permit(Ok(100));
    assert_eq!(full.read() + &full.read(), "\nfourth\n");
    assert_eq!(full.notices.recv_timeout(PATIENCE), Ok(2));
}

#[test]
fn an_idle_output_is_opened_again_at_once_and_a_closed_queue_is_left_alone() {
    let idle = bench(1 << 10);
    let closed = bench(1 << 10);
    drop(Flush(Some(closed.queue.clone())));
    reopen_logs();
    assert_eq!(idle.reopened.recv_timeout(PATIENCE), Ok(()));
    // The closed queue's thread has ended, and with it its output.
    assert!(closed.is_gone());
    idle.queue.push(b"after\n");
    idle.permit(Ok(100));
    assert_eq!(idle.read(), "after\n");
}

#[test]
fn lines_go_to_the_next_output_while_a_write_to_the_last_one_stalls() {
    let bench = bench(1 << 10);
    bench.queue.push(b"one\n");
    bench.until_taken();
    bench.queue.push(b"two\n");
    let next = Output::of(&bench.queue).unwrap();
    next.permit(Ok(100));
    assert_eq!(next.read(), "two\n");
    bench.queue.push(b"three\n");
    next.permit(Ok(100));
    assert_eq!(next.read(), "three\n");
    assert!(bench.queue.flush(PATIENCE));
    // The reader of the first one goes on, and gets its line.
    bench.permit(Ok(2));
    bench.permit(Ok(100));
    assert_eq!(bench.read() + &bench.read(), "one\n");
    assert!(bench.is_gone());
}

#[test]
fn next_output_tells_of_the_lines_that_the_last_one_has_lost() {
    let _alone = LOSES_LINES.lock();
    let bench = bench(20);
    bench.queue.push(b"taken\n");
    bench.until_taken();
    for _ in 0..3 {
        bench.queue.push(b"123456789\n");
    }
    assert!(bench.notices.try_recv().is_err());
    let next = Output::of(&bench.queue).unwrap();
    next.permit(Ok(100));
    assert_eq!(next.read(), "123456789\n");
    assert_eq!(bench.notices.recv_timeout(PATIENCE), Ok(2));
    bench.permit(Ok(100));
    assert!(bench.read() == "taken\n" && bench.is_gone());
}

#[test]
fn outputs_that_stall_are_bounded() {
    let bench = bench(1 << 10);
    let mut stalled = Vec::new();
    for _ in 0..LEAVING_MAX {
        bench.queue.push(b"line\n");
        bench.until_taken();
        stalled.push(Output::of(&bench.queue).unwrap());
    }
    bench.queue.push(b"line\n");
    bench.until_taken();
    assert!(Output::of(&bench.queue).is_err());
    // The current one goes on, and one that ends makes room.
    let current = stalled.pop().unwrap();
    current.permit(Ok(100));
    assert_eq!(current.read(), "line\n");
    bench.permit(Ok(100));
    assert_eq!(bench.read(), "line\n");
    assert!(bench.is_gone());
    let began = Instant::now();
    while Output::of(&bench.queue).is_err() {
        assert!(began.elapsed() < PATIENCE);
        std::thread::yield_now();
    }
    for output in &stalled {
        output.permit(Ok(100));
        assert_eq!(output.read(), "line\n");
    }
}

/// Non-blocking, as a pipe at the path of a file is.
#[test]
fn a_full_pipe_is_left_when_the_path_leads_elsewhere() {
    let bench = bench(1 << 10);
    let full = || Err(io::ErrorKind::WouldBlock.into());
    bench.queue.push(b"one\ntwo\n");
    bench.permit(Ok(5));
    bench.permit(full());
    assert_eq!(bench.read(), "one\nt");
    bench.queue.state().reopens = true;
    bench.permit(full());
    assert_eq!(bench.reopened.recv_timeout(PATIENCE), Ok(()));
    bench.permit(Ok(100));
    assert_eq!(bench.read(), "two\n", "the whole line");
}

#[test]
fn a_full_pipe_does_not_keep_the_thread_of_a_queue_that_is_closed_or_moved() {
    let _alone = LOSES_LINES.lock();
    let full = || Err(io::ErrorKind::WouldBlock.into());
    let (closed, moved) = (bench(1 << 10), bench(1 << 10));
    for bench in [&closed, &moved] {
        bench.queue.push(b"line\n");
        bench.until_taken();
        for _ in 0..200 {
            bench.permit(full());
        }
    }
    Closed::default().close(Flush(Some(closed.queue.clone())));
    let next = Output::of(&moved.queue).unwrap();
    assert!(closed.is_gone());
    assert!(moved.is_gone());
    moved.queue.push(b"next\n");
    next.permit(Ok(100));
    assert_eq!(next.read(), "next\n");
}

/// A pipe that is full, and still at its path after SIGUSR1.
#[test]
fn a_line_that_is_cut_off_after_the_signal_does_not_take_in_the_next_one() {
    let _alone = LOSES_LINES.lock();
    let bench = bench(1 << 10);
    let full = || Err(io::ErrorKind::WouldBlock.into());
    bench.is_renamed.store(false, Ordering::Relaxed);
    bench.queue.push(b"one\ntwo\n");
    bench.permit(Ok(5));
    assert_eq!(bench.read(), "one\nt");
    bench.queue.state().reopens = true;
    bench.permit(full());
    assert_eq!(bench.reopened.recv_timeout(PATIENCE), Ok(()));
    bench.permit(Err(io::ErrorKind::BrokenPipe.into()));
    assert!(bench.queue.flush(PATIENCE));
    bench.queue.push(b"three\nfour\n");
    bench.permit(Ok(1));
    bench.permit(Ok(7));
    assert_eq!(bench.read() + &bench.read(), "\nthree\nf");

    // And once another file is there, that gets the line from its beginning.
    bench.queue.state().reopens = true;
    bench.permit(full());
    assert_eq!(bench.reopened.recv_timeout(PATIENCE), Ok(()));
    bench.permit(Ok(1));
    assert_eq!(bench.read(), "o");
    bench.is_renamed.store(true, Ordering::Relaxed);
    bench.queue.state().reopens = true;
    bench.permit(full());
    bench.permit(Ok(100));
    assert_eq!(bench.read(), "four\n");
}

impl LogOutput for io::Sink {}

#[test]
fn a_signal_to_open_the_file_again_is_for_the_current_thread() {
    let bench = bench(1 << 10);
    bench.queue.push(b"one\n");
    bench.until_taken();
    let next = Output::of(&bench.queue).unwrap();
    bench.queue.push(b"two\n");
    bench.until_taken();
    // Both threads write. These stand for what they do next, one after the other.
    let thread = |number| Writer::new(bench.queue.clone(), number, Box::new(io::sink()));
    let mut lines = Vec::new();
    bench.queue.push(b"three\n");
    bench.queue.state().reopens = true;
    assert_eq!(thread(1).take(&mut lines, true), None);
    assert!(bench.queue.state().reopens, "left to the current one");
    // That gets the lines and the signal under one lock.
    assert_eq!(thread(2).take(&mut lines, true), Some(true));
    assert_eq!(lines, b"three\n");
    assert!(!bench.queue.state().reopens);
    for (output, line) in [(&bench.output, "one\n"), (&next, "two\n")] {
        output.permit(Ok(100));
        assert_eq!(output.read(), line);
    }
}

#[test]
fn thread_that_leaves_keeps_a_chunk_and_the_lines_behind_it_go_to_the_next_output() {
    let bench = bench(1 << 20);
    bench.queue.push(b"first\n");
    bench.until_taken();
    let line = |number: usize| format!("{number:099}\n");
    for number in 0..3_000 {
        bench.queue.push(line(number).as_bytes());
    }
    bench.permit(Ok(100));
    assert_eq!(bench.read(), "first\n");
    let began = Instant::now();
    let taken = loop {
        let taken = bench.queue.state().taken;
        if taken > 6 {
            break taken;
        }
        assert!(began.elapsed() < PATIENCE);
    };
    assert!(taken <= CHUNK_SIZE, "{taken}");
    let next = Output::of(&bench.queue).unwrap();
    let wanted: String = (0..3_000).map(line).collect();
    let mut found = String::new();
    while found.len() < wanted.len() - taken {
        next.permit(Ok(CHUNK_SIZE));
        found += &next.read();
    }
    assert_eq!(found, wanted[taken..]);
    bench.permit(Ok(CHUNK_SIZE));
    assert_eq!(bench.read(), wanted[..taken]);
    assert!(bench.is_gone());
}

#[test]
fn end_of_the_process_waits_for_the_lines_of_earlier_outputs() {
    let bench = bench(1 << 10);
    bench.queue.push(b"one\n");
    bench.until_taken();
    let _next = Output::of(&bench.queue).unwrap();
    let flush = Flush(Some(bench.queue.clone()));
    let (ends, ended) = channel();
    let ending = std::thread::spawn(move || {
        drop(flush);
        let _ = ends.send(());
    });
    assert!(ended.recv_timeout(Duration::from_millis(100)).is_err());
    bench.permit(Ok(100));
    assert_eq!(bench.read(), "one\n");
    ending.join().unwrap();
}

//! Tests of the log queue.

use std::sync::mpsc::{Receiver, Sender, channel};

use super::*;

const PATIENCE: Duration = Duration::from_secs(10);

/// An output that a test controls: each write waits for a permit; `Err` fails it.
struct Gate {
    permits: Receiver<io::Result<usize>>,
    written: Sender<Vec<u8>>,
    reopened: Sender<()>,
}

impl LogOutput for Gate {
    fn reopen(&mut self) {
        let _ = self.reopened.send(());
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
    permits: Sender<io::Result<usize>>,
    written: Receiver<Vec<u8>>,
    notices: Receiver<u64>,
    reopened: Receiver<()>,
}

fn bench(waiting_max: usize) -> Bench {
    let (permits, permitted) = channel();
    let (write, written) = channel();
    let (notice, notices) = channel();
    let (reopen, reopened) = channel();
    let queue = LogQueue::with_room(waiting_max);
    let gate = Gate {
        permits: permitted,
        written: write,
        reopened: reopen,
    };
    queue.register();
    let writer = Writer::new(queue.clone(), Box::new(gate), move |lines| {
        let _ = notice.send(lines);
    });
    std::thread::spawn(move || writer.run());
    Bench {
        queue,
        permits,
        written,
        notices,
        reopened,
    }
}

impl Bench {
    fn permit(&self, write: io::Result<usize>) {
        self.permits.send(write).unwrap();
    }

    fn read(&self) -> String {
        String::from_utf8(self.written.recv_timeout(PATIENCE).unwrap()).unwrap()
    }
}

// A single test, because the process has one count of dropped lines.
#[test]
fn lines_are_written_whole_or_dropped_and_counted_with_a_notice() {
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
    // The thread has taken the first line once the queue is empty again.
    let taken = Instant::now();
    while !stalled.queue.state().waiting.is_empty() {
        assert!(taken.elapsed() < PATIENCE);
        std::thread::yield_now();
    }
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
    drop(Flush(Some(closed.queue)));
    reopen_logs();
    assert_eq!(idle.reopened.recv_timeout(PATIENCE), Ok(()));
    // The closed queue's thread has ended, and with it its output.
    assert!(closed.reopened.recv_timeout(PATIENCE).is_err());
    idle.queue.push(b"after\n");
    idle.permit(Ok(100));
    assert_eq!(idle.read(), "after\n");
}

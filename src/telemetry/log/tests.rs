//! Tests of the log's settings.

use std::io::Write;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use super::super::log_queue::LogOutput;
use super::*;

/// An output whose writes wait for the end of the test.
struct Stuck(Receiver<()>);

impl Write for Stuck {
    fn write(&mut self, lines: &[u8]) -> io::Result<usize> {
        let _ = self.0.recv();
        Ok(lines.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl LogOutput for Stuck {}

/// Returns a log and an access log on outputs that wait while the senders are there.
fn running(access: &Path) -> (Running, [Sender<()>; 2]) {
    let stuck = || {
        let (sender, receiver) = channel();
        (LogQueue::start(Stuck(receiver), |_| {}).unwrap(), sender)
    };
    let ((queue, flush), one) = stuck();
    let ((access_queue, access_flush), two) = stuck();
    let running = Running {
        lines: LogLines::new(Format::Text, false),
        filter: Box::new(drop),
        queue,
        file: None,
        access: Some((access.to_owned(), access_queue, access_flush)),
        closed: Closed::default(),
        _flush: flush,
    };
    (running, [one, two])
}

fn settings(file: Option<PathBuf>, access: PathBuf) -> LogSettings {
    LogSettings {
        file,
        access: Some(AccessSettings {
            file: Some(access),
            ..AccessSettings::default()
        }),
        ..LogSettings::default()
    }
}

#[test]
fn moving_the_access_file_takes_along_what_waits_or_changes_nothing() {
    let name = format!("oneport-logs-{:016x}", fastrand::u64(..));
    let directory = std::env::temp_dir().join(name);
    std::fs::create_dir(&directory).unwrap();
    let place = |name: &str| directory.join(name);
    let read = |name: &str| std::fs::read_to_string(place(name)).unwrap_or_default();
    let (mut running, senders) = running(&place("0"));
    let queue = running.access.as_ref().unwrap().1.clone();

    queue.push(b"taken\n");
    queue.until_taken();
    queue.push(b"waited\n");
    running.reconfigure(&settings(None, place("1"))).unwrap();
    let began = Instant::now();
    while read("1") != "waited\n" {
        assert!(began.elapsed() < Duration::from_secs(10), "{}", read("1"));
        std::thread::yield_now();
    }

    // As many outputs as may be left behind do not take their lines.
    let mut stuck = Vec::new();
    for _ in 0..4 {
        let (sender, receiver) = channel();
        stuck.push(sender);
        if let Ok(output) = queue.prepare(Stuck(receiver)) {
            output.make();
            queue.push(b"taken\n");
            queue.until_taken();
        }
    }
    let wanted = settings(Some(place("log")), place("2"));
    let error = running.reconfigure(&wanted).unwrap_err();
    assert!(error.is_access && error.path == place("2"), "{error}");
    assert_eq!(running.access_path(), Some(place("1").as_path()));
    assert_eq!(running.file, None, "the log itself is not moved either");
    running.queue.push(b"still there\n");
    running.queue.until_taken();
    assert_eq!(read("log"), "");

    drop((stuck, senders));
    drop(running); // waits for the lines
    std::fs::remove_dir_all(directory).unwrap();
}

#[test]
fn a_file_that_is_left_for_none_and_stuck_is_counted() {
    let directory = std::env::temp_dir();
    let name = format!("oneport-access-{:016x}", fastrand::u64(..));
    let path = directory.join(name);
    let (mut running, senders) = running(&path);
    let mut stuck = Vec::new();
    let none = LogSettings::default();
    for last in [false, false, false, true] {
        let queue = running.access.as_ref().unwrap().1.clone();
        queue.push(b"taken\n");
        queue.until_taken();
        drop(queue);
        running.reconfigure(&none).unwrap();
        if !last {
            running.reconfigure(&settings(None, path.clone())).unwrap();
            let (sender, receiver) = channel();
            let queue = &running.access.as_ref().unwrap().1;
            queue.prepare(Stuck(receiver)).unwrap().make();
            stuck.push(sender);
        }
    }
    let error = running.reconfigure(&settings(None, path.clone()));
    assert!(error.unwrap_err().is_access);
    drop((stuck, senders));
    drop(running);
    std::fs::remove_file(path).unwrap();
}

#[test]
fn misspelt_level_is_no_level() {
    for good in [
        "info",
        "debug,hyper=warn",
        "info,oneport::websocket=debug",
        "off",
    ] {
        assert_eq!(check_level(good), Ok(()), "{good}");
    }
    for bad in ["inof", "", "info,debgu", "info,hyper=inof"] {
        assert!(check_level(bad).is_err(), "{bad}");
    }
}

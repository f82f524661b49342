//! Process: a server process of its own, watched from outside.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

/// The deadline of every wait, for a busy machine.
pub(super) const DEADLINE: Duration = Duration::from_secs(60);

/// The interval at which a condition is checked.
pub(super) const LOOK: Duration = Duration::from_millis(20);

pub(super) const KIB: usize = 1024;

/// A server process of its own.
pub(super) struct Process {
    pub(super) child: Child,
    pub(super) address: SocketAddr,
    pub(super) log: PathBuf,
}

impl Process {
    /// Starts the binary with a file; it may open as many descriptors as the machine allows.
    pub(super) fn start(name: &str, routes: &str) -> Self {
        let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR"))
            .join(format!("scale-{name}-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let (file, log) = (folder.join("oneport.toml"), folder.join("log"));
        fs::write(&file, format!("{HEAD}{routes}")).unwrap();
        let mut child = raised(env!("CARGO_BIN_EXE_oneport"))
            .args(["serve", "--config"])
            .arg(&file)
            // The allocator returns free memory at once, so that resident memory is memory in use.
            .env("_RJEM_MALLOC_CONF", "dirty_decay_ms:0,muzzy_decay_ms:0")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(File::create(&log).unwrap())
            .spawn()
            .unwrap();
        let said = BufReader::new(child.stdout.take().unwrap());
        let mut this = Self {
            child,
            address: ([127, 0, 0, 1], 0).into(),
            log,
        };
        let (tell, told) = mpsc::channel();
        std::thread::spawn(move || {
            for line in said.lines().map_while(Result::ok) {
                let _ = tell.send(line); // the pipe is read to its end, so that the server never waits for it
            }
        });
        let Ok(line) = told.recv_timeout(DEADLINE) else {
            panic!("the server did not start: {}", this.logged());
        };
        let address = line.split_once("://").map(|(_, address)| address);
        this.address = address.unwrap().trim().parse().unwrap();
        this
    }

    pub(super) fn logged(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Its resident memory in bytes.
    pub(super) fn resident(&self) -> usize {
        resident(self.child.id(), "VmRSS:")
    }

    /// The number of its open sockets, including listeners and internal ones.
    pub(super) fn sockets(&self) -> usize {
        let descriptors = fs::read_dir(format!("/proc/{}/fd", self.child.id())).unwrap();
        descriptors
            .filter_map(|descriptor| fs::read_link(descriptor.ok()?.path()).ok())
            .filter(|target| target.to_string_lossy().starts_with("socket:"))
            .count()
    }

    /// Returns the sum of all metrics of a name whose labels contain all these texts.
    pub(super) async fn metric(&self, name: &str, labels: &[&str]) -> usize {
        let asked = async {
            let mut stream = TcpStream::connect(self.address).await.unwrap();
            let request = "GET /metrics/ HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
            stream.write_all(request.as_bytes()).await.unwrap();
            let mut text = String::new();
            stream.read_to_string(&mut text).await.unwrap();
            text
        };
        let text = timeout(DEADLINE, asked).await.unwrap();
        assert!(text.starts_with("HTTP/1.1 200"), "{text}");
        text.lines()
            .filter(|line| {
                line.strip_prefix(name)
                    .is_some_and(|rest| rest.starts_with(['{', ' ']))
                    && labels.iter().all(|label| line.contains(label))
            })
            .map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap() as usize)
            .sum()
    }

    /// Waits until a metric has a value.
    pub(super) async fn until_metric(&self, name: &str, labels: &[&str], value: usize) {
        let began = Instant::now();
        loop {
            let found = self.metric(name, labels).await;
            if found == value {
                return;
            }
            assert!(
                began.elapsed() < DEADLINE,
                "expected {name} {labels:?} to become {value}, found {found}"
            );
            sleep(LOOK).await;
        }
    }

    /// The number of its open sockets without clients.
    pub(super) async fn settled_sockets(&self) -> usize {
        self.until_metric("oneport_websockets", &[], 0).await; // so it serves, and has all that it needs for that
        let mut sockets = self.sockets();
        for _ in 0..10 {
            sleep(LOOK).await; // the connection that asked goes
            sockets = sockets.min(self.sockets());
        }
        sockets
    }

    /// Waits until the number of its open sockets is one of these.
    pub(super) async fn until_sockets(&self, wanted: RangeInclusive<usize>) {
        let began = Instant::now();
        loop {
            let found = self.sockets();
            if wanted.contains(&found) {
                return;
            }
            assert!(
                began.elapsed() < DEADLINE,
                "expected {wanted:?} sockets, found {found}"
            );
            sleep(LOOK).await;
        }
    }

    /// Waits until its memory is at most this, for 5 s: a socket is closed before all its memory is
    /// free. Returns its memory then.
    pub(super) async fn until_resident(&self, wanted: usize) -> usize {
        let began = Instant::now();
        loop {
            let found = self.resident();
            if found <= wanted || began.elapsed() > Duration::from_secs(5) {
                return found;
            }
            sleep(LOOK).await;
        }
    }

    /// Returns the connections with bytes that the server has not read yet, from the kernel's
    /// table.
    pub(super) fn unread(&self) -> Vec<String> {
        let address = format!("0100007F:{:04X}", self.address.port());
        let table = fs::read_to_string("/proc/net/tcp").unwrap();
        let rows = table.lines().skip(1).filter_map(|line| {
            let mut fields = line.split_ascii_whitespace().skip(1);
            let (local, remote) = (fields.next()?, fields.next()?);
            let (unsent, unread) = fields.nth(1)?.split_once(':')?;
            let is_waiting = (local == address && unread != "00000000")
                || (remote == address && unsent != "00000000");
            is_waiting.then(|| format!("{local} {remote} {unsent} {unread}"))
        });
        rows.collect()
    }

    /// Waits until every byte that was sent to it has been read.
    pub(super) async fn until_all_is_read(&self) {
        let began = Instant::now();
        loop {
            let unread = self.unread();
            if unread.is_empty() {
                return;
            }
            assert!(
                began.elapsed() < DEADLINE,
                "the server does not read {unread:?}"
            );
            sleep(LOOK).await;
        }
    }

    /// Sends it SIGTERM.
    pub(super) fn ask_to_stop(&self) {
        let pid = self.child.id().to_string();
        let status = Command::new("sh")
            .args(["-c", "kill -TERM \"$0\"", &pid])
            .status()
            .unwrap();
        assert!(status.success());
    }

    /// Waits for its end, which has to be successful and without a panic.
    pub(super) async fn ended(mut self) {
        let began = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(began.elapsed() < DEADLINE, "the server did not stop");
            sleep(LOOK).await;
        };
        let logged = self.logged();
        assert!(status.success(), "{status}: {logged}");
        assert!(!logged.contains("panicked"), "{logged}");
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
        if let (false, Some(folder)) = (std::thread::panicking(), self.log.parent()) {
            let _ = fs::remove_dir_all(folder);
        }
    }
}

/// The start of every server's configuration.
const HEAD: &str = "
    [server]
    bind = ['127.0.0.1:0']
    workers = 2
    [server.limits]
    connections_per_ip = 100_000
    [server.timeouts]
    handshake = '10m'
    drain = '20s'
    [log]
    level = 'warn'
    access = false
    [[http.route]]
    path = '/metrics/'
    view = 'metrics'
";

/// A command that runs with the maximum number of descriptors.
pub(super) fn raised(program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new("sh");
    command
        .args(["-c", "ulimit -n \"$(ulimit -H -n)\" && exec \"$0\" \"$@\""])
        .arg(program.as_ref());
    command
}

fn resident(pid: u32, field: &str) -> usize {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let kib = status
        .lines()
        .find_map(|line| line.strip_prefix(field)?.split_ascii_whitespace().next())
        .map_or(0, |kib| kib.parse::<usize>().unwrap());
    kib * KIB
}

/// Samples the memory of a process.
pub(super) struct Watch {
    is_over: Arc<AtomicBool>,
    thread: JoinHandle<usize>,
}

impl Watch {
    pub(super) fn start(process: &Process) -> Self {
        let is_over = Arc::new(AtomicBool::new(false));
        let (over, pid) = (is_over.clone(), process.child.id());
        let thread = std::thread::spawn(move || {
            let mut most = resident(pid, "VmRSS:");
            while !over.load(Ordering::Relaxed) {
                std::thread::sleep(LOOK);
                most = most.max(resident(pid, "VmRSS:"));
            }
            most
        });
        Self { is_over, thread }
    }

    /// Stops, and returns the maximum.
    pub(super) fn most(self) -> usize {
        self.is_over.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

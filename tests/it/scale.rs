//! Scale: very many clients, bad ones and slow ones, against a server process of its own that is watched from outside.
//!
//! What is measured is printed (`--nocapture`); what noise on a busy machine could change is never asserted.

#![expect(clippy::print_stdout, reason = "what is measured is shown")]

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use flate2::{Compress, Compression, FlushCompress, Status};
use futures_util::future::join_all;
use oneport::gateway::Registry;
use oneport::testing::LiveServer;
use oneport::websocket::{Close, Consumer, Context, Message};
use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

/// How long anything may take on a machine that is busy with other things.
const DEADLINE: Duration = Duration::from_secs(60);
/// Between two looks at something that is waited for.
const LOOK: Duration = Duration::from_millis(20);
/// So many handshakes are under way at once.
const BATCH: usize = 250;
/// Clients come from so many loopback addresses.
const SOURCES: usize = 8;
/// Descriptors that are no clients.
const OTHER_DESCRIPTORS: usize = 200;
const KIB: usize = 1024;
const CLOSE: u8 = 0x88;
const PING: u8 = 0x89;

// --- The server ----------------------------------------------------------------------------------------------------------

/// A server process of its own.
struct Process {
    child: Child,
    address: SocketAddr,
    log: PathBuf,
}

impl Process {
    /// Starts the binary with a file; it may open as many descriptors as the machine allows.
    fn start(name: &str, routes: &str) -> Self {
        let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR"))
            .join(format!("scale-{name}-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let (file, log) = (folder.join("oneport.toml"), folder.join("log"));
        fs::write(&file, format!("{HEAD}{routes}")).unwrap();
        let mut child = raised(env!("CARGO_BIN_EXE_oneport"))
            .args(["serve", "--config"])
            .arg(&file)
            // The allocator gives back at once what is free, so that what is seen is what is in use.
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
        let address = line.split_once("http://").map(|(_, address)| address);
        this.address = address.unwrap().trim().parse().unwrap();
        this
    }

    fn logged(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Bytes of memory it has now.
    fn resident(&self) -> usize {
        resident(self.child.id(), "VmRSS:")
    }

    /// How many sockets it has open, those it listens at and its own among them.
    fn sockets(&self) -> usize {
        let descriptors = fs::read_dir(format!("/proc/{}/fd", self.child.id())).unwrap();
        descriptors
            .filter_map(|descriptor| fs::read_link(descriptor.ok()?.path()).ok())
            .filter(|target| target.to_string_lossy().starts_with("socket:"))
            .count()
    }

    /// Reads the sum of all metrics of a name whose labels hold all these texts.
    async fn metric(&self, name: &str, labels: &[&str]) -> usize {
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
    async fn until_metric(&self, name: &str, labels: &[&str], value: usize) {
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

    /// How many sockets it has open while nobody is there.
    async fn settled_sockets(&self) -> usize {
        self.until_metric("oneport_websockets", &[], 0).await; // so it serves, and has all that it needs for that
        let mut sockets = self.sockets();
        for _ in 0..10 {
            sleep(LOOK).await; // the connection that asked goes
            sockets = sockets.min(self.sockets());
        }
        sockets
    }

    /// Waits until the number of its open sockets is one of these.
    async fn until_sockets(&self, wanted: RangeInclusive<usize>) {
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

    /// Waits a moment until it holds no more bytes than that: a socket is closed before the last of its memory is free.
    /// Returns what it holds then.
    async fn until_resident(&self, wanted: usize) -> usize {
        let began = Instant::now();
        loop {
            let found = self.resident();
            if found <= wanted || began.elapsed() > Duration::from_secs(5) {
                return found;
            }
            sleep(LOOK).await;
        }
    }

    /// Says which connections hold bytes that were not read by the server yet, as the kernel's table tells.
    fn unread(&self) -> Vec<String> {
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
    async fn until_all_is_read(&self) {
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

    /// Asks it to stop, by SIGTERM.
    fn ask_to_stop(&self) {
        let pid = self.child.id().to_string();
        let status = Command::new("sh")
            .args(["-c", "kill -TERM \"$0\"", &pid])
            .status()
            .unwrap();
        assert!(status.success());
    }

    /// Waits for its end, which has to be a good one.
    async fn ended(mut self) {
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

/// What all servers here have in common.
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

/// A program that runs with as many descriptors as the machine allows.
fn raised(program: impl AsRef<std::ffi::OsStr>) -> Command {
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

/// Looks at a process' memory all the time.
struct Watch {
    is_over: Arc<AtomicBool>,
    thread: JoinHandle<usize>,
}

impl Watch {
    fn start(process: &Process) -> Self {
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

    /// The most it had.
    fn most(self) -> usize {
        self.is_over.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

// --- The clients ---------------------------------------------------------------------------------------------------------

/// A client's end of a connection.
struct Peer {
    stream: TcpStream,
    /// What was read and not looked at yet.
    heard: Vec<u8>,
}

impl Peer {
    /// Opens a connection from one of the loopback addresses.
    async fn connect(address: SocketAddr, at: usize, is_slow: bool) -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        let last = u8::try_from(1 + at % SOURCES).unwrap();
        socket
            .bind((Ipv4Addr::new(127, 0, 0, last), 0).into())
            .unwrap();
        if is_slow {
            // The kernel holds little for it: a small buffer here, and packets as on a real network, which the server's one is made for.
            socket.set_recv_buffer_size(4096).unwrap();
            SockRef::from(&socket).set_tcp_mss(1460).unwrap();
        }
        let stream = timeout(DEADLINE, socket.connect(address)).await;
        let stream = stream.expect("a connection in time").unwrap();
        stream.set_nodelay(true).unwrap();
        Self {
            stream,
            heard: Vec::new(),
        }
    }

    /// Opens a WebSocket; `fields` are further header fields, each with its line's end.
    async fn shake_hands(&mut self, path: &str, fields: &str) {
        let request = crate::wire::HANDSHAKE.replace("/echo/", path).replace(
            "Sec-WebSocket-Version",
            &format!("{fields}Sec-WebSocket-Version"),
        );
        self.say(request.as_bytes()).await;
        loop {
            assert!(self.read().await, "expected an answer to the handshake");
            let end = self.heard.windows(4).position(|four| four == b"\r\n\r\n");
            if let Some(end) = end {
                let head = String::from_utf8_lossy(&self.heard[..end]).into_owned();
                assert!(head.starts_with("HTTP/1.1 101"), "{head}");
                assert_eq!(
                    head.to_ascii_lowercase().contains("permessage-deflate"),
                    fields.contains("permessage-deflate"),
                    "{head}"
                );
                self.heard.drain(..end + 4);
                return;
            }
        }
    }

    async fn say(&mut self, bytes: &[u8]) {
        let written = timeout(DEADLINE, self.stream.write_all(bytes)).await;
        written.expect("room for what is said in time").unwrap();
    }

    /// Reads once; `false` at the end.
    async fn read(&mut self) -> bool {
        let mut buffer = [0; 4096];
        let read = timeout(DEADLINE, self.stream.read(&mut buffer)).await;
        let count = read.expect("something to read in time").unwrap_or(0);
        self.heard.extend_from_slice(&buffer[..count]);
        count > 0
    }

    /// Reads the next frame: its first octet and its payload. `None` at the end.
    async fn frame(&mut self) -> Option<(u8, Vec<u8>)> {
        loop {
            let header = match self.heard.as_slice() {
                [_, 126, high, low, ..] => {
                    Some((4, usize::from(u16::from_be_bytes([*high, *low]))))
                }
                [_, length @ 0..=125, ..] => Some((2, usize::from(*length))),
                [_, 127..=255, ..] => panic!("expected short frames"),
                _ => None,
            };
            if let Some((header, length)) = header
                && self.heard.len() >= header + length
            {
                let payload = self.heard[header..header + length].to_vec();
                let first = self.heard[0];
                self.heard.drain(..header + length);
                return Some((first, payload));
            }
            if !self.read().await {
                return None;
            }
        }
    }

    /// Expects the close frame next, answers it and expects the end.
    async fn expect_close(&mut self, code: u16) {
        let frame = self.frame().await;
        let Some((CLOSE, payload)) = &frame else {
            panic!("expected a close frame with {code}, found {frame:?}");
        };
        assert_eq!(
            payload[..2],
            code.to_be_bytes(),
            "{}",
            String::from_utf8_lossy(&payload[2..])
        );
        // The server may have waited long enough already.
        let _ = self.stream.write_all(&whole(CLOSE, &payload[..2])).await;
        assert_eq!(self.frame().await, None, "expected the end");
    }
}

/// Opens many connections, some at once.
async fn connect_all(process: &Process, count: usize) -> Vec<Peer> {
    let mut peers = Vec::with_capacity(count);
    while peers.len() < count {
        let some = peers.len()..count.min(peers.len() + BATCH);
        peers.extend(join_all(some.map(|at| Peer::connect(process.address, at, false))).await);
    }
    peers
}

/// Opens many WebSockets, some at once.
async fn open_all(process: &Process, count: usize, path: &str, fields: &str) -> Vec<Peer> {
    open_all_so(process, count, path, fields, false).await
}

async fn open_all_so(
    process: &Process,
    count: usize,
    path: &str,
    fields: &str,
    is_slow: bool,
) -> Vec<Peer> {
    let mut peers = Vec::with_capacity(count);
    while peers.len() < count {
        let some = peers.len()..count.min(peers.len() + BATCH);
        let some = some.map(async |at| {
            let mut peer = Peer::connect(process.address, at, is_slow).await;
            peer.shake_hands(path, fields).await;
            peer
        });
        peers.extend(join_all(some).await);
    }
    peers
}

/// The header of a masked frame whose masking key is zero.
fn header(first: u8, length: u64) -> Vec<u8> {
    let mut bytes = vec![first];
    match u16::try_from(length) {
        Ok(short @ 0..=125) => bytes.push(0x80 | short as u8),
        Ok(middle) => {
            bytes.push(0x80 | 126);
            bytes.extend(middle.to_be_bytes());
        }
        Err(_) => {
            bytes.push(0x80 | 127);
            bytes.extend(length.to_be_bytes());
        }
    }
    bytes.extend([0; 4]);
    bytes
}

fn whole(first: u8, payload: &[u8]) -> Vec<u8> {
    [header(first, payload.len() as u64), payload.to_vec()].concat()
}

/// Runs a test alone in this process, with its number of clients.
///
/// Where the soft limit of descriptors is too low, the test runs in a process of its own with the hard one. Where that is too low as
/// well, there are fewer clients, and a sentence says so.
fn with_clients(test: &str, wanted: usize, run: impl AsyncFnOnce(usize)) {
    static ALONE: Mutex<()> = Mutex::new(());
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let limits = fs::read_to_string("/proc/self/limits").unwrap();
    let mut limits = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"))
        .unwrap()
        .split_ascii_whitespace()
        .map(|limit| limit.parse().unwrap_or(usize::MAX));
    let (soft, hard) = (limits.next().unwrap(), limits.next().unwrap());
    let room = soft.saturating_sub(OTHER_DESCRIPTORS);
    if room < wanted && soft < hard {
        let name = test.split_once("::").unwrap().1; // without the crate
        let status = raised(std::env::current_exe().unwrap())
            .args([name, "--exact", "--include-ignored", "--nocapture"])
            .status()
            .unwrap();
        assert!(status.success(), "it failed in a process of its own");
        return;
    }
    let count = wanted.min(room);
    if count < wanted {
        println!("{count} clients instead of {wanted}: this machine allows {hard} descriptors");
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(run(count));
}

/// Names a test as the runner does, the crate in front.
macro_rules! named {
    ($name:ident) => {
        concat!(module_path!(), "::", stringify!($name))
    };
}

// --- Members -------------------------------------------------------------------------------------------------------------

const MESSAGES: usize = 20;

/// What an idle connection may cost; tasks are larger in a build that is not optimised.
const CONNECTION_BYTES_MAX: f64 = if cfg!(debug_assertions) {
    16_384.0
} else {
    8_192.0
};

#[test]
fn a_thousand_members_hear_every_message() {
    with_clients(
        named!(a_thousand_members_hear_every_message),
        1_000,
        async |count| {
            members_hear_every_message("thousand", [count / 10, count / 2, count]).await;
        },
    );
}

#[test]
#[ignore = "takes up to a minute and 19,000 descriptors"]
fn nineteen_thousand_members_hear_every_message() {
    with_clients(
        named!(nineteen_thousand_members_hear_every_message),
        19_000,
        async |count| {
            let stages = [count / 19, count * 10 / 19, count];
            let [first, second] = members_hear_every_message("nineteen", stages).await;
            assert!(
                first.max(second) <= CONNECTION_BYTES_MAX,
                "expected at most {CONNECTION_BYTES_MAX} bytes a connection, found {first:.0} and {second:.0}"
            );
            assert!(
                second <= 1.3 * first,
                "expected the same for each connection, found {first:.0} bytes, then {second:.0}"
            );
        },
    );
}

/// Returns how many bytes each further connection costs, from stage to stage.
async fn members_hear_every_message(name: &str, stages: [usize; 3]) -> [f64; 2] {
    let routes = "
        [[websocket.route]]
        path = '/all/'
        consumer = 'broadcast'
        ping_interval = '0s'
        options = { group = 'all' }
    ";
    let process = Process::start(name, routes);
    let sockets = process.settled_sockets().await;
    let began = Instant::now();
    println!("{:>6} members: {:>9} bytes", 0, process.resident());
    let mut members = Vec::new();
    let mut measured = Vec::new();
    for stage in stages {
        members.extend(open_all(&process, stage - members.len(), "/all/", "").await);
        process.until_metric("oneport_websockets", &[], stage).await;
        process.until_sockets(stage..=sockets + stage).await;
        let bytes = process.resident();
        println!("{stage:>6} members: {bytes:>9} bytes");
        measured.push((stage, bytes));
    }
    let growth = [0, 1].map(|at| {
        let ((few, before), (many, after)) = (measured[at], measured[at + 1]);
        (after as f64 - before as f64) / (many - few) as f64
    });
    println!(
        "{:.0} and {:.0} bytes for each further member; all were there after {:?}",
        growth[0],
        growth[1],
        began.elapsed()
    );

    let began = Instant::now();
    let mut expected = Vec::new();
    for at in 0..MESSAGES {
        let message = format!("message {at:02} of {MESSAGES}");
        members[0].say(&whole(0x81, message.as_bytes())).await;
        expected.push(0x81);
        expected.push(message.len() as u8);
        expected.extend(message.as_bytes());
    }
    for (at, member) in members.iter_mut().enumerate() {
        while member.heard.len() < expected.len() {
            assert!(member.read().await, "member {at} was ended");
        }
        assert!(
            member.heard == expected,
            "member {at} heard {:?}",
            String::from_utf8_lossy(&member.heard)
        );
        member.heard.clear();
    }
    println!(
        "{} deliveries in {:?}, {} bytes then",
        members.len() * MESSAGES,
        began.elapsed(),
        process.resident()
    );

    // Nothing follows but the close frame.
    let began = Instant::now();
    process.ask_to_stop();
    join_all(members.iter_mut().map(|member| member.expect_close(1001))).await;
    process.ended().await;
    println!("stopped after {:?}", began.elapsed());
    growth
}

// --- Bad input -----------------------------------------------------------------------------------------------------------

mod bad_input_never_costs_more_than_the_limits {
    use super::*;

    const CLIENTS: usize = 1_000;
    const MAX_MESSAGE: usize = 64 * KIB;
    const MAX_FRAGMENTS: usize = 1024;
    const HEADER_SIZE: usize = 16 * KIB;
    const SEND_QUEUE: usize = 64 * KIB;
    /// What an attack may cost beside what the limits allow: small allocations. What is allowed is rounded up by a quarter at most.
    const SMALL: usize = 10 * KIB;
    /// What an open connection may cost before it is attacked, what its handshake left behind included.
    const OPEN: usize = 16 * KIB;
    /// What may be left of a client that went: pages that are not all free.
    const LEFT: usize = 5 * KIB;
    /// What inflates one message, without the message.
    const INFLATER: usize = 48 * KIB;
    /// How often the attack comes.
    const WAVES: usize = 3;

    const ROUTES: &str = "
        [[websocket.route]]
        path = '/echo/'
        consumer = 'echo'
        ping_interval = '0s'
        close_timeout = '60s'
        write_timeout = '60s'
        max_message = '64 KiB'
        max_fragments = 1_024
        send_queue = '64 KiB'
    ";

    /// What the clients of one attack do.
    struct Attack {
        name: &'static str,
        opens: Opens,
        /// What each sends.
        sent: Vec<u8>,
        /// The close code that each gets, if any.
        code: Option<u16>,
        /// The most that the limits let each of them take.
        allowed: usize,
    }

    /// What a client opens before it attacks.
    #[derive(Clone, Copy, Eq, PartialEq)]
    enum Opens {
        Connection,
        Websocket,
        CompressedWebsocket,
        /// Nothing is ever read from it, so that the server stops reading as well.
        DeafWebsocket,
    }

    impl Opens {
        async fn open(self, process: &Process, count: usize) -> Vec<Peer> {
            let fields = match self {
                Self::Connection => return connect_all(process, count).await,
                Self::CompressedWebsocket => "Sec-WebSocket-Extensions: permessage-deflate\r\n",
                Self::Websocket | Self::DeafWebsocket => "",
            };
            let is_slow = self == Self::DeafWebsocket;
            open_all_so(process, count, "/echo/", fields, is_slow).await
        }
    }

    impl Attack {
        fn run(self, test: &str) {
            with_clients(test, CLIENTS, async |count| self.come(count).await);
        }

        async fn come(&self, count: usize) {
            let process = Process::start(self.name, ROUTES);
            let sockets = process.settled_sockets().await;
            let idle = process.resident();
            for wave in 1..=WAVES {
                let mut peers = self.opens.open(&process, count).await;
                process.until_sockets(count + 1..=sockets + count).await;
                let before = process.resident();
                let watch = Watch::start(&process);
                if self.opens == Opens::DeafWebsocket {
                    // The server may stop reading for good, so this may have no other end than the time.
                    let all = peers.iter_mut();
                    let all = all.map(|peer| peer.stream.write_all(&self.sent));
                    let _ = timeout(Duration::from_secs(4), async {
                        join_all(all).await;
                        process.until_all_is_read().await;
                    })
                    .await;
                } else {
                    join_all(peers.iter_mut().map(|peer| peer.say(&self.sent))).await;
                    process.until_all_is_read().await;
                }
                let most = watch.most();
                if let Some(code) = self.code {
                    join_all(peers.iter_mut().map(|peer| peer.expect_close(code))).await;
                }
                drop(peers);
                process.until_sockets(0..=sockets).await;
                let after = process.until_resident(idle + count * LEFT).await;
                let (attack, all) = (
                    most.saturating_sub(before) / count,
                    most.saturating_sub(idle) / count,
                );
                println!(
                    "{}, wave {wave}: {idle} bytes idle, {before} when all {count} were there, {most} at most, {after} after: \
                     {attack} for each attack, {} allowed; {all} for each client",
                    self.name, self.allowed
                );
                let wave_max = self.allowed + self.allowed / 4 + SMALL;
                assert!(
                    attack <= wave_max && all <= wave_max + OPEN,
                    "{}, wave {wave}: {} bytes are allowed to each, {attack} were taken, and {all} with the connection",
                    self.name,
                    self.allowed
                );
                // Another allocator may keep what is free.
                assert!(
                    cfg!(not(feature = "jemalloc")) || after <= idle + count * LEFT,
                    "{}, wave {wave}: {idle} bytes before all, {after} after",
                    self.name
                );
            }
            process.ask_to_stop();
            process.ended().await;
        }
    }

    #[test]
    fn heads_that_never_end() {
        let mut head = crate::wire::HANDSHAKE.trim_end().to_owned();
        let field = |at: usize| format!("\r\nX-Field-{at}: {}", "x".repeat(200));
        for at in (0..).take_while(|at| (at + 1) * field(*at).len() + 300 < HEADER_SIZE) {
            head += &field(at);
        }
        head += "\r\n";
        assert!((HEADER_SIZE - 600..HEADER_SIZE).contains(&head.len()));
        Attack {
            name: "heads",
            opens: Opens::Connection,
            sent: head.into_bytes(),
            code: None,
            allowed: HEADER_SIZE,
        }
        .run(named!(heads_that_never_end));
    }

    #[test]
    fn frames_of_two_to_the_62() {
        Attack {
            name: "enormous",
            opens: Opens::Websocket,
            sent: [header(0x82, 1 << 62), vec![b'x'; 1000]].concat(),
            code: Some(1009),
            allowed: 0,
        }
        .run(named!(frames_of_two_to_the_62));
    }

    #[test]
    fn longest_messages_without_their_last_byte() {
        let length = header(0x82, MAX_MESSAGE as u64);
        Attack {
            name: "longest",
            opens: Opens::Websocket,
            sent: [length, vec![b'x'; MAX_MESSAGE - 1]].concat(),
            code: None,
            allowed: MAX_MESSAGE,
        }
        .run(named!(longest_messages_without_their_last_byte));
    }

    #[test]
    fn longest_messages_in_most_fragments_without_the_last() {
        let fragment = whole(0x00, &[b'x'; MAX_MESSAGE / MAX_FRAGMENTS]);
        let mut sent = fragment.repeat(MAX_FRAGMENTS - 1);
        sent[0] = 0x02;
        Attack {
            name: "pieces",
            opens: Opens::Websocket,
            sent,
            code: None,
            allowed: MAX_MESSAGE,
        }
        .run(named!(longest_messages_in_most_fragments_without_the_last));
    }

    #[test]
    fn most_fragments_with_nothing_in_them() {
        let fragments = [header(0x02, 0), header(0x00, 0).repeat(MAX_FRAGMENTS - 2)];
        Attack {
            name: "fragments",
            opens: Opens::Websocket,
            sent: fragments.concat(),
            code: None,
            allowed: 0,
        }
        .run(named!(most_fragments_with_nothing_in_them));
    }

    #[test]
    fn frames_that_are_announced_only() {
        Attack {
            name: "announced",
            opens: Opens::Websocket,
            sent: header(0x82, MAX_MESSAGE as u64),
            code: None,
            allowed: 0,
        }
        .run(named!(frames_that_are_announced_only));
    }

    #[test]
    fn pings_whose_answers_nobody_reads() {
        Attack {
            name: "pings",
            opens: Opens::DeafWebsocket,
            sent: whole(PING, &[b'x'; 125]).repeat(1_500),
            code: None,
            allowed: SEND_QUEUE,
        }
        .run(named!(pings_whose_answers_nobody_reads));
    }

    #[test]
    fn bombs() {
        let bomb = deflated(64 * KIB * KIB);
        // It is short enough, only what comes out of it is too long.
        assert!(bomb.len() < MAX_MESSAGE + KIB, "{}", bomb.len());
        Attack {
            name: "bombs",
            opens: Opens::CompressedWebsocket,
            sent: whole(0xC1, &bomb),
            code: Some(1009),
            allowed: 0, // what was inflated goes when the limit is passed
        }
        .run(named!(bombs));
    }

    #[test]
    fn longest_compressed_messages_without_their_last_byte() {
        let mut sent = whole(0xC2, &deflated(MAX_MESSAGE));
        sent.pop();
        Attack {
            name: "compressed",
            opens: Opens::CompressedWebsocket,
            sent,
            code: None,
            allowed: MAX_MESSAGE + INFLATER,
        }
        .run(named!(longest_compressed_messages_without_their_last_byte));
    }

    /// So many zeros as the payload of a compressed message (RFC 7692 §7.2.1).
    fn deflated(zeros: usize) -> Vec<u8> {
        let mut compress = Compress::new(Compression::best(), false);
        let zeros = vec![0; zeros];
        let mut out = Vec::with_capacity(zeros.len() / 500 + KIB);
        let status = compress
            .compress_vec(&zeros, &mut out, FlushCompress::Sync)
            .unwrap();
        assert_eq!(status, Status::Ok);
        assert_eq!(compress.total_in(), zeros.len() as u64);
        assert!(out.ends_with(&[0, 0, 0xFF, 0xFF]));
        out.truncate(out.len() - 4);
        out
    }
}

// --- Slow and silent clients ---------------------------------------------------------------------------------------------

/// How long deliveries took, with the numbers of their messages.
#[derive(Default)]
struct Deliveries {
    count: AtomicUsize,
    took: Mutex<Vec<(usize, Duration)>>,
    come: tokio::sync::Notify,
}

const LONG: usize = 1024;

#[test]
fn one_slow_reader_among_a_thousand() {
    with_clients(
        named!(one_slow_reader_among_a_thousand),
        1_000,
        one_slow_reader,
    );
}

async fn one_slow_reader(count: usize) {
    let routes = "
        [[websocket.route]]
        path = '/hall/'
        consumer = 'broadcast'
        ping_interval = '0s'
        write_timeout = '10m'
        close_timeout = '60s'
        send_queue = '64 KiB'
        options = { group = 'hall' }
        [[websocket.route]]
        path = '/stage/'
        consumer = 'broadcast'
        ping_interval = '0s'
        options = { group = 'hall', include_sender = false }
    ";
    let process = Process::start("slow", routes);
    let began = Instant::now();
    let deliveries = Arc::new(Deliveries::default());
    let others = count - 1;
    let mut members = JoinSet::new();
    for mut member in open_all(&process, others, "/hall/", "").await {
        let deliveries = deliveries.clone();
        members.spawn(async move {
            for number in 0.. {
                let Some((0x81, message)) = heard_or_closed(&mut member).await else {
                    return number;
                };
                let message = String::from_utf8(message).unwrap();
                let mut words = message.split(' ');
                let mut next = || words.next().unwrap().parse().unwrap();
                let (found, sent): (u64, u64) = (next(), next());
                assert_eq!(found, number as u64);
                let took = began.elapsed() - Duration::from_nanos(sent);
                deliveries.took.lock().unwrap().push((number, took));
                if (deliveries.count.fetch_add(1, Ordering::Relaxed) + 1).is_multiple_of(others) {
                    deliveries.come.notify_one();
                }
            }
            unreachable!()
        });
    }
    let mut stage = Peer::connect(process.address, 0, false).await;
    stage.shake_hands("/stage/", "").await;

    // The next message is sent when all have heard the one before.
    let mut number = 0;
    let publish = async |stage: &mut Peer, number: &mut usize| {
        let sent = began.elapsed().as_nanos();
        let message = format!("{number} {sent} {}", "x".repeat(LONG));
        stage.say(&whole(0x81, &message.as_bytes()[..LONG])).await;
        *number += 1;
        while deliveries.count.load(Ordering::Relaxed) < *number * others {
            timeout(DEADLINE, deliveries.come.notified())
                .await
                .expect("all others to hear it in time");
        }
    };
    for _ in 0..60 {
        publish(&mut stage, &mut number).await;
    }
    let without = number;
    let mut slow = Peer::connect(process.address, 0, true).await;
    slow.shake_hands("/hall/", "").await;
    process
        .until_metric("oneport_websockets", &["/hall/"], count)
        .await;
    let slow_client = ["/hall/", "slow_client"];
    let closed = "oneport_websockets_closed_total";
    // Before it is counted as ended its close frame waits behind what it does not read; so the drop is looked for.
    while process
        .metric("oneport_messages_dropped_total", &["/hall/"])
        .await
        == 0
    {
        assert!(number < 10_000, "expected the slow reader to be ended");
        for _ in 0..20 {
            publish(&mut stage, &mut number).await;
        }
    }
    let with = number;

    // It reads at last: what it heard is whole and in order up to where it was cut off, and the close frame is the last.
    let mut heard = without;
    let payload = loop {
        match slow.frame().await.expect("a close frame before the end") {
            (CLOSE, payload) => break payload,
            (first, message) => {
                assert_eq!((first, message.len()), (0x81, LONG));
                assert!(message.starts_with(format!("{heard} ").as_bytes()));
                heard += 1;
            }
        }
    };
    assert_eq!(payload[..2], 1013_u16.to_be_bytes());
    slow.say(&whole(CLOSE, &payload[..2])).await;
    assert_eq!(slow.frame().await, None, "expected the end");
    process.until_metric(closed, &slow_client, 1).await;
    process.until_metric(closed, &[], 1).await;
    for _ in 0..20 {
        publish(&mut stage, &mut number).await;
    }
    let dropped = process
        .metric("oneport_messages_dropped_total", &["/hall/"])
        .await;
    println!(
        "{number} messages of {LONG} bytes to {others} in {:?}; the slow reader heard {} of {}, {dropped} were dropped",
        began.elapsed(),
        heard - without,
        with - without
    );
    let took = std::mem::take(&mut *deliveries.took.lock().unwrap());
    for (name, numbers) in [
        ("without it", 10..without),
        ("with it", without..with),
        ("after it", with..number),
    ] {
        let took = took
            .iter()
            .filter(|(number, _)| numbers.contains(number))
            .map(|(_, took)| *took);
        print_times(&format!("delivery {name}"), took.collect());
    }

    process.ask_to_stop();
    while let Some(heard) = members.join_next().await {
        assert_eq!(heard.unwrap(), number);
    }
    drop(stage);
    process.ended().await;
}

/// Waits for a message; at the server's close frame answers it and gives none.
async fn heard_or_closed(peer: &mut Peer) -> Option<(u8, Vec<u8>)> {
    match peer.frame().await {
        Some((CLOSE, payload)) => {
            assert_eq!(payload[..2], 1001_u16.to_be_bytes());
            let _ = peer.stream.write_all(&whole(CLOSE, &payload[..2])).await;
            None
        }
        other => other,
    }
}

fn print_times(name: &str, mut times: Vec<Duration>) {
    times.sort_unstable();
    let at = |part: usize| {
        let index = times.len() * part / 1000;
        times.get(index.min(times.len().saturating_sub(1)))
    };
    let (Some(half), Some(most), Some(last)) = (at(500), at(990), at(1000)) else {
        return println!("{name}: nothing was measured");
    };
    println!(
        "{name}: p50 {half:?}, p99 {most:?}, max {last:?} of {}",
        times.len()
    );
}

#[test]
fn half_open_peers_are_found() {
    with_clients(named!(half_open_peers_are_found), 500, async |count| {
        let routes = "
            [[websocket.route]]
            path = '/echo/'
            consumer = 'echo'
            ping_interval = '200ms'
            pong_timeout = '300ms'
        ";
        let process = Process::start("half-open", routes);
        let sockets = process.settled_sockets().await;
        let mut peers = open_all(&process, count, "/echo/", "").await;
        // Some of them were cut off in the middle of a frame.
        for peer in peers.iter_mut().step_by(2) {
            let _ = peer.stream.write_all(&whole(0x81, b"half")[..3]).await;
        }
        let began = Instant::now();
        process
            .until_metric(
                "oneport_websockets_closed_total",
                &["/echo/", "\"ping_timeout\""],
                count,
            )
            .await;
        process
            .until_metric("oneport_websockets", &["/echo/"], 0)
            .await;
        process.until_sockets(0..=sockets).await;
        assert_eq!(
            process.metric("oneport_websockets_closed_total", &[]).await,
            count
        );
        println!(
            "all {count} were found within {:?} of the last handshake",
            began.elapsed()
        );
        process.ask_to_stop();
        process.ended().await;
        drop(peers);
    });
}

// --- A consumer that computes --------------------------------------------------------------------------------------------

/// How often each of the others asks.
const ROUNDS: usize = 50;

/// Keeps its thread for a time whenever it is spoken to.
struct Computes;

impl Consumer for Computes {
    type Options = ();

    fn new((): &()) -> Self {
        Self
    }

    async fn receive(&mut self, cx: &mut Context<'_>, message: Message) -> Result<(), Close> {
        std::thread::sleep(Duration::from_millis(200));
        cx.send(message);
        Ok(())
    }
}

#[test]
fn a_consumer_that_computes() {
    with_clients(named!(a_consumer_that_computes), 100, async |count| {
        let routes = "
            [[websocket.route]]
            path = '/echo/'
            consumer = 'echo'
            [[websocket.route]]
            path = '/computes/'
            consumer = 'computes'
        ";
        // The clients are not served by the threads that are kept.
        let threads = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let registry = Registry::builtin().consumer::<Computes>("computes");
        let (tell, told) = tokio::sync::oneshot::channel();
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let server = std::thread::spawn(move || {
            let cut_off = threads.block_on(async {
                let server = LiveServer::with(&registry, routes).await.unwrap();
                let _ = tell.send(server.address());
                let _ = stopped.await;
                server.stop().await.cut_off
            });
            threads.shutdown_timeout(DEADLINE);
            cut_off
        });
        let address = told.await.unwrap();
        for computing in [0, 1] {
            let mut computes = JoinSet::new();
            for at in 0..computing {
                computes.spawn(async move {
                    let mut peer = Peer::connect(address, at, false).await;
                    peer.shake_hands("/computes/", "").await;
                    loop {
                        peer.say(&whole(0x81, b"compute")).await;
                        assert_eq!(peer.frame().await, Some((0x81, b"compute".to_vec())));
                    }
                });
            }
            let mut echoes = JoinSet::new();
            for at in 0..count {
                echoes.spawn(async move {
                    let mut peer = Peer::connect(address, at, false).await;
                    peer.shake_hands("/echo/", "").await;
                    let mut took = Vec::new();
                    for number in 0..ROUNDS {
                        let message = format!("message {number} of {at}").into_bytes();
                        let began = Instant::now();
                        peer.say(&whole(0x81, &message)).await;
                        assert_eq!(peer.frame().await, Some((0x81, message)));
                        took.push(began.elapsed());
                        sleep(Duration::from_millis(10)).await; // many rounds see the consumer at work
                    }
                    took
                });
            }
            let mut took = Vec::new();
            while let Some(some) = echoes.join_next().await {
                took.extend(some.unwrap());
            }
            assert_eq!(took.len(), ROUNDS * count);
            print_times(
                &format!("echo beside {computing} that compute, 2 workers"),
                took,
            );
            if let Some(failed) = computes.try_join_next() {
                failed.unwrap();
            }
        }
        let _ = stop.send(());
        assert_eq!(server.join().unwrap(), 0);
    });
}

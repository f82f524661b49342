//! The cost of authenticating a handshake, and whether all clients get in when they reconnect at
//! once.
//!
//! `cargo bench --bench login` (Linux). First, CPU time of the server process for one handshake and
//! its close: anonymous, with a session whose row was read recently (`session.cache = "1s"`), and
//! with one that is read each time. Then 5,000 clients reconnect at once, each with a cookie of its
//! own, while a plain HTTP route gets requests. With a URL in `ONEPORT_BENCH_POSTGRES` the same
//! over PostgreSQL.
#![expect(
    clippy::print_stdout,
    clippy::expect_used,
    clippy::panic,
    reason = "a benchmark prints, and stops when it cannot go on"
)]

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use oneport::config::{Bind, Config};
use oneport::gateway::{Registry, compile};
use oneport::server::{Listener, Server};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

const ROUNDS: usize = 9;
const ROUND: Duration = Duration::from_secs(1);
const CONNECTIONS: usize = 32;
const RETURNING: usize = 5000;
const USERS: usize = 20;
/// The cookies of the rounds: few enough that each recurs within the second that its row is cached.
const KNOWN: usize = 100;

const ROUTES: &str = r#"
[server.limits]
connections_per_ip = 100_000
[[http.route]]
path = "/plain/"
view = "respond"
options = { body = "plain" }
[websocket]
missing_origin = "allow"
[[websocket.route]]
path = "/anonymous/"
middleware = ["hosts", "origin"]
consumer = "echo"
[[websocket.route]]
path = "/known/"
middleware = ["hosts", "origin", "session", "auth", "login_required"]
consumer = "echo"
"#;

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    match arguments.get(1).map(String::as_str) {
        Some("--serve") => serve(&arguments[2], &arguments[3]),
        _ => measure(),
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime")
}

/// Serves with a store and a cache; prints its address and one line for each session's key.
fn serve(store: &str, cache: &str) {
    runtime().block_on(async {
        let text = format!(
            "[server]\nallowed_hosts = ['127.0.0.1']\nsecret_key = 'a key for the benchmark, long enough to sign'\n[log]\naccess = false\n[session]\nstore = '{store}'\ncache = '{cache}'\n[auth]\nusers = '{store}'\n{ROUTES}"
        );
        let (mut config, _) =
            Config::parse("bench.toml", &text, Path::new("."), &|_| None).expect("a sound file");
        config.server.bind = vec![Bind::Tcp("127.0.0.1:0".to_owned()).into()];
        let (table, _) = compile(&config, &Registry::builtin()).expect("sound routes");
        let server = Server::start(config, table).await.expect("a server");
        let address = server.listeners().next().and_then(Listener::address);
        println!("{}", address.expect("an address"));
        let services = server.gateway().services().clone();
        let settings = services.settings();
        let users = settings.auth.users().expect("a table of users");
        let mut accounts = Vec::new();
        for _ in 0..USERS {
            let name = oneport::secrets::random(9);
            let encoded = settings.auth.hash("a password").await.expect("a hash");
            users.add(&name, &encoded, false).await.expect("a user");
            let account = settings.auth.check_password(&name, "a password").await;
            accounts.push(account.expect("an answer").expect("the user"));
        }
        for at in 0..RETURNING {
            let session = settings.sessions.empty();
            settings.auth.log_in(&session, &accounts[at % USERS]);
            session.save().await.expect("a session");
            println!("{}", session.key().expect("its key"));
        }
        server.run_until(std::future::pending()).await;
    });
}

struct Running {
    child: Child,
    address: SocketAddr,
    keys: Arc<[String]>,
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn start(store: &str, cache: &str) -> Running {
    let own = std::env::current_exe().expect("this program");
    let mut child = Command::new(own)
        .args(["--serve", store, cache])
        .stdout(Stdio::piped())
        .spawn()
        .expect("a child");
    let output = BufReader::new(child.stdout.take().expect("its output"));
    let mut lines = output.lines().map(|line| line.expect("a line"));
    let address = lines.next().expect("its address");
    Running {
        child,
        address: address.parse().expect("an address"),
        keys: lines.take(RETURNING).collect(),
    }
}

fn measure() {
    let directory = std::env::temp_dir().join(format!("oneport-bench-{}", std::process::id()));
    std::fs::create_dir_all(&directory).expect("a directory");
    let mut stores = vec![(
        "SQLite",
        format!("sqlite:{}", directory.join("bench.db").display()),
    )];
    if let Ok(url) = std::env::var("ONEPORT_BENCH_POSTGRES") {
        stores.push(("PostgreSQL", url));
    }
    let load = runtime();
    for (name, store) in &stores {
        let (kept, read) = (start(store, "1s"), start(store, "0s"));
        let cases = [
            ("anonymous", &kept, "/anonymous/"),
            ("session kept for 1 s", &kept, "/known/"),
            ("session read each time", &read, "/known/"),
        ];
        let mut costs = vec![Vec::new(); cases.len()];
        for round in 0..=ROUNDS {
            for turn in 0..cases.len() {
                let at = (round + turn) % cases.len();
                let (_, server, path) = cases[at];
                let before = cpu(server.child.id());
                let count = load.block_on(handshakes(server, path));
                if round > 0 {
                    costs[at].push((cpu(server.child.id()) - before) / count as f64 * 1e6);
                }
            }
        }
        println!(
            "\n{name}: {CONNECTIONS} clients, handshake and close, {ROUNDS} rounds of {ROUND:?}"
        );
        println!("| handshake | CPU µs | x anonymous |\n|---|---|---|");
        for ((case, ..), own) in cases.iter().zip(&costs) {
            let ratios = own.iter().zip(&costs[0]).map(|(own, other)| own / other);
            println!(
                "| {case} | {:.1} | {:.2} |",
                median(own.clone()),
                median(ratios.collect())
            );
        }
        println!("\n{name}: {RETURNING} clients come back at once, each with a session of its own");
        println!(
            "| | got in | lost | all in after | handshake p50 | p99 | plain HTTP p50 | p99 |\n|---|---|---|---|---|---|---|---|"
        );
        for (case, server) in [("cache 1 s", &kept), ("no cache", &read)] {
            let idle = load.block_on(ask_plain(server.address, Arc::default(), Some(2000)));
            let outcome = load.block_on(come_back(server));
            println!(
                "| {case} | {} | {} | {:.1?} | {:.1?} | {:.1?} | {:.2?} | {:.2?} |",
                outcome.got_in,
                RETURNING - outcome.got_in,
                outcome.time,
                quantile(&outcome.handshakes, 0.5),
                quantile(&outcome.handshakes, 0.99),
                quantile(&outcome.plain, 0.5),
                quantile(&outcome.plain, 0.99),
            );
            println!(
                "| {case}, nobody else there | | | | | | {:.2?} | {:.2?} |",
                quantile(&idle, 0.5),
                quantile(&idle, 0.99)
            );
        }
    }
    let _ = std::fs::remove_dir_all(directory);
}

/// Opens and closes WebSockets one after the other on each of some clients; returns how many.
async fn handshakes(server: &Running, path: &'static str) -> u64 {
    let until = Instant::now() + ROUND;
    let mut clients = JoinSet::new();
    for client in 0..CONNECTIONS {
        let (address, keys) = (server.address, server.keys.clone());
        clients.spawn(async move {
            let mut count = 0;
            while Instant::now() < until {
                let key = &keys[(client + count * CONNECTIONS) % KNOWN];
                let mut stream = open(address, path, key).await.expect("a WebSocket");
                // A close frame with 1000, masked with zeros; the answer is its echo.
                stream
                    .write_all(&[0x88, 0x82, 0, 0, 0, 0, 0x03, 0xe8])
                    .await
                    .expect("a close frame sent");
                let mut rest = Vec::new();
                stream.read_to_end(&mut rest).await.expect("the end");
                count += 1;
            }
            count as u64
        });
    }
    clients.join_all().await.into_iter().sum()
}

/// Opens one WebSocket; the cookie is always sent.
async fn open(address: SocketAddr, path: &str, key: &str) -> std::io::Result<TcpStream> {
    let mut stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nCookie: sessionid={key}\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await?;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut some = [0; 1024];
        match stream.read(&mut some).await? {
            0 => return Err(std::io::ErrorKind::UnexpectedEof.into()),
            count => head.extend(&some[..count]),
        }
    }
    if head.starts_with(b"HTTP/1.1 101") {
        Ok(stream)
    } else {
        Err(std::io::Error::other(
            String::from_utf8_lossy(&head).into_owned(),
        ))
    }
}

struct Outcome {
    got_in: usize,
    time: Duration,
    handshakes: Vec<Duration>,
    plain: Vec<Duration>,
}

/// All clients at once, and a plain route at the same time. No client retries: a refused one is
/// lost.
async fn come_back(server: &Running) -> Outcome {
    let is_over = Arc::new(AtomicBool::new(false));
    let mut plain = JoinSet::new();
    plain.spawn(ask_plain(server.address, is_over.clone(), None));
    let began = Instant::now();
    let got_in = Arc::new(AtomicUsize::new(0));
    let mut clients = JoinSet::new();
    for at in 0..RETURNING {
        let (address, keys, got_in) = (server.address, server.keys.clone(), got_in.clone());
        clients.spawn(async move {
            let begun = Instant::now();
            let opened = open(address, "/known/", &keys[at]).await;
            let taken = begun.elapsed();
            got_in.fetch_add(usize::from(opened.is_ok()), Ordering::Relaxed);
            if let Err(error) = &opened {
                println!("lost: {error}");
            }
            (opened, taken)
        });
    }
    let sockets = clients.join_all().await; // all stay open until the last one is in
    let time = began.elapsed();
    is_over.store(true, Ordering::Relaxed);
    Outcome {
        got_in: got_in.load(Ordering::Relaxed),
        time,
        handshakes: sockets.iter().map(|(_, taken)| *taken).collect(),
        plain: plain.join_all().await.into_iter().flatten().collect(),
    }
}

/// Requests a plain route every few milliseconds on a connection of its own; returns how long each
/// response took.
async fn ask_plain(
    address: SocketAddr,
    is_over: Arc<AtomicBool>,
    count: Option<usize>,
) -> Vec<Duration> {
    let mut stream = TcpStream::connect(address).await.expect("a connection");
    let _ = stream.set_nodelay(true);
    let mut taken = Vec::new();
    let mut buffer = [0; 1024];
    while !is_over.load(Ordering::Relaxed) && count.is_none_or(|count| taken.len() < count) {
        let begun = Instant::now();
        stream
            .write_all(b"GET /plain/ HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
            .await
            .expect("a request sent");
        let mut filled = 0;
        while !buffer[..filled].ends_with(b"plain") {
            match stream.read(&mut buffer[filled..]).await {
                Ok(read @ 1..) => filled += read,
                other => panic!("expected an answer, found {other:?}"),
            }
        }
        taken.push(begun.elapsed());
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    taken
}

fn quantile(times: &[Duration], at: f64) -> Duration {
    let mut times = times.to_vec();
    times.sort();
    let place = (times.len() as f64 * at) as usize;
    times[place.min(times.len() - 1)]
}

/// CPU seconds of a process so far (proc(5): fields 14 and 15, in hundredths).
fn cpu(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("a process");
    let fields: Vec<&str> = stat
        .rsplit(')')
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .collect();
    let ticks = |at: usize| {
        fields
            .get(at)
            .and_then(|field| field.parse::<f64>().ok())
            .unwrap_or_default()
    };
    (ticks(11) + ticks(12)) / 100.0
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

//! The cost of a plain HTTP response, compared with a bare hyper server: CPU time of the server
//! process per request.
//!
//! `cargo bench --bench http` (Linux). Each server is a process of its own with two workers; rounds
//! go server by server in a rotated order, and the ratios are those within one round, so that a
//! machine that is slow for a while is slow for all of them.
#![expect(
    clippy::print_stdout,
    clippy::expect_used,
    clippy::panic,
    reason = "a benchmark prints, and stops when it cannot go on"
)]

use std::convert::Infallible;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::Full;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use oneport::config::{Bind, Config};
use oneport::gateway::{Registry, compile};
use oneport::server::{Listener, Server};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

const ROUNDS: usize = 12;
const ROUND: Duration = Duration::from_secs(1);
const CONNECTIONS: usize = 64;
const BODY: &str = "0123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789";
const FILE: &str = "[[http.route]]\npath = '/hello'\nview = 'respond'\n[http.route.options]\ncontent_type = 'text/plain'\nbody = '";

/// The servers; the first is the reference.
const SERVERS: [&str; 3] = ["hyper", "hyper-auto", "oneport"];

fn main() {
    match std::env::args().nth(1).as_deref() {
        Some("--serve") => serve(&std::env::args().nth(2).expect("a server's name")),
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

fn serve(name: &str) {
    runtime().block_on(async {
        if name == "oneport" {
            let text = format!("{FILE}{BODY}'\n");
            let (mut config, _) = Config::parse("bench.toml", &text, Path::new("."), &|_| None)
                .expect("a sound file");
            config.server.bind = vec![Bind::Tcp("127.0.0.1:0".to_owned()).into()];
            let (table, _) = compile(&config, &Registry::builtin()).expect("sound routes");
            let server = Server::start(config, table).await.expect("a server");
            println!(
                "{}",
                server
                    .listeners()
                    .first()
                    .and_then(Listener::address)
                    .expect("an address")
            );
            server.run_until(std::future::pending()).await;
        } else {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
            println!("{}", listener.local_addr().expect("an address"));
            bare(listener, name == "hyper-auto").await;
        }
    });
}

async fn bare(listener: TcpListener, auto: bool) {
    let mut connections = JoinSet::new();
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            continue;
        };
        let _ = stream.set_nodelay(true);
        let service = service_fn(|_| async {
            let mut response = http::Response::new(Full::new(Bytes::from_static(BODY.as_bytes())));
            response
                .headers_mut()
                .insert("content-type", http::HeaderValue::from_static("text/plain"));
            Ok::<_, Infallible>(response)
        });
        let io = TokioIo::new(stream);
        connections.spawn(async move {
            if auto {
                let _ = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new())
                    .serve_connection(io, service)
                    .await;
            } else {
                let _ = hyper::server::conn::http1::Builder::new()
                    .serve_connection(io, service)
                    .await;
            }
        });
    }
}

struct Running {
    name: &'static str,
    child: Child,
    address: SocketAddr,
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn measure() {
    let servers: Vec<Running> = SERVERS.into_iter().map(start).collect();
    let load = runtime();
    for server in &servers {
        load.block_on(run(server.address, ROUND)); // warm
    }
    let mut costs: Vec<Vec<f64>> = vec![Vec::new(); servers.len()];
    for round in 0..ROUNDS {
        // Another server goes first in each round.
        for turn in 0..servers.len() {
            let at = (round + turn) % servers.len();
            let (server, costs) = (&servers[at], &mut costs[at]);
            let before = cpu(server.child.id());
            let requests = load.block_on(run(server.address, ROUND));
            costs.push((cpu(server.child.id()) - before) / requests as f64 * 1e6);
        }
    }
    println!(
        "plain HTTP: {CONNECTIONS} connections, {} bytes of body, {ROUNDS} rounds of {ROUND:?}",
        BODY.len()
    );
    println!(
        "| server | CPU µs a request | x {} | x {} |",
        SERVERS[0], SERVERS[1]
    );
    println!("|---|---|---|---|");
    for (server, own) in servers.iter().zip(&costs) {
        let ratio =
            |to: &[f64]| median(own.iter().zip(to).map(|(own, other)| own / other).collect());
        println!(
            "| {} | {:.2} | {:.2} | {:.2} |",
            server.name,
            median(own.clone()),
            ratio(&costs[0]),
            ratio(&costs[1])
        );
    }
}

fn start(name: &'static str) -> Running {
    let own = std::env::current_exe().expect("this program");
    let mut child = Command::new(own)
        .args(["--serve", name])
        .stdout(Stdio::piped())
        .spawn()
        .expect("a child");
    let mut line = String::new();
    BufReader::new(child.stdout.take().expect("its output"))
        .read_line(&mut line)
        .expect("its address");
    let Ok(address) = line.trim().parse() else {
        panic!("{name} did not start: {line:?}")
    };
    Running {
        name,
        child,
        address,
    }
}

/// Keeps one request in flight on each connection; returns the number of responses.
async fn run(address: SocketAddr, time: Duration) -> u64 {
    let until = Instant::now() + time;
    let mut clients = JoinSet::new();
    for _ in 0..CONNECTIONS {
        clients.spawn(async move {
            let mut stream = TcpStream::connect(address).await.expect("a connection");
            let _ = stream.set_nodelay(true);
            let mut buffer = vec![0; 4096];
            let mut requests = 0_u64;
            while Instant::now() < until {
                stream
                    .write_all(b"GET /hello HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
                    .await
                    .expect("a request sent");
                let mut filled = 0;
                // The body is the end of the response, and does not occur elsewhere in it.
                while !buffer[..filled].ends_with(BODY.as_bytes()) {
                    match stream.read(&mut buffer[filled..]).await {
                        Ok(count @ 1..) => filled += count,
                        other => panic!("expected an answer, found {other:?}"),
                    }
                }
                assert!(buffer.starts_with(b"HTTP/1.1 200"), "expected 200");
                requests += 1;
            }
            requests
        });
    }
    clients.join_all().await.into_iter().sum()
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

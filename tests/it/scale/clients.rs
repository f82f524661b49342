//! Clients: many raw sockets, and tests that need many descriptors.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::join_all;
use oneport::net::ReadWrite;
use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpSocket;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;

use super::process::{DEADLINE, Process, raised};
use crate::support::HANDSHAKE;

/// The number of concurrent handshakes.
const BATCH: usize = 250;

/// The number of loopback addresses of the clients.
const SOURCES: usize = 8;

/// Descriptors for anything but clients.
const OTHER_DESCRIPTORS: usize = 200;

pub(super) const CLOSE: u8 = 0x88;

pub(super) const PING: u8 = 0x89;

/// A client's end of a connection.
pub(super) struct Peer {
    pub(super) stream: Box<dyn ReadWrite>,
    /// Bytes that were read and not parsed yet.
    pub(super) heard: Vec<u8>,
}

impl Peer {
    /// Opens a connection from one of the loopback addresses.
    pub(super) async fn connect(address: SocketAddr, at: usize, is_slow: bool) -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        let last = u8::try_from(1 + at % SOURCES).unwrap();
        socket
            .bind((Ipv4Addr::new(127, 0, 0, last), 0).into())
            .unwrap();
        if is_slow {
            // The kernel buffers little for it: a small receive buffer, and packets of the size on
            // a real network.
            socket.set_recv_buffer_size(4096).unwrap();
            SockRef::from(&socket).set_tcp_mss(1460).unwrap();
        }
        let stream = timeout(DEADLINE, socket.connect(address)).await;
        let stream = stream.expect("a connection in time").unwrap();
        stream.set_nodelay(true).unwrap();
        Self {
            stream: Box::new(stream),
            heard: Vec::new(),
        }
    }

    /// Speaks TLS from now on.
    pub(super) async fn encrypt(&mut self, connector: &TlsConnector) {
        let plain = std::mem::replace(&mut self.stream, Box::new(tokio::io::empty()));
        let name = ServerName::try_from("localhost").unwrap();
        let encrypted = timeout(DEADLINE, connector.connect(name, plain)).await;
        self.stream = Box::new(encrypted.expect("a handshake in time").unwrap());
    }

    /// Opens a WebSocket; `fields` are more header fields, each with its line break.
    pub(super) async fn shake_hands(&mut self, path: &str, fields: &str) {
        let request = HANDSHAKE.replace("/echo/", path).replace(
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

    pub(super) async fn say(&mut self, bytes: &[u8]) {
        let written = async {
            self.stream.write_all(bytes).await?;
            self.stream.flush().await // TLS may keep some
        };
        let written = timeout(DEADLINE, written).await;
        written.expect("room for what is said in time").unwrap();
    }

    /// Reads once; returns `false` at the end.
    pub(super) async fn read(&mut self) -> bool {
        let mut buffer = [0; 4096];
        let read = timeout(DEADLINE, self.stream.read(&mut buffer)).await;
        let count = read.expect("something to read in time").unwrap_or(0);
        self.heard.extend_from_slice(&buffer[..count]);
        count > 0
    }

    /// Reads the next frame: its first octet and its payload; `None` at the end.
    pub(super) async fn frame(&mut self) -> Option<(u8, Vec<u8>)> {
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

    /// Expects the close frame next, replies to it and expects the end.
    pub(super) async fn expect_close(&mut self, code: u16) {
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
        // This may fail: the server may have stopped waiting.
        let _ = self.stream.write_all(&whole(CLOSE, &payload[..2])).await;
        let _ = self.stream.flush().await;
        assert_eq!(self.frame().await, None, "expected the end");
    }
}

/// Opens many connections, some at once.
pub(super) async fn connect_all(process: &Process, count: usize) -> Vec<Peer> {
    let mut peers = Vec::with_capacity(count);
    while peers.len() < count {
        let some = peers.len()..count.min(peers.len() + BATCH);
        peers.extend(join_all(some.map(|at| Peer::connect(process.address, at, false))).await);
    }
    peers
}

/// Opens many WebSockets, some at once.
pub(super) async fn open_all(
    process: &Process,
    count: usize,
    path: &str,
    fields: &str,
) -> Vec<Peer> {
    open_all_so(process, count, path, fields, false).await
}

pub(super) async fn open_all_so(
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
pub(super) fn header(first: u8, length: u64) -> Vec<u8> {
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

pub(super) fn whole(first: u8, payload: &[u8]) -> Vec<u8> {
    [header(first, payload.len() as u64), payload.to_vec()].concat()
}

/// Runs a test alone in this process, with its number of clients.
///
/// If the soft limit of descriptors is too low, the test runs in a process of its own with the hard
/// limit. If that is too low as well, there are fewer clients, and a printed sentence says so.
pub(super) fn with_clients(test: &str, wanted: usize, run: impl AsyncFnOnce(usize)) {
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

/// The path of a test, including the crate.
macro_rules! named {
    ($name:ident) => {
        concat!(module_path!(), "::", stringify!($name))
    };
}
pub(super) use named;

pub(super) fn print_times(name: &str, mut times: Vec<Duration>) {
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

//! Shared by the Rust peers: two worker threads, as all servers of the bench have, a listener on
//! the port in the command line, and the fixed texts.

use std::error::Error;

use bytes::Bytes;
use tokio::net::{TcpListener, TcpSocket};
use tokio::runtime::{Builder, Runtime};

/// The body of `/plain`, 100 bytes.
pub const TEXT: &str = "0123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789";

/// Connections that wait to be accepted, as the other servers allow.
const BACKLOG: u32 = 4096;

pub fn runtime() -> std::io::Result<Runtime> {
    Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
}

/// Listens on 127.0.0.1. Must be called within the runtime.
pub fn listen() -> Result<TcpListener, Box<dyn Error>> {
    let port: u16 = argument(1, "a port")?.parse()?;
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(([127, 0, 0, 1], port).into())?;
    Ok(socket.listen(BACKLOG)?)
}

/// Returns an argument of the command line.
pub fn argument(index: usize, what: &str) -> Result<String, Box<dyn Error>> {
    let found = std::env::args().nth(index);
    found.ok_or_else(|| format!("expected {what} as argument {index}").into())
}

/// Returns the fixed body of a path: 100 bytes, 10 KiB or 1 MiB.
pub struct Bodies {
    text: Bytes,
    medium: Bytes,
    large: Bytes,
}

impl Bodies {
    #[must_use]
    pub fn new() -> Self {
        let repeated = |length: usize| -> Bytes { TEXT.bytes().cycle().take(length).collect() };
        Self {
            text: Bytes::from_static(TEXT.as_bytes()),
            medium: repeated(10 << 10),
            large: repeated(1 << 20),
        }
    }

    #[must_use]
    pub fn of(&self, path: &str) -> Option<Bytes> {
        let body = match path.rsplit('/').next()? {
            "plain" | "100" => &self.text,
            "10k" => &self.medium,
            "1m" => &self.large,
            _ => return None,
        };
        Some(body.clone())
    }
}

impl Default for Bodies {
    fn default() -> Self {
        Self::new()
    }
}

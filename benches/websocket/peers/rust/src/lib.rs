//! Shared by the Rust peers: two worker threads, as oneport has here, and a listener on the port in
//! the command line.

use std::error::Error;

use tokio::net::{TcpListener, TcpSocket};
use tokio::runtime::{Builder, Runtime};

/// Connections that wait to be accepted, as oneport and the other peers allow.
const BACKLOG: u32 = 4096;

pub fn runtime() -> std::io::Result<Runtime> {
    Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
}

/// Listens on 127.0.0.1. Must be called within the runtime.
pub fn listen() -> Result<TcpListener, Box<dyn Error>> {
    let port: u16 = std::env::args().nth(1).ok_or("expected a port")?.parse()?;
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(([127, 0, 0, 1], port).into())?;
    Ok(socket.listen(BACKLOG)?)
}

//! WebSocket: handshake, engine, consumers (RFC 6455).
//!
//! The engine is Oneport's own, around tungstenite's I/O-free parts: frame headers, UTF-8 text and the handshake's key. Its
//! pieces are [`decoder`] (bytes to messages, no socket, no clock), [`frame`] (messages to bytes), [`extension`] and `deflate` (RFC 7692), `keepalive` (deadlines as
//! data), [`link`] (the sending side, shared), `socket` (the receiving side) and `driver` (one connection's life).

pub(crate) mod accept;
mod backlog;
pub mod close;
mod consumer;
pub mod consumers;
mod context;
pub mod decoder;
mod deflate;
mod directory;
mod driver;
pub mod extension;
pub mod frame;
pub mod handshake;
mod keepalive;
pub mod link;
mod member;
mod message;
mod outgoing;
mod route;
mod running;
mod settings;
mod socket;
mod sockets;
mod transport;
mod worker;

pub use accept::{Accept, Denial};
pub use backlog::Backlog;
pub use close::{Cause, Close, CloseCode, Ending};
pub use consumer::Consumer;
pub use context::Context;
pub use link::Link;
pub use message::{Message, Text};
pub use route::Route;
pub use running::Running;
pub use settings::{Compression, SlowClient, SocketSettings};
pub use sockets::Sockets;
pub use transport::{Stream, Transport};

pub(crate) use consumer::{Accepted, AnyConsumer, Factory};
pub(crate) use directory::Directory;
pub(crate) use driver::{Prepared, Start};

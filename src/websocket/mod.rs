//! WebSocket: the handshake, the engine, and the consumers (RFC 6455).
//!
//! The engine is Oneport's own, around the parts of tungstenite that do no I/O: frame headers,
//! UTF-8 text and the handshake's key. docs/internals/websocket.md describes it. Its parts are
//! [`decoder`] (bytes to messages, no socket, no clock), [`frame`] (messages to bytes),
//! [`extension`] and `deflate` (RFC 7692), `keepalive` (deadlines as data), [`socket_handle`] (the
//! sending side, shared), `socket` (the receiving side) and `driver` (one connection's life).

pub(crate) mod accept;
mod access_log;
mod backlog;
pub mod close;
mod connection_task;
mod consumer;
pub mod consumers;
mod context;
pub mod decoder;
pub(crate) mod deflate;
mod directory;
mod driver;
pub mod explanation;
pub mod extension;
pub mod frame;
mod group_member;
pub mod handshake;
mod inspection;
mod keepalive;
mod message;
mod message_limits;
mod pause;
mod send_queue;
mod settings;
mod socket;
mod socket_groups;
pub mod socket_handle;
mod socket_readings;
mod socket_route;
mod sockets;
mod thread_buffers;

pub use accept::{Accept, Denial};
pub use backlog::Backlog;
pub use close::{Cause, Close, CloseCode, Ending};
pub use connection_task::ConnectionTask;
pub use consumer::Consumer;
pub use context::Context;
pub use message::{Message, Text};
pub use message_limits::MessageLimits;
pub use settings::{Compression, SlowClient, SocketSettings};
pub use socket_handle::SocketHandle;
pub use socket_route::SocketRoute;
pub use sockets::Sockets;

pub(crate) use consumer::{Accepted, ConsumerFactory, Negotiation, TypedFactory};
pub(crate) use directory::Directory;
pub(crate) use driver::{PreparedJoins, SocketParts};
pub(crate) use socket_readings::SocketReadings;

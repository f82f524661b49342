//! Testing: communicators without sockets, and a live server on its own port, for an application's
//! tests.
//!
//! [`HttpCommunicator`] and [`WebsocketCommunicator`] are Channels' communicators: they pass a
//! request or a WebSocket through the tables, middleware, views and consumers of an
//! [`Application`]. Every wait has a deadline. [`LiveServer`] listens on port 0, for tests that
//! need real sockets. A communicator panics to fail a test.
//!
//! ```
//! use oneport::testing::{Application, WebsocketCommunicator};
//!
//! # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
//! let app = Application::parse("[[websocket.route]]\npath = '/echo/'\nconsumer = 'echo'\n").unwrap();
//! let mut socket = WebsocketCommunicator::new("/echo/").connect(&app).await.unwrap();
//! socket.send("hi").await;
//! assert_eq!(socket.receive().await.as_text(), Some("hi"));
//! socket.disconnect().await;
//! # });
//! ```

#![expect(clippy::panic, reason = "a communicator fails the test it is in")]

mod application;
mod http;
mod live;
#[cfg(test)]
mod simulation;
mod websocket;

pub use application::Application;
pub use http::HttpCommunicator;
pub use live::LiveServer;
pub use websocket::{Connected, Output, WebsocketCommunicator};

use std::time::Duration;

/// The deadline of every wait of a communicator.
pub const DEADLINE: Duration = Duration::from_secs(5);

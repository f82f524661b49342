//! Gateway: names to code, a file to a table, and the journey of a request and of a handshake through it.

mod compile;
mod cors;
mod dispatch;
mod exposure;
mod finishing;
mod fit;
mod framing;
mod guards;
mod head;
mod http;
mod idle;
mod logins;
mod missing;
mod order;
mod pages;
mod pages_of_routes;
mod paths;
mod preflight;
mod registry;
mod socket_route;
mod store_files;
mod stores;
mod table;
mod websocket;

pub use compile::{compile, compile_draft};
pub use dispatch::{Answer, Arrival, Gateway, Upgrade};
pub(crate) use head::Fragment;
pub use registry::Registry;
pub use table::{HttpEntry, Table, WebsocketEntry};

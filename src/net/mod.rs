//! Net: listeners, the streams that they accept, and how many of them there may be.

mod address;
mod admission;
mod client_limit;
pub(crate) mod descriptors;
mod listener;
mod unix_listener;

pub use address::{ClientAddress, Scheme, ServerAddress};
pub(crate) use admission::Admission;
pub(crate) use client_limit::{ClientLimit, ClientPermit, client_network};
pub(crate) use listener::Incoming;
pub use listener::Listener;

//! Server: listeners, connections, signals, reload, drain.

mod admission;
mod connection;
mod date;
mod drain;
mod early;
mod head_watch;
mod listener;
mod observed;
mod pulse;
mod reload;
mod run;
mod signals;
mod stalled;
mod unix_socket;
mod watch;

pub use drain::Drained;
pub use listener::Listener;
pub use reload::{Loaded, Reload};
pub use run::{Server, StartError};
pub use signals::Signal;

//! Server: listeners, connections, signals, reload, drain.

mod certificate_watch;
mod connection;
mod connection_start;
mod connection_timeouts;
mod date;
mod drain;
mod early_answer;
mod file_watch;
pub(crate) mod head_scanner;
mod hyper_tasks;
mod listeners;
mod main_process;
mod metrics_listeners;
mod open_connections;
mod pid_file;
mod reload;
mod respond;
mod response_body;
mod restart;
mod run;
mod running;
mod sent_files;
mod signals;
mod stall_timeout;
mod stores;
mod systemd;
mod timed_stream;
mod unread_body;
mod watchdog;

pub use crate::net::Listener;
pub use drain::Drained;
pub(crate) use reload::log_problems;
pub use reload::{Loaded, Reload};
pub use restart::OldProcess;
pub use run::{Server, StartError};
pub use signals::Signal;

//! Scale: thousands of clients, bad ones and slow ones among them, against a server process of its
//! own that is watched from outside.
//!
//! The tests print what they measure (`--nocapture`). They assert nothing that noise on a busy
//! machine could change.

#![expect(clippy::print_stdout, reason = "what is measured is shown")]

mod bad_input;
mod clients;
mod computing;
mod members;
mod process;
mod secure_members;
mod slow_clients;

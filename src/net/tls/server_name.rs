//! Server name: the name that a client asked for (SNI), on its way to the stream.
//!
//! A connection of rustls without buffers does not tell it. The resolver of certificates learns it,
//! and is called while the session processes a client's first message, on the same thread.

use std::cell::Cell;

thread_local! {
    static NAME: Cell<Option<Box<str>>> = const { Cell::new(None) };
}

/// Records the name, for the resolver.
pub(super) fn record(name: Option<&str>) {
    NAME.set(name.map(|name| name.to_ascii_lowercase().into()));
}

/// Takes the name that the last message asked for, if it asked for one.
pub(super) fn take() -> Option<Box<str>> {
    NAME.take()
}

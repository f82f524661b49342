//! HandshakeFacts: what rustls tells its callbacks during a handshake, on its way to the stream.
//!
//! A connection of rustls without buffers does not have these facts, and the callbacks do not know
//! the connection. They run while the session processes a message, on the same thread: the stream
//! lends its facts to the thread for that time.

use std::cell::Cell;

/// The facts of one handshake.
#[derive(Debug, Default)]
pub(super) struct HandshakeFacts {
    /// The name that the client asked for (SNI), in lower case.
    pub(super) server_name: Option<Box<str>>,
    /// When the client's certificate ends, in seconds since 1970; `None` without one.
    pub(super) client_expiry: Option<u64>,
}

thread_local! {
    static FACTS: Cell<HandshakeFacts> = const {
        Cell::new(HandshakeFacts { server_name: None, client_expiry: None })
    };
}

impl HandshakeFacts {
    /// Runs `action`, whose callbacks read and change the facts.
    pub(super) fn lend<R>(&mut self, action: impl FnOnce() -> R) -> R {
        FACTS.set(std::mem::take(self));
        let result = action();
        *self = FACTS.take();
        result
    }
}

/// Records the name that the client asks for.
pub(super) fn record_server_name(name: Option<&str>) {
    change(|facts| facts.server_name = name.map(|name| name.to_ascii_lowercase().into()));
}

/// Records when the client's certificate ends.
pub(super) fn record_client_expiry(expiry: Option<u64>) {
    change(|facts| facts.client_expiry = expiry);
}

/// Returns when the client's certificate ends.
pub(super) fn client_expiry() -> Option<u64> {
    let mut expiry = None;
    change(|facts| expiry = facts.client_expiry);
    expiry
}

fn change(change: impl FnOnce(&mut HandshakeFacts)) {
    let mut facts = FACTS.take();
    change(&mut facts);
    FACTS.set(facts);
}

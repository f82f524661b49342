//! TLS: encrypted streams, as a client of other servers.

mod client;

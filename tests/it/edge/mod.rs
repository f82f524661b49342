//! Edge: header fields that clients and proxies send, and those of every response.

mod cors;
mod forwarded;
mod headers;
mod lists;
mod redirects;

//! TLS: encrypted streams, of clients that connect to a listener and to other servers.
//!
//! | file | subject |
//! |---|---|
//! | `stream.rs`, `session.rs`, `buffers.rs` | an encrypted stream; one end of TLS without its stream; what a thread lends them |
//! | `server.rs`, `handshake_facts.rs` | the settings of the listeners, and the handshake; what its callbacks learn |
//! | `tickets.rs` | sessions that clients resume |
//! | `certificates.rs` | which certificate is served for which name |
//! | `files.rs` | the files that `[server.tls]` names |
//! | `certificate.rs` | one certificate with its key, read and checked |
//! | `certificate_names.rs`, `x509.rs` | what is read in a certificate |
//! | `info.rs` | the facts of an encrypted connection, for the scope |
//! | `client.rs` | streams to other servers |
//! | `provider.rs` | the cryptography of both sides |

mod buffers;
mod certificate;
mod certificate_names;
mod certificates;
mod client;
mod files;
mod handshake_facts;
mod info;
mod provider;
#[cfg(test)]
pub(crate) mod secure_pair;
mod server;
mod session;
mod stream;
#[cfg(test)]
mod test_peers;
mod tickets;
mod x509;

pub(crate) use certificate::{Certificate, Part};
pub(crate) use certificates::Certificates;
pub use client::{ClientTls, ClientTlsError, ClientTlsSettings};
pub(crate) use files::{FileStamps, TlsFiles, TlsFilesRefusal, TlsPaths};
pub use info::{ClientCertificate, TlsInfo};
pub(crate) use server::{AgreedProtocol, Handshake, ServerTls};
pub use stream::TlsStream;
pub(crate) use x509::{CertificateFacts, first_certificate};

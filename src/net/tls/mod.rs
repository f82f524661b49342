//! TLS: encrypted streams, of clients that connect to a listener and to other servers.
//!
//! | file | subject |
//! |---|---|
//! | `server.rs` | the settings of the listeners, and the handshake |
//! | `certificates.rs` | which certificate is served for which name |
//! | `certificate.rs` | one certificate with its key, read and checked |
//! | `certificate_names.rs`, `x509.rs` | what is read in a certificate |
//! | `info.rs` | the facts of an encrypted connection, for the scope |
//! | `client.rs` | streams to other servers |
//! | `provider.rs` | the cryptography of both sides |

mod certificate;
mod certificate_names;
mod certificates;
mod client;
mod info;
mod provider;
mod server;
mod x509;

pub(crate) use certificate::{Certificate, Part};
pub(crate) use certificates::Certificates;
pub use info::{ClientCertificate, TlsInfo};
pub(crate) use server::{Handshake, ServerTls, TlsFiles, TlsFilesRefusal, TlsPaths};
pub(crate) use x509::CertificateFacts;

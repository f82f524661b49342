//! TLS: encrypted streams, as a client of other servers.

mod client;
mod x509;

pub(crate) use x509::CertificateFacts;

//! Provider: the cryptography of all TLS in the process.
//!
//! aws-lc-rs, because ring takes 1.5 times as long as OpenSSL for a handshake with an RSA
//! certificate.

use std::sync::{Arc, OnceLock};

use rustls::crypto::CryptoProvider;

/// Returns the one provider.
pub(super) fn provider() -> &'static Arc<CryptoProvider> {
    static PROVIDER: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    PROVIDER.get_or_init(|| Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
}

//! Provider: the cryptography of all TLS in the process.

use std::sync::{Arc, OnceLock};

use rustls::crypto::CryptoProvider;

/// Returns the one provider.
pub(super) fn provider() -> &'static Arc<CryptoProvider> {
    static PROVIDER: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    PROVIDER.get_or_init(|| Arc::new(rustls::crypto::ring::default_provider()))
}

//! The client's side of TLS: encrypted streams to other servers.

use std::io;
use std::sync::{Arc, OnceLock};

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};

use super::provider::provider;
use super::stream::TlsStream;
use crate::net::stream::Stream;

impl Stream {
    /// Encrypts a stream to `host`; the certificate must be valid for that name. Cancel-safe.
    pub(crate) async fn connect_tls(self, host: &str) -> io::Result<Self> {
        let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
        Ok(TlsStream::connect(self, tls_config()?, name).await?.into())
    }
}

/// Returns the configuration of all outgoing connections. They trust the certificates of the
/// system, or those that `SSL_CERT_FILE` names.
fn tls_config() -> io::Result<Arc<ClientConfig>> {
    static CONFIG: OnceLock<Arc<ClientConfig>> = OnceLock::new();
    if let Some(config) = CONFIG.get() {
        return Ok(config.clone());
    }
    let mut roots = RootCertStore::empty();
    let found = rustls_native_certs::load_native_certs();
    for error in &found.errors {
        tracing::warn!(%error, "cannot read trusted certificates");
    }
    roots.add_parsable_certificates(found.certs);
    let config = ClientConfig::builder_with_provider(provider().clone())
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(CONFIG.get_or_init(|| Arc::new(config)).clone())
}

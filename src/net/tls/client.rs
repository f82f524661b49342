//! The client's side of TLS: encrypted streams to other servers.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

use super::provider::provider;
use super::stream::TlsStream;
use crate::net::stream::Stream;

/// The protocols of ALPN.
pub(super) const HTTP_2: &[u8] = b"h2";
pub(super) const HTTP_1_1: &[u8] = b"http/1.1";

/// What a client trusts, and what it shows to a server.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct ClientTlsSettings {
    /// The file of the trusted certificates. `None`: those of the system, or those that
    /// `SSL_CERT_FILE` names.
    pub ca: Option<PathBuf>,
    /// The file of our certificate, for a server that asks for one.
    pub certificate: Option<PathBuf>,
    /// The file of its key.
    pub key: Option<PathBuf>,
    /// The name in the server's certificate. `None`: the host.
    pub server_name: Option<String>,
    /// Whether the server's certificate is checked. Without it, anyone between us and the server
    /// can read and change everything.
    pub verify: bool,
    /// Whether to offer HTTP/2.
    pub http2: bool,
}

impl Default for ClientTlsSettings {
    fn default() -> Self {
        Self {
            ca: None,
            certificate: None,
            key: None,
            server_name: None,
            verify: true,
            http2: false,
        }
    }
}

/// The reason why a setting cannot be used.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{message}")]
pub struct ClientTlsError {
    /// The setting: `ca`, `certificate`, `key` or `server_name`.
    pub key: &'static str,
    message: String,
}

/// TLS to one server (cheap to clone). Its sessions are resumed.
#[derive(Clone)]
pub struct ClientTls {
    config: Arc<ClientConfig>,
    /// The same, without HTTP/2.
    http1: Arc<ClientConfig>,
    name: ServerName<'static>,
}

impl fmt::Debug for ClientTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ClientTls").field(&self.name).finish()
    }
}

impl ClientTls {
    /// Reads the files.
    pub fn new(host: &str, settings: &ClientTlsSettings) -> Result<Self, ClientTlsError> {
        let name = settings.server_name.as_deref().unwrap_or(host);
        let name = ServerName::try_from(name.to_owned()).map_err(|_| ClientTlsError {
            key: "server_name",
            message: format!("expected a host name or an address, found {name:?}"),
        })?;
        let roots = match &settings.ca {
            Some(file) => Arc::new(roots_in(file)?),
            None => system_roots(),
        };
        let provider = provider().clone();
        let builder = ClientConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(|error| failed("ca", &error))?;
        let builder = match settings.verify {
            true => builder.with_root_certificates(roots),
            false => builder
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(Unchecked(provider))),
        };
        let mut config = match (&settings.certificate, &settings.key) {
            (Some(certificate), Some(key)) => {
                let chain = certificates_in("certificate", certificate)?;
                let key = PrivateKeyDer::from_pem_file(key).map_err(|error| ClientTlsError {
                    key: "key",
                    message: unreadable("a private key", key, &error),
                })?;
                builder
                    .with_client_auth_cert(chain, key)
                    .map_err(|error| failed("certificate", &error))?
            }
            (None, None) => builder.with_no_client_auth(),
            (Some(_), None) => return Err(missing("key", "certificate")),
            (None, Some(_)) => return Err(missing("certificate", "key")),
        };
        config.alpn_protocols = vec![HTTP_1_1.to_vec()];
        let http1 = Arc::new(config.clone());
        if settings.http2 {
            config.alpn_protocols.insert(0, HTTP_2.to_vec());
        }
        Ok(Self {
            config: Arc::new(config),
            http1,
            name,
        })
    }

    /// Returns whether the server may choose HTTP/2.
    pub(crate) fn offers_http2(&self) -> bool {
        self.config.alpn_protocols.len() > 1
    }

    /// Encrypts a stream to the server; returns also whether the server has chosen HTTP/2.
    /// Cancel-safe.
    pub(crate) async fn connect(&self, stream: Stream) -> io::Result<(Stream, bool)> {
        self.handshake(&self.config, stream).await
    }

    /// Encrypts a stream to the server, for HTTP/1.1. Cancel-safe.
    pub(crate) async fn connect_http1(&self, stream: Stream) -> io::Result<Stream> {
        Ok(self.handshake(&self.http1, stream).await?.0)
    }

    async fn handshake(
        &self,
        config: &Arc<ClientConfig>,
        stream: Stream,
    ) -> io::Result<(Stream, bool)> {
        let mut stream = TlsStream::connect(stream, config.clone(), self.name.clone()).await?;
        let is_http2 = stream.agreed().alpn_protocol() == Some(HTTP_2);
        Ok((stream.into(), is_http2))
    }
}

impl Stream {
    /// Encrypts a stream to `host`; the certificate must be valid for that name. Cancel-safe.
    pub(crate) async fn connect_tls(self, host: &str) -> io::Result<Self> {
        let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
        Ok(TlsStream::connect(self, system_config()?, name)
            .await?
            .into())
    }
}

/// Returns the configuration of connections without settings of their own, such as those to Redis.
fn system_config() -> io::Result<Arc<ClientConfig>> {
    static CONFIG: OnceLock<Arc<ClientConfig>> = OnceLock::new();
    if let Some(config) = CONFIG.get() {
        return Ok(config.clone());
    }
    let config = ClientConfig::builder_with_provider(provider().clone())
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .with_root_certificates(system_roots())
        .with_no_client_auth();
    Ok(CONFIG.get_or_init(|| Arc::new(config)).clone())
}

/// Returns the certificates that the system trusts, or those that `SSL_CERT_FILE` names.
fn system_roots() -> Arc<RootCertStore> {
    static ROOTS: OnceLock<Arc<RootCertStore>> = OnceLock::new();
    let read = || {
        let mut roots = RootCertStore::empty();
        let found = rustls_native_certs::load_native_certs();
        for error in &found.errors {
            tracing::warn!(%error, "cannot read trusted certificates");
        }
        roots.add_parsable_certificates(found.certs);
        Arc::new(roots)
    };
    ROOTS.get_or_init(read).clone()
}

fn roots_in(file: &Path) -> Result<RootCertStore, ClientTlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates_in("ca", file)? {
        roots.add(certificate).map_err(|error| ClientTlsError {
            key: "ca",
            message: unreadable("certificates", file, &error),
        })?;
    }
    Ok(roots)
}

/// Returns the certificates of a PEM file; there is at least one.
fn certificates_in(
    key: &'static str,
    file: &Path,
) -> Result<Vec<CertificateDer<'static>>, ClientTlsError> {
    let refused = |why: &dyn fmt::Display| ClientTlsError {
        key,
        message: unreadable("certificates", file, why),
    };
    let found = CertificateDer::pem_file_iter(file).map_err(|error| refused(&error))?;
    let found: Result<Vec<_>, _> = found.collect();
    let found = found.map_err(|error| refused(&error))?;
    if found.is_empty() {
        return Err(refused(&"it has none"));
    }
    Ok(found)
}

fn unreadable(what: &str, file: &Path, why: &dyn fmt::Display) -> String {
    format!(
        "expected a PEM file with {what}, found {}: {why}",
        file.display()
    )
}

fn missing(key: &'static str, other: &str) -> ClientTlsError {
    ClientTlsError {
        key,
        message: format!("expected \"{key}\" beside \"{other}\", found none"),
    }
}

fn failed(key: &'static str, error: &rustls::Error) -> ClientTlsError {
    ClientTlsError {
        key,
        message: error.to_string(),
    }
}

/// Accepts any certificate, for `verify = false`. The server still has to own the certificate's key.
#[derive(Debug)]
struct Unchecked(Arc<CryptoProvider>);

impl ServerCertVerifier for Unchecked {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let known = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, known)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let known = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, known)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

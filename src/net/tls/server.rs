//! The server's side of TLS: the settings of a listener, and the handshake.
//!
//! TLS 1.2 and 1.3, with the provider's suites (AEAD only, forward secrecy only). A client resumes
//! a session by a ticket, whose keys the process makes at random and replaces every six hours; they
//! survive a reload, and not a change of the authorities of clients. Early data (0-RTT) is refused:
//! it can be replayed. OCSP responses are not stapled: authorities give them up, and browsers that
//! still ask get them elsewhere.

use std::io;
use std::sync::Arc;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use rustls::crypto::aws_lc_rs::Ticketer;
use rustls::server::{NoServerSessionStorage, ProducesTickets, WebPkiClientVerifier};
use rustls::{CommonState, HandshakeKind, ServerConfig};

use super::certificate_names::CertificateNames;
use super::certificates::{ACME_TLS, Certificates};
use super::client::{HTTP_1_1, HTTP_2};
use super::files::{ClientAuthorities, FileStamps, TlsFiles};
use super::info::{ClientCertificate, TlsInfo, fingerprint};
use super::provider::provider;
use super::stream::TlsStream;
use super::tickets::{ClientVerifier, Tickets};
use crate::net::stream::Stream;

/// The TLS of all listeners of a server. New handshakes use what was applied last.
pub(crate) struct ServerTls {
    certificates: Arc<Certificates>,
    current: ArcSwap<Current>,
    applied: Mutex<Applied>,
}

/// Which files are in use.
struct Applied {
    stamps: FileStamps,
    version: u64,
}

struct Current {
    config: Arc<ServerConfig>,
    client_authorities: Option<Arc<ClientAuthorities>>,
}

/// A completed handshake.
pub(crate) struct Handshake {
    pub(crate) stream: Stream,
    pub(crate) info: TlsInfo,
    /// Whether the client resumed an earlier session.
    pub(crate) is_resumed: bool,
    pub(crate) protocol: AgreedProtocol,
}

/// What the client and the server agreed to speak (ALPN, RFC 7301).
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) enum AgreedProtocol {
    /// Nothing: the first bytes decide.
    #[default]
    Any,
    /// HTTP/1.1 and nothing else.
    Http1,
    /// HTTP/2 and nothing else.
    Http2,
    /// The connection only answered a challenge of ACME and carries no HTTP.
    Challenge,
}

impl AgreedProtocol {
    fn new(agreed: Option<&[u8]>) -> Self {
        match agreed {
            Some(HTTP_2) => Self::Http2,
            Some(ACME_TLS) => Self::Challenge,
            Some(_) => Self::Http1,
            None => Self::Any,
        }
    }
}

impl ServerTls {
    /// Starts with the certificates of these files; others may be in `certificates` already.
    pub(crate) fn new(certificates: Arc<Certificates>, files: &TlsFiles) -> io::Result<Self> {
        certificates.replace_files(files.certificates.clone());
        let current = Current::new(&certificates, files.client_authorities.clone())?;
        Ok(Self {
            certificates,
            current: ArcSwap::from_pointee(current),
            applied: Mutex::new(Applied {
                stamps: files.stamps.clone(),
                version: files.version,
            }),
        })
    }

    /// Returns the state that the files in use had when they were read.
    pub(crate) fn applied(&self) -> FileStamps {
        self.applied.lock().stamps.clone()
    }

    /// Applies files that a reload has read, unless the same files were read later and applied
    /// meanwhile. Returns whether anything has changed.
    pub(crate) fn apply(&self, files: &TlsFiles) -> io::Result<bool> {
        let mut applied = self.applied.lock();
        match applied.stamps.has_same_paths(&files.stamps) && files.version < applied.version {
            true => Ok(false),
            false => self.replace(&mut applied, files),
        }
    }

    /// Applies files whose contents have changed, unless a reload has changed their paths
    /// meanwhile. Returns whether anything has changed.
    pub(crate) fn refresh(&self, files: &TlsFiles) -> io::Result<bool> {
        let mut applied = self.applied.lock();
        match applied.stamps.has_same_paths(&files.stamps) && files.version > applied.version {
            true => self.replace(&mut applied, files),
            false => Ok(false),
        }
    }

    /// Replaces the certificates, and the authorities of clients if they have changed: then
    /// sessions of clients that the old ones admitted cannot be resumed.
    fn replace(&self, applied: &mut Applied, files: &TlsFiles) -> io::Result<bool> {
        let mut is_changed = self.certificates.replace_files(files.certificates.clone());
        let text = |authorities: &Option<Arc<ClientAuthorities>>| {
            authorities
                .as_ref()
                .map(|authorities| authorities.text.clone())
        };
        let wanted = &files.client_authorities;
        if text(&self.current.load().client_authorities) != text(wanted) {
            let current = Current::new(&self.certificates, wanted.clone())?;
            self.current.store(Arc::new(current));
            is_changed = true;
        }
        *applied = Applied {
            stamps: files.stamps.clone(),
            version: files.version,
        };
        Ok(is_changed)
    }

    /// Waits for the handshake of a client. The caller sets the deadline. On failure the client is
    /// sent the alert.
    pub(crate) async fn accept(&self, stream: Stream) -> io::Result<Handshake> {
        let config = self.current.load().config.clone();
        let (mut stream, server_name) = TlsStream::accept(stream, config).await?;
        let agreed = stream.agreed();
        let info = info(agreed, server_name)?;
        let is_resumed = agreed.handshake_kind() == Some(HandshakeKind::Resumed);
        let protocol = AgreedProtocol::new(agreed.alpn_protocol());
        Ok(Handshake {
            stream: stream.into(),
            info,
            is_resumed,
            protocol,
        })
    }
}

impl Current {
    fn new(
        certificates: &Arc<Certificates>,
        client_authorities: Option<Arc<ClientAuthorities>>,
    ) -> io::Result<Self> {
        let builder = ServerConfig::builder_with_provider(provider().clone())
            .with_safe_default_protocol_versions()
            .map_err(io::Error::other)?;
        let builder = match &client_authorities {
            Some(authorities) => {
                let roots = authorities.roots.clone();
                let verifier =
                    WebPkiClientVerifier::builder_with_provider(roots, provider().clone())
                        .allow_unauthenticated()
                        .build()
                        .map_err(io::Error::other)?;
                builder.with_client_cert_verifier(Arc::new(ClientVerifier(verifier)))
            }
            None => builder.with_no_client_auth(),
        };
        let mut config = builder.with_cert_resolver(certificates.clone());
        config.alpn_protocols = [HTTP_2, HTTP_1_1, ACME_TLS].map(<[u8]>::to_vec).to_vec();
        config.ticketer = Arc::new(Tickets(ticketer()?));
        // Sessions are kept by the client, in its ticket.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        Ok(Self {
            config: Arc::new(config),
            client_authorities,
        })
    }
}

fn ticketer() -> io::Result<Arc<dyn ProducesTickets>> {
    Ticketer::new().map_err(io::Error::other)
}

/// Collects the facts of a connection whose handshake is complete.
fn info(agreed: &CommonState, server_name: Option<Box<str>>) -> io::Result<TlsInfo> {
    let chain = agreed.peer_certificates().unwrap_or_default();
    let client_certificate = chain.first().map(|der| {
        let names = CertificateNames::from_der(der).map_err(io::Error::other)?;
        Ok::<_, io::Error>(Box::new(ClientCertificate {
            subject: names.subject.into(),
            issuer: names.issuer.into(),
            serial: names.serial.into(),
            fingerprint: fingerprint(der),
            chain: chain.iter().map(|der| Box::from(&**der)).collect(),
        }))
    });
    Ok(TlsInfo {
        server_name,
        tls_version: agreed.protocol_version().map_or(0, u16::from),
        cipher_suite: agreed
            .negotiated_cipher_suite()
            .map_or(0, |suite| u16::from(suite.suite())),
        client_certificate: client_certificate.transpose()?,
    })
}

#[cfg(test)]
mod tests;

//! Certificate: a certificate with its issuers and its private key, checked and ready to serve.

use std::fmt;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::{Error as PemError, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use rustls::{Error as TlsError, InconsistentKeys, SignatureScheme};
use thiserror::Error;

use super::certificate_names::CertificateNames;
use super::provider::provider;
use super::x509::{CertificateError, CertificateFacts};

/// The most bytes of one file. A chain has a few thousand.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// A certificate with its issuers and its private key.
pub(crate) struct Certificate {
    key: Arc<CertifiedKey>,
    facts: CertificateFacts,
    /// A mistake that does not keep the certificate from being served.
    warning: Option<String>,
}

/// One of the two files of a certificate.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Part {
    /// The certificate and its issuers.
    Certificate,
    /// The private key.
    Key,
}

/// Why a certificate cannot be served.
#[derive(Debug, Error)]
#[error("{sentence}")]
pub(crate) struct CertificateRefusal {
    /// The part that is wrong.
    pub(crate) part: Part,
    sentence: String,
}

impl CertificateRefusal {
    fn new(part: Part, sentence: impl Into<String>) -> Self {
        let sentence = sentence.into();
        Self { part, sentence }
    }
}

impl Certificate {
    /// Reads both files. Blocks.
    pub(crate) fn read(certificate: &Path, key: &Path) -> Result<Self, CertificateRefusal> {
        let read = |part, path| {
            read_file(path).map_err(|sentence| CertificateRefusal::new(part, sentence))
        };
        let (chain, secret) = (read(Part::Certificate, certificate)?, read(Part::Key, key)?);
        Self::from_pem(&chain, &secret).map_err(|refusal| {
            let file = match refusal.part {
                Part::Certificate => certificate,
                Part::Key => key,
            };
            let sentence = format!("{}: {}", file.display(), refusal.sentence);
            CertificateRefusal::new(refusal.part, sentence)
        })
    }

    /// Parses a certificate, followed by its issuers, and a private key, both in PEM.
    pub(crate) fn from_pem(chain: &[u8], key: &[u8]) -> Result<Self, CertificateRefusal> {
        let refuse = CertificateRefusal::new;
        let chain = parse_chain(chain).map_err(|why| refuse(Part::Certificate, why))?;
        let key = parse_key(key).map_err(|why| refuse(Part::Key, why))?;
        let malformed = |error: CertificateError| refuse(Part::Certificate, error.to_string());
        let facts = CertificateFacts::from_der(&chain[0]).map_err(malformed)?;
        let warning = chain_warning(&chain).map_err(malformed)?;
        let key = certified(&chain, key, provider())?;
        Ok(Self {
            key: Arc::new(key),
            facts,
            warning,
        })
    }

    /// Parses the certificate that answers a `tls-alpn-01` challenge, and its key, in PEM. Its
    /// extension (RFC 8737 §3) is critical, so that nothing but a CA's check accepts it: whether
    /// the two belong together is not verified either.
    pub(crate) fn from_challenge_pem(pem: &[u8]) -> Result<Self, CertificateRefusal> {
        let refuse = CertificateRefusal::new;
        let chain = parse_chain(pem).map_err(|why| refuse(Part::Certificate, why))?;
        let key = parse_key(pem).map_err(|why| refuse(Part::Key, why))?;
        let facts = CertificateFacts::from_der(&chain[0])
            .map_err(|error| refuse(Part::Certificate, error.to_string()))?;
        let key = provider()
            .key_provider
            .load_private_key(key)
            .map_err(|error| refuse(Part::Key, error.to_string()))?;
        Ok(Self {
            key: Arc::new(CertifiedKey::new(chain, key)),
            facts,
            warning: None,
        })
    }

    /// Returns the names and the lifetime.
    pub(crate) fn facts(&self) -> &CertificateFacts {
        &self.facts
    }

    /// Returns the name for the log and the metrics: the first one.
    pub(crate) fn name(&self) -> &str {
        self.facts.names.first().map_or("(no name)", String::as_str)
    }

    /// Returns a sentence about a mistake that clients may stumble over.
    pub(crate) fn warning(&self, now: SystemTime) -> Option<String> {
        let facts = &self.facts;
        let name = self.name();
        if now < facts.not_before {
            let from = humantime::format_rfc3339_seconds(facts.not_before);
            return Some(format!(
                "the certificate of {name} is not valid before {from}"
            ));
        }
        if facts.not_after <= now {
            let at = humantime::format_rfc3339_seconds(facts.not_after);
            return Some(format!("the certificate of {name} expired at {at}"));
        }
        self.warning.clone()
    }

    pub(super) fn key(&self) -> &Arc<CertifiedKey> {
        &self.key
    }
}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificate")
            .field("names", &self.facts.names)
            .finish_non_exhaustive()
    }
}

const NO_CERTIFICATE: &str =
    "expected a certificate in PEM (-----BEGIN CERTIFICATE-----), found none";

/// Reads a file. Returns a sentence if it cannot be read.
pub(super) fn read_file(path: &Path) -> Result<Vec<u8>, String> {
    if path.to_string_lossy().contains("-----BEGIN ") {
        return Err("expected the path of a file, found its contents".to_owned());
    }
    let fail = |why: &dyn fmt::Display| format!("cannot read {}: {why}", path.display());
    let is_file = std::fs::metadata(path)
        .map_err(|error| fail(&error))?
        .is_file();
    if !is_file {
        return Err(fail(&"expected a regular file"));
    }
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(|error| fail(&error))?;
    let length = file
        .take(FILE_BYTES_MAX + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| fail(&error))?;
    if length as u64 > FILE_BYTES_MAX {
        return Err(fail(&"expected at most 1 MiB, found more"));
    }
    Ok(bytes)
}

/// Parses all certificates of a text.
pub(super) fn parse_chain(text: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let chain: Vec<_> = CertificateDer::pem_slice_iter(text)
        .collect::<Result<_, _>>()
        .map_err(|error| pem_sentence("a certificate", &error))?;
    if chain.is_empty() {
        let hint = if contains(text, b"PRIVATE KEY-----") {
            "expected a certificate in PEM (-----BEGIN CERTIFICATE-----), found a private key"
        } else {
            NO_CERTIFICATE
        };
        return Err(hint.to_owned());
    }
    Ok(chain)
}

fn parse_key(text: &[u8]) -> Result<PrivateKeyDer<'static>, String> {
    if contains(text, b"-----BEGIN ENCRYPTED PRIVATE KEY-----")
        || contains(text, b"Proc-Type: 4,ENCRYPTED")
    {
        return Err(
            "expected a private key without a passphrase, found an encrypted one; `openssl pkey -in KEY -out NEW` decrypts it"
                .to_owned(),
        );
    }
    match PrivateKeyDer::from_pem_slice(text) {
        Ok(key) => Ok(key),
        Err(PemError::NoItemsFound) if contains(text, b"-----BEGIN CERTIFICATE-----") => Err(
            "expected a private key in PEM (-----BEGIN PRIVATE KEY-----), found a certificate"
                .to_owned(),
        ),
        Err(PemError::NoItemsFound) => Err(
            "expected a private key in PEM (-----BEGIN PRIVATE KEY-----), found none".to_owned(),
        ),
        Err(error) => Err(pem_sentence("a private key", &error)),
    }
}

fn pem_sentence(expected: &str, error: &PemError) -> String {
    let found = match error {
        PemError::MissingSectionEnd { .. } => "one that is cut off".to_owned(),
        other => other.to_string(),
    };
    format!("expected {expected} in PEM, found {found}")
}

/// Joins a chain and its key if they belong together.
fn certified(
    chain: &[CertificateDer<'static>],
    key: PrivateKeyDer<'static>,
    provider: &CryptoProvider,
) -> Result<CertifiedKey, CertificateRefusal> {
    let refuse = |part, sentence: String| CertificateRefusal::new(part, sentence);
    let expected =
        "expected a private key of RSA (2048 bits or more), ECDSA (P-256 or P-384) or Ed25519";
    let key = provider
        .key_provider
        .load_private_key(key)
        .map_err(|error| refuse(Part::Key, format!("{expected}, found another: {error}")))?;
    // Browsers do not take it.
    if key
        .choose_scheme(&[SignatureScheme::ECDSA_NISTP521_SHA512])
        .is_some()
    {
        return Err(refuse(Part::Key, format!("{expected}, found one of P-521")));
    }
    let certified = CertifiedKey::new(chain.to_vec(), key);
    match certified.keys_match() {
        Ok(()) | Err(TlsError::InconsistentKeys(InconsistentKeys::Unknown)) => Ok(certified),
        Err(TlsError::InconsistentKeys(_)) => {
            let key = certified.key.clone();
            let place = (1..chain.len()).find(|at| {
                let alone = CertifiedKey::new(vec![chain[*at].clone()], key.clone());
                alone.keys_match().is_ok()
            });
            Err(match place {
                Some(at) => refuse(
                    Part::Certificate,
                    format!(
                        "expected the server's certificate first, followed by its issuers, found it in place {}",
                        at + 1
                    ),
                ),
                None => refuse(
                    Part::Key,
                    "expected the private key of the certificate, found that of another".to_owned(),
                ),
            })
        }
        Err(error) => Err(refuse(
            Part::Certificate,
            format!("expected a certificate for a server, found another: {error}"),
        )),
    }
}

/// Returns a sentence if a certificate is not followed by its issuer.
fn chain_warning(chain: &[CertificateDer<'static>]) -> Result<Option<String>, CertificateError> {
    let names = chain
        .iter()
        .map(|der| CertificateNames::from_der(der))
        .collect::<Result<Vec<_>, _>>()?;
    let broken = names
        .windows(2)
        .find(|pair| pair[0].issuer != pair[1].subject);
    Ok(broken.map(|pair| {
        format!(
            "expected each certificate to be followed by its issuer, found {:?} after {:?}, which {:?} issued",
            pair[1].subject, pair[0].subject, pair[0].issuer
        )
    }))
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    memchr::memmem::find(text, part).is_some()
}

#[cfg(test)]
mod tests;

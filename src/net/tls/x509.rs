//! CertificateFacts: what the server reads in an X.509 certificate.

use std::net::IpAddr;
use std::ops::Range;
use std::time::{Duration, SystemTime};

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::{Error as PemError, PemObject};
use thiserror::Error;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::time::ASN1Time;

/// The facts of a certificate that decide which names it serves, and for how long.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct CertificateFacts {
    /// The common name of its subject.
    pub(crate) common_name: Option<String>,
    /// The names and addresses that it is valid for (its subject alternative names), in lower case.
    pub(crate) names: Vec<String>,
    /// The start of its lifetime.
    pub(crate) not_before: SystemTime,
    /// The end of its lifetime.
    pub(crate) not_after: SystemTime,
    /// The identifier of its own key, if it is that of an authority.
    pub(crate) subject_key_id: Option<Vec<u8>>,
    /// The identifier of the key that signed it.
    pub(crate) authority_key_id: Option<Vec<u8>>,
}

/// Why there are no facts.
#[derive(Debug, Error)]
pub(crate) enum CertificateError {
    /// The text has no certificate in PEM.
    #[error("expected a certificate in PEM (-----BEGIN CERTIFICATE-----), found {0}")]
    Pem(String),
    /// The bytes are not a certificate.
    #[error("expected an X.509 certificate, found other bytes: {0}")]
    X509(String),
}

impl CertificateFacts {
    /// Reads the first certificate of a PEM file.
    pub(crate) fn from_pem(text: &[u8]) -> Result<Self, CertificateError> {
        let der = CertificateDer::from_pem_slice(text).map_err(|error| {
            CertificateError::Pem(match error {
                PemError::NoItemsFound => "none".to_owned(),
                other => other.to_string(),
            })
        })?;
        Self::from_der(&der)
    }

    /// Reads a certificate.
    pub(crate) fn from_der(der: &[u8]) -> Result<Self, CertificateError> {
        let (_, certificate) = x509_parser::parse_x509_certificate(der)
            .map_err(|error| CertificateError::X509(error.to_string()))?;
        let common_name = certificate.subject().iter_common_name().next();
        let mut facts = Self {
            common_name: common_name
                .and_then(|name| name.as_str().ok())
                .map(str::to_owned),
            names: Vec::new(),
            not_before: system_time(certificate.validity().not_before),
            not_after: system_time(certificate.validity().not_after),
            subject_key_id: None,
            authority_key_id: None,
        };
        for extension in certificate.iter_extensions() {
            match extension.parsed_extension() {
                ParsedExtension::SubjectAlternativeName(names) => {
                    facts.names = names.general_names.iter().filter_map(name).collect();
                }
                ParsedExtension::SubjectKeyIdentifier(id) => {
                    facts.subject_key_id = Some(id.0.to_vec());
                }
                ParsedExtension::AuthorityKeyIdentifier(authority) => {
                    facts.authority_key_id =
                        authority.key_identifier.as_ref().map(|id| id.0.to_vec());
                }
                _ => {}
            }
        }
        Ok(facts)
    }

    /// Returns whether the certificate is valid for a name, also by a wildcard.
    pub(crate) fn covers(&self, name: &str) -> bool {
        let wildcard = name
            .split_once('.')
            .map(|(_, parent)| format!("*.{parent}"));
        self.has_name(name) || wildcard.is_some_and(|wildcard| self.has_name(&wildcard))
    }

    /// Returns whether the certificate is valid for a name or an address, apart from wildcards.
    pub(crate) fn has_name(&self, name: &str) -> bool {
        self.names.iter().any(|own| own.eq_ignore_ascii_case(name))
    }

    /// Returns its lifetime.
    pub(crate) fn lifetime(&self) -> Range<SystemTime> {
        self.not_before..self.not_after
    }

    /// Returns how long the certificate is still valid; zero once it has expired.
    pub(crate) fn remaining(&self, now: SystemTime) -> Duration {
        self.not_after.duration_since(now).unwrap_or_default()
    }
}

/// Returns the first certificate of a PEM file.
pub(crate) fn first_certificate(text: &[u8]) -> Option<CertificateDer<'static>> {
    CertificateDer::from_pem_slice(text).ok()
}

fn name(name: &GeneralName<'_>) -> Option<String> {
    match name {
        GeneralName::DNSName(name) => Some(name.to_ascii_lowercase()),
        GeneralName::IPAddress(bytes) => match bytes.len() {
            4 => <[u8; 4]>::try_from(*bytes).ok().map(IpAddr::from),
            16 => <[u8; 16]>::try_from(*bytes).ok().map(IpAddr::from),
            _ => None,
        }
        .map(|address| address.to_string()),
        _ => None,
    }
}

/// Converts a time; one before 1970 becomes 1970.
fn system_time(time: ASN1Time) -> SystemTime {
    let seconds = u64::try_from(time.timestamp()).unwrap_or_default();
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_that_are_no_certificate_are_refused() {
        for (text, expected) in [
            ("", "found none"),
            ("-----BEGIN CERTIFICATE-----\n", "section"),
            (
                "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
                "expected an X.509 certificate",
            ),
            (
                "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
                "found none",
            ),
        ] {
            let error = CertificateFacts::from_pem(text.as_bytes()).unwrap_err();
            assert!(error.to_string().contains(expected), "{text:?}: {error}");
        }
    }
}

//! Leaf: the certificate that a server uses, signed by the local CA.

use std::path::Path;
use std::time::{Duration, SystemTime};

use rcgen::{
    CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, KeyPair, KeyUsagePurpose,
};

use super::authority::Authority;
use super::{facts, key_pair, read, write};
use crate::atomic_file::Access;
use crate::net::CertificateFacts;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// How long a certificate is valid. Browsers refuse more than 825 days, also from a local CA.
const LIFETIME: Duration = Duration::from_secs(397 * 24 * 60 * 60);

/// A certificate that is valid for less time than this is renewed.
const REMAINING_MIN: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// The certificate of a server.
pub(super) struct Leaf {
    pub(super) facts: CertificateFacts,
}

/// When a certificate was made.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Made {
    Now,
    Before,
}

/// The subject of each certificate: another one was not made by this command.
const COMMON_NAME: &str = "Oneport development certificate";

impl Leaf {
    /// Reads the certificate of a directory. Makes a new one unless it is good: for the names that
    /// it has, and for `names`.
    pub(super) fn open(
        dir: &Path,
        mut names: Vec<String>,
        authority: &Authority,
        now: SystemTime,
    ) -> Result<(Self, Made), String> {
        let (cert_path, key_path) = (dir.join("cert.pem"), dir.join("key.pem"));
        let key = read(&key_path)?;
        let earlier = match read(&cert_path)? {
            Some(text) => Some(facts(&cert_path, &text)?),
            None => None,
        };
        if let Some(earlier) = earlier {
            if earlier.common_name.as_deref() != Some(COMMON_NAME) {
                return Err(format!(
                    "{} was not made by this command; choose another directory",
                    cert_path.display()
                ));
            }
            let is_good = key.is_some()
                && earlier.authority_key_id == authority.facts.subject_key_id
                && earlier.remaining(now) >= REMAINING_MIN
                && names.iter().all(|name| earlier.has_name(name));
            if is_good {
                return Ok((Self { facts: earlier }, Made::Before));
            }
            for name in earlier.names {
                if !names.contains(&name) {
                    names.push(name);
                }
            }
        }
        let key = match key {
            Some(text) => key_pair(&key_path, &text)?,
            None => {
                let key = KeyPair::generate().map_err(|error| error.to_string())?;
                write(&key_path, &key.serialize_pem(), Access::Owner)?;
                key
            }
        };
        let text = sign(names, &key, authority, now).map_err(|error| error.to_string())?;
        write(&cert_path, &text, Access::Everyone)?;
        let facts = facts(&cert_path, text.as_bytes())?;
        Ok((Self { facts }, Made::Now))
    }
}

/// Makes a certificate. Returns it in PEM.
fn sign(
    names: Vec<String>,
    key: &KeyPair,
    authority: &Authority,
    now: SystemTime,
) -> Result<String, rcgen::Error> {
    let mut params = CertificateParams::new(names)?;
    let mut subject = DistinguishedName::new();
    subject.push(DnType::CommonName, COMMON_NAME);
    params.distinguished_name = subject;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.use_authority_key_identifier_extension = true;
    params.not_before = (now - DAY).into();
    params.not_after = (now + LIFETIME).min(authority.facts.not_after).into();
    Ok(params.signed_by(key, &authority.issuer)?.pem())
}

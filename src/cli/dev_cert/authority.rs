//! Authority: the local CA, made once for a directory.

use std::path::Path;
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};

use super::{facts, key_pair, read, write};
use crate::atomic_file::Access;
use crate::net::CertificateFacts;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// How long a CA is valid. Trusting it is work, so it lasts.
const LIFETIME: Duration = Duration::from_secs(3652 * 24 * 60 * 60);

/// A CA that is valid for less time than this signs nothing.
const REMAINING_MIN: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// A local CA.
pub(super) struct Authority {
    pub(super) issuer: Issuer<'static, KeyPair>,
    pub(super) facts: CertificateFacts,
    /// The name that browsers list.
    pub(super) name: String,
}

impl Authority {
    /// Reads the CA of a directory, or makes it.
    pub(super) fn open(dir: &Path, now: SystemTime) -> Result<Self, String> {
        let (cert_path, key_path) = (dir.join("ca.pem"), dir.join("ca.key"));
        let (cert, key) = match (read(&cert_path)?, read(&key_path)?) {
            (Some(cert), Some(key)) => (cert, key),
            (None, None) => {
                let key = KeyPair::generate().map_err(|error| error.to_string())?;
                let text = key.serialize_pem();
                write(&key_path, &text, Access::Owner)?;
                (make(&cert_path, &key, now)?, text.into_bytes())
            }
            // A run that died between the two files has left the key.
            (None, Some(text)) => {
                let key = key_pair(&key_path, &text)?;
                (make(&cert_path, &key, now)?, text)
            }
            (Some(_), None) => {
                return Err(format!(
                    "expected the CA's key in {}, found none; remove {} to make a new CA",
                    key_path.display(),
                    cert_path.display()
                ));
            }
        };
        let facts = facts(&cert_path, &cert)?;
        let key_id = facts.subject_key_id.clone().unwrap_or_default();
        if facts.common_name.as_ref() != Some(&name(&key_id)) {
            return Err(format!(
                "{} was not made by this command; choose another directory",
                cert_path.display()
            ));
        }
        if facts.remaining(now) < REMAINING_MIN {
            return Err(format!(
                "the CA in {} ends in {} days; remove it to make a new one, which must be trusted again",
                cert_path.display(),
                facts.remaining(now).as_secs() / DAY.as_secs()
            ));
        }
        let key = key_pair(&key_path, &key)?;
        let text = String::from_utf8_lossy(&cert);
        let issuer = Issuer::from_ca_cert_pem(&text, key)
            .map_err(|error| format!("{}: {error}", cert_path.display()))?;
        Ok(Self {
            issuer,
            facts,
            name: name(&key_id),
        })
    }
}

/// Returns the name of the CA with a key's identifier: each CA has its own, because browsers list
/// them by name.
fn name(key_id: &[u8]) -> String {
    let id = data_encoding::HEXLOWER.encode(key_id.get(..4).unwrap_or_default());
    format!("Oneport development CA {id}")
}

/// Makes the certificate of a CA with this key. Returns it in PEM.
fn make(path: &Path, key: &KeyPair, now: SystemTime) -> Result<Vec<u8>, String> {
    let text = self_signed(key, now).map_err(|error| error.to_string())?;
    write(path, &text, Access::Everyone)?;
    Ok(text.into_bytes())
}

fn self_signed(key: &KeyPair, now: SystemTime) -> Result<String, rcgen::Error> {
    let mut params = CertificateParams::default();
    let mut subject = DistinguishedName::new();
    subject.push(DnType::CommonName, name(&params.key_identifier(key)));
    params.distinguished_name = subject;
    // It signs certificates of servers, not further CAs.
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.not_before = (now - DAY).into();
    params.not_after = (now + LIFETIME).into();
    Ok(params.self_signed(key)?.pem())
}

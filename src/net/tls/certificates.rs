//! Certificates: which certificate is served for which name.
//!
//! A client names the host that it wants (SNI). The certificate of that exact name is served, else
//! that of a wildcard one label up, else the first one: a client that names no host, or an unknown
//! one, sees a certificate that it can report. Several certificates of one name, such as one of RSA
//! and one of ECDSA, are told apart by the signatures that the client knows.
//!
//! Certificates from files come before those that ACME obtained. The answers to ACME's
//! `tls-alpn-01` challenges (RFC 8737) are apart from both: only a client that offers nothing but
//! the protocol `acme-tls/1` gets one, and it gets nothing else.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use super::certificate::Certificate;
use super::handshake_facts::record_server_name;

/// The protocol of ACME's `tls-alpn-01` challenges (RFC 8737 §6.2).
pub(super) const ACME_TLS: &[u8] = b"acme-tls/1";

/// The most challenges under way.
const CHALLENGES_MAX: usize = 256;

/// The certificates of a server. Each handshake reads them without a lock; changes are rare.
#[derive(Default)]
pub(crate) struct Certificates {
    served: ArcSwap<Served>,
    sources: Mutex<Sources>,
}

/// Where the served certificates come from.
#[derive(Default)]
struct Sources {
    files: Vec<Arc<Certificate>>,
    obtained: Vec<Arc<Certificate>>,
    challenges: HashMap<String, Arc<Certificate>>,
}

/// The certificates by name.
#[derive(Default)]
struct Served {
    /// By exact name, and by wildcard with its `*`, in the order of the sources.
    by_name: HashMap<String, Vec<Arc<CertifiedKey>>>,
    all: Vec<Arc<CertifiedKey>>,
    challenges: HashMap<String, Arc<CertifiedKey>>,
}

impl Certificates {
    /// Replaces the certificates from files. Returns whether they differ.
    pub(crate) fn replace_files(&self, files: Vec<Arc<Certificate>>) -> bool {
        let mut is_changed = false;
        self.change(|sources| {
            let chains = |files: &[Arc<Certificate>]| {
                let chain = |file: &Arc<Certificate>| file.key().cert.clone();
                files.iter().map(chain).collect::<Vec<_>>()
            };
            is_changed = chains(&sources.files) != chains(&files);
            sources.files = files;
        });
        is_changed
    }

    /// Replaces all certificates that ACME obtained.
    pub(crate) fn set_obtained(&self, obtained: Vec<Arc<Certificate>>) {
        self.change(|sources| sources.obtained = obtained);
    }

    /// Answers the challenge for a name with this certificate. Returns `false` if 256 others are
    /// under way.
    pub(crate) fn set_challenge(&self, name: &str, certificate: Certificate) -> bool {
        let name = name.to_ascii_lowercase();
        let mut is_set = true;
        self.change(|sources| {
            let challenges = &mut sources.challenges;
            is_set = challenges.len() < CHALLENGES_MAX || challenges.contains_key(&name);
            if is_set {
                challenges.insert(name, Arc::new(certificate));
            }
        });
        is_set
    }

    /// Answers the challenge for a name no longer.
    pub(crate) fn remove_challenge(&self, name: &str) {
        self.change(|sources| {
            sources.challenges.remove(&name.to_ascii_lowercase());
        });
    }

    /// Returns whether a certificate from a file is valid for a name, also by a wildcard.
    pub(crate) fn has_file_for(&self, name: &str) -> bool {
        let sources = self.sources.lock();
        sources.files.iter().any(|file| file.facts().covers(name))
    }

    /// Returns the certificates that are served, those from files first.
    pub(crate) fn all(&self) -> Vec<Arc<Certificate>> {
        let sources = self.sources.lock();
        sources
            .files
            .iter()
            .chain(&sources.obtained)
            .cloned()
            .collect()
    }

    fn change(&self, change: impl FnOnce(&mut Sources)) {
        let mut sources = self.sources.lock();
        change(&mut sources);
        self.served.store(Arc::new(Served::new(&sources)));
    }
}

impl Served {
    fn new(sources: &Sources) -> Self {
        let mut served = Self::default();
        for certificate in sources.files.iter().chain(&sources.obtained) {
            let key = certificate.key();
            for name in &certificate.facts().names {
                let keys = served.by_name.entry(name.clone()).or_default();
                keys.push(key.clone());
            }
            served.all.push(key.clone());
        }
        for (name, certificate) in &sources.challenges {
            let key = certificate.key().clone();
            served.challenges.insert(name.clone(), key);
        }
        served
    }

    /// Returns the certificates of a name, best first; all of them if none has the name.
    fn of_name(&self, name: Option<&str>) -> &[Arc<CertifiedKey>] {
        let Some(name) = name.map(str::to_ascii_lowercase) else {
            return &self.all;
        };
        if let Some(keys) = self.by_name.get(&name) {
            return keys;
        }
        let wildcard = name
            .split_once('.')
            .map(|(_, parent)| format!("*.{parent}"));
        wildcard
            .and_then(|wildcard| self.by_name.get(&wildcard))
            .unwrap_or(&self.all)
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        record_server_name(hello.server_name());
        let served = self.served.load();
        if is_challenge(&hello) {
            let name = hello.server_name()?.to_ascii_lowercase();
            return served.challenges.get(&name).cloned();
        }
        let keys = served.of_name(hello.server_name());
        let schemes = hello.signature_schemes();
        let fitting = keys
            .iter()
            .find(|key| key.key.choose_scheme(schemes).is_some());
        fitting.or(keys.first()).cloned()
    }
}

/// Returns whether a client asks for the answer to a challenge.
fn is_challenge(hello: &ClientHello<'_>) -> bool {
    hello.alpn().is_some_and(|mut protocols| {
        protocols.next() == Some(ACME_TLS) && protocols.next().is_none()
    })
}

impl fmt::Debug for Certificates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.all()).finish()
    }
}

#[cfg(test)]
mod tests;

//! Files: what `[server.tls]` names, read and checked.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rustls::RootCertStore;
use thiserror::Error;

use super::certificate::{Certificate, CertificateRefusal, parse_chain, read_file};
use crate::file_stamp::FileStamp;

/// The files that `[server.tls]` names.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct TlsPaths {
    /// Each certificate with its private key.
    pub(crate) certificates: Vec<(PathBuf, PathBuf)>,
    /// The authorities that sign the certificates of clients.
    pub(crate) client_ca: Option<PathBuf>,
}

/// The contents of those files, checked.
#[derive(Clone, Debug, Default)]
pub(crate) struct TlsFiles {
    /// The certificates, in their order.
    pub(crate) certificates: Vec<Arc<Certificate>>,
    pub(super) client_authorities: Option<Arc<ClientAuthorities>>,
    /// The files before they were read: a change meanwhile is seen by the next look.
    pub(super) stamps: FileStamps,
    /// Counts the reads of the process.
    pub(super) version: u64,
}

/// The state of each file; `None` for one that is missing.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct FileStamps(Vec<(PathBuf, Option<FileStamp>)>);

impl FileStamps {
    /// Returns whether both are of the same files.
    pub(super) fn has_same_paths(&self, other: &Self) -> bool {
        let paths = self.0.iter().map(|(path, _)| path);
        paths.eq(other.0.iter().map(|(path, _)| path))
    }
}

/// The authorities that sign the certificates of clients.
pub(super) struct ClientAuthorities {
    pub(super) roots: Arc<RootCertStore>,
    /// The certificates, to detect a change.
    pub(super) text: Vec<u8>,
}

impl fmt::Debug for ClientAuthorities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientAuthorities")
            .field("count", &self.roots.len())
            .finish_non_exhaustive()
    }
}

/// Which of the files is wrong, and why.
#[derive(Debug, Error)]
pub(crate) enum TlsFilesRefusal {
    /// One of the certificates, by its place.
    #[error("{1}")]
    Certificate(usize, CertificateRefusal),
    /// `client_ca`.
    #[error("{0}")]
    ClientCa(String),
}

impl TlsPaths {
    /// Reads all files. Returns what is wrong with each. Blocks.
    pub(crate) fn read(&self) -> Result<TlsFiles, Vec<TlsFilesRefusal>> {
        static READS: AtomicU64 = AtomicU64::new(0);
        let mut files = TlsFiles {
            version: READS.fetch_add(1, Ordering::Relaxed),
            stamps: self.stamps(),
            ..TlsFiles::default()
        };
        let mut refusals = Vec::new();
        for (at, (certificate, key)) in self.certificates.iter().enumerate() {
            match Certificate::read(certificate, key) {
                Ok(certificate) => files.certificates.push(Arc::new(certificate)),
                Err(refusal) => refusals.push(TlsFilesRefusal::Certificate(at, refusal)),
            }
        }
        if let Some(client_ca) = &self.client_ca {
            match ClientAuthorities::read(client_ca) {
                Ok(authorities) => files.client_authorities = Some(Arc::new(authorities)),
                Err(sentence) => refusals.push(TlsFilesRefusal::ClientCa(sentence)),
            }
        }
        if refusals.is_empty() {
            Ok(files)
        } else {
            Err(refusals)
        }
    }

    /// Returns the state of all files. Blocks.
    pub(crate) fn stamps(&self) -> FileStamps {
        let paths = self
            .certificates
            .iter()
            .flat_map(|(certificate, key)| [certificate, key])
            .chain(&self.client_ca);
        let stamp = |path: &PathBuf| (path.clone(), FileStamp::of(path));
        FileStamps(paths.map(stamp).collect())
    }
}

impl ClientAuthorities {
    fn read(path: &Path) -> Result<Self, String> {
        let refuse = |why: String| format!("{}: {why}", path.display());
        let text = read_file(path)?;
        let mut roots = RootCertStore::empty();
        for (at, der) in parse_chain(&text).map_err(refuse)?.into_iter().enumerate() {
            roots.add(der).map_err(|error| {
                refuse(format!(
                    "expected certificates of authorities, found another in place {}: {error}",
                    at + 1
                ))
            })?;
        }
        let roots = Arc::new(roots);
        Ok(Self { roots, text })
    }
}

//! TLS: reads the files of `[server.tls]`.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use http::HeaderValue;

use super::compiler::Compiler;
use crate::config::{AcmeConfig, Problem, SourceLocation, TlsConfig};
use crate::gateway::table::TlsSettings;
use crate::host::{AllowedHosts, HostHeader};
use crate::net::{
    Certificate, ClientTls, ClientTlsSettings, Part, TlsFiles, TlsFilesRefusal, TlsPaths,
};

/// Where the file says what belongs to a certificate.
struct Written {
    certificate: SourceLocation,
    key: SourceLocation,
}

impl Compiler<'_> {
    /// Reads and checks the certificates; `None` without `[server.tls]`, or if one is wrong.
    pub(super) fn tls(&mut self) -> Option<Arc<TlsSettings>> {
        let tls = self.config.server.tls.as_ref()?;
        let section = self.config.server.location.key("tls");
        if self.error_locations.overlaps(&section) {
            return None;
        }
        let (paths, written) = self.paths(tls, &section)?;
        let files = match paths.read() {
            Ok(files) => files,
            Err(refusals) => {
                self.report(&section, &written, refusals);
                return None;
            }
        };
        self.warn(&paths, &files, &written);
        if let Some(acme) = &tls.acme {
            self.acme(acme, &section.key("acme"), &files);
        }
        Some(Arc::new(TlsSettings {
            paths,
            files,
            plaintext: tls.plaintext,
            hsts: hsts(tls),
        }))
    }

    /// Returns the files in the order in which they are served, each with its place.
    fn paths(
        &mut self,
        tls: &TlsConfig,
        section: &SourceLocation,
    ) -> Option<(TlsPaths, Vec<Written>)> {
        let mut paths = TlsPaths {
            client_ca: tls.client_ca.clone().map(PathBuf::from),
            ..TlsPaths::default()
        };
        let mut written = Vec::new();
        match (&tls.certificate, &tls.key) {
            (Some(certificate), Some(key)) => {
                paths
                    .certificates
                    .push((certificate.clone().into(), key.clone().into()));
                written.push(Written {
                    certificate: section.key("certificate"),
                    key: section.key("key"),
                });
            }
            (None, None) => {}
            (certificate, _) => {
                let (found, missing) = match certificate {
                    Some(_) => ("certificate", "key"),
                    None => ("key", "certificate"),
                };
                let message = format!("expected {missing:?} beside {found:?}, found none");
                self.problems.error(section.key(found), message);
                return None;
            }
        }
        for (at, pair) in tls.certificates.iter().enumerate() {
            let location = section.key("certificates").index(at);
            paths
                .certificates
                .push((pair.certificate.clone().into(), pair.key.clone().into()));
            written.push(Written {
                certificate: location.key("certificate"),
                key: location.key("key"),
            });
        }
        if written.is_empty() && tls.acme.is_none() {
            let message = "expected \"certificate\" and \"key\", \"certificates\", or a section [server.tls.acme], found none";
            self.problems.error(section.clone(), message);
            return None;
        }
        Some((paths, written))
    }

    /// Checks the domains whose certificates the server obtains by itself.
    fn acme(&mut self, acme: &AcmeConfig, section: &SourceLocation, files: &TlsFiles) {
        if acme.domains.is_empty() {
            let message = "missing key \"domains\"";
            self.problems.error(section.clone(), message);
        }
        if let Some(ca) = &acme.ca {
            let settings = ClientTlsSettings {
                ca: Some(ca.as_ref().to_owned()),
                ..ClientTlsSettings::default()
            };
            if let Err(error) = ClientTls::new("localhost", &settings) {
                self.problems.error(section.key("ca"), error.to_string());
            }
        }
        let allowed = AllowedHosts::new(&self.config.server.allowed_hosts);
        for domain in &acme.domains {
            let location = section.key("domains");
            if HostHeader::parse(domain).is_ok_and(|host| !allowed.allows(&host)) {
                let message = format!("{domain} is not in server.allowed_hosts: requests get 400");
                self.problems.warning(location.clone(), message);
            }
            let has_name = |file: &Arc<Certificate>| file.facts().covers(domain);
            if files.certificates.iter().any(has_name) {
                let message = format!(
                    "{domain} has a certificate from a file, which is served; none is obtained"
                );
                self.problems.warning(location, message);
            }
        }
    }

    fn report(
        &mut self,
        section: &SourceLocation,
        written: &[Written],
        refusals: Vec<TlsFilesRefusal>,
    ) {
        for refusal in refusals {
            let (location, message) = match refusal {
                TlsFilesRefusal::Certificate(at, refusal) => {
                    let location = written.get(at).map(|written| match refusal.part {
                        Part::Certificate => written.certificate.clone(),
                        Part::Key => written.key.clone(),
                    });
                    (location, refusal.to_string())
                }
                TlsFilesRefusal::ClientCa(sentence) => (Some(section.key("client_ca")), sentence),
            };
            self.problems
                .error(location.unwrap_or_else(|| section.clone()), message);
        }
    }

    /// Warns about certificates outside their lifetime, chains out of order, and keys that every
    /// user of the machine can read.
    fn warn(&mut self, paths: &TlsPaths, files: &TlsFiles, written: &[Written]) {
        let now = SystemTime::now();
        for ((certificate, written), (_, key)) in files
            .certificates
            .iter()
            .zip(written)
            .zip(&paths.certificates)
        {
            if let Some(warning) = certificate.warning(now) {
                self.problems.warning(written.certificate.clone(), warning);
            }
            if is_readable_by_all(key) {
                let message = format!(
                    "expected a private key that others cannot read, found {}",
                    key.display()
                );
                let problem = Problem::warning(written.key.clone(), message);
                self.problems
                    .push(problem.with_hint(format!("chmod 640 {}", key.display())));
            }
        }
    }
}

fn is_readable_by_all(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|found| found.permissions().mode() & 0o004 != 0)
}

/// Returns the value of `Strict-Transport-Security`.
fn hsts(tls: &TlsConfig) -> Option<HeaderValue> {
    let seconds = tls.hsts.as_secs();
    (seconds > 0).then(|| HeaderValue::from_str(&format!("max-age={seconds}")).ok())?
}

//! Tests of the files in use: which are served when two have read them.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::CertificateDer;

use super::ServerTls;
use crate::net::tls::files::TlsPaths;

/// A directory with the files of one certificate, removed at the end.
struct Directory(PathBuf);

impl Directory {
    fn new() -> Self {
        let path = std::env::temp_dir().join(format!("oneport-tls-{:016x}", fastrand::u64(..)));
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn paths(&self, name: &str) -> TlsPaths {
        TlsPaths {
            certificates: vec![(self.0.join(format!("{name}.pem")), self.0.join("key.pem"))],
            client_ca: None,
        }
    }

    /// Writes a new certificate, and returns it.
    fn write(&self, name: &str) -> CertificateDer<'static> {
        let made = rcgen::generate_simple_self_signed(["a.test".to_owned()]).unwrap();
        let write = |path: &Path, text| std::fs::write(path, text).unwrap();
        write(&self.0.join(format!("{name}.pem")), made.cert.pem());
        write(&self.0.join("key.pem"), made.signing_key.serialize_pem());
        made.cert.into()
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn served(tls: &ServerTls) -> CertificateDer<'static> {
    tls.certificates.all()[0].key().cert[0].clone()
}

#[test]
fn change_after_the_first_read_differs_from_what_is_in_use() {
    let directory = Directory::new();
    directory.write("cert");
    let paths = directory.paths("cert");
    let read = paths.read().unwrap();
    let new = directory.write("cert");
    let tls = ServerTls::new(Arc::default(), &read).unwrap();
    assert_ne!(paths.stamps(), tls.applied());
    assert!(tls.refresh(&paths.read().unwrap()).unwrap());
    assert_eq!(paths.stamps(), tls.applied());
    assert_eq!(served(&tls), new);
    assert!(!tls.refresh(&paths.read().unwrap()).unwrap(), "no change");
}

#[test]
fn reload_that_read_earlier_puts_no_older_files_back() {
    let directory = Directory::new();
    directory.write("cert");
    let paths = directory.paths("cert");
    let tls = ServerTls::new(Arc::default(), &paths.read().unwrap()).unwrap();
    let of_reload = paths.read().unwrap();
    let new = directory.write("cert");
    assert!(tls.refresh(&paths.read().unwrap()).unwrap());
    assert!(!tls.apply(&of_reload).unwrap());
    assert_eq!(served(&tls), new);
}

#[test]
fn files_of_a_reload_replace_those_of_other_paths_whenever_they_were_read() {
    let directory = Directory::new();
    directory.write("cert");
    let old = directory.paths("cert");
    let tls = ServerTls::new(Arc::default(), &old.read().unwrap()).unwrap();
    let late = old.read().unwrap();
    let new = directory.write("other");
    assert!(
        tls.apply(&directory.paths("other").read().unwrap())
            .unwrap()
    );
    assert!(!tls.refresh(&late).unwrap(), "the watch read the old paths");
    assert_eq!(served(&tls), new);
}

//! `oneport dev-cert`: a local CA, and a certificate for development.
//!
//! ```text
//! ca.pem, ca.key      made once; browsers trust ca.pem
//! cert.pem, key.pem   made by the first run; a later one makes a new cert.pem if the old one ends
//!                     soon, lacks a name, or was signed by another CA
//! ```
//!
//! A new `cert.pem` keeps its key: it is replaced by one rename, so a running server never reads a
//! pair that does not match.

mod authority;
mod leaf;
mod names;

use std::fs;
use std::io;
use std::path::Path;
use std::time::SystemTime;

use rcgen::KeyPair;

use self::authority::Authority;
use self::leaf::{Leaf, Made};
use super::arguments::DevCertArguments;
use super::output::{print, print_error};
use super::{FAILURE, OK, USAGE};
use crate::atomic_file::{self, Access};
use crate::net::CertificateFacts;
use crate::timestamp::Timestamp;

/// The names that every certificate has.
const NAMES: [&str; 3] = ["localhost", "127.0.0.1", "::1"];

pub(super) fn run(arguments: &DevCertArguments) -> u8 {
    let mut names = NAMES.map(str::to_owned).to_vec();
    for name in &arguments.names {
        match names::parse(name) {
            Ok(name) if names.contains(&name) => {}
            Ok(name) => names.push(name),
            Err(sentence) => {
                print_error(&format!("oneport dev-cert: {sentence}"));
                return USAGE;
            }
        }
    }
    match make(&arguments.dir, names, SystemTime::now()) {
        Ok(done) => {
            print(&done);
            OK
        }
        Err(sentence) => {
            print_error(&format!("oneport dev-cert: {sentence}"));
            FAILURE
        }
    }
}

/// Makes what is missing. Returns the text to print.
fn make(dir: &Path, names: Vec<String>, now: SystemTime) -> Result<String, String> {
    fs::create_dir_all(dir).map_err(|error| format!("cannot create {}: {error}", dir.display()))?;
    let authority = Authority::open(dir, now)?;
    let (leaf, made) = Leaf::open(dir, names, &authority, now)?;
    let dir = fs::canonicalize(dir).unwrap_or_else(|_| dir.to_owned());
    Ok(report(&dir, &authority, &leaf, made))
}

fn report(dir: &Path, authority: &Authority, leaf: &Leaf, made: Made) -> String {
    let names = leaf.facts.names.join(", ");
    let until = Timestamp::from(leaf.facts.not_after).to_string();
    let until = until.split('T').next().unwrap_or_default();
    let made = match made {
        Made::Now => "a new certificate",
        Made::Before => "the certificate is still good:",
    };
    let dir = dir.display();
    let name = &authority.name;
    format!(
        "{made} for {names}, until {until}

[server.tls]
certificate = \"{dir}/cert.pem\"
key         = \"{dir}/key.pem\"

The CA is {dir}/ca.pem. With {dir}/ca.key, a program can pass for any site in a
browser that trusts the CA: keep this key on this machine. To trust the CA:

  curl      curl --cacert {dir}/ca.pem https://localhost:8000/
  Chromium  certutil -d sql:$HOME/.pki/nssdb -A -t C,, -n '{name}' -i {dir}/ca.pem
  Firefox   Settings, Privacy & Security, View Certificates, Authorities, Import
  Debian    cp {dir}/ca.pem /usr/local/share/ca-certificates/oneport-dev.crt && update-ca-certificates
  macOS     security add-trusted-cert -k ~/Library/Keychains/login.keychain-db {dir}/ca.pem
  Python    SSL_CERT_FILE={dir}/ca.pem
  Node      NODE_EXTRA_CA_CERTS={dir}/ca.pem"
    )
}

/// Reads a file that may be missing.
fn read(path: &Path) -> Result<Option<Vec<u8>>, String> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(format!("cannot read {}: {error}", path.display())),
    }
}

fn write(path: &Path, text: &str, access: Access) -> Result<(), String> {
    atomic_file::write(path, text.as_bytes(), access)
        .map_err(|error| format!("cannot write {}: {error}", path.display()))
}

/// Parses a private key in PEM.
fn key_pair(path: &Path, text: &[u8]) -> Result<KeyPair, String> {
    std::str::from_utf8(text)
        .ok()
        .and_then(|text| KeyPair::from_pem(text).ok())
        .ok_or_else(|| format!("{}: expected a private key in PEM (PKCS#8)", path.display()))
}

fn facts(path: &Path, text: &[u8]) -> Result<CertificateFacts, String> {
    CertificateFacts::from_pem(text).map_err(|error| format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests;

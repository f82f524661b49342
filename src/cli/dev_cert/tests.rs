//! What a run leaves in its directory, and when a later run changes it.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::Duration;

use super::*;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

struct Dir(PathBuf);

impl Dir {
    fn new() -> Self {
        let name = format!("oneport-dev-cert-{:016x}", fastrand::u64(..));
        Self(std::env::temp_dir().join(name))
    }

    /// Runs the command, `days` from now.
    fn run(&self, names: &[&str], days: u32) -> Result<String, String> {
        let all = NAMES.iter().chain(names).map(ToString::to_string);
        make(&self.0, all.collect(), SystemTime::now() + DAY * days)
    }

    fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.0.join(name)).unwrap()
    }

    fn facts(&self, name: &str) -> CertificateFacts {
        CertificateFacts::from_pem(&self.read(name)).unwrap()
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn first_run_makes_a_ca_and_a_certificate_and_hides_the_keys() {
    let dir = Dir::new();
    let text = dir.run(&["chat.test"], 0).unwrap();
    assert!(
        text.starts_with("a new certificate for localhost, 127.0.0.1, ::1, chat.test, until 20"),
        "{text}"
    );
    let mut files: Vec<_> = fs::read_dir(&dir.0)
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    files.sort();
    assert_eq!(files, ["ca.key", "ca.pem", "cert.pem", "key.pem"]);
    for key in ["ca.key", "key.pem"] {
        let mode = fs::metadata(dir.0.join(key)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{key}");
    }
    let (ca, leaf) = (dir.facts("ca.pem"), dir.facts("cert.pem"));
    assert_eq!(leaf.names, ["localhost", "127.0.0.1", "::1", "chat.test"]);
    assert_eq!(leaf.authority_key_id, ca.subject_key_id);
    assert!(leaf.remaining(SystemTime::now()) > DAY * 396);
    assert!(ca.remaining(SystemTime::now()) > DAY * 3650);
}

#[test]
fn later_run_keeps_what_is_good() {
    let dir = Dir::new();
    dir.run(&["chat.test"], 0).unwrap();
    let before = [dir.read("ca.pem"), dir.read("cert.pem")];
    let text = dir.run(&[], 360).unwrap();
    assert!(
        text.starts_with("the certificate is still good: for"),
        "{text}"
    );
    assert_eq!([dir.read("ca.pem"), dir.read("cert.pem")], before);
}

#[test]
fn certificate_near_its_end_is_renewed_with_its_names_and_key() {
    let dir = Dir::new();
    dir.run(&["chat.test"], 0).unwrap();
    let (ca, key) = (dir.read("ca.pem"), dir.read("key.pem"));
    let text = dir.run(&["b.test"], 370).unwrap();
    assert!(text.starts_with("a new certificate for "), "{text}");
    let leaf = dir.facts("cert.pem");
    assert!(leaf.has_name("chat.test") && leaf.has_name("b.test"));
    assert!(leaf.remaining(SystemTime::now() + DAY * 370) > DAY * 396);
    assert_eq!([dir.read("ca.pem"), dir.read("key.pem")], [ca, key]);
}

#[test]
fn further_name_makes_a_new_certificate() {
    let dir = Dir::new();
    dir.run(&[], 0).unwrap();
    dir.run(&["b.test"], 0).unwrap();
    assert!(dir.facts("cert.pem").has_name("b.test"));
}

#[test]
fn another_ca_signs_a_new_certificate() {
    let dir = Dir::new();
    dir.run(&[], 0).unwrap();
    fs::remove_file(dir.0.join("ca.pem")).unwrap();
    dir.run(&[], 0).unwrap();
    assert_eq!(
        dir.facts("cert.pem").authority_key_id,
        dir.facts("ca.pem").subject_key_id
    );
}

#[test]
fn ca_near_its_end_signs_nothing() {
    let dir = Dir::new();
    dir.run(&[], 0).unwrap();
    // The last certificate ends no later than its CA.
    dir.run(&[], 3500).unwrap();
    assert_eq!(
        dir.facts("cert.pem").not_after,
        dir.facts("ca.pem").not_after
    );
    let error = dir.run(&[], 3640).unwrap_err();
    assert!(error.contains("ends in 11 days; remove it"), "{error}");
}

#[test]
fn broken_files_are_named_and_kept() {
    let dir = Dir::new();
    dir.run(&[], 0).unwrap();
    for (file, text, expected) in [
        ("cert.pem", "", "cert.pem: expected a certificate in PEM"),
        ("key.pem", "x", "key.pem: expected a private key in PEM"),
        ("ca.key", "x", "ca.key: expected a private key in PEM"),
        ("ca.pem", "x", "ca.pem: expected a certificate in PEM"),
    ] {
        let path = dir.0.join(file);
        let before = fs::read(&path).unwrap();
        fs::write(&path, text).unwrap();
        let error = dir.run(&["new.test"], 0).unwrap_err();
        assert!(error.contains(expected), "{file}: {error}");
        assert_eq!(fs::read(&path).unwrap(), text.as_bytes());
        fs::write(&path, before).unwrap();
    }
    fs::remove_file(dir.0.join("ca.key")).unwrap();
    let error = dir.run(&[], 0).unwrap_err();
    assert!(error.contains("expected the CA's key"), "{error}");
}

#[test]
fn certificate_of_another_maker_is_not_overwritten() {
    let dir = Dir::new();
    fs::create_dir(&dir.0).unwrap();
    let own = rcgen::generate_simple_self_signed(["own.test".to_owned()]).unwrap();
    fs::write(dir.0.join("cert.pem"), own.cert.pem()).unwrap();
    let error = dir.run(&[], 0).unwrap_err();
    assert!(error.contains("was not made by this command"), "{error}");
    assert_eq!(dir.read("cert.pem"), own.cert.pem().as_bytes());
}

/// A certificate that another CA signed, as those of a real site are.
#[test]
fn certificate_of_another_ca_is_not_overwritten() {
    let dir = Dir::new();
    fs::create_dir(&dir.0).unwrap();
    let issuer = rcgen::CertifiedIssuer::self_signed(
        rcgen::CertificateParams::default(),
        KeyPair::generate().unwrap(),
    )
    .unwrap();
    let mut params = rcgen::CertificateParams::new(["own.test".to_owned()]).unwrap();
    params.use_authority_key_identifier_extension = true;
    let key = KeyPair::generate().unwrap();
    let own = params.signed_by(&key, &issuer).unwrap().pem();
    for name in ["cert.pem", "ca.pem"] {
        fs::write(dir.0.join(name), &own).unwrap();
        fs::write(dir.0.join("ca.key"), key.serialize_pem()).unwrap();
        let error = dir.run(&[], 0).unwrap_err();
        assert!(error.contains("was not made by this command"), "{error}");
        assert_eq!(dir.read(name), own.as_bytes());
        assert_eq!(dir.read("ca.key"), key.serialize_pem().as_bytes());
        fs::remove_file(dir.0.join("ca.pem")).unwrap();
        fs::remove_file(dir.0.join("cert.pem")).unwrap_or_default();
    }
}

#[test]
fn file_in_place_of_the_directory_is_an_error() {
    let dir = Dir::new();
    fs::write(&dir.0, "").unwrap();
    let error = dir.run(&[], 0).unwrap_err();
    assert!(error.starts_with("cannot create "), "{error}");
    fs::remove_file(&dir.0).unwrap();
}

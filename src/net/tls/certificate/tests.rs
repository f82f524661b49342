//! Tests of certificates: every kind of key, and every mistake in the files.

use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair,
    PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519,
};

use super::{Certificate, Part};

/// Keys of OpenSSL, for encodings that the test's own generator does not write.
const RSA_PKCS1: &str = include_str!("rsa.pkcs1.pem");
const RSA_CERTIFICATE: &str = include_str!("rsa.cert.pem");
const EC_SEC1: &str = include_str!("ec.sec1.pem");
const EC_CERTIFICATE: &str = include_str!("ec.cert.pem");
const ENCRYPTED_PKCS8: &str = include_str!("encrypted.pkcs8.pem");
const ENCRYPTED_SEC1: &str = include_str!("encrypted.sec1.pem");

fn authority() -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::new([]).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params
        .distinguished_name
        .push(DnType::CommonName, "authority");
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

fn self_signed(name: &str) -> (String, String) {
    let made = rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
    (made.cert.pem(), made.signing_key.serialize_pem())
}

fn refusal(chain: &str, key: &str) -> (Part, String) {
    let refusal = Certificate::from_pem(chain.as_bytes(), key.as_bytes()).unwrap_err();
    (refusal.part, refusal.to_string())
}

#[test]
fn keys_of_every_kind_are_served() {
    for algorithm in [
        &PKCS_ECDSA_P256_SHA256,
        &PKCS_ECDSA_P384_SHA384,
        &PKCS_ED25519,
    ] {
        let key = KeyPair::generate_for(algorithm).unwrap();
        let params = CertificateParams::new(["A.Example".to_owned()]).unwrap();
        let chain = params.self_signed(&key).unwrap().pem();
        let read = Certificate::from_pem(chain.as_bytes(), key.serialize_pem().as_bytes()).unwrap();
        assert_eq!(read.name(), "a.example");
        assert_eq!(read.warning(SystemTime::now()), None);
    }
    for (chain, key) in [(RSA_CERTIFICATE, RSA_PKCS1), (EC_CERTIFICATE, EC_SEC1)] {
        let read = Certificate::from_pem(chain.as_bytes(), key.as_bytes()).unwrap();
        assert_eq!(read.name(), "openssl.example");
    }
}

#[test]
fn key_that_browsers_do_not_take_is_refused() {
    let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P521_SHA512).unwrap();
    let params = CertificateParams::new(["a.example".to_owned()]).unwrap();
    let chain = params.self_signed(&key).unwrap().pem();
    let (part, sentence) = refusal(&chain, &key.serialize_pem());
    assert_eq!(part, Part::Key);
    assert!(sentence.ends_with("found one of P-521"), "{sentence}");
}

#[test]
fn mistakes_name_the_file_and_what_it_should_hold() {
    let (chain, key) = self_signed("a.example");
    let (other_chain, other_key) = self_signed("b.example");
    let cut = &chain[..chain.len() / 2];
    let check = |chain: &str, key: &str, part, expected: &str| {
        let (found, sentence) = refusal(chain, key);
        assert_eq!(found, part, "{sentence}");
        assert!(sentence.contains(expected), "{expected:?}: {sentence}");
    };
    check("", &key, Part::Certificate, "found none");
    check(&key, &key, Part::Certificate, "found a private key");
    check(cut, &key, Part::Certificate, "found one that is cut off");
    check(
        "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
        &key,
        Part::Certificate,
        "X.509",
    );
    check(&chain, "", Part::Key, "found none");
    check(&chain, &chain, Part::Key, "found a certificate");
    check(
        &chain,
        &key[..key.len() / 2],
        Part::Key,
        "found one that is cut off",
    );
    check(&chain, &other_key, Part::Key, "found that of another");
    check(&chain, ENCRYPTED_PKCS8, Part::Key, "found an encrypted one");
    check(&chain, ENCRYPTED_SEC1, Part::Key, "found an encrypted one");
    check(
        &chain,
        "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
        Part::Key,
        "RSA (2048 bits or more)",
    );
    check(
        &(other_chain + &chain),
        &key,
        Part::Certificate,
        "found it in place 2",
    );
}

#[test]
fn a_chain_out_of_order_is_a_warning() {
    let authority = authority();
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(["a.example".to_owned()]).unwrap();
    let leaf = params.signed_by(&key, &authority).unwrap().pem();
    let (stranger, _) = self_signed("b.example");
    let read = |chain: String| {
        let key = key.serialize_pem();
        Certificate::from_pem(chain.as_bytes(), key.as_bytes()).unwrap()
    };
    let now = SystemTime::now();
    assert_eq!(read(leaf.clone()).warning(now), None);
    assert_eq!(
        read(format!("{leaf}{}", authority.pem())).warning(now),
        None
    );
    let warning = read(format!("{leaf}{stranger}{}", authority.pem())).warning(now);
    assert!(warning.unwrap().contains("followed by its issuer"));
}

#[test]
fn a_lifetime_that_is_over_or_has_not_begun_is_a_warning() {
    let mut params = CertificateParams::new(["a.example".to_owned()]).unwrap();
    params.not_before = rcgen::date_time_ymd(2030, 1, 1);
    params.not_after = rcgen::date_time_ymd(2031, 1, 1);
    let key = KeyPair::generate().unwrap();
    let chain = params.self_signed(&key).unwrap().pem();
    let read = Certificate::from_pem(chain.as_bytes(), key.serialize_pem().as_bytes()).unwrap();
    let at = |seconds| read.warning(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds));
    assert_eq!(
        at(1_893_455_999).unwrap(),
        "the certificate of a.example is not valid before 2030-01-01T00:00:00Z"
    );
    assert_eq!(at(1_893_456_000), None);
    assert_eq!(
        at(1_924_992_000).unwrap(),
        "the certificate of a.example expired at 2031-01-01T00:00:00Z"
    );
}

#[test]
fn files_that_cannot_be_read_are_named() {
    let directory = std::env::temp_dir();
    let refusal = Certificate::read(&directory, &directory).unwrap_err();
    assert_eq!(refusal.part, Part::Certificate);
    assert!(
        refusal.to_string().ends_with("expected a regular file"),
        "{refusal}"
    );
    let missing = directory.join("oneport-no-such-file.pem");
    let refusal = Certificate::read(&missing, &missing).unwrap_err();
    assert!(refusal.to_string().starts_with("cannot read "), "{refusal}");
}

//! Tests of the choice: names, wildcards, kinds of keys, and challenges.

use std::sync::Arc;

use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ED25519, SignatureAlgorithm};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, Error, ServerConfig, ServerConnection,
    SignatureScheme,
};

use super::{ACME_TLS, Certificates};
use crate::net::tls::certificate::Certificate;
use crate::net::tls::provider::provider;

fn certificate_of(names: &[&str], algorithm: &'static SignatureAlgorithm) -> Certificate {
    let names: Vec<String> = names.iter().map(ToString::to_string).collect();
    let key = KeyPair::generate_for(algorithm).unwrap();
    let chain = CertificateParams::new(names)
        .unwrap()
        .self_signed(&key)
        .unwrap()
        .pem();
    Certificate::from_pem(chain.as_bytes(), key.serialize_pem().as_bytes()).unwrap()
}

fn certificate(names: &[&str]) -> Certificate {
    certificate_of(names, &PKCS_ECDSA_P256_SHA256)
}

/// Accepts every certificate, but only these signatures.
#[derive(Debug)]
struct Anyone(Vec<SignatureScheme>);

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.clone()
    }
}

const ECDSA: SignatureScheme = SignatureScheme::ECDSA_NISTP256_SHA256;

/// Returns the certificate that a client gets; `None` if its handshake fails.
fn served(
    certificates: &Arc<Certificates>,
    name: &str,
    protocols: &[&[u8]],
    schemes: &[SignatureScheme],
) -> Option<CertificateDer<'static>> {
    let mut config = ServerConfig::builder_with_provider(provider().clone())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_cert_resolver(certificates.clone());
    config.alpn_protocols = vec![b"h2".to_vec(), ACME_TLS.to_vec()];
    let mut client = ClientConfig::builder_with_provider(provider().clone())
        .with_safe_default_protocol_versions()
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anyone(schemes.to_vec())))
        .with_no_client_auth();
    client.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
    let mut server = ServerConnection::new(Arc::new(config)).unwrap();
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let mut client = ClientConnection::new(Arc::new(client), name).unwrap();
    for _ in 0..10 {
        let mut bytes = Vec::new();
        client.write_tls(&mut bytes).unwrap();
        server.read_tls(&mut &bytes[..]).unwrap();
        server.process_new_packets().ok()?;
        let mut bytes = Vec::new();
        server.write_tls(&mut bytes).unwrap();
        client.read_tls(&mut &bytes[..]).unwrap();
        client.process_new_packets().ok()?;
    }
    client.peer_certificates().map(|chain| chain[0].clone())
}

fn first(certificate: &Certificate) -> CertificateDer<'static> {
    certificate.key().cert[0].clone()
}

#[test]
fn the_name_selects_the_certificate() {
    let names: [&[&str]; 4] = [
        &["a.example", "www.a.example"],
        &["*.a.example"],
        &["b.example"],
        &["b.example", "c.example"],
    ];
    let files: Vec<_> = names
        .iter()
        .map(|names| Arc::new(certificate(names)))
        .collect();
    let certificates = Arc::new(Certificates::default());
    assert_eq!(served(&certificates, "a.example", &[], &[ECDSA]), None);
    assert!(certificates.replace_files(files.clone()));
    assert!(!certificates.replace_files(files.clone()));
    for (name, expected) in [
        ("a.example", 0),
        ("A.EXAMPLE", 0),
        ("www.a.example", 0),
        ("chat.a.example", 1),
        ("x.chat.a.example", 0),
        ("b.example", 2),
        ("c.example", 3),
        ("d.example", 0),
        ("192.0.2.1", 0),
    ] {
        let found = served(&certificates, name, &[], &[ECDSA]);
        assert_eq!(found, Some(first(&files[expected])), "{name}");
    }
    // Files come first; what was obtained is served for other names.
    let obtained = [&["b.example"], &["new.example"]].map(|names| Arc::new(certificate(names)));
    certificates.set_obtained(obtained.to_vec());
    let found = |name| served(&certificates, name, &[], &[ECDSA]);
    assert_eq!(found("b.example"), Some(first(&files[2])));
    assert_eq!(found("new.example"), Some(first(&obtained[1])));
    certificates.replace_files(Vec::new());
    assert_eq!(found("b.example"), Some(first(&obtained[0])));
    assert_eq!(found("unknown.example"), Some(first(&obtained[0])));
}

#[test]
fn the_signatures_of_the_client_select_among_the_certificates_of_a_name() {
    let edwards = Arc::new(certificate_of(&["a.example"], &PKCS_ED25519));
    let ecdsa = Arc::new(certificate_of(&["a.example"], &PKCS_ECDSA_P256_SHA256));
    let certificates = Arc::new(Certificates::default());
    certificates.replace_files(vec![edwards.clone(), ecdsa.clone()]);
    let found = |schemes: &[SignatureScheme]| served(&certificates, "a.example", &[], schemes);
    assert_eq!(found(&[ECDSA]), Some(first(&ecdsa)));
    assert_eq!(found(&[SignatureScheme::ED25519]), Some(first(&edwards)));
    assert_eq!(
        found(&[ECDSA, SignatureScheme::ED25519]),
        Some(first(&edwards))
    );
    assert_eq!(found(&[SignatureScheme::RSA_PSS_SHA256]), None);
}

#[test]
fn a_challenge_is_answered_to_its_protocol_alone() {
    let (file, challenge) = (
        Arc::new(certificate(&["a.example"])),
        certificate(&["a.example"]),
    );
    let answer = first(&challenge);
    let certificates = Arc::new(Certificates::default());
    certificates.replace_files(vec![file.clone()]);
    let found = |name, protocols: &[&[u8]]| served(&certificates, name, protocols, &[ECDSA]);
    assert_eq!(found("a.example", &[ACME_TLS]), None);
    assert!(certificates.set_challenge("A.example", challenge));
    assert_eq!(found("a.example", &[ACME_TLS]), Some(answer));
    assert_eq!(found("b.example", &[ACME_TLS]), None);
    assert_eq!(found("a.example", &[ACME_TLS, b"h2"]), Some(first(&file)));
    assert_eq!(found("a.example", &[]), Some(first(&file)));
    certificates.remove_challenge("a.Example");
    assert_eq!(found("a.example", &[ACME_TLS]), None);
}

#[test]
fn challenges_are_bounded() {
    let certificates = Certificates::default();
    let key = KeyPair::generate().unwrap();
    let chain = CertificateParams::new(["a".to_owned()])
        .unwrap()
        .self_signed(&key)
        .unwrap()
        .pem();
    let answer =
        || Certificate::from_pem(chain.as_bytes(), key.serialize_pem().as_bytes()).unwrap();
    for number in 0..super::CHALLENGES_MAX {
        assert!(certificates.set_challenge(&format!("n{number}"), answer()));
    }
    assert!(!certificates.set_challenge("one-more", answer()));
    assert!(certificates.set_challenge("n0", answer()));
    certificates.remove_challenge("n1");
    assert!(certificates.set_challenge("one-more", answer()));
}

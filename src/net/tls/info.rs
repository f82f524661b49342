//! TlsInfo: the facts of an encrypted connection.

use std::fmt::Write;

use sha2::{Digest, Sha256};

/// The facts of an encrypted connection: ASGI's TLS extension.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct TlsInfo {
    /// The name of the host that the client asked for (SNI), in lower case.
    pub server_name: Option<Box<str>>,
    /// The protocol's version as on the wire: 0x0303 is TLS 1.2, 0x0304 is TLS 1.3.
    pub tls_version: u16,
    /// The number of the cipher suite.
    pub cipher_suite: u16,
    /// The client's certificate, which an authority of `server.tls.client_ca` signed.
    pub client_certificate: Option<Box<ClientCertificate>>,
}

/// The facts of a client's certificate. It was verified in the handshake.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ClientCertificate {
    /// The distinguished name of the client (RFC 4514): ASGI's `client_cert_name`.
    pub subject: Box<str>,
    /// The distinguished name of the authority that signed it.
    pub issuer: Box<str>,
    /// The serial number, in lower-case hexadecimal digits.
    pub serial: Box<str>,
    /// The SHA-256 hash of the certificate, in lower-case hexadecimal digits.
    pub fingerprint: Box<str>,
    /// The certificate and the issuers that the client sent, in DER.
    pub chain: Box<[Box<[u8]>]>,
}

impl TlsInfo {
    /// Returns the version's name, such as "TLSv1.3".
    #[must_use]
    pub fn version(&self) -> &'static str {
        match self.tls_version {
            0x0303 => "TLSv1.2",
            0x0304 => "TLSv1.3",
            _ => "TLS",
        }
    }
}

impl ClientCertificate {
    /// Returns the chain in PEM, the client's certificate first: ASGI's `client_cert_chain`.
    #[must_use]
    pub fn chain_pem(&self) -> Vec<String> {
        self.chain.iter().map(|der| pem(der)).collect()
    }
}

/// Returns the SHA-256 hash of a certificate in hexadecimal digits.
pub(super) fn fingerprint(der: &[u8]) -> Box<str> {
    data_encoding::HEXLOWER.encode(&Sha256::digest(der)).into()
}

fn pem(der: &[u8]) -> String {
    let base64 = data_encoding::BASE64.encode(der);
    let mut text = String::from("-----BEGIN CERTIFICATE-----\n");
    for line in base64.as_bytes().chunks(64) {
        let line = String::from_utf8_lossy(line);
        let _ = writeln!(text, "{line}");
    }
    text.push_str("-----END CERTIFICATE-----\n");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_chain_is_shown_as_pem() {
        let certificate = ClientCertificate {
            subject: "CN=a".into(),
            issuer: "CN=b".into(),
            serial: "01".into(),
            fingerprint: fingerprint(b"abc"),
            chain: [[7; 50].into()].into(),
        };
        let expected = "-----BEGIN CERTIFICATE-----\nBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcH\nBwc=\n-----END CERTIFICATE-----\n";
        assert_eq!(certificate.chain_pem(), [expected]);
        assert!(certificate.fingerprint.starts_with("ba7816bf8f01cfea"));
    }
}

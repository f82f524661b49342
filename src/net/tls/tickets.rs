//! Tickets: sessions that clients resume, which they keep themselves.
//!
//! rustls verifies the certificate of a client in a full handshake only: a resumed session has that
//! of its first handshake, and gets new tickets. So each ticket has the end of the certificate's
//! lifetime in it:
//!
//! ```text
//! full handshake ── ClientVerifier ─┐
//!                                   ├─► HandshakeFacts ──► Tickets::encrypt
//! resumption ────── Tickets::decrypt┘
//!                      └── the certificate has ended: no session, a full handshake follows
//! ```

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use rustls::client::danger::HandshakeSignatureValid;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::ProducesTickets;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};

use super::handshake_facts::{client_expiry, record_client_expiry};
use super::x509::CertificateFacts;

/// The expiry of a session without a client's certificate.
const NEVER: u64 = u64::MAX;

/// Tickets that end with the certificate of their client.
#[derive(Debug)]
pub(super) struct Tickets(pub(super) Arc<dyn ProducesTickets>);

impl ProducesTickets for Tickets {
    fn enabled(&self) -> bool {
        self.0.enabled()
    }

    fn lifetime(&self) -> u32 {
        self.0.lifetime()
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        let expiry = client_expiry().unwrap_or(NEVER).to_be_bytes();
        self.0.encrypt(&[&expiry, plain].concat())
    }

    fn decrypt(&self, cipher: &[u8]) -> Option<Vec<u8>> {
        let mut plain = self.0.decrypt(cipher)?;
        let expiry = u64::from_be_bytes(*plain.first_chunk()?);
        // The last second is part of the lifetime (RFC 5280 §4.1.2.5).
        if expiry < seconds(SystemTime::now()) {
            return None;
        }
        record_client_expiry((expiry != NEVER).then_some(expiry));
        plain.drain(..size_of::<u64>());
        Some(plain)
    }
}

/// Verifies the certificates of clients, and records when they end.
#[derive(Debug)]
pub(super) struct ClientVerifier(pub(super) Arc<dyn ClientCertVerifier>);

impl ClientCertVerifier for ClientVerifier {
    fn offer_client_auth(&self) -> bool {
        self.0.offer_client_auth()
    }

    fn client_auth_mandatory(&self) -> bool {
        self.0.client_auth_mandatory()
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.0.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self.0.verify_client_cert(end_entity, intermediates, now)?;
        // Which of the intermediates the verification needed is not known: the earliest end counts.
        // One that cannot be parsed was not needed.
        let ends = intermediates
            .iter()
            .chain([end_entity])
            .filter_map(|der| CertificateFacts::from_der(der).ok())
            .map(|facts| seconds(facts.not_after));
        record_client_expiry(ends.min());
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0
            .verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0
            .verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }

    fn requires_raw_public_keys(&self) -> bool {
        self.0.requires_raw_public_keys()
    }
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::tls::handshake_facts::HandshakeFacts;

    /// Encrypts nothing.
    #[derive(Debug)]
    struct Bare;

    impl ProducesTickets for Bare {
        fn enabled(&self) -> bool {
            true
        }

        fn lifetime(&self) -> u32 {
            1
        }

        fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
            Some(plain.to_vec())
        }

        fn decrypt(&self, cipher: &[u8]) -> Option<Vec<u8>> {
            Some(cipher.to_vec())
        }
    }

    #[test]
    fn ticket_ends_with_the_certificate_of_its_client() {
        let tickets = Tickets(Arc::new(Bare));
        let now = seconds(SystemTime::now());
        for (client_expiry, is_accepted) in
            [(None, true), (Some(now + 60), true), (Some(now - 2), false)]
        {
            let mut first = HandshakeFacts {
                client_expiry,
                ..HandshakeFacts::default()
            };
            let ticket = first.lend(|| tickets.encrypt(b"a session")).unwrap();
            let mut second = HandshakeFacts::default();
            let session = second.lend(|| tickets.decrypt(&ticket));
            assert_eq!(session.as_deref() == Some(b"a session"), is_accepted);
            // The next ticket of the resumed session ends at the same time.
            if is_accepted {
                assert_eq!(second.client_expiry, client_expiry);
            }
        }
    }

    #[test]
    fn ticket_of_another_length_is_refused() {
        for length in 0..8 {
            assert_eq!(Tickets(Arc::new(Bare)).decrypt(&vec![0xff; length]), None);
        }
    }
}

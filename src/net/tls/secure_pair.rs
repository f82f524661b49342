//! Secure pair: two ends of TLS whose bytes pass through memory. Only in tests.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Waker};

use tokio::io::{AsyncRead, ReadBuf, duplex};

use super::{Certificate, Certificates, ClientTls, ClientTlsSettings, ServerTls, TlsFiles};
use crate::net::Stream;

/// Returns the server's end and the client's. Each takes `room` bytes at once.
pub(crate) async fn secure_pair(room: usize) -> (Stream, Stream) {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let (chain, key) = (made.cert.pem(), made.signing_key.serialize_pem());
    let certificate = Certificate::from_pem(chain.as_bytes(), key.as_bytes()).unwrap();
    let certificates = Arc::new(Certificates::default());
    certificates.set_obtained(vec![Arc::new(certificate)]);
    let server = ServerTls::new(certificates, &TlsFiles::default()).unwrap();
    let unchecked = ClientTlsSettings {
        verify: false,
        ..ClientTlsSettings::default()
    };
    let client = ClientTls::new("localhost", &unchecked).unwrap();
    let (ours, theirs) = duplex(room);
    let (server, client) = tokio::join!(
        server.accept(Stream::boxed(ours)),
        client.connect_http1(Stream::boxed(theirs))
    );
    (server.unwrap().stream, client.unwrap())
}

/// Reads the ciphertext that has arrived, also if it is less than a record.
pub(crate) fn read_some(client: &mut Stream) {
    let mut cx = Context::from_waker(Waker::noop());
    let mut buffer = [0; 4096];
    let _ = Pin::new(client).poll_read(&mut cx, &mut ReadBuf::new(&mut buffer));
}

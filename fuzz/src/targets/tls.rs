//! TLS records through our session, with a client of rustls: the input is what follows a handshake, or
//! everything that a client sends.

use std::cell::OnceCell;
use std::io::{Read, Write};
use std::sync::Arc;

use oneport::fuzzing::TlsServer;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, RootCertStore};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use crate::input::{block_on, reads, split_tail};

struct Ends {
    server: TlsServer,
    clients: [Arc<ClientConfig>; 2],
}

thread_local! {
    static ENDS: OnceCell<Ends> = const { OnceCell::new() };
}

pub fn run(data: &[u8]) {
    let (data, [choice, size, at, with]) = split_tail(data);
    ENDS.with(|ends| {
        let ends = ends.get_or_init(start);
        block_on(async {
            if choice & 1 == 0 {
                raw(&ends.server, &reads(data, size)).await;
            } else {
                let config = ends.clients[usize::from(choice >> 1) % 2].clone();
                spoiled(&ends.server, config, data, size, (at, with)).await;
            }
        });
    });
}

/// The input is all that the client sends.
async fn raw(server: &TlsServer, parts: &[&[u8]]) {
    let (mut client, stream) = UnixStream::pair().expect("a pair");
    let send = async {
        for part in parts {
            if client.write_all(part).await.is_err() {
                break;
            }
        }
        let _ = client.shutdown().await;
        let _ = client.read_to_end(&mut Vec::new()).await;
    };
    let receive = async {
        if let Ok(mut stream) = server.accept(stream).await {
            let _ = stream.read_to_end(&mut Vec::new()).await;
        }
    };
    tokio::join!(send, receive);
}

/// A client sends the input after its handshake; one byte on the wire is changed if `with` is not 0. The
/// server reads the input, or a beginning of it and then an error.
async fn spoiled(
    server: &TlsServer,
    config: Arc<ClientConfig>,
    data: &[u8],
    size: u8,
    (at, with): (u8, u8),
) {
    let (mut client, stream) = UnixStream::pair().expect("a pair");
    let send = async {
        let name = ServerName::try_from("localhost").expect("a name");
        let mut connection = ClientConnection::new(config, name).expect("a client");
        let mut wire = [0; 16 * 1024];
        while connection.is_handshaking() || connection.wants_write() {
            let mut out = Vec::new();
            while connection.wants_write() {
                let _ = connection.write_tls(&mut out);
            }
            if client.write_all(&out).await.is_err() {
                return;
            }
            if connection.is_handshaking() {
                let Ok(count @ 1..) = client.read(&mut wire).await else {
                    return;
                };
                let _ = connection.read_tls(&mut &wire[..count]);
                if connection.process_new_packets().is_err() {
                    return;
                }
            }
        }
        let mut out = Vec::new();
        for message in reads(data, size) {
            let _ = connection.writer().write_all(message);
            let _ = connection.write_tls(&mut out);
        }
        connection.send_close_notify();
        while connection.wants_write() {
            let _ = connection.write_tls(&mut out);
        }
        if let Some(byte) = out.get_mut(usize::from(at)) {
            *byte ^= with;
        }
        for part in reads(&out, size) {
            if client.write_all(part).await.is_err() {
                return;
            }
        }
        let _ = client.shutdown().await;
        let mut read = Vec::new();
        let _ = client.read_to_end(&mut read).await;
        let _ = connection.read_tls(&mut &read[..]);
        let _ = connection.process_new_packets();
        let _ = connection.reader().read(&mut wire);
    };
    let receive = async {
        let mut stream = server.accept(stream).await.ok()?;
        let mut read = Vec::new();
        let outcome = stream.read_to_end(&mut read).await;
        Some((read, outcome))
    };
    let ((), received) = tokio::join!(send, receive);
    let Some((read, outcome)) = received else {
        assert_ne!(with, 0, "no handshake");
        return;
    };
    assert!(data.starts_with(&read), "other bytes are read");
    if outcome.is_ok() {
        assert_eq!(read.len(), data.len(), "bytes are missing without an error");
    }
    if with == 0 {
        assert!(outcome.is_ok(), "{outcome:?}");
    }
}

fn start() -> Ends {
    let rcgen::CertifiedKey { cert, signing_key } =
        rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
    let directory = std::env::temp_dir().join(format!("oneport-fuzz-{}-tls", std::process::id()));
    std::fs::create_dir_all(&directory).expect("a directory");
    let (certificate, key) = (directory.join("cert.pem"), directory.join("key.pem"));
    std::fs::write(&certificate, cert.pem()).expect("a file");
    std::fs::write(&key, signing_key.serialize_pem()).expect("a file");
    let server = TlsServer::new(&certificate, &key).expect("a server");
    let _ = std::fs::remove_dir_all(&directory);
    let mut roots = RootCertStore::empty();
    roots.add(cert.der().clone()).expect("a root");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let client = |version| {
        let builder = ClientConfig::builder_with_provider(provider.clone());
        let builder = builder
            .with_protocol_versions(&[version])
            .expect("a version");
        let config = builder
            .with_root_certificates(roots.clone())
            .with_no_client_auth();
        Arc::new(config)
    };
    Ends {
        server,
        clients: [
            client(&rustls::version::TLS13),
            client(&rustls::version::TLS12),
        ],
    }
}

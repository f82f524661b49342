//! Secure members: a thousand WebSockets over TLS get every message, and an idle one costs little.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use rcgen::CertifiedKey;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use super::clients::{PING, Peer, named, whole, with_clients};
use super::process::{DEADLINE, KIB, Process};

/// The memory of an idle connection, also in an unoptimised build.
const CONNECTION_BYTES_MAX: usize = 12 * KIB;

const MESSAGES: usize = 100;

/// The longest time of a plain request while the members are served.
const WAIT_MAX: Duration = Duration::from_secs(2);

/// The number of concurrent handshakes.
const BATCH: usize = 100;

/// Writes a certificate for localhost. Returns the lines of the configuration that name it, and a
/// client that trusts it.
fn certificate(name: &str) -> (String, TlsConnector) {
    let CertifiedKey { cert, signing_key } =
        rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    let file = |kind: &str| folder.join(format!("{name}-{}-{kind}.pem", std::process::id()));
    fs::write(file("cert"), cert.pem()).unwrap();
    fs::write(file("key"), signing_key.serialize_pem()).unwrap();
    let lines = format!(
        "
        [server.tls]
        plaintext = 'serve'
        certificate = {:?}
        key = {:?}
        ",
        file("cert"),
        file("key"),
    );
    let mut roots = RootCertStore::empty();
    roots.add(cert.der().clone()).unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    (lines, TlsConnector::from(Arc::new(config)))
}

/// Sends messages, and reads them at every member.
async fn fan_out(members: &mut [Peer]) {
    let message = |at| format!("message {at} of {MESSAGES}").into_bytes();
    for at in 0..MESSAGES {
        members[0].say(&whole(0x81, &message(at))).await;
    }
    for member in members {
        for at in 0..MESSAGES {
            assert_eq!(member.frame().await, Some((0x81, message(at))));
        }
    }
}

/// Makes one plain request after the other, and returns how long each took. On a thread of its own:
/// the clients keep theirs busy.
fn ask_until(address: SocketAddr, is_over: &AtomicBool) -> Vec<Duration> {
    let mut waits = Vec::new();
    while waits.is_empty() || !is_over.load(Ordering::Relaxed) {
        let began = Instant::now();
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        let request = "GET /metrics/ HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
        stream.write_all(request.as_bytes()).unwrap();
        let mut response = String::new();
        stream.read_to_string(&mut response).unwrap();
        assert!(response.starts_with("HTTP/1.1 200"), "{response}");
        waits.push(began.elapsed());
        std::thread::sleep(Duration::from_millis(5));
    }
    waits
}

async fn open_all(process: &Process, connector: &TlsConnector, count: usize) -> Vec<Peer> {
    let mut peers = Vec::with_capacity(count);
    while peers.len() < count {
        let some = peers.len()..count.min(peers.len() + BATCH);
        let some = some.map(async |at| {
            let mut peer = Peer::connect(process.address, at, false).await;
            peer.encrypt(connector).await;
            peer.shake_hands("/all/", "").await;
            peer
        });
        peers.extend(join_all(some).await);
    }
    peers
}

#[test]
fn a_thousand_members_over_tls_get_every_message() {
    with_clients(
        named!(a_thousand_members_over_tls_get_every_message),
        1_000,
        async |count| {
            let (secure, connector) = certificate("secure-members");
            let routes = "
                [[websocket.route]]
                path = '/all/'
                consumer = 'broadcast'
                ping_interval = '0s'
                middleware = []
                options = { group = 'all' }
            ";
            let process = Process::start("secure", &format!("{secure}{routes}"));
            let mut members = open_all(&process, &connector, count / 2).await;
            process
                .until_metric("oneport_websockets", &[], members.len())
                .await;
            let (few, before) = (members.len(), process.resident());
            members.extend(open_all(&process, &connector, count - few).await);
            process.until_metric("oneport_websockets", &[], count).await;
            // Each has sent and received, and is idle again.
            join_all(members.iter_mut().map(async |member| {
                member.say(&whole(PING, b"")).await;
                assert_eq!(member.frame().await, Some((0x8a, Vec::new())));
            }))
            .await;
            let each = process.resident().saturating_sub(before) / (count - few);
            println!("{each} bytes for each further member");
            assert!(
                each <= CONNECTION_BYTES_MAX,
                "expected at most {CONNECTION_BYTES_MAX} bytes a connection, found {each}"
            );

            let is_over = Arc::new(AtomicBool::new(false));
            let beside = {
                let (address, is_over) = (process.address, is_over.clone());
                std::thread::spawn(move || ask_until(address, &is_over))
            };
            fan_out(&mut members).await;
            is_over.store(true, Ordering::Relaxed);
            let mut waits = beside.join().unwrap();
            waits.sort();
            let (middle, slowest) = (waits[waits.len() / 2], waits[waits.len() - 1]);
            println!(
                "{} plain requests beside it: {middle:?}, {slowest:?} at most",
                waits.len()
            );
            assert!(
                slowest <= WAIT_MAX,
                "expected plain requests within {WAIT_MAX:?}, found {slowest:?}"
            );
            process.ask_to_stop();
            join_all(members.iter_mut().map(|member| member.expect_close(1001))).await;
            process.ended().await;
        },
    );
}

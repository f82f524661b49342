//! Streams over TCP against clients of tokio-rustls.

use std::time::Duration;

use proptest::collection::vec;
use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream as Client;

use super::*;
use crate::net::tls::test_peers::{Configs, VERSIONS, configs, localhost};

/// Runs a test, which must end in time.
fn run<F: Future>(test: F) -> F::Output {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_all().build().unwrap();
    let limit = Duration::from_secs(20);
    runtime.block_on(async { tokio::time::timeout(limit, test).await.unwrap() })
}

async fn tcp_pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let connect = TcpStream::connect(listener.local_addr().unwrap());
    let (accepted, connected) = tokio::join!(listener.accept(), connect);
    (accepted.unwrap().0, connected.unwrap())
}

/// Returns our stream and the client of tokio-rustls at its other end.
async fn pair(configs: Configs) -> (Stream, Client<TcpStream>) {
    let (ours, theirs) = tcp_pair().await;
    let connector = TlsConnector::from(configs.client);
    let (ours, theirs) = tokio::join!(
        TlsStream::accept(ours.into(), configs.server),
        connector.connect(localhost(), theirs)
    );
    (ours.unwrap().0.into(), theirs.unwrap())
}

fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at * 7 + at / 251) as u8).collect()
}

/// Writes without an owner until the kernel takes no more; returns how much was taken.
fn fill(stream: &Stream, bytes: &[u8]) -> usize {
    let mut taken = 0;
    while taken < bytes.len() {
        match stream.try_write_shared(&bytes[taken..], None) {
            Ok(count) => taken += count,
            Err(error) => {
                assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
                break;
            }
        }
    }
    taken
}

#[test]
fn stream_is_as_large_as_a_bare_socket_and_its_kind() {
    assert_eq!(size_of::<Stream>(), size_of::<TcpStream>() + 8);
}

#[test]
fn bytes_pass_both_ways_and_the_end_is_seen() {
    for version in VERSIONS {
        run(async {
            let (mut ours, mut theirs) = pair(configs(version)).await;
            let sent = pattern(300_000);
            let exchange = async {
                theirs.write_all(&sent).await.unwrap();
                theirs.flush().await.unwrap();
                theirs.shutdown().await.unwrap();
                let mut read = Vec::new();
                theirs.read_to_end(&mut read).await.unwrap();
                read
            };
            let echo = async {
                let mut read = Vec::new();
                ours.read_to_end(&mut read).await.unwrap();
                ours.write_all(&read).await.unwrap();
                ours.shutdown().await.unwrap();
            };
            let (read, ()) = tokio::join!(exchange, echo);
            assert!(read == sent);
        });
    }
}

#[test]
fn what_was_agreed_on_is_known() {
    run(async {
        let configs = configs(VERSIONS[1]);
        let (ours, theirs) = tcp_pair().await;
        let (ours, theirs) = tokio::join!(
            TlsStream::accept(ours.into(), configs.server),
            TlsStream::connect(theirs.into(), configs.client, localhost())
        );
        let ((mut ours, name), mut theirs) = (ours.unwrap(), theirs.unwrap());
        assert_eq!(name.as_deref(), Some("localhost"));
        assert_eq!(ours.agreed().alpn_protocol(), Some(&b"http/1.1"[..]));
        assert_eq!(theirs.agreed().alpn_protocol(), Some(&b"http/1.1"[..]));
        assert!(ours.agreed().peer_certificates().is_none());
        assert_eq!(theirs.agreed().peer_certificates().unwrap().len(), 1);
    });
}

#[test]
fn end_without_close_notify_is_a_truncation() {
    for version in VERSIONS {
        run(async {
            let (mut ours, mut theirs) = pair(configs(version)).await;
            theirs.write_all(b"half of").await.unwrap();
            theirs.flush().await.unwrap();
            let mut raw = theirs.into_inner().0;
            raw.shutdown().await.unwrap();
            let mut read = Vec::new();
            let error = ours.read_to_end(&mut read).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
            assert_eq!(read, b"half of");
        });
    }
}

#[test]
fn handshakes_that_end_early_fail() {
    run(async {
        for first in [&b""[..], b"\x16\x03\x01", b"GET / HTTP/1.1\r\n\r\n"] {
            let (ours, mut theirs) = tcp_pair().await;
            theirs.write_all(first).await.unwrap();
            theirs.shutdown().await.unwrap();
            let error = TlsStream::accept(ours.into(), configs(VERSIONS[1]).server);
            let error = error.await.map(|_| ()).unwrap_err();
            let is_http = first.starts_with(b"GET");
            let expected = match is_http {
                true => io::ErrorKind::InvalidData,
                false => io::ErrorKind::UnexpectedEof,
            };
            assert_eq!(error.kind(), expected, "{error}");
            // A client that speaks another protocol gets an alert.
            let mut answer = Vec::new();
            let _ = theirs.read_to_end(&mut answer).await;
            assert_eq!(answer.first(), is_http.then_some(&21));
        }
    });
}

#[test]
fn garbage_after_the_handshake_is_answered_with_an_alert() {
    run(async {
        let (mut ours, theirs) = pair(configs(VERSIONS[1])).await;
        let (mut raw, mut session) = theirs.into_inner();
        raw.write_all(&[23, 3, 3, 0, 30]).await.unwrap();
        raw.write_all(&[7; 30]).await.unwrap();
        let mut byte = [0];
        let error = ours.read(&mut byte).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        assert!(ours.read(&mut byte).await.is_err());
        assert!(ours.write(b"too late").await.is_err());
        drop(ours);
        let mut wire = Vec::new();
        raw.read_to_end(&mut wire).await.unwrap();
        session.read_tls(&mut &wire[..]).unwrap();
        let error = session.process_new_packets().unwrap_err();
        assert!(matches!(error, rustls::Error::AlertReceived(_)), "{error}");
    });
}

#[test]
fn what_the_kernel_does_not_take_waits_for_the_owner() {
    for version in VERSIONS {
        run(async {
            let (ours, mut theirs) = pair(configs(version)).await;
            let bytes = pattern(32 << 20);
            assert!(!ours.is_unflushed());
            let taken = fill(&ours, &bytes);
            assert!(taken < bytes.len());
            assert!(ours.is_unflushed());
            let held = |stream: &Stream| match stream {
                Stream::Tls(tls) => tls.session.lock().outgoing.len(),
                other => panic!("{other:?}"),
            };
            assert!((1..=WRITE_BYTES + 4 * 64).contains(&held(&ours)));
            let flush = poll_fn(|cx| ours.poll_flush_shared(cx));
            let read = async {
                let mut read = vec![0; taken];
                theirs.read_exact(&mut read).await.unwrap();
                read
            };
            let (flushed, read) = tokio::join!(flush, read);
            flushed.unwrap();
            assert!(read == bytes[..taken]);
            assert!(!ours.is_unflushed());
            assert_eq!(held(&ours), 0);
            assert_eq!(fill(&ours, b"more"), 4);
        });
    }
}

#[test]
fn members_write_from_many_threads() {
    run(async {
        let (ours, mut theirs) = pair(configs(VERSIONS[1])).await;
        let ours = Arc::new(ours);
        let threads: Vec<_> = (0..4_u8)
            .map(|number| {
                let ours = ours.clone();
                std::thread::spawn(move || {
                    for _ in 0..200 {
                        assert_eq!(fill(&ours, &[number; 100]), 100);
                    }
                })
            })
            .collect();
        let mut read = vec![0; 4 * 200 * 100];
        theirs.read_exact(&mut read).await.unwrap();
        // Each write is one record, and none is mixed with another.
        for message in read.chunks(100) {
            assert!(message.iter().all(|byte| *byte == message[0]));
        }
        for thread in threads {
            thread.join().unwrap();
        }
    });
}

#[test]
fn slow_reader_gets_everything_in_order() {
    run(async {
        let (mut ours, mut theirs) = pair(configs(VERSIONS[1])).await;
        let sent = pattern(8 << 20);
        let write = async {
            ours.write_all(&sent).await.unwrap();
            ours.shutdown().await.unwrap();
        };
        let read = async {
            let mut read = Vec::new();
            let mut chunk = vec![0; 50_000];
            loop {
                tokio::task::yield_now().await;
                match theirs.read(&mut chunk).await.unwrap() {
                    0 => return read,
                    count => read.extend_from_slice(&chunk[..count]),
                }
            }
        };
        let ((), read) = tokio::join!(write, read);
        assert!(read == sent);
    });
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn slices_are_written_in_order(lengths in vec(0..40_000usize, 0..12)) {
        let parts: Vec<Vec<u8>> = lengths.iter().map(|length| pattern(*length)).collect();
        let slices: Vec<IoSlice<'_>> = parts.iter().map(|part| IoSlice::new(part)).collect();
        let mut source = Source::new(&slices);
        let mut record = Vec::new();
        let mut all = Vec::new();
        let mut most = WRITE_BYTES;
        loop {
            let piece = source.next(most, &mut record);
            prop_assert!(piece.len() <= most);
            if piece.is_empty() {
                break;
            }
            all.extend_from_slice(piece);
            // Every record but the last is full.
            let is_last = all.len() == lengths.iter().sum::<usize>();
            prop_assert!(is_last || piece.len().is_multiple_of(RECORD_BYTES));
            most = if most == piece.len() { WRITE_BYTES } else { most - piece.len() };
        }
        prop_assert!(all == parts.concat());
    }

    #[test]
    fn any_segmentation_arrives_whole(
        cuts in vec(1..30_000usize, 1..6),
        room in 1..40_000usize,
    ) {
        let configs = configs(VERSIONS[1]);
        let sent = pattern(120_000);
        let read = run(async {
            let (mut ours, theirs) = pair(configs).await;
            let (mut raw, mut session) = theirs.into_inner();
            session.set_buffer_limit(None);
            io::Write::write_all(&mut session.writer(), &sent).unwrap();
            session.send_close_notify();
            let mut wire = Vec::new();
            while session.wants_write() {
                session.write_tls(&mut wire).unwrap();
            }
            raw.set_nodelay(true).unwrap();
            let write = async {
                let mut cuts = cuts.iter().cycle();
                let mut rest = &wire[..];
                while !rest.is_empty() {
                    let (segment, following) = rest.split_at(rest.len().min(*cuts.next().unwrap()));
                    raw.write_all(segment).await.unwrap();
                    tokio::task::yield_now().await;
                    rest = following;
                }
            };
            let read = async {
                let mut read = Vec::new();
                let mut chunk = vec![0; room];
                loop {
                    match ours.read(&mut chunk).await.unwrap() {
                        0 => return read,
                        count => read.extend_from_slice(&chunk[..count]),
                    }
                }
            };
            tokio::join!(write, read).1
        });
        prop_assert!(read == sent);
    }
}

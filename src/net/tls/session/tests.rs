//! Sessions against clients and servers of rustls, in memory.

use std::io::{Read, Write as _};

use proptest::collection::vec;
use proptest::prelude::*;
use rustls::{AlertDescription, ClientConnection, SupportedProtocolVersion};

use super::*;
use crate::net::tls::test_peers::{Configs, VERSIONS, configs, localhost};

/// The room for one read. Longer than any input of these tests.
const INPUT_BYTES: usize = 1 << 20;

/// A server's session and a client of rustls with its own buffers, after their handshake.
struct Pair {
    server: Session,
    client: ClientConnection,
}

impl Pair {
    fn new(configs: Configs) -> Self {
        let server = Session::server(configs.server).unwrap();
        let mut client = ClientConnection::new(configs.client, localhost()).unwrap();
        client.set_buffer_limit(None);
        let mut pair = Self { server, client };
        while pair.server.is_handshaking() || pair.client.is_handshaking() {
            let wire = pair.client_wire();
            assert_eq!(pair.feed(&wire, 0), b"");
            pair.deliver_outgoing();
        }
        pair.deliver_outgoing();
        pair
    }

    /// Takes what the client sends.
    fn client_wire(&mut self) -> Vec<u8> {
        let mut wire = Vec::new();
        while self.client.wants_write() {
            self.client.write_tls(&mut wire).unwrap();
        }
        wire
    }

    /// The client sends `bytes`.
    fn sent_by_client(&mut self, bytes: &[u8]) -> Vec<u8> {
        self.client.writer().write_all(bytes).unwrap();
        self.client_wire()
    }

    /// Gives the server one segment, and reads with room for `room` bytes at first.
    fn feed(&mut self, segment: &[u8], room: usize) -> Vec<u8> {
        let mut input = vec![0; INPUT_BYTES];
        let kept = self.server.partial_bytes();
        let end = kept + segment.len();
        input[kept..end].copy_from_slice(segment);
        let mut out = vec![0; room.max(1)];
        let mut buffer = ReadBuf::new(&mut out[..room]);
        self.server.receive(&mut input[..end], &mut buffer);
        let mut read = buffer.filled().to_vec();
        loop {
            let mut buffer = ReadBuf::new(&mut out);
            if !self.server.read_left(&mut buffer) {
                return read;
            }
            read.extend_from_slice(buffer.filled());
        }
    }

    /// Gives the client what the server has to say, and returns the plaintext in it.
    fn deliver_outgoing(&mut self) -> Vec<u8> {
        let wire = std::mem::take(&mut self.server.outgoing);
        self.deliver(&wire).unwrap()
    }

    fn deliver(&mut self, mut wire: &[u8]) -> Result<Vec<u8>, rustls::Error> {
        let mut read = Vec::new();
        while !wire.is_empty() {
            self.client.read_tls(&mut wire).unwrap();
            self.client.process_new_packets()?;
            let mut reader = self.client.reader();
            let mut chunk = [0; 4096];
            while let Ok(count @ 1..) = reader.read(&mut chunk) {
                read.extend_from_slice(&chunk[..count]);
            }
        }
        Ok(read)
    }

    fn sent_by_server(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut out = vec![0; 10];
        let count = self.server.encrypt(bytes, &mut out, 3).unwrap();
        out[3..3 + count].to_vec()
    }
}

fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at * 7 + at / 251) as u8).collect()
}

fn version() -> impl Strategy<Value = &'static SupportedProtocolVersion> {
    proptest::sample::select(&VERSIONS[..])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn any_segmentation_gives_the_same_plaintext(
        version in version(),
        messages in vec(0..40_000usize, 1..6),
        cuts in vec(1..20_000usize, 1..12),
        room in prop_oneof![Just(0), 1..100usize, Just(70_000)],
    ) {
        let mut pair = Pair::new(configs(version));
        let expected: Vec<u8> = messages.iter().flat_map(|length| pattern(*length)).collect();
        let mut wire = Vec::new();
        for length in &messages {
            wire.extend(pair.sent_by_client(&pattern(*length)));
        }
        let mut read = Vec::new();
        let mut rest = &wire[..];
        let mut cuts = cuts.iter().cycle();
        while !rest.is_empty() {
            let (segment, following) = rest.split_at(rest.len().min(*cuts.next().unwrap()));
            read.extend(pair.feed(segment, room));
            rest = following;
        }
        prop_assert!(read == expected);
        prop_assert_eq!(pair.server.partial_bytes(), 0);
        prop_assert_eq!(pair.server.partial.capacity(), 0);
        prop_assert_eq!(pair.server.plaintext.capacity(), 0);
    }

    #[test]
    fn peer_decrypts_what_was_encrypted(
        version in version(),
        messages in vec(1..70_000usize, 1..5),
    ) {
        let mut pair = Pair::new(configs(version));
        for length in messages {
            let sent = pattern(length);
            let wire = pair.sent_by_server(&sent);
            prop_assert!(pair.deliver(&wire).unwrap() == sent);
        }
    }

    #[test]
    fn garbage_after_the_handshake_ends_the_session_with_an_alert(
        version in version(),
        mut garbage in vec(any::<u8>(), 5..300),
        kind in prop_oneof![any::<u8>(), 20..25u8],
        cut in 0..300usize,
    ) {
        let mut pair = Pair::new(configs(version));
        // A whole record, so that it is not just waited for.
        let length = (garbage.len() - 5) as u16;
        garbage[0] = kind;
        garbage[1..3].copy_from_slice(&[3, 3]);
        garbage[3..5].copy_from_slice(&length.to_be_bytes());
        let wire = [pair.sent_by_client(b"before"), garbage].concat();
        let cut = cut.min(wire.len());
        let mut read = pair.feed(&wire[..cut], 100);
        read.extend(pair.feed(&wire[cut..], 100));
        prop_assert_eq!(read, b"before");
        prop_assert!(pair.server.has_ended());
        prop_assert!(pair.server.is_write_closed());
        let alert = std::mem::take(&mut pair.server.outgoing);
        prop_assert!(matches!(
            pair.deliver(&alert),
            Err(rustls::Error::AlertReceived(_))
        ));
        prop_assert_eq!(pair.server.end().unwrap_err().kind(), io::ErrorKind::InvalidData);
        prop_assert_eq!(pair.feed(b"more", 100), b"");
    }

    #[test]
    fn garbage_instead_of_a_handshake_ends_the_session(garbage in vec(any::<u8>(), 1..600)) {
        let mut server = Session::server(configs(VERSIONS[1]).server).unwrap();
        let mut input = garbage;
        server.receive(&mut input, &mut ReadBuf::new(&mut []));
        prop_assert!(server.is_handshaking());
        prop_assert!(server.has_ended() || server.partial_bytes() == input.len());
    }
}

#[test]
fn key_update_changes_the_keys_of_both_directions() {
    let mut pair = Pair::new(configs(VERSIONS[1]));
    for _ in 0..3 {
        pair.client.refresh_traffic_keys().unwrap();
        let wire = pair.sent_by_client(b"with the new keys");
        assert_eq!(pair.feed(&wire, 100), b"with the new keys");
        let wire = pair.sent_by_server(b"and back");
        assert_eq!(pair.deliver(&wire).unwrap(), b"and back");
    }
}

#[test]
fn key_updates_without_data_end_the_session_and_queue_nothing() {
    let mut pair = Pair::new(configs(VERSIONS[1]));
    for _ in 0..1000 {
        pair.client.refresh_traffic_keys().unwrap();
        let wire = pair.sent_by_client(b"x");
        assert_eq!(pair.feed(&wire, 10), b"x");
        // We have not written since: one answer is enough for all.
        assert!(pair.server.outgoing.len() < 100);
    }
    for _ in 0..1000 {
        pair.client.refresh_traffic_keys().unwrap();
        let wire = pair.client_wire();
        assert_eq!(pair.feed(&wire, 10), b"");
    }
    assert!(pair.server.has_ended());
}

#[test]
fn close_notify_ends_one_direction() {
    for version in VERSIONS {
        let mut pair = Pair::new(configs(version));
        let mut wire = pair.sent_by_client(b"last words");
        pair.client.send_close_notify();
        wire.extend(pair.client_wire());
        wire.extend(b"ignored");
        assert_eq!(pair.feed(&wire, 100), b"last words");
        assert!(pair.server.has_ended());
        pair.server.end().unwrap();
        assert_eq!(pair.feed(b"ignored", 100), b"");
        let wire = pair.sent_by_server(b"an answer");
        assert_eq!(pair.deliver(&wire).unwrap(), b"an answer");
        pair.server.close().unwrap();
        pair.server.close().unwrap();
        assert!(pair.server.is_write_closed());
        let wire = std::mem::take(&mut pair.server.outgoing);
        assert_eq!(pair.deliver(&wire).unwrap(), b"");
        assert!(pair.client.process_new_packets().unwrap().peer_has_closed());
    }
}

/// Issue: nothing was asked of rustls after it had encoded the tickets, so the `close_notify` of a
/// client that had not been answered yet was processed and not reported.
#[test]
fn close_notify_is_seen_right_behind_the_handshake() {
    for version in VERSIONS {
        for words in [&b""[..], b"last words"] {
            for is_separate in [false, true] {
                let mut pair = Pair::new(configs(version));
                let mut wire = match words {
                    b"" => Vec::new(),
                    words => pair.sent_by_client(words),
                };
                let mut read = Vec::new();
                if is_separate && !wire.is_empty() {
                    read.extend(pair.feed(&std::mem::take(&mut wire), 100));
                }
                pair.client.send_close_notify();
                wire.extend(pair.client_wire());
                read.extend(pair.feed(&wire, 100));
                assert_eq!(read, words);
                assert!(pair.server.has_ended(), "{version:?}");
                pair.server.end().unwrap();
            }
        }
    }
}

/// The same in the segment that ends the handshake.
#[test]
fn close_notify_in_the_segment_that_ends_the_handshake_is_seen() {
    let configs = configs(VERSIONS[1]);
    let mut pair = Pair {
        server: Session::server(configs.server).unwrap(),
        client: ClientConnection::new(configs.client, localhost()).unwrap(),
    };
    while pair.client.is_handshaking() {
        let wire = pair.client_wire();
        pair.feed(&wire, 0);
        pair.deliver_outgoing();
    }
    let mut wire = pair.sent_by_client(b"last words");
    pair.client.send_close_notify();
    wire.extend(pair.client_wire());
    assert!(pair.server.is_handshaking());
    assert_eq!(pair.feed(&wire, 100), b"last words");
    assert!(pair.server.has_ended());
    pair.server.end().unwrap();
}

#[test]
fn our_close_notify_leaves_the_other_direction_open() {
    for version in VERSIONS {
        let mut pair = Pair::new(configs(version));
        pair.server.close().unwrap();
        let wire = std::mem::take(&mut pair.server.outgoing);
        pair.deliver(&wire).unwrap();
        let wire = pair.sent_by_client(b"still here");
        assert_eq!(pair.feed(&wire, 100), b"still here");
        assert!(!pair.server.has_ended());
    }
}

#[test]
fn incomplete_records_are_kept_without_spare_room() {
    let mut pair = Pair::new(configs(VERSIONS[1]));
    let wire = pair.sent_by_client(&pattern(16_000));
    for at in 0..9_000 {
        assert_eq!(pair.feed(&wire[at..=at], 20_000), b"");
    }
    assert_eq!(pair.server.partial_bytes(), 9_000);
    assert!(pair.server.partial.capacity() <= WIRE_BYTES_MAX);
    // The other direction is open meanwhile.
    let sent = pair.sent_by_server(b"early");
    assert_eq!(pair.deliver(&sent).unwrap(), b"early");
    assert!(pair.feed(&wire[9_000..], 20_000) == pattern(16_000));
}

#[test]
fn record_that_is_too_long_is_refused_with_its_header() {
    let mut pair = Pair::new(configs(VERSIONS[1]));
    assert_eq!(pair.feed(&[23, 3, 3, 0x50, 0], 100), b"");
    assert!(pair.server.has_ended());
    let alert = std::mem::take(&mut pair.server.outgoing);
    let error = pair.deliver(&alert).unwrap_err();
    let expected = rustls::Error::AlertReceived(AlertDescription::DecodeError);
    assert_eq!(error, expected);
}

#[test]
fn handshake_that_never_ends_is_bounded() {
    let mut server = Session::server(configs(VERSIONS[1]).server).unwrap();
    // A ClientHello of 65,535 bytes that comes in records of one byte.
    let header = [1, 0, 0xff, 0xff];
    let bytes = header.into_iter().chain(std::iter::repeat(0));
    let records = bytes.flat_map(|byte| [22, 3, 1, 0, 1, byte]);
    let wire: Vec<u8> = records.take(6 * 20_000).collect();
    for segment in wire.chunks(600) {
        let kept = server.partial_bytes();
        assert!(kept <= HANDSHAKE_BYTES_MAX);
        let mut input = vec![0; kept + segment.len()];
        input[kept..].copy_from_slice(segment);
        server.receive(&mut input, &mut ReadBuf::new(&mut []));
    }
    assert!(server.has_ended());
}

#[test]
fn client_session_speaks_to_a_server_of_rustls() {
    for version in VERSIONS {
        let configs = configs(version);
        let mut client = Session::client(configs.client, localhost()).unwrap();
        let mut server = rustls::ServerConnection::new(configs.server).unwrap();
        client.start().unwrap();
        for _ in 0..4 {
            let wire = std::mem::take(&mut client.outgoing);
            server.read_tls(&mut &wire[..]).unwrap();
            server.process_new_packets().unwrap();
            let mut wire = Vec::new();
            while server.wants_write() {
                server.write_tls(&mut wire).unwrap();
            }
            client.receive(&mut wire, &mut ReadBuf::new(&mut []));
        }
        assert!(!client.is_handshaking() && !server.is_handshaking());
        assert_eq!(client.agreed().alpn_protocol(), Some(&b"http/1.1"[..]));
        assert_eq!(client.agreed().peer_certificates().unwrap().len(), 1);
        let mut out = vec![0; 100];
        let count = client.encrypt(b"hello", &mut out, 0).unwrap();
        server.read_tls(&mut &out[..count]).unwrap();
        server.process_new_packets().unwrap();
        let mut read = [0; 5];
        server.reader().read_exact(&mut read).unwrap();
        assert_eq!(&read, b"hello");
    }
}

/// What rustls has seen of an incomplete message must stay in its place while something is written.
#[test]
fn writes_go_on_while_a_handshake_message_is_incomplete() {
    let mut configs = configs(VERSIONS[1]);
    // Its tickets, after the handshake, come in several records each.
    Arc::make_mut(&mut configs.server).max_fragment_size = Some(32);
    let mut client = Session::client(configs.client, localhost()).unwrap();
    let mut server = rustls::ServerConnection::new(configs.server).unwrap();
    let wire_of = |server: &mut rustls::ServerConnection| {
        let mut wire = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut wire).unwrap();
        }
        wire
    };
    let receive = |client: &mut Session, segment: &[u8]| {
        let kept = client.partial_bytes();
        let mut input = vec![0; kept + segment.len()];
        input[kept..].copy_from_slice(segment);
        let mut out = [0; 100];
        let mut buffer = ReadBuf::new(&mut out);
        client.receive(&mut input, &mut buffer);
        buffer.filled().to_vec()
    };
    client.start().unwrap();
    while client.is_handshaking() || server.is_handshaking() {
        let wire = std::mem::take(&mut client.outgoing);
        server.read_tls(&mut &wire[..]).unwrap();
        server.process_new_packets().unwrap();
        if client.is_handshaking() {
            let wire = wire_of(&mut server);
            receive(&mut client, &wire);
        }
    }
    let tickets = wire_of(&mut server);
    assert!(tickets.len() > 3 * 32, "{}", tickets.len());
    let mut was_incomplete = false;
    for segment in tickets.chunks(7) {
        assert_eq!(receive(&mut client, segment), b"");
        was_incomplete |= client.partial_bytes() > 64;
        let mut out = vec![0; 100];
        let count = client.encrypt(b"meanwhile", &mut out, 0).unwrap();
        server.read_tls(&mut &out[..count]).unwrap();
        server.process_new_packets().unwrap();
        let mut read = [0; 9];
        server.reader().read_exact(&mut read).unwrap();
        assert_eq!(&read, b"meanwhile");
    }
    assert!(was_incomplete);
    server.writer().write_all(b"and back").unwrap();
    let wire = wire_of(&mut server);
    assert_eq!(receive(&mut client, &wire), b"and back");
    assert_eq!(client.partial_bytes(), 0);
}

//! Tests of the PROXY protocol: every split of a header, and what is none.

use std::net::{IpAddr, SocketAddr};

use ppp::v2;
use proptest::prelude::{Strategy, any, prop_oneof, proptest};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use super::{Announced, ProxyProtocolError, V2_REST_BYTES_MAX};
use crate::net::stream::Stream;

const V2: &[u8] = v2::PROTOCOL_PREFIX;

fn v2_header(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
    let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
    [V2, &[command, family], &length, rest].concat()
}

/// Sends the parts one after the other, closes, and returns what the header said and the bytes
/// behind it.
async fn read(parts: &[&[u8]]) -> (Result<Announced, ProxyProtocolError>, Vec<u8>) {
    let (client, server) = UnixStream::pair().unwrap();
    let mut server = Stream::from(server);
    let mut client = client;
    let send = async {
        for part in parts {
            client.write_all(part).await.unwrap();
            tokio::task::yield_now().await;
        }
        drop(client);
    };
    let receive = async {
        let announced = server.read_proxy_header().await;
        let mut rest = Vec::new();
        let _ = server.read_to_end(&mut rest).await;
        (announced, rest)
    };
    tokio::join!(send, receive).1
}

fn read_blocking(parts: &[&[u8]]) -> (Result<Announced, ProxyProtocolError>, Vec<u8>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build();
    runtime.unwrap().block_on(read(parts))
}

fn client(text: &str) -> Announced {
    Announced::Client(text.parse().unwrap())
}

#[test]
fn headers_name_the_client_and_leave_the_rest() {
    let ipv4 = [198, 51, 100, 7, 192, 0, 2, 1, 0x30, 0x39, 0, 80];
    let mut ipv6 = vec![0x20, 1, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7];
    ipv6.extend([0; 16]);
    ipv6.extend([0x30, 0x39, 0, 80]);
    let with_extensions = [&ipv4[..], &[0x03, 0, 4, 1, 2, 3, 4]].concat();
    for (header, expected) in [
        (
            b"PROXY TCP4 198.51.100.7 192.0.2.1 12345 80\r\n".to_vec(),
            client("198.51.100.7:12345"),
        ),
        (
            b"PROXY TCP6 2001:db8::7 2001:db8::1 12345 80\r\n".to_vec(),
            client("[2001:db8::7]:12345"),
        ),
        (b"PROXY UNKNOWN\r\n".to_vec(), Announced::Local),
        (
            b"PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n".to_vec(),
            Announced::Local,
        ),
        (
            b"PROXY UNKNOWN what no one knows, 1 2 3 4\r\n".to_vec(),
            Announced::Local,
        ),
        (v2_header(0x21, 0x11, &ipv4), client("198.51.100.7:12345")),
        (v2_header(0x21, 0x21, &ipv6), client("[2001:db8::7]:12345")),
        (
            v2_header(0x21, 0x11, &with_extensions),
            client("198.51.100.7:12345"),
        ),
        (v2_header(0x20, 0x00, &[]), Announced::Local),
        (v2_header(0x20, 0x11, &ipv4), Announced::Local),
        (v2_header(0x21, 0x00, &[]), Announced::Local),
        (v2_header(0x21, 0x31, &[7; 216]), Announced::Local),
    ] {
        let (announced, rest) = read_blocking(&[&header, b"GET / HTTP/1.1\r\n"]);
        assert_eq!(announced.unwrap(), expected, "{header:?}");
        assert_eq!(rest, b"GET / HTTP/1.1\r\n", "{header:?}");
    }
}

#[test]
fn other_beginnings_are_left_as_they_are() {
    for bytes in [
        b"".as_slice(),
        b"P",
        b"PROX",
        b"POST / HTTP/1.1\r\n",
        b"PROXYING / HTTP/1.1\r\n",
        b"PROXY / HTTP/1.1\r\n",
        b"PROXY TCP5 198.51.100.7 192.0.2.1 12345 80\r\n",
        b"PROXY UDP4 198.51.100.7 192.0.2.1 12345 80\r\n",
        b"PROXY TCP4\r\n",
        b"PROXY \r\n",
        b"PROXY UNKNOWABLE\r\n",
        b"PRI * HTTP/2.0\r\n",
        b"proxy TCP4 198.51.100.7 192.0.2.1 12345 80\r\n",
        b"\r\n\r\nGET / HTTP/1.1\r\n",
        b"\r\n\r\n\0\r\nQUIX\n",
        b"\x16\x03\x01",
    ] {
        let (announced, rest) = read_blocking(&[bytes]);
        assert_eq!(announced.unwrap(), Announced::Nothing, "{bytes:?}");
        assert_eq!(rest, bytes);
    }
}

#[test]
fn malformed_headers_are_refused() {
    let too_long = [b"PROXY TCP4 ".as_slice(), &[b'1'; 200], b"\r\n"].concat();
    for bytes in [
        b"PROXY TCP4 \r\n".as_slice(),
        b"PROXY TCP4 198.51.100.7 192.0.2.1 12345 80\n",
        b"PROXY TCP4 198.51.100.7 192.0.2.1 12345\r\n",
        b"PROXY TCP4 198.51.100.7 192.0.2.1 99999 80\r\n",
        b"PROXY TCP4 ::1 ::2 12345 80\r\n",
        b"PROXY TCP6 198.51.100.7 192.0.2.1 12345 80\r\n",
        b"PROXY UNKNOWNS\r\n",
        b"PROXY TCP4 198.51.100.7 192.0.2.1 12345 80",
        &too_long,
        &v2_header(0x11, 0x11, &[0; 12]),
        &v2_header(0x22, 0x11, &[0; 12]),
        &v2_header(0x21, 0x41, &[0; 12]),
        &v2_header(0x21, 0x13, &[0; 12]),
        &v2_header(0x21, 0x11, &[0; 11]),
        &v2_header(0x21, 0x11, &[0; V2_REST_BYTES_MAX + 1]),
        &v2_header(0x21, 0x11, &[0; 12])[..20],
        V2,
    ] {
        let (announced, _) = read_blocking(&[bytes]);
        assert!(announced.is_err(), "{bytes:?}: {announced:?}");
    }
}

fn addresses() -> impl Strategy<Value = (SocketAddr, Vec<u8>)> {
    let ip = prop_oneof![
        any::<[u8; 4]>().prop_map(IpAddr::from),
        any::<[u8; 16]>().prop_map(IpAddr::from),
    ];
    (ip, any::<u16>(), any::<bool>()).prop_map(|(ip, port, is_v2)| {
        let source = SocketAddr::new(ip, port);
        let header = match (ip, is_v2) {
            (IpAddr::V4(_), false) => {
                format!("PROXY TCP4 {ip} 192.0.2.1 {port} 80\r\n").into_bytes()
            }
            (IpAddr::V6(_), false) => {
                format!("PROXY TCP6 {ip} 2001:db8::1 {port} 80\r\n").into_bytes()
            }
            (IpAddr::V4(ip), true) => {
                let rest = [&ip.octets()[..], &[0; 4], &port.to_be_bytes(), &[0; 2]].concat();
                v2_header(0x21, 0x11, &rest)
            }
            (IpAddr::V6(ip), true) => {
                let rest = [&ip.octets()[..], &[0; 16], &port.to_be_bytes(), &[0; 2]].concat();
                v2_header(0x21, 0x21, &rest)
            }
        };
        (SocketAddr::new(source.ip().to_canonical(), port), header)
    })
}

proptest! {
    #[test]
    fn any_split_of_a_header_names_the_same_client(
        (source, header) in addresses(),
        at in any::<proptest::sample::Index>(),
        behind in proptest::collection::vec(any::<u8>(), 0..40),
    ) {
        let bytes = [header, behind.clone()].concat();
        let at = at.index(bytes.len());
        let (announced, rest) = read_blocking(&[&bytes[..at], &bytes[at..]]);
        assert_eq!(announced.unwrap(), Announced::Client(source));
        assert_eq!(rest, behind);
    }

    #[test]
    fn any_bytes_are_a_header_a_refusal_or_left_alone(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        for start in [b"".as_slice(), b"PROXY ", b"PROXY TCP4 ", b"PROXY UNKNOWN", V2] {
            let sent = [start, &bytes].concat();
            let (announced, rest) = read_blocking(&[&sent]);
            if announced.is_ok_and(|announced| announced == Announced::Nothing) {
                assert_eq!(rest, sent);
            }
        }
    }
}

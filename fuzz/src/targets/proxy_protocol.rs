//! The PROXY protocol against a naive parser: the input is the first bytes of a connection.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use oneport::fuzzing::proxy_header;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use crate::input::{block_on, split_tail};

const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

pub fn run(data: &[u8]) {
    let (data, [at]) = split_tail(data);
    let cut = usize::from(at).min(data.len());
    let (found, rest) = block_on(async {
        let (mut client, server) = UnixStream::pair().expect("a pair");
        let send = async {
            for part in [&data[..cut], &data[cut..]] {
                let _ = client.write_all(part).await;
                tokio::task::yield_now().await;
            }
            drop(client);
        };
        let receive = async {
            let (announced, mut stream) = proxy_header(server).await;
            let mut rest = Vec::new();
            let _ = stream.read_to_end(&mut rest).await;
            (announced, rest)
        };
        tokio::join!(send, receive).1
    });
    match (found, naive(data)) {
        (Ok(None), Naive::NoHeader) => assert_eq!(rest, data, "bytes were taken"),
        (Ok(Some(client)), Naive::Header(expected, length)) => {
            assert_eq!(client, expected);
            assert_eq!(rest, data[length..]);
        }
        (Err(_), Naive::Malformed) => {}
        // A beginning that does not go on is none.
        (Ok(None), Naive::Malformed) if data.len() < 16 => assert_eq!(rest, data),
        (found, expected) => panic!("expected {expected:?}, found {found:?}"),
    }
}

#[derive(Debug)]
enum Naive {
    NoHeader,
    /// The client, and the length of the header.
    Header(Option<SocketAddr>, usize),
    Malformed,
}

fn naive(data: &[u8]) -> Naive {
    if data.starts_with(SIGNATURE) {
        return naive_v2(data).unwrap_or(Naive::Malformed);
    }
    let is_v1 = [&b"PROXY TCP4 "[..], b"PROXY TCP6 ", b"PROXY UNKNOWN"]
        .iter()
        .any(|prefix| data.starts_with(prefix));
    if is_v1 {
        return naive_v1(data).unwrap_or(Naive::Malformed);
    }
    Naive::NoHeader
}

fn naive_v1(data: &[u8]) -> Option<Naive> {
    let end = data.iter().take(107).position(|byte| *byte == b'\n')?;
    let line = data[..end].strip_suffix(b"\r")?;
    let rest = line.strip_prefix(b"PROXY UNKNOWN");
    if rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(b" ")) {
        return Some(Naive::Header(None, end + 1)); // the rest is ignored, whatever it is
    }
    let line = std::str::from_utf8(line).ok()?;
    let words: Vec<&str> = line.split(' ').collect();
    let [
        _,
        family,
        source,
        destination,
        source_port,
        destination_port,
    ] = words[..]
    else {
        return None;
    };
    let ip = |text: &str| match family {
        "TCP4" => text.parse::<Ipv4Addr>().ok().map(IpAddr::from),
        "TCP6" => text.parse::<Ipv6Addr>().ok().map(IpAddr::from),
        _ => None, // UNKNOWN with more letters
    };
    let port = |text: &str| {
        let is_plain = text == "0" || !text.starts_with('0');
        text.parse::<u16>()
            .ok()
            .filter(|_| is_plain && !text.starts_with('+'))
    };
    let source = SocketAddr::new(ip(source)?.to_canonical(), port(source_port)?);
    ip(destination)?;
    port(destination_port)?;
    Some(Naive::Header(Some(source), end + 1))
}

fn naive_v2(data: &[u8]) -> Option<Naive> {
    let [command, family, high, low] = *data[SIGNATURE.len()..].first_chunk()?;
    let length = usize::from(u16::from_be_bytes([high, low]));
    let rest = data
        .get(16..16 + length)
        .filter(|rest| rest.len() <= 4096)?;
    let end = 16 + length;
    if !matches!(command, 0x20 | 0x21) || family >> 4 > 3 || family & 0x0F > 2 {
        return None;
    }
    let port = |at: usize| u16::from_be_bytes([rest[at], rest[at + 1]]);
    let client = match family >> 4 {
        1 => {
            let ip: [u8; 4] = *rest.get(..12)?.first_chunk()?;
            Some(SocketAddr::new(ip.into(), port(8)))
        }
        2 => {
            let ip: [u8; 16] = *rest.get(..36)?.first_chunk()?;
            Some(SocketAddr::new(IpAddr::from(ip).to_canonical(), port(32)))
        }
        3 => {
            rest.get(..216)?;
            None
        }
        _ => None,
    };
    Some(Naive::Header(client.filter(|_| command == 0x21), end))
}

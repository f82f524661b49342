//! PROXY protocol, versions 1 and 2: the address of the client behind a proxy that passes on the
//! bytes of a connection.
//!
//! ```text
//!            the first bytes are peeked at, none is taken
//! connected ──┬── those of version 1 ──> the line is taken ─────────────────┐
//!             ├── those of version 2 ──> the head and its length are taken ─┤──> parsed
//!             └── others ──> no header; the connection is served as it is   └──> refused
//! ```
//!
//! Only a trusted proxy's header is read. Anyone else's is the beginning of a malformed request.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use ppp::{v1, v2};
use thiserror::Error;
use tokio::io::AsyncReadExt;

use super::stream::Stream;

/// What lines of version 1 begin with. `PROXY` alone may be a method of HTTP.
const V1_PREFIXES: [&[u8]; 3] = [b"PROXY TCP4 ", b"PROXY TCP6 ", b"PROXY UNKNOWN"];

/// The longest line of version 1, with its line break.
const V1_BYTES_MAX: usize = 107;

/// The head of version 2, whose last two bytes are the length of the rest.
const V2_HEAD_BYTES: usize = 16;

/// The most bytes of the rest: addresses, and the extensions that are ignored.
const V2_REST_BYTES_MAX: usize = 4096;

/// How long to wait before the next look at a beginning that may become a header, and after how
/// many looks it is taken for something else.
const NEXT_LOOK: Duration = Duration::from_millis(10);
const LOOKS_MAX: usize = 100;

/// What the first bytes of a connection say about its client.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Announced {
    /// There is no header.
    Nothing,
    /// The proxy's own connection, such as a health check, or one whose client has no IP address.
    Local,
    /// The client's address.
    Client(SocketAddr),
}

/// Why a header is refused.
#[derive(Debug, Error)]
pub(crate) enum ProxyProtocolError {
    #[error("expected a header of the PROXY protocol, found a malformed one: {0}")]
    Malformed(String),
    #[error("expected a header of the PROXY protocol of at most {expected} bytes, found {found}")]
    TooLong { expected: usize, found: usize },
    #[error("expected a header of the PROXY protocol, found its beginning: {0}")]
    Incomplete(#[from] io::Error),
}

impl Stream {
    /// Takes the header of a proxy, if there is one. The caller sets the deadline.
    pub(crate) async fn read_proxy_header(&mut self) -> Result<Announced, ProxyProtocolError> {
        let mut beginning = [0; V2_HEAD_BYTES];
        for _ in 0..LOOKS_MAX {
            let count = self.peek(&mut beginning).await?;
            match recognize(&beginning[..count]) {
                Beginning::V1 => return self.read_v1().await,
                Beginning::V2 => return self.read_v2().await,
                // The bytes stay in the kernel, which would announce them again at once.
                Beginning::Undecided if count > 0 => tokio::time::sleep(NEXT_LOOK).await,
                Beginning::Undecided | Beginning::Other => break,
            }
        }
        Ok(Announced::Nothing)
    }

    async fn read_v1(&mut self) -> Result<Announced, ProxyProtocolError> {
        let mut line = [0; V1_BYTES_MAX];
        let mut length = 0;
        loop {
            let seen = self.peek(&mut line[length..]).await?;
            if seen == 0 {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
            }
            let end = memchr::memchr(b'\n', &line[length..length + seen]);
            let own = end.map_or(seen, |end| end + 1);
            self.read_exact(&mut line[length..length + own]).await?;
            length += own;
            if end.is_some() {
                return parse_v1(&line[..length]);
            }
            if length == V1_BYTES_MAX {
                return Err(ProxyProtocolError::TooLong {
                    expected: V1_BYTES_MAX,
                    found: length + 1,
                });
            }
        }
    }

    async fn read_v2(&mut self) -> Result<Announced, ProxyProtocolError> {
        let mut head = [0; V2_HEAD_BYTES];
        self.read_exact(&mut head).await?;
        let rest = usize::from(u16::from_be_bytes([head[14], head[15]]));
        if rest > V2_REST_BYTES_MAX {
            return Err(ProxyProtocolError::TooLong {
                expected: V2_HEAD_BYTES + V2_REST_BYTES_MAX,
                found: V2_HEAD_BYTES + rest,
            });
        }
        let mut header = head.to_vec();
        header.resize(V2_HEAD_BYTES + rest, 0);
        self.read_exact(&mut header[V2_HEAD_BYTES..]).await?;
        parse_v2(&header)
    }
}

enum Beginning {
    V1,
    V2,
    /// All bytes so far could begin a header.
    Undecided,
    Other,
}

fn recognize(bytes: &[u8]) -> Beginning {
    let mut v1 = V1_PREFIXES.iter();
    if v1.clone().any(|prefix| bytes.starts_with(prefix)) {
        return Beginning::V1;
    }
    if bytes.starts_with(v2::PROTOCOL_PREFIX) {
        return Beginning::V2;
    }
    if v1.any(|prefix| prefix.starts_with(bytes)) || v2::PROTOCOL_PREFIX.starts_with(bytes) {
        return Beginning::Undecided;
    }
    Beginning::Other
}

fn parse_v1(line: &[u8]) -> Result<Announced, ProxyProtocolError> {
    let malformed =
        |error: &dyn std::fmt::Display| ProxyProtocolError::Malformed(error.to_string());
    if !line.ends_with(b"\r\n") {
        return Err(malformed(&"the line does not end with CR LF"));
    }
    // Whatever follows is ignored, and not only two addresses.
    if line.starts_with(b"PROXY UNKNOWN ") {
        return Ok(Announced::Local);
    }
    let header = v1::Header::try_from(line).map_err(|error| malformed(&error))?;
    Ok(match header.addresses {
        v1::Addresses::Tcp4(pair) => client(pair.source_address, pair.source_port),
        v1::Addresses::Tcp6(pair) => client(pair.source_address, pair.source_port),
        v1::Addresses::Unknown => Announced::Local,
    })
}

fn parse_v2(header: &[u8]) -> Result<Announced, ProxyProtocolError> {
    let header = v2::Header::try_from(header)
        .map_err(|error| ProxyProtocolError::Malformed(error.to_string()))?;
    Ok(match (header.command, header.addresses) {
        (v2::Command::Local, _) => Announced::Local,
        (_, v2::Addresses::IPv4(pair)) => client(pair.source_address, pair.source_port),
        (_, v2::Addresses::IPv6(pair)) => client(pair.source_address, pair.source_port),
        (_, v2::Addresses::Unspecified | v2::Addresses::Unix(_)) => Announced::Local,
    })
}

fn client(ip: impl Into<std::net::IpAddr>, port: u16) -> Announced {
    Announced::Client(SocketAddr::new(ip.into().to_canonical(), port))
}

#[cfg(test)]
mod tests;

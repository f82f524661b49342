//! Raw socket: a WebSocket client that writes and reads bytes.

use oneport::testing::LiveServer;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::DEADLINE;

/// The masking key of every frame.
const KEY: [u8; 4] = [1, 2, 3, 4];

/// A handshake with `/echo/` from a page of the same origin.
pub(crate) const HANDSHAKE: &str = "GET /echo/ HTTP/1.1\r\nHost: localhost\r\nOrigin: http://localhost\r\nConnection: keep-alive, Upgrade\r\n\
    Upgrade: WebSocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

/// A masked frame.
pub(crate) fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first];
    match payload.len() {
        length @ 0..=125 => bytes.push(0x80 | length as u8),
        length => {
            bytes.push(0x80 | 126);
            bytes.extend((length as u16).to_be_bytes());
        }
    }
    bytes.extend(KEY);
    bytes.extend(
        payload
            .iter()
            .enumerate()
            .map(|(at, byte)| byte ^ KEY[at & 3]),
    );
    bytes
}

/// Reads until `enough` returns true, or to the end of the stream.
pub(crate) async fn read_until(stream: &mut TcpStream, enough: impl Fn(&[u8]) -> bool) -> Vec<u8> {
    let mut read = Vec::new();
    while !enough(&read) {
        let mut buffer = [0; 4096];
        match timeout(DEADLINE, stream.read(&mut buffer))
            .await
            .expect("an answer in time")
        {
            Ok(count @ 1..) => read.extend_from_slice(&buffer[..count]),
            _ => break,
        }
    }
    read
}

/// Opens a WebSocket at `/echo/`.
pub(crate) async fn open(server: &LiveServer) -> TcpStream {
    let mut stream = TcpStream::connect(server.address()).await.unwrap();
    stream.write_all(HANDSHAKE.as_bytes()).await.unwrap();
    let head = read_until(&mut stream, |read| read.ends_with(b"\r\n\r\n")).await;
    assert!(
        head.starts_with(b"HTTP/1.1 101"),
        "{}",
        String::from_utf8_lossy(&head)
    );
    stream
}

/// The code of a close frame, which has to come first.
pub(crate) fn close_code(bytes: &[u8]) -> u16 {
    assert_eq!(bytes[0], 0x88, "expected a close frame, found {bytes:?}");
    u16::from_be_bytes([bytes[2], bytes[3]])
}

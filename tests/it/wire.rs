//! Wire: the bytes that a client gets, over a live server.

use oneport::testing::LiveServer;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::support::{HANDSHAKE, close_code, frame, open, read_until};

const FILE: &str = "
    [server.timeouts]
    handshake = '300ms'
    keep_alive = '300ms'
    [server.limits]
    header_size = '8 KiB'
    [http]
    body_size = '1 KiB'
    [[http.route]]
    path = '/hello/'
    view = 'respond'
    options = { body = 'hello' }
    [[websocket.route]]
    path = '/echo/'
    consumer = 'echo'
    max_message = '1 KiB'
    max_fragments = 4
    close_timeout = '500ms'
";

async fn everything(server: &LiveServer, sent: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(server.address()).await.unwrap();
    stream.write_all(sent).await.unwrap();
    read_until(&mut stream, |_| false).await
}

/// Sends frames after a handshake and returns everything until the end of the stream.
async fn answer_to(server: &LiveServer, frames: &[u8]) -> Vec<u8> {
    let mut stream = open(server).await;
    stream.write_all(frames).await.unwrap();
    read_until(&mut stream, |_| false).await
}

/// Case 40; also that the close frame reaches the client before the end of the stream.
#[tokio::test]
async fn broken_frames_end_with_1002_and_bad_text_with_1007() {
    let server = LiveServer::start(FILE).await.unwrap();
    for (what, bytes, code) in [
        ("unmasked", vec![0x81, 2, b'h', b'i'], 1002),
        ("reserved bit", frame(0xC1, b"x"), 1002),
        ("unknown opcode", frame(0x83, b"x"), 1002),
        ("stray continuation", frame(0x80, b"x"), 1002),
        ("fragmented ping", frame(0x09, b"x"), 1002),
        ("long ping", frame(0x89, &[0; 126]), 1002),
        (
            "close with 1005",
            frame(0x88, &1005_u16.to_be_bytes()),
            1002,
        ),
        ("bad text", frame(0x81, b"\xFF"), 1007),
        (
            "bad text in a fragment",
            [frame(0x01, b"ok"), frame(0x00, b"\xFF")].concat(),
            1007,
        ),
        ("too big", frame(0x82, &[0; 1025]), 1009),
        (
            "too many fragments",
            [
                frame(0x01, b""),
                frame(0, b""),
                frame(0, b""),
                frame(0, b""),
                frame(0, b""),
            ]
            .concat(),
            1008,
        ),
    ] {
        assert_eq!(
            close_code(&answer_to(&server, &bytes).await),
            code,
            "{what}"
        );
    }
}

/// Cases 37 to 39.
#[tokio::test]
async fn empty_fragmented_and_longest_messages_come_back() {
    let server = LiveServer::start(FILE).await.unwrap();
    let mut stream = open(&server).await;
    stream
        .write_all(
            &[
                frame(0x81, b""),
                frame(0x82, b""),
                frame(0x01, b"a"),
                frame(0x89, b"p"),
                frame(0x80, b"b"),
            ]
            .concat(),
        )
        .await
        .unwrap();
    let expected = [
        &[0x81, 0][..],
        &[0x82, 0],
        &[0x8A, 1, b'p'],
        &[0x81, 2, b'a', b'b'],
    ]
    .concat();
    assert_eq!(
        read_until(&mut stream, |read| read.len() >= expected.len()).await,
        expected
    );
    stream.write_all(&frame(0x82, &[7; 1024])).await.unwrap();
    let back = read_until(&mut stream, |read| read.len() >= 1028).await;
    assert_eq!((back.len(), back[0]), (1028, 0x82));
}

/// Case 49: neither the 101 nor the frame is lost, even half a frame.
#[tokio::test]
async fn frame_right_behind_the_handshake_is_delivered() {
    let server = LiveServer::start(FILE).await.unwrap();
    let whole = frame(0x81, b"early");
    for cut in [whole.len(), 3] {
        let mut stream = TcpStream::connect(server.address()).await.unwrap();
        stream
            .write_all(&[HANDSHAKE.as_bytes(), &whole[..cut]].concat())
            .await
            .unwrap();
        let head = read_until(&mut stream, |read| {
            read.windows(4).any(|four| four == b"\r\n\r\n")
        })
        .await;
        assert!(head.starts_with(b"HTTP/1.1 101"), "{head:?}");
        stream.write_all(&whole[cut..]).await.unwrap();
        let has_echo = |read: &[u8]| read.ends_with(b"\x81\x05early");
        assert!(has_echo(&head) || has_echo(&read_until(&mut stream, has_echo).await));
    }
}

/// Case 43.
#[tokio::test]
async fn close_is_answered_with_its_code_or_with_none() {
    let server = LiveServer::start(FILE).await.unwrap();
    assert_eq!(
        answer_to(&server, &frame(0x88, b"\x0F\xA1bye")).await,
        [0x88, 2, 0x0F, 0xA1]
    );
    assert_eq!(answer_to(&server, &frame(0x88, b"")).await, [0x88, 0]);
}

/// Case 61, and heads that are not HTTP.
#[tokio::test]
async fn broken_heads_have_their_status() {
    let server = LiveServer::start(FILE).await.unwrap();
    let long = format!(
        "GET /hello/ HTTP/1.1\r\nHost: localhost\r\nX: {}\r\n\r\n",
        "a".repeat(20_000)
    );
    for (sent, status) in [
        ("nonsense\r\n\r\n", "400"),
        (long.as_str(), "431"),
        ("GET /hello/ HTTP/1.1\r\nConnection: close\r\n\r\n", "400"),
        (
            "GET /hello/ HTTP/1.1\r\nHost: a\r\nHost: b\r\nConnection: close\r\n\r\n",
            "400",
        ),
        (
            "GET /hello/ HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n",
            "400",
        ),
        (
            "POST /hello/ HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nx",
            "400",
        ),
        (
            "GET /hello/%zz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
            "400",
        ),
        (
            "GET /hello/../hello/ HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
            "400",
        ),
        (
            "GET /hello/ HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
            "200",
        ),
    ] {
        let answer =
            String::from_utf8_lossy(&everything(&server, sent.as_bytes()).await).into_owned();
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status}")),
            "{:.60}: {answer}",
            sent
        );
    }
}

#[tokio::test]
async fn half_a_request_is_dropped_at_the_deadline() {
    let server = LiveServer::start(FILE).await.unwrap();
    for sent in [
        "",
        "GET /hel",
        "PRI * HT",
        "GET /hello/ HTTP/1.1\r\nHost: localhost\r\n\r\nGET /he",
    ] {
        let answer = everything(&server, sent.as_bytes()).await;
        assert_eq!(
            answer.starts_with(b"HTTP/1.1 200"),
            sent.ends_with("/he"),
            "{sent}"
        );
    }
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let server = LiveServer::start(FILE).await.unwrap();
    let one = "GET /hello/ HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let last = "GET /nowhere/ HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    let answers =
        String::from_utf8_lossy(&everything(&server, format!("{one}{one}{last}").as_bytes()).await)
            .into_owned();
    let statuses: Vec<&str> = answers
        .match_indices("HTTP/1.1 ")
        .map(|(at, _)| &answers[at + 9..at + 12])
        .collect();
    assert_eq!(statuses, ["200", "200", "404"]);
}

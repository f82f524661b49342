//! Compression: permessage-deflate (RFC 7692) from the client's side, frame by frame.

use bytes::Bytes;
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress};
use oneport::gateway::Registry;
use oneport::net::Stream;
use oneport::testing::Application;
use oneport::websocket::{Close, Consumer, Context, Message};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::time::timeout;

use crate::support::{DEADLINE, frame, upgrade};

const TAIL: [u8; 4] = [0, 0, 0xFF, 0xFF];
const TEXT: &str = "the same words, and the same words again, and the same words to the end";

const FILE: &str = "
    [websocket]
    compression_threshold = '16 B'
    max_message = '64 KiB'
    [[websocket.route]]
    path = '/echo/'
    consumer = 'echo'
    [[websocket.route]]
    path = '/takeover/'
    consumer = 'echo'
    server_context_takeover = true
    client_context_takeover = true
    [[websocket.route]]
    path = '/small/'
    consumer = 'echo'
    server_max_window_bits = 10
    client_max_window_bits = 9
    [[websocket.route]]
    path = '/off/'
    consumer = 'echo'
    compression = 'off'
    [[websocket.route]]
    path = '/room/'
    consumer = 'broadcast'
    options = { group = 'room' }
    [[websocket.route]]
    path = '/room/takeover/'
    consumer = 'both'
    server_context_takeover = true
";

/// A member of the room by frames that also sends messages itself.
struct Both;

impl Consumer for Both {
    type Options = ();

    fn new(_: &()) -> Self {
        Self
    }

    async fn open(&mut self, cx: &mut Context<'_>) -> Result<(), Close> {
        cx.group_add_frames(
            &oneport::channels::GroupName::new("room")?,
            oneport::channels::GroupOptions::default(),
        )
        .await?;
        Ok(())
    }

    async fn receive(&mut self, cx: &mut Context<'_>, message: Message) -> Result<(), Close> {
        cx.send(message);
        Ok(())
    }
}

/// A client with contexts of its own.
struct Client {
    stream: DuplexStream,
    extensions: Option<String>,
    read: Vec<u8>,
    deflate: Compress,
    inflate: Decompress,
    /// The server's messages may refer to earlier ones.
    has_context: bool,
}

/// One frame from the server: its first octet and its payload.
type Frame = (u8, Vec<u8>);

fn application() -> Application {
    Application::with(&Registry::builtin().consumer::<Both>("both"), FILE).unwrap()
}

impl Client {
    async fn open(app: &Application, path: &str, offer: &str) -> Self {
        let (response, upgrade) = upgrade(app, path, offer).await;
        let (here, there) = tokio::io::duplex(1 << 20);
        upgrade.start(Some(Stream::boxed(there)), Bytes::new(), Box::new(()));
        let extensions = response
            .headers()
            .get("sec-websocket-extensions")
            .map(|value| value.to_str().unwrap().to_owned());
        let has_context = extensions
            .as_ref()
            .is_some_and(|agreed| !agreed.contains("server_no_context_takeover"));
        Self {
            stream: here,
            extensions,
            read: Vec::new(),
            deflate: Compress::new(Compression::best(), false),
            inflate: Decompress::new(false),
            has_context,
        }
    }

    /// Compresses with the context of earlier messages.
    fn compress(&mut self, payload: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(payload.len() * 2 + 100);
        self.deflate
            .compress_vec(payload, &mut out, FlushCompress::Sync)
            .unwrap();
        assert!(out.ends_with(&TAIL));
        out.truncate(out.len() - TAIL.len());
        out
    }

    async fn write(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.unwrap();
    }

    async fn say_compressed(&mut self, payload: &[u8]) {
        let compressed = self.compress(payload);
        self.write(&frame(0xC1, &compressed)).await;
    }

    async fn frame(&mut self) -> Option<Frame> {
        loop {
            if let Some((first, length, header)) = self.header()
                && self.read.len() >= header + length
            {
                let payload = self.read[header..header + length].to_vec();
                self.read.drain(..header + length);
                return Some((first, payload));
            }
            let mut buffer = vec![0; 65_536];
            let count = timeout(DEADLINE, self.stream.read(&mut buffer))
                .await
                .expect("a frame in time")
                .unwrap_or(0);
            if count == 0 {
                return None;
            }
            self.read.extend_from_slice(&buffer[..count]);
        }
    }

    fn header(&self) -> Option<(u8, usize, usize)> {
        let (first, second) = (*self.read.first()?, *self.read.get(1)?);
        match second {
            126 => {
                let length = self.read.get(2..4)?;
                Some((
                    first,
                    usize::from(u16::from_be_bytes([length[0], length[1]])),
                    4,
                ))
            }
            127 => {
                let length = self.read.get(2..10)?.try_into().unwrap();
                Some((first, u64::from_be_bytes(length) as usize, 10))
            }
            length => Some((first, usize::from(length), 2)),
        }
    }

    /// Reads the next message; `true` if it was compressed.
    async fn message(&mut self) -> (bool, Vec<u8>) {
        let (first, payload) = self.frame().await.expect("a frame, found the end");
        match first {
            0x81 | 0x82 => (false, payload),
            0xC1 | 0xC2 => (true, self.inflated(&payload)),
            other => panic!("expected a message, found {other:#x} {payload:02x?}"),
        }
    }

    fn inflated(&mut self, payload: &[u8]) -> Vec<u8> {
        if !self.has_context {
            self.inflate.reset(false);
        }
        let mut out = Vec::with_capacity(1 << 20);
        let input = [payload, &TAIL].concat();
        let before = self.inflate.total_in();
        self.inflate
            .decompress_vec(&input, &mut out, FlushDecompress::Sync)
            .expect("sound DEFLATE");
        assert_eq!(self.inflate.total_in() - before, input.len() as u64);
        out
    }

    async fn close_code(&mut self) -> u16 {
        loop {
            match self.frame().await {
                Some((0x88, payload)) => return u16::from_be_bytes([payload[0], payload[1]]),
                Some(_) => {}
                None => panic!("expected a close frame, found the end"),
            }
        }
    }
}

#[tokio::test]
async fn answer_names_what_the_route_and_the_client_want() {
    let app = application();
    for (path, offer, answer) in [
        (
            "/echo/",
            "permessage-deflate; client_max_window_bits",
            Some("permessage-deflate; server_no_context_takeover; client_no_context_takeover"),
        ),
        (
            "/takeover/",
            "permessage-deflate",
            Some("permessage-deflate"),
        ),
        (
            "/small/",
            "permessage-deflate; client_max_window_bits",
            Some(
                "permessage-deflate; server_no_context_takeover; client_no_context_takeover; server_max_window_bits=10; client_max_window_bits=9",
            ),
        ),
        ("/off/", "permessage-deflate", None),
        (
            "/echo/",
            "permessage-deflate; server_max_window_bits=8",
            None,
        ),
        ("/echo/", ";;,=\"", None),
    ] {
        let client = Client::open(&app, path, offer).await;
        assert_eq!(client.extensions.as_deref(), answer, "{path} {offer}");
    }
}

#[tokio::test]
async fn long_messages_come_back_compressed_and_short_ones_plain() {
    let app = application();
    for path in ["/echo/", "/small/"] {
        let mut client = Client::open(&app, path, "permessage-deflate").await;
        client.deflate = Compress::new(Compression::best(), false);
        client.write(&frame(0x81, TEXT.as_bytes())).await;
        assert_eq!(
            client.message().await,
            (true, TEXT.as_bytes().to_vec()),
            "{path}"
        );
        client.write(&frame(0x81, b"short")).await;
        assert_eq!(client.message().await, (false, b"short".to_vec()), "{path}");
        client.say_compressed(TEXT.as_bytes()).await;
        assert_eq!(
            client.message().await,
            (true, TEXT.as_bytes().to_vec()),
            "{path}"
        );
    }
}

#[tokio::test]
async fn compressed_fragments_with_a_ping_between_are_one_message() {
    let app = application();
    let mut client = Client::open(&app, "/echo/", "permessage-deflate").await;
    let compressed = client.compress(TEXT.as_bytes());
    let third = compressed.len() / 3;
    client.write(&frame(0x41, &compressed[..third])).await;
    client.write(&frame(0x89, b"there?")).await;
    client
        .write(&frame(0x00, &compressed[third..2 * third]))
        .await;
    client.write(&frame(0x00, b"")).await;
    client.write(&frame(0x80, &compressed[2 * third..])).await;
    assert_eq!(client.frame().await, Some((0x8A, b"there?".to_vec())));
    assert_eq!(client.message().await, (true, TEXT.as_bytes().to_vec()));
}

#[tokio::test]
async fn broken_compressed_frames_end_with_their_code() {
    let app = application();
    let none = "x-none";
    let deflate = "permessage-deflate";
    let mut maker = Compress::new(Compression::best(), false);
    let mut compressed = |payload: &[u8]| {
        maker.reset();
        let mut out = Vec::with_capacity(1 << 20);
        maker
            .compress_vec(payload, &mut out, FlushCompress::Sync)
            .unwrap();
        out.truncate(out.len() - 4);
        out
    };
    let hello = compressed(b"hello");
    let wrong_text = compressed(&[TEXT.as_bytes(), b"\xFF\xFF", TEXT.as_bytes()].concat());
    let bomb = compressed(&vec![0; 32 << 20]);
    let just_over = compressed(&vec![b'a'; 65_537]);
    for (what, offer, bytes, code) in [
        ("not agreed", none, frame(0xC1, &hello), 1002),
        (
            "on a continuation",
            deflate,
            [frame(0x41, &hello), frame(0xC0, &hello)].concat(),
            1002,
        ),
        ("on a ping", deflate, frame(0xC9, b""), 1002),
        ("on a close", deflate, frame(0xC8, b""), 1002),
        ("the second bit", deflate, frame(0xA1, b""), 1002),
        ("no DEFLATE", deflate, frame(0xC1, &[0xFF; 20]), 1007),
        ("wrong text", deflate, frame(0xC1, &wrong_text), 1007),
        (
            "wrong text in a frame that is not whole",
            deflate,
            {
                let mut half = frame(0x41, &wrong_text);
                half.truncate(half.len() - 4);
                half
            },
            1007,
        ),
        ("a bomb", deflate, frame(0xC2, &bomb), 1009),
        ("one byte over", deflate, frame(0xC2, &just_over), 1009),
        (
            "a bomb in fragments",
            deflate,
            [frame(0x42, &bomb[..100]), frame(0x80, &bomb[100..])].concat(),
            1009,
        ),
        (
            "a compressed length beyond all measure",
            deflate,
            [&[0xC2, 0xFF][..], &(1_u64 << 62).to_be_bytes(), &[0; 4]].concat(),
            1009,
        ),
    ] {
        let mut client = Client::open(&app, "/echo/", offer).await;
        client.write(&bytes).await;
        assert_eq!(client.close_code().await, code, "{what}");
    }
}

#[tokio::test]
async fn longest_message_is_accepted_though_its_compressed_form_is_longer() {
    let app = application();
    let mut client = Client::open(&app, "/echo/", "permessage-deflate").await;
    let noise: Vec<u8> = (0..65_536).map(|_| fastrand::u8(..)).collect();
    let compressed = client.compress(&noise);
    assert!(compressed.len() > noise.len());
    let header = [
        &[0xC2, 0xFF][..],
        &(compressed.len() as u64).to_be_bytes(),
        &[0; 4],
    ]
    .concat();
    client.write(&header).await;
    client.write(&compressed).await;
    assert_eq!(client.message().await, (false, noise));
}

#[tokio::test]
async fn with_context_takeover_messages_refer_to_earlier_ones_both_ways() {
    let app = application();
    let mut client = Client::open(&app, "/takeover/", "permessage-deflate").await;
    let noise: String = (0..400).map(|_| fastrand::alphanumeric()).collect();
    let mut lengths = Vec::new();
    for _ in 0..3 {
        let compressed = client.compress(noise.as_bytes());
        client.write(&frame(0xC1, &compressed)).await;
        let (first, payload) = client.frame().await.unwrap();
        assert_eq!(first, 0xC1);
        lengths.push((compressed.len(), payload.len()));
        assert_eq!(client.inflated(&payload), noise.as_bytes());
    }
    assert!(lengths[1].0 < 50 && lengths[1].1 < 50, "{lengths:?}");
}

/// A group's events between a connection's own messages leave the context intact.
#[tokio::test]
async fn group_events_and_own_messages_share_one_context() {
    let app = application();
    let mut member = Client::open(&app, "/room/takeover/", "permessage-deflate").await;
    assert!(member.has_context);
    let mut publisher = Client::open(&app, "/room/", "x-none").await;
    // Both are members once each has received an event.
    publisher.write(&frame(0x81, b"first")).await;
    publisher.message().await;
    let noise: String = (0..400).map(|_| fastrand::alphanumeric()).collect();
    member.say_compressed(noise.as_bytes()).await;
    let mut heard = member.message().await;
    while heard.1 != noise.as_bytes() {
        heard = member.message().await;
    }
    for round in 0..200 {
        let text = format!("{round} {TEXT} {}", &noise[..fastrand::usize(..400)]);
        if fastrand::bool() {
            publisher.write(&frame(0x81, text.as_bytes())).await;
            assert_eq!(
                publisher.message().await,
                (false, text.clone().into_bytes())
            );
        } else {
            member.write(&frame(0x81, text.as_bytes())).await;
        }
        assert_eq!(member.message().await, (true, text.into_bytes()), "{round}");
    }
}

#[tokio::test]
async fn event_reaches_each_member_in_the_form_it_agreed_on() {
    let app = application();
    let mut members = Vec::new();
    for offer in [
        "x-none",
        "permessage-deflate",
        "permessage-deflate; server_max_window_bits=9",
        "permessage-deflate; server_max_window_bits=15",
        "permessage-deflate; server_no_context_takeover",
    ] {
        members.push(Client::open(&app, "/room/", offer).await);
    }
    let mut late = Client::open(&app, "/room/takeover/", "permessage-deflate").await;
    // An echo of its own shows that it has joined.
    late.write(&frame(0x81, b"here")).await;
    assert_eq!(late.message().await.1, b"here");
    members.push(late);
    let mut publisher = Client::open(&app, "/room/", "permessage-deflate").await;
    publisher.say_compressed(TEXT.as_bytes()).await;
    assert_eq!(publisher.message().await, (true, TEXT.as_bytes().to_vec()));
    for (at, member) in members.iter_mut().enumerate() {
        assert_eq!(
            member.message().await,
            (at > 0, TEXT.as_bytes().to_vec()),
            "{at}"
        );
    }
}

/// A client that does not read loses messages, and later ones still inflate.
#[tokio::test]
async fn dropped_messages_leave_the_context_sound() {
    let text = "
        [[websocket.route]]
        path = '/flood/'
        consumer = 'flood'
        server_context_takeover = true
        send_queue = '8 KiB'
        slow_client = 'drop_oldest'
        compression_threshold = '16 B'
    ";
    struct Flood;
    impl Consumer for Flood {
        type Options = ();
        fn new(_: &()) -> Self {
            Self
        }
        async fn receive(&mut self, cx: &mut Context<'_>, message: Message) -> Result<(), Close> {
            for number in 0..5000 {
                let noise: String = (0..fastrand::usize(20..200))
                    .map(|_| fastrand::alphanumeric())
                    .collect();
                cx.send(format!("{number} {noise} {TEXT}"));
            }
            cx.send(message);
            Ok(())
        }
    }
    let app = Application::with(&Registry::builtin().consumer::<Flood>("flood"), text).unwrap();
    let mut client = Client::open(&app, "/flood/", "permessage-deflate").await;
    for _ in 0..3 {
        client.write(&frame(0x81, b"the end of the flood")).await;
        tokio::time::sleep(Duration::from_millis(50)).await;
        let mut heard = 0;
        loop {
            let (_, payload) = client.message().await;
            if payload == b"the end of the flood" {
                break;
            }
            assert!(payload.ends_with(TEXT.as_bytes()));
            heard += 1;
        }
        assert!((1..5000).contains(&heard), "{heard}");
    }
}

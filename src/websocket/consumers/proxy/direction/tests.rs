//! Tests of a direction against streams in memory.

use std::task::Waker;

use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

use super::*;
use crate::clock::NEVER;
use crate::net::secure_pair::{read_some, secure_pair};

const TURN: Turn = Turn {
    now: 7,
    reads: 8,
    read_bytes: 4096,
};

const ONE_READ: Turn = Turn { reads: 1, ..TURN };

const UNLIMITED: Option<&mut Once> = None;

/// A limit that counts one read so, and all that follows as within it.
struct Once(Option<Counted>, Option<Bytes>);

impl Limit for Once {
    fn count(&mut self, _: &FrameBoundaries, bytes: &[u8]) -> Counted {
        let counted = self.0.take().unwrap_or(Counted::All);
        if let Counted::Until(at) = counted {
            self.1 = Some(Bytes::copy_from_slice(&bytes[at..]));
        }
        counted
    }

    fn take_kept(&mut self) -> Option<Bytes> {
        self.1.take()
    }
}

/// One direction, with the ends of the two peers.
struct Relay {
    direction: Direction,
    streams: (Stream, Stream),
    source: DuplexStream,
    sink: DuplexStream,
}

impl Relay {
    /// The sink's stream takes `room` bytes at once.
    fn new(room: usize) -> Self {
        let (source, ours) = duplex(1 << 20);
        let (sink, theirs) = duplex(room);
        Self {
            direction: Direction::default(),
            streams: (Stream::boxed(ours), Stream::boxed(theirs)),
            source,
            sink,
        }
    }

    fn poll(&mut self) -> Progress {
        self.poll_limited(TURN, UNLIMITED)
    }

    fn poll_limited(&mut self, turn: Turn, limit: Option<&mut Once>) -> Progress {
        let mut cx = Context::from_waker(Waker::noop());
        let (source, sink) = &self.streams;
        self.direction.poll(&mut cx, (source, sink), turn, limit)
    }

    async fn send(&mut self, bytes: &[u8]) -> Progress {
        self.source.write_all(bytes).await.unwrap();
        self.poll()
    }

    async fn received(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        self.sink.read_exact(&mut bytes).await.unwrap();
        bytes
    }

    /// Returns all that the sink gets until the end of its stream.
    async fn rest(self) -> Vec<u8> {
        let Self {
            mut sink, streams, ..
        } = self;
        drop(streams);
        let mut bytes = Vec::new();
        sink.read_to_end(&mut bytes).await.unwrap();
        bytes
    }
}

#[tokio::test]
async fn sink_that_takes_little_stops_the_reading() {
    let mut relay = Relay::new(3);
    assert_eq!(relay.send(b"\x82\x05hello").await, Progress::Waiting);
    assert_eq!(relay.direction.blocked_since(), 7);
    relay.send(b"\x82\x01!").await;
    assert_eq!(
        relay.direction.received, 7,
        "read although the sink is full"
    );
    let mut all = Vec::new();
    while all.len() < 10 {
        all.extend(relay.received(1).await);
        relay.poll();
    }
    assert_eq!(all, b"\x82\x05hello\x82\x01!");
    assert_eq!(relay.direction.blocked_since(), NEVER);
    assert_eq!((relay.direction.received, relay.direction.sent), (10, 10));
}

#[tokio::test]
async fn own_close_frame_follows_the_frame_that_is_under_way() {
    let mut relay = Relay::new(1024);
    relay.send(b"\x82\x05hel").await;
    relay.direction.interrupt(b"\x88\x00".to_vec(), 7);
    relay.send(b"lo\x82\x01!\x88\x02\x03\xe8").await;
    assert!(
        relay.direction.frames.is_closed(),
        "the source's close frame was not seen"
    );
    assert_eq!(relay.poll(), Progress::Waiting);
    assert!(relay.direction.is_flushed());
    assert_eq!(relay.rest().await, b"\x82\x05hello\x88\x00");
}

#[tokio::test]
async fn own_close_frame_waits_behind_bytes_that_the_sink_did_not_take() {
    let mut relay = Relay::new(4);
    relay.send(b"\x82\x05hello").await;
    relay.direction.interrupt(b"\x88\x00".to_vec(), 7);
    assert!(!relay.direction.is_flushed());
    let mut all = Vec::new();
    while all.len() < 9 {
        all.extend(relay.received(1).await);
        relay.poll();
    }
    assert_eq!(all, b"\x82\x05hello\x88\x00");
    assert!(relay.direction.is_flushed());
}

#[tokio::test]
async fn no_close_frame_follows_the_sources_own() {
    let mut relay = Relay::new(1024);
    relay.send(b"\x88\x02\x03").await;
    relay.direction.interrupt(b"\x88\x00".to_vec(), 7);
    assert_eq!(relay.send(b"\xe8\x81\x01x").await, Progress::Changed);
    assert_eq!(relay.rest().await, b"\x88\x02\x03\xe8");
}

#[tokio::test]
async fn nothing_passes_after_a_close_frame() {
    let mut relay = Relay::new(1024);
    assert_eq!(relay.send(b"\x88\x00\x81\x01x").await, Progress::Changed);
    relay.send(b"\x81\x01y").await;
    assert!(!relay.direction.is_relaying());
    assert_eq!(relay.rest().await, b"\x88\x00");
}

#[tokio::test]
async fn ping_goes_out_only_between_frames() {
    let mut relay = Relay::new(1024);
    assert!(relay.direction.inject(b"\x89\x00", 7));
    relay.send(b"\x81\x02a").await;
    assert!(!relay.direction.inject(b"\x89\x00", 7));
    relay.send(b"b").await;
    assert!(relay.direction.inject(b"\x89\x00", 7));
    relay.poll();
    assert_eq!(relay.rest().await, b"\x89\x00\x81\x02ab\x89\x00");
}

#[tokio::test]
async fn ends_of_both_streams_are_seen() {
    let mut relay = Relay::new(1024);
    drop(std::mem::replace(&mut relay.source, duplex(1).0));
    assert_eq!(relay.poll(), Progress::Changed);
    assert!(relay.direction.source_has_ended() && !relay.direction.sink_is_gone());

    let mut relay = Relay::new(1024);
    drop(std::mem::replace(&mut relay.sink, duplex(1).0));
    assert_eq!(relay.send(b"\x81\x01x").await, Progress::Changed);
    assert!(relay.direction.sink_is_gone() && !relay.direction.source_has_ended());
    assert_eq!(relay.send(b"\x88\x00").await, Progress::Changed);
    assert!(
        relay.direction.frames.is_closed(),
        "what follows is not read"
    );
}

#[tokio::test]
async fn busy_source_does_not_keep_the_task() {
    let mut relay = Relay::new(1 << 20);
    assert_eq!(relay.send(&vec![0; 9 * 4096]).await, Progress::Busy);
    assert_eq!(relay.direction.received, 8 * 4096);
}

#[tokio::test]
async fn bytes_that_came_with_the_handshake_pass_first() {
    let mut relay = Relay::new(1024);
    relay.direction.begin(b"\x81\x02a", 7);
    relay.send(b"b\x88\x00").await;
    assert_eq!(relay.rest().await, b"\x81\x02ab\x88\x00");
}

#[tokio::test]
async fn ciphertext_that_the_sink_does_not_take_has_a_deadline() {
    let (mut source, ours) = duplex(1 << 20);
    let (sink, mut client) = secure_pair(1024).await;
    let streams = (Stream::boxed(ours), sink);
    let mut direction = Direction::default();
    let mut poll = |now| {
        let mut cx = Context::from_waker(Waker::noop());
        direction.poll(
            &mut cx,
            (&streams.0, &streams.1),
            Turn { now, ..TURN },
            UNLIMITED,
        );
        direction.blocked_since()
    };
    source.write_all(&[0x82, 126, 0x0f, 0xa0]).await.unwrap();
    source.write_all(&[7; 4000]).await.unwrap();
    assert_eq!(poll(1), 1);
    assert_eq!(poll(5), 1, "it takes nothing");
    read_some(&mut client);
    assert_eq!(poll(9), 9, "it reads");
    for now in 10..100 {
        if poll(now) == NEVER {
            return;
        }
        read_some(&mut client);
    }
    panic!("the ciphertext still waits");
}

#[tokio::test]
async fn what_is_over_a_limit_does_not_pass() {
    for (begun, rest, at, passed) in [
        (
            &b""[..],
            &b"\x82\x01a\x82\x01b\x82\x01c"[..],
            3,
            &b"\x82\x01a\x88\x00"[..],
        ),
        (b"\x82\x05he", b"llo\x82\x01b", 3, b"\x82\x05hello\x88\x00"),
        // In the midst of a frame no other can follow.
        (b"\x82\x05he", b"llo\x82\x01b", 0, b"\x82\x05he"),
    ] {
        let mut relay = Relay::new(1024);
        relay.send(begun).await;
        relay.source.write_all(rest).await.unwrap();
        let close = b"\x88\x00".to_vec();
        let mut limit = Once(Some(Counted::Over { at, close }), None);
        relay.poll_limited(ONE_READ, Some(&mut limit));
        relay.send(b"\x82\x01later").await;
        assert_eq!(relay.rest().await, passed);
    }
}

#[tokio::test]
async fn what_a_limit_keeps_passes_later() {
    let mut relay = Relay::new(1024);
    relay.source.write_all(b"\x82\x01a\x82\x01b").await.unwrap();
    let mut limit = Once(Some(Counted::Until(3)), None);
    relay.poll_limited(ONE_READ, Some(&mut limit));
    assert_eq!(relay.received(3).await, b"\x82\x01a");
    // Nothing more has arrived.
    relay.poll_limited(ONE_READ, Some(&mut limit));
    assert_eq!(relay.received(3).await, b"\x82\x01b");
}

//! Tests of the send queue: the frames that each policy drops, and the tasks it wakes.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Wake;

use super::*;
use crate::net::secure_pair::{read_some, secure_pair};

const LIMIT: usize = 30;

fn frame(name: &'static str, key: Option<&str>) -> QueuedFrame {
    QueuedFrame {
        bytes: Bytes::from_static(name.as_bytes()),
        share: QueuedBytes::default(),
        is_partly_written: false,
        conflate_key: key.map(Box::from),
    }
}

fn waiting(queue: &SendQueue) -> Vec<&str> {
    let extras = queue.extras.as_ref();
    extras.map_or_else(Vec::new, |extras| {
        let frames = extras.frames.iter();
        let texts = frames.map(|frame| std::str::from_utf8(&frame.bytes));
        texts.collect::<Result<_, _>>().unwrap()
    })
}

/// A queue with 26 of its 30 bytes taken: a frame that is partly written, then two whole ones.
fn full(policy: SlowClient) -> SendQueue {
    let mut queue = SendQueue::default();
    for (name, key) in [
        ("partly-----", None),
        ("one-----", Some("a")),
        ("two----", Some("b")),
    ] {
        let outcome = queue.enqueue(frame(name, key), LIMIT, policy, 0);
        assert_eq!(outcome, (Delivery::Queued, 0));
    }
    queue.extras().frames[0].is_partly_written = true;
    queue
}

#[derive(Default)]
struct Wakes(AtomicUsize);

impl Wake for Wakes {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn each_policy_drops_its_own_frames() {
    let (queued, dropped) = (Delivery::Queued, Delivery::Dropped);
    let before = ["partly-----", "one-----", "two----"];
    for (policy, key, outcome, after) in [
        (SlowClient::Close, None, (dropped, 1), &before[..]),
        (SlowClient::DropNewest, None, (dropped, 1), &before),
        (SlowClient::Conflate, None, (dropped, 1), &before),
        (
            SlowClient::Conflate,
            Some("a"),
            (queued, 1),
            &["partly-----", "newest--", "two----"],
        ),
        (
            SlowClient::DropOldest,
            None,
            (queued, 1),
            &["partly-----", "two----", "newest--"],
        ),
    ] {
        let mut queue = full(policy);
        let found = queue.enqueue(frame("newest--", key), LIMIT, policy, 0);
        assert_eq!(found, outcome, "{policy:?} {key:?}");
        assert_eq!(waiting(&queue), after, "{policy:?} {key:?}");
        assert_eq!(queue.bytes(), after.concat().len());
    }
}

#[test]
fn frame_that_finds_the_queue_empty_or_is_partly_written_is_never_dropped() {
    let mut queue = SendQueue::default();
    let long = "-".repeat(2 * LIMIT);
    for written in [0, 1] {
        let rest = Bytes::from(long.clone());
        let (delivery, dropped) = queue.enqueue(
            QueuedFrame::own(rest, written),
            LIMIT,
            SlowClient::DropNewest,
            0,
        );
        assert_eq!((delivery, dropped), (Delivery::Queued, 0));
    }
    assert_eq!(queue.bytes(), 4 * LIMIT);
}

#[test]
fn close_frame_finds_room_in_a_full_queue() {
    let (half, _peer) = tokio::io::duplex(1);
    let stream = Stream::boxed(half);
    let mut queue = full(SlowClient::Close);
    queue.send_close(&stream, Bytes::from_static(b"close"), LIMIT, 0);
    assert_eq!(waiting(&queue), ["partly-----", "close"]);
    assert!(!queue.is_open());
    assert_eq!(queue.try_write(&stream, b"late"), None);
}

#[test]
fn drained_is_woken_by_the_write_that_makes_room_and_by_the_end() {
    let wakes = Arc::new(Wakes::default());
    let waker = Waker::from(wakes.clone());
    let cx = Context::from_waker(&waker);
    let woken = || wakes.0.load(Ordering::Relaxed);

    let mut queue = full(SlowClient::Close);
    assert!(queue.poll_drained(10, &cx).is_pending());
    queue.advance(15);
    assert_eq!((queue.bytes(), woken()), (11, 0));
    queue.advance(1);
    assert_eq!((queue.bytes(), woken()), (10, 1));
    assert!(queue.poll_drained(10, &cx).is_ready());

    assert!(queue.poll_drained(0, &cx).is_pending());
    queue.close();
    assert_eq!(woken(), 2);
    assert!(queue.poll_drained(0, &cx).is_ready());
}

#[test]
fn drained_is_woken_by_dropped_frames_and_by_the_end_of_the_socket() {
    let wakes = Arc::new(Wakes::default());
    let waker = Waker::from(wakes.clone());
    let cx = Context::from_waker(&waker);
    let woken = || wakes.0.load(Ordering::Relaxed);

    let mut queue = full(SlowClient::DropOldest);
    assert!(queue.poll_drained(25, &cx).is_pending());
    let late = frame("late-", None);
    let outcome = queue.enqueue(late, LIMIT, SlowClient::DropOldest, 0);
    assert_eq!(outcome, (Delivery::Queued, 1));
    assert_eq!((queue.bytes(), woken()), (23, 1));

    assert!(queue.poll_drained(0, &cx).is_pending());
    queue.end_drained();
    assert_eq!(woken(), 2);
    assert!(queue.poll_drained(0, &cx).is_ready());
    assert!(queue.is_open());
}

#[test]
fn first_request_to_end_wins() {
    use crate::websocket::Cause;
    let mut queue = SendQueue::default();
    queue.request_end(Ending::of(Cause::Reload));
    queue.request_end(Ending::of(Cause::ServerDrain));
    let ending = queue.take_end_request();
    assert_eq!(ending, Some(Ending::of(Cause::Reload)));
    assert_eq!(queue.take_end_request(), None);
}

#[tokio::test]
async fn client_that_takes_ciphertext_makes_progress() {
    let (stream, mut client) = secure_pair(1024).await;
    let mut queue = SendQueue::default();
    let flush = |queue: &mut SendQueue, now| {
        let mut cx = Context::from_waker(Waker::noop());
        let polled = queue.poll_flush(&stream, &mut cx, now);
        assert!(polled.is_pending() || queue.is_empty());
        queue.blocked_since()
    };
    assert_eq!(flush(&mut queue, 0), NEVER);
    // All of it is encrypted: nothing waits in the queue.
    assert_eq!(queue.try_write(&stream, &[7; 20_000]), None);
    assert_eq!(flush(&mut queue, 1), 1);
    assert_eq!(flush(&mut queue, 5), 1, "it takes nothing");
    read_some(&mut client);
    assert_eq!(flush(&mut queue, 9), 9);
    assert_eq!(flush(&mut queue, 12), 9);
    for now in 13..100 {
        if flush(&mut queue, now) == NEVER {
            return;
        }
        read_some(&mut client);
    }
    panic!("the ciphertext still waits");
}

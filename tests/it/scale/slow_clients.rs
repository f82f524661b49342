//! Slow clients: one does not delay the others, and a vanished one is detected.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::io::AsyncWriteExt;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::clients::{CLOSE, Peer, named, open_all, print_times, whole, with_clients};
use super::process::{DEADLINE, Process};

/// How long deliveries took, with the numbers of their messages.
#[derive(Default)]
struct Deliveries {
    count: AtomicUsize,
    took: Mutex<Vec<(usize, Duration)>>,
    come: tokio::sync::Notify,
}

const LONG: usize = 1024;

#[test]
fn one_slow_reader_among_a_thousand() {
    with_clients(
        named!(one_slow_reader_among_a_thousand),
        1_000,
        one_slow_reader,
    );
}

async fn one_slow_reader(count: usize) {
    let routes = "
        [[websocket.route]]
        path = '/hall/'
        consumer = 'broadcast'
        ping_interval = '0s'
        write_timeout = '10m'
        close_timeout = '60s'
        send_queue = '64 KiB'
        options = { group = 'hall' }
        [[websocket.route]]
        path = '/stage/'
        consumer = 'broadcast'
        ping_interval = '0s'
        options = { group = 'hall', include_sender = false }
    ";
    let process = Process::start("slow", routes);
    let began = Instant::now();
    let deliveries = Arc::new(Deliveries::default());
    let others = count - 1;
    let mut members = JoinSet::new();
    for mut member in open_all(&process, others, "/hall/", "").await {
        let deliveries = deliveries.clone();
        members.spawn(async move {
            for number in 0.. {
                let Some((0x81, message)) = heard_or_closed(&mut member).await else {
                    return number;
                };
                let message = String::from_utf8(message).unwrap();
                let mut words = message.split(' ');
                let mut next = || words.next().unwrap().parse().unwrap();
                let (found, sent): (u64, u64) = (next(), next());
                assert_eq!(found, number as u64);
                let took = began.elapsed() - Duration::from_nanos(sent);
                deliveries.took.lock().unwrap().push((number, took));
                if (deliveries.count.fetch_add(1, Ordering::Relaxed) + 1).is_multiple_of(others) {
                    deliveries.come.notify_one();
                }
            }
            unreachable!()
        });
    }
    let mut stage = Peer::connect(process.address, 0, false).await;
    stage.shake_hands("/stage/", "").await;

    // The next message is sent when all members have the previous one.
    let mut number = 0;
    let publish = async |stage: &mut Peer, number: &mut usize| {
        let sent = began.elapsed().as_nanos();
        let message = format!("{number} {sent} {}", "x".repeat(LONG));
        stage.say(&whole(0x81, &message.as_bytes()[..LONG])).await;
        *number += 1;
        while deliveries.count.load(Ordering::Relaxed) < *number * others {
            timeout(DEADLINE, deliveries.come.notified())
                .await
                .expect("all others to hear it in time");
        }
    };
    for _ in 0..60 {
        publish(&mut stage, &mut number).await;
    }
    let without = number;
    let mut slow = Peer::connect(process.address, 0, true).await;
    slow.shake_hands("/hall/", "").await;
    process
        .until_metric("oneport_websockets", &["/hall/"], count)
        .await;
    let slow_client = ["/hall/", "slow_client"];
    let closed = "oneport_websockets_closed_total";
    // It is counted as ended only after its close frame, which waits behind unread messages; so
    // this looks for the drop.
    while process
        .metric("oneport_messages_dropped_total", &["/hall/"])
        .await
        == 0
    {
        assert!(number < 10_000, "expected the slow reader to be ended");
        for _ in 0..20 {
            publish(&mut stage, &mut number).await;
        }
    }
    let with = number;

    // Now it reads: its messages are complete and in order up to the cut, and the close frame is
    // last.
    let mut heard = without;
    let payload = loop {
        match slow.frame().await.expect("a close frame before the end") {
            (CLOSE, payload) => break payload,
            (first, message) => {
                assert_eq!((first, message.len()), (0x81, LONG));
                assert!(message.starts_with(format!("{heard} ").as_bytes()));
                heard += 1;
            }
        }
    };
    assert_eq!(payload[..2], 1013_u16.to_be_bytes());
    slow.say(&whole(CLOSE, &payload[..2])).await;
    assert_eq!(slow.frame().await, None, "expected the end");
    process.until_metric(closed, &slow_client, 1).await;
    process.until_metric(closed, &[], 1).await;
    for _ in 0..20 {
        publish(&mut stage, &mut number).await;
    }
    let dropped = process
        .metric("oneport_messages_dropped_total", &["/hall/"])
        .await;
    println!(
        "{number} messages of {LONG} bytes to {others} in {:?}; the slow reader heard {} of {}, {dropped} were dropped",
        began.elapsed(),
        heard - without,
        with - without
    );
    let took = std::mem::take(&mut *deliveries.took.lock().unwrap());
    for (name, numbers) in [
        ("without it", 10..without),
        ("with it", without..with),
        ("after it", with..number),
    ] {
        let took = took
            .iter()
            .filter(|(number, _)| numbers.contains(number))
            .map(|(_, took)| *took);
        print_times(&format!("delivery {name}"), took.collect());
    }

    process.ask_to_stop();
    while let Some(heard) = members.join_next().await {
        assert_eq!(heard.unwrap(), number);
    }
    drop(stage);
    process.ended().await;
}

/// Waits for a message; replies to the server's close frame and returns `None`.
async fn heard_or_closed(peer: &mut Peer) -> Option<(u8, Vec<u8>)> {
    match peer.frame().await {
        Some((CLOSE, payload)) => {
            assert_eq!(payload[..2], 1001_u16.to_be_bytes());
            let _ = peer.stream.write_all(&whole(CLOSE, &payload[..2])).await;
            None
        }
        other => other,
    }
}

#[test]
fn half_open_peers_are_found() {
    with_clients(named!(half_open_peers_are_found), 500, async |count| {
        let routes = "
            [[websocket.route]]
            path = '/echo/'
            consumer = 'echo'
            ping_interval = '200ms'
            pong_timeout = '300ms'
        ";
        let process = Process::start("half-open", routes);
        let sockets = process.settled_sockets().await;
        let mut peers = open_all(&process, count, "/echo/", "").await;
        // Some of them were cut off in the middle of a frame.
        for peer in peers.iter_mut().step_by(2) {
            let _ = peer.stream.write_all(&whole(0x81, b"half")[..3]).await;
        }
        let began = Instant::now();
        process
            .until_metric(
                "oneport_websockets_closed_total",
                &["/echo/", "\"ping_timeout\""],
                count,
            )
            .await;
        process
            .until_metric("oneport_websockets", &["/echo/"], 0)
            .await;
        process.until_sockets(0..=sockets).await;
        assert_eq!(
            process.metric("oneport_websockets_closed_total", &[]).await,
            count
        );
        println!(
            "all {count} were found within {:?} of the last handshake",
            began.elapsed()
        );
        process.ask_to_stop();
        process.ended().await;
        drop(peers);
    });
}

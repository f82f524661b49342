//! Bad input: it never costs more memory than the limits allow.

use std::time::Duration;

use flate2::{Compress, Compression, FlushCompress, Status};
use futures_util::future::join_all;
use tokio::io::AsyncWriteExt;
use tokio::time::timeout;

use super::clients::{PING, Peer, connect_all, header, named, open_all_so, whole, with_clients};
use super::process::{KIB, Process, Watch};
use crate::support::HANDSHAKE;

const CLIENTS: usize = 1_000;
const MAX_MESSAGE: usize = 64 * KIB;
const MAX_FRAGMENTS: usize = 1024;
const HEADER_SIZE: usize = 16 * KIB;
const SEND_QUEUE: usize = 64 * KIB;
/// What an attack may cost in addition to the limits: small allocations. Limits are rounded up by a
/// quarter at most.
const SMALL: usize = 10 * KIB;
/// What an open connection may cost before the attack, including the remains of its handshake.
const OPEN: usize = 16 * KIB;
/// What may remain of a client that is gone: pages that are not entirely free.
const LEFT: usize = 5 * KIB;
/// The context that inflates one message, without the message.
const INFLATER: usize = 48 * KIB;
/// The number of attacks in a row.
const WAVES: usize = 3;

const ROUTES: &str = "
    [[websocket.route]]
    path = '/echo/'
    consumer = 'echo'
    ping_interval = '0s'
    close_timeout = '60s'
    write_timeout = '60s'
    max_message = '64 KiB'
    max_fragments = 1_024
    send_queue = '64 KiB'
";

/// What the clients of one attack do.
struct Attack {
    name: &'static str,
    opens: Opens,
    /// What each sends.
    sent: Vec<u8>,
    /// The close code that each gets, if any.
    code: Option<u16>,
    /// The memory that the limits allow each of them.
    allowed: usize,
}

/// What a client opens before it attacks.
#[derive(Clone, Copy, Eq, PartialEq)]
enum Opens {
    Connection,
    Websocket,
    CompressedWebsocket,
    /// The client never reads, so that the server stops reading as well.
    DeafWebsocket,
}

impl Opens {
    async fn open(self, process: &Process, count: usize) -> Vec<Peer> {
        let fields = match self {
            Self::Connection => return connect_all(process, count).await,
            Self::CompressedWebsocket => "Sec-WebSocket-Extensions: permessage-deflate\r\n",
            Self::Websocket | Self::DeafWebsocket => "",
        };
        let is_slow = self == Self::DeafWebsocket;
        open_all_so(process, count, "/echo/", fields, is_slow).await
    }
}

impl Attack {
    fn run(self, test: &str) {
        with_clients(test, CLIENTS, async |count| self.come(count).await);
    }

    async fn come(&self, count: usize) {
        let process = Process::start(self.name, ROUTES);
        let sockets = process.settled_sockets().await;
        let idle = process.resident();
        for wave in 1..=WAVES {
            let mut peers = self.opens.open(&process, count).await;
            process.until_sockets(count + 1..=sockets + count).await;
            let before = process.resident();
            let watch = Watch::start(&process);
            if self.opens == Opens::DeafWebsocket {
                // The server may stop reading for good, so this may only end with the timeout.
                let all = peers.iter_mut();
                let all = all.map(|peer| peer.stream.write_all(&self.sent));
                let _ = timeout(Duration::from_secs(4), async {
                    join_all(all).await;
                    process.until_all_is_read().await;
                })
                .await;
            } else {
                join_all(peers.iter_mut().map(|peer| peer.say(&self.sent))).await;
                process.until_all_is_read().await;
            }
            let most = watch.most();
            if let Some(code) = self.code {
                join_all(peers.iter_mut().map(|peer| peer.expect_close(code))).await;
            }
            drop(peers);
            process.until_sockets(0..=sockets).await;
            let after = process.until_resident(idle + count * LEFT).await;
            let (attack, all) = (
                most.saturating_sub(before) / count,
                most.saturating_sub(idle) / count,
            );
            println!(
                "{}, wave {wave}: {idle} bytes idle, {before} when all {count} were there, {most} at most, {after} after: \
                 {attack} for each attack, {} allowed; {all} for each client",
                self.name, self.allowed
            );
            let wave_max = self.allowed + self.allowed / 4 + SMALL;
            assert!(
                attack <= wave_max && all <= wave_max + OPEN,
                "{}, wave {wave}: {} bytes are allowed to each, {attack} were taken, and {all} with the connection",
                self.name,
                self.allowed
            );
            // Another allocator may retain free memory.
            assert!(
                cfg!(not(feature = "jemalloc")) || after <= idle + count * LEFT,
                "{}, wave {wave}: {idle} bytes before all, {after} after",
                self.name
            );
        }
        process.ask_to_stop();
        process.ended().await;
    }
}

#[test]
fn heads_that_never_end() {
    let mut head = HANDSHAKE.trim_end().to_owned();
    let field = |at: usize| format!("\r\nX-Field-{at}: {}", "x".repeat(200));
    for at in (0..).take_while(|at| (at + 1) * field(*at).len() + 300 < HEADER_SIZE) {
        head += &field(at);
    }
    head += "\r\n";
    assert!((HEADER_SIZE - 600..HEADER_SIZE).contains(&head.len()));
    Attack {
        name: "heads",
        opens: Opens::Connection,
        sent: head.into_bytes(),
        code: None,
        allowed: HEADER_SIZE,
    }
    .run(named!(heads_that_never_end));
}

#[test]
fn frames_of_two_to_the_62() {
    Attack {
        name: "enormous",
        opens: Opens::Websocket,
        sent: [header(0x82, 1 << 62), vec![b'x'; 1000]].concat(),
        code: Some(1009),
        allowed: 0,
    }
    .run(named!(frames_of_two_to_the_62));
}

#[test]
fn longest_messages_without_their_last_byte() {
    let length = header(0x82, MAX_MESSAGE as u64);
    Attack {
        name: "longest",
        opens: Opens::Websocket,
        sent: [length, vec![b'x'; MAX_MESSAGE - 1]].concat(),
        code: None,
        allowed: MAX_MESSAGE,
    }
    .run(named!(longest_messages_without_their_last_byte));
}

#[test]
fn longest_messages_in_most_fragments_without_the_last() {
    let fragment = whole(0x00, &[b'x'; MAX_MESSAGE / MAX_FRAGMENTS]);
    let mut sent = fragment.repeat(MAX_FRAGMENTS - 1);
    sent[0] = 0x02;
    Attack {
        name: "pieces",
        opens: Opens::Websocket,
        sent,
        code: None,
        allowed: MAX_MESSAGE,
    }
    .run(named!(longest_messages_in_most_fragments_without_the_last));
}

#[test]
fn most_fragments_with_nothing_in_them() {
    let fragments = [header(0x02, 0), header(0x00, 0).repeat(MAX_FRAGMENTS - 2)];
    Attack {
        name: "fragments",
        opens: Opens::Websocket,
        sent: fragments.concat(),
        code: None,
        allowed: 0,
    }
    .run(named!(most_fragments_with_nothing_in_them));
}

#[test]
fn frames_that_are_announced_only() {
    Attack {
        name: "announced",
        opens: Opens::Websocket,
        sent: header(0x82, MAX_MESSAGE as u64),
        code: None,
        allowed: 0,
    }
    .run(named!(frames_that_are_announced_only));
}

#[test]
fn pings_whose_pongs_are_not_read() {
    Attack {
        name: "pings",
        opens: Opens::DeafWebsocket,
        sent: whole(PING, &[b'x'; 125]).repeat(1_500),
        code: None,
        allowed: SEND_QUEUE,
    }
    .run(named!(pings_whose_pongs_are_not_read));
}

#[test]
fn bombs() {
    let bomb = deflated(64 * KIB * KIB);
    // It is short enough itself, and inflates to too much.
    assert!(bomb.len() < MAX_MESSAGE + KIB, "{}", bomb.len());
    Attack {
        name: "bombs",
        opens: Opens::CompressedWebsocket,
        sent: whole(0xC1, &bomb),
        code: Some(1009),
        allowed: 0, // what was inflated goes when the limit is passed
    }
    .run(named!(bombs));
}

#[test]
fn longest_compressed_messages_without_their_last_byte() {
    let mut sent = whole(0xC2, &deflated(MAX_MESSAGE));
    sent.pop();
    Attack {
        name: "compressed",
        opens: Opens::CompressedWebsocket,
        sent,
        code: None,
        allowed: MAX_MESSAGE + INFLATER,
    }
    .run(named!(longest_compressed_messages_without_their_last_byte));
}

/// Zeros as the payload of a compressed message (RFC 7692 §7.2.1).
fn deflated(zeros: usize) -> Vec<u8> {
    let mut compress = Compress::new(Compression::best(), false);
    let zeros = vec![0; zeros];
    let mut out = Vec::with_capacity(zeros.len() / 500 + KIB);
    let status = compress
        .compress_vec(&zeros, &mut out, FlushCompress::Sync)
        .unwrap();
    assert_eq!(status, Status::Ok);
    assert_eq!(compress.total_in(), zeros.len() as u64);
    assert!(out.ends_with(&[0, 0, 0xFF, 0xFF]));
    out.truncate(out.len() - 4);
    out
}

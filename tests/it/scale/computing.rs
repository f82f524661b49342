//! Computing: a consumer that blocks its thread does not stop the server.

use std::time::{Duration, Instant};

use oneport::gateway::Registry;
use oneport::testing::LiveServer;
use oneport::websocket::{Close, Consumer, Context, Message};
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::clients::{Peer, named, print_times, whole, with_clients};
use super::process::DEADLINE;

/// How many messages each of the other clients sends.
const ROUNDS: usize = 50;

/// Blocks its thread for a time at every message.
struct Computes;

impl Consumer for Computes {
    type Options = ();

    fn new((): &()) -> Self {
        Self
    }

    async fn receive(&mut self, cx: &mut Context<'_>, message: Message) -> Result<(), Close> {
        std::thread::sleep(Duration::from_millis(200));
        cx.send(message);
        Ok(())
    }
}

#[test]
fn a_consumer_that_computes() {
    with_clients(named!(a_consumer_that_computes), 100, async |count| {
        let routes = "
            [[websocket.route]]
            path = '/echo/'
            consumer = 'echo'
            [[websocket.route]]
            path = '/computes/'
            consumer = 'computes'
        ";
        // The clients do not run on the blocked threads.
        let threads = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let registry = Registry::builtin().consumer::<Computes>("computes");
        let (tell, told) = tokio::sync::oneshot::channel();
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let server = std::thread::spawn(move || {
            let cut_off = threads.block_on(async {
                let server = LiveServer::with(&registry, routes).await.unwrap();
                let _ = tell.send(server.address());
                let _ = stopped.await;
                server.stop().await.cut_off
            });
            threads.shutdown_timeout(DEADLINE);
            cut_off
        });
        let address = told.await.unwrap();
        for computing in [0, 1] {
            let mut computes = JoinSet::new();
            for at in 0..computing {
                computes.spawn(async move {
                    let mut peer = Peer::connect(address, at, false).await;
                    peer.shake_hands("/computes/", "").await;
                    loop {
                        peer.say(&whole(0x81, b"compute")).await;
                        assert_eq!(peer.frame().await, Some((0x81, b"compute".to_vec())));
                    }
                });
            }
            let mut echoes = JoinSet::new();
            for at in 0..count {
                echoes.spawn(async move {
                    let mut peer = Peer::connect(address, at, false).await;
                    peer.shake_hands("/echo/", "").await;
                    let mut took = Vec::new();
                    for number in 0..ROUNDS {
                        let message = format!("message {number} of {at}").into_bytes();
                        let began = Instant::now();
                        peer.say(&whole(0x81, &message)).await;
                        assert_eq!(peer.frame().await, Some((0x81, message)));
                        took.push(began.elapsed());
                        sleep(Duration::from_millis(10)).await; // many rounds see the consumer at work
                    }
                    took
                });
            }
            let mut took = Vec::new();
            while let Some(some) = echoes.join_next().await {
                took.extend(some.unwrap());
            }
            assert_eq!(took.len(), ROUNDS * count);
            print_times(
                &format!("echo beside {computing} that compute, 2 workers"),
                took,
            );
            if let Some(failed) = computes.try_join_next() {
                failed.unwrap();
            }
        }
        let _ = stop.send(());
        assert_eq!(server.join().unwrap(), 0);
    });
}

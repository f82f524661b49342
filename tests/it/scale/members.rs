//! Members: every member of a large group gets every message, and an idle one costs little.

use std::time::Instant;

use futures_util::future::join_all;

use super::clients::{named, open_all, whole, with_clients};
use super::process::Process;

const MESSAGES: usize = 20;

/// The memory of an idle connection; tasks are larger in an unoptimised build.
const CONNECTION_BYTES_MAX: f64 = if cfg!(debug_assertions) {
    16_384.0
} else {
    8_192.0
};

#[test]
fn a_thousand_members_get_every_message() {
    with_clients(
        named!(a_thousand_members_get_every_message),
        1_000,
        async |count| {
            members_get_every_message("thousand", [count / 10, count / 2, count]).await;
        },
    );
}

#[test]
#[ignore = "takes up to a minute and 19,000 descriptors"]
fn nineteen_thousand_members_get_every_message() {
    with_clients(
        named!(nineteen_thousand_members_get_every_message),
        19_000,
        async |count| {
            let stages = [count / 19, count * 10 / 19, count];
            let [first, second] = members_get_every_message("nineteen", stages).await;
            assert!(
                first.max(second) <= CONNECTION_BYTES_MAX,
                "expected at most {CONNECTION_BYTES_MAX} bytes a connection, found {first:.0} and {second:.0}"
            );
            assert!(
                second <= 1.3 * first,
                "expected the same for each connection, found {first:.0} bytes, then {second:.0}"
            );
        },
    );
}

/// Returns the bytes per additional connection, from stage to stage.
async fn members_get_every_message(name: &str, stages: [usize; 3]) -> [f64; 2] {
    let routes = "
        [[websocket.route]]
        path = '/all/'
        consumer = 'broadcast'
        ping_interval = '0s'
        options = { group = 'all' }
    ";
    let process = Process::start(name, routes);
    let sockets = process.settled_sockets().await;
    let began = Instant::now();
    println!("{:>6} members: {:>9} bytes", 0, process.resident());
    let mut members = Vec::new();
    let mut measured = Vec::new();
    for stage in stages {
        members.extend(open_all(&process, stage - members.len(), "/all/", "").await);
        process.until_metric("oneport_websockets", &[], stage).await;
        process.until_sockets(stage..=sockets + stage).await;
        let bytes = process.resident();
        println!("{stage:>6} members: {bytes:>9} bytes");
        measured.push((stage, bytes));
    }
    let growth = [0, 1].map(|at| {
        let ((few, before), (many, after)) = (measured[at], measured[at + 1]);
        (after as f64 - before as f64) / (many - few) as f64
    });
    println!(
        "{:.0} and {:.0} bytes for each further member; all were there after {:?}",
        growth[0],
        growth[1],
        began.elapsed()
    );

    let began = Instant::now();
    let mut expected = Vec::new();
    for at in 0..MESSAGES {
        let message = format!("message {at:02} of {MESSAGES}");
        members[0].say(&whole(0x81, message.as_bytes())).await;
        expected.push(0x81);
        expected.push(message.len() as u8);
        expected.extend(message.as_bytes());
    }
    for (at, member) in members.iter_mut().enumerate() {
        while member.heard.len() < expected.len() {
            assert!(member.read().await, "member {at} was ended");
        }
        assert!(
            member.heard == expected,
            "member {at} heard {:?}",
            String::from_utf8_lossy(&member.heard)
        );
        member.heard.clear();
    }
    println!(
        "{} deliveries in {:?}, {} bytes then",
        members.len() * MESSAGES,
        began.elapsed(),
        process.resident()
    );

    // Only the close frame follows.
    let began = Instant::now();
    process.ask_to_stop();
    join_all(members.iter_mut().map(|member| member.expect_close(1001))).await;
    process.ended().await;
    println!("stopped after {:?}", began.elapsed());
    growth
}

//! Tests of the deadlines: one by one, and against the list of what has happened to a socket.

use proptest::prelude::*;

use super::*;
use crate::websocket::CloseCode;

fn settings() -> SocketSettings {
    SocketSettings {
        max_lifetime: Duration::from_secs(1000),
        idle_timeout: Duration::from_secs(100),
        ..SocketSettings::default()
    }
}

#[test]
fn silent_client_is_pinged_and_then_ended() {
    let mut table = KeepAlive::new(0, &settings(), 0.0);
    assert_eq!(
        table.due(0, &settings(), NEVER, Reading::Yes),
        Due::Nothing(25_000)
    );
    assert_eq!(
        table.due(25_000, &settings(), NEVER, Reading::Yes),
        Due::Ping
    );
    table.pinged(25_000);
    assert_eq!(
        table.due(25_000, &settings(), NEVER, Reading::Yes),
        Due::Nothing(35_000)
    );
    assert!(matches!(
        table.due(35_000, &settings(), NEVER, Reading::Yes),
        Due::End(Ending {
            cause: Cause::PingTimeout,
            ..
        })
    ));
    table.received(34_000);
    assert_eq!(
        table.due(35_000, &settings(), NEVER, Reading::Yes),
        Due::Nothing(59_000)
    );
}

#[test]
fn other_deadlines_go_on_while_no_ping_can_be_sent() {
    let table = KeepAlive::new(0, &settings(), 0.0);
    let due = |now| table.due_without_ping(now, &settings(), NEVER, Reading::Yes);
    assert_eq!(
        table.due(25_000, &settings(), NEVER, Reading::Yes),
        Due::Ping
    );
    assert_eq!(due(25_000), Due::Nothing(100_000));
    assert_eq!(due(100_000), Due::End(Ending::of(Cause::IdleTimeout)));
}

#[test]
fn pong_that_cannot_be_read_is_not_missed() {
    let mut table = KeepAlive::new(0, &settings(), 0.0);
    table.pinged(25_000);
    assert_eq!(
        table.due(36_000, &settings(), NEVER, Reading::Blocked),
        Due::Nothing(46_000)
    );
}

#[test]
fn client_in_a_pause_is_pinged_again_and_its_silence_does_not_count() {
    let settings = SocketSettings {
        first_message_timeout: Duration::from_secs(40),
        ..settings()
    };
    let mut table = KeepAlive::new(0, &settings, 0.0);
    for at in [25_000, 50_000, 75_000, 100_000, 125_000] {
        let due = |now| table.due(now, &settings, NEVER, Reading::Paused);
        assert_eq!(due(at - 1), Due::Nothing(at));
        assert_eq!(due(at), Due::Ping);
        table.pinged(at);
    }
    table.resumed(130_000, 130_000);
    table.first_message_waited(130_000);
    // The last ping of the pause waits for its reply from now on.
    let due = table.due(130_000, &settings, NEVER, Reading::Yes);
    assert_eq!(due, Due::Nothing(140_000));
    table.received(130_000);
    let due = table.due(130_000, &settings, NEVER, Reading::Yes);
    assert_eq!(due, Due::Nothing(155_000));
    let due = table.due(170_000, &settings, NEVER, Reading::Yes);
    assert_eq!(due, Due::End(Ending::of(Cause::FirstMessageTimeout)));
}

#[test]
fn pause_renews_no_deadline_of_a_silent_client() {
    let settings = SocketSettings {
        first_message_timeout: Duration::from_secs(40),
        ..settings()
    };
    let mut table = KeepAlive::new(0, &settings, 0.0);
    table.pinged(25_000);
    table.resumed(33_000, 3_000);
    let due = |table: &KeepAlive, now| table.due(now, &settings, NEVER, Reading::Yes);
    assert_eq!(due(&table, 33_000), Due::Nothing(38_000));
    assert_eq!(
        due(&table, 38_000),
        Due::End(Ending::of(Cause::PingTimeout))
    );
    // A later pause does not move the deadline of the first message.
    table.received(39_000);
    table.resumed(50_000, 10_000);
    let end = Due::End(Ending::of(Cause::FirstMessageTimeout));
    assert_eq!(due(&table, 50_000), end);
    table.message();
    assert_eq!(due(&table, 50_000), Due::Nothing(74_000));
}

#[test]
fn each_deadline_has_its_cause() {
    let mut table = KeepAlive::new(0, &settings(), 1.0);
    table.received(899_999);
    assert!(matches!(
        table.due(5_000, &settings(), 0, Reading::Yes),
        Due::End(Ending {
            cause: Cause::WriteTimeout,
            ..
        })
    ));
    assert!(matches!(
        table.due(900_000, &settings(), NEVER, Reading::Yes),
        Due::End(Ending {
            cause: Cause::Lifetime,
            ..
        })
    ));
    let settings = || SocketSettings {
        ping_interval: Duration::ZERO,
        ..settings()
    };
    let table = KeepAlive::new(0, &settings(), 0.0);
    assert!(matches!(
        table.due(100_000, &settings(), NEVER, Reading::Yes),
        Due::End(Ending {
            cause: Cause::IdleTimeout,
            ..
        })
    ));
}

#[test]
fn silence_from_the_start_has_a_deadline_of_its_own() {
    let settings = SocketSettings {
        first_message_timeout: Duration::from_secs(3),
        ..settings()
    };
    let mut table = KeepAlive::new(0, &settings, 0.0);
    assert_eq!(
        table.due(0, &settings, NEVER, Reading::Yes),
        Due::Nothing(3_000)
    );
    table.received(2_000); // a pong is not a message
    let Due::End(ending) = table.due(3_000, &settings, NEVER, Reading::Yes) else {
        panic!("nothing was due");
    };
    assert_eq!(
        (ending.code, ending.cause),
        (CloseCode::POLICY, Cause::FirstMessageTimeout)
    );
    table.message();
    assert_eq!(
        table.due(3_000, &settings, NEVER, Reading::Yes),
        Due::Nothing(27_000)
    );
}

/// What happens to a socket, after a pause.
#[derive(Clone, Copy, Debug)]
enum Event {
    /// Bytes arrive; whether a message is whole with them.
    Received(bool),
    /// A write waits, or goes on.
    Blocked(bool),
    /// The socket stops reading, or goes on.
    Reading(bool),
}

/// Every event so far, from which a naive socket finds its end.
struct Naive {
    settings: SocketSettings,
    lifetime: Millis,
    received: Vec<Millis>,
    /// Whether a message has arrived.
    has_message: bool,
    /// The ping since the last bytes.
    pinged: Option<Millis>,
    blocked: Option<Millis>,
    is_reading: bool,
}

impl Naive {
    /// The deadlines that a socket has, with their causes, in the order in which they count.
    fn deadlines(&self) -> Vec<(Millis, Option<Cause>)> {
        let mut found = Vec::new();
        let mut add = |since: Option<Millis>, wait: Duration, cause| {
            if let Some(since) = since.filter(|_| !wait.is_zero()) {
                found.push((since + millis(wait), cause));
            }
        };
        let settings = &self.settings;
        let last = self.received.last().copied();
        let pinged = self.pinged;
        let is_pinged = pinged.is_some();
        add(
            self.blocked,
            settings.write_timeout,
            Some(Cause::WriteTimeout),
        );
        add(
            Some(0),
            Duration::from_millis(self.lifetime),
            Some(Cause::Lifetime),
        );
        let pinged = pinged.filter(|_| self.is_reading);
        add(pinged, settings.pong_timeout, Some(Cause::PingTimeout));
        let silent = Some(0).filter(|_| !self.has_message);
        add(
            silent,
            settings.first_message_timeout,
            Some(Cause::FirstMessageTimeout),
        );
        add(last, settings.idle_timeout, Some(Cause::IdleTimeout));
        add(last.filter(|_| !is_pinged), settings.ping_interval, None);
        found
    }

    fn due(&self, now: Millis) -> Option<Option<Cause>> {
        let mut deadlines = self.deadlines().into_iter();
        deadlines.find(|(at, _)| now >= *at).map(|(_, cause)| cause)
    }
}

fn setting(max: u64) -> impl Strategy<Value = Duration> {
    prop_oneof![1 => Just(0), 3 => 1..max].prop_map(Duration::from_millis)
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        4 => any::<bool>().prop_map(Event::Received),
        1 => any::<bool>().prop_map(Event::Blocked),
        1 => any::<bool>().prop_map(Event::Reading),
    ]
}

proptest! {
    /// A socket that sleeps until the instant that it was told misses no deadline, is not woken
    /// for nothing, and ends for the cause that the list of its events gives.
    #[test]
    fn deadlines_are_those_of_the_list_of_events(
        (lifetime, idle, ping, pong) in (setting(9000), setting(3000), setting(1000), 1..1000_u64),
        (first, write) in (setting(3000), setting(2000)),
        events in proptest::collection::vec((0..1500_u64, event()), 1..30),
    ) {
        let settings = SocketSettings {
            max_lifetime: lifetime,
            idle_timeout: idle,
            ping_interval: ping,
            pong_timeout: Duration::from_millis(pong),
            first_message_timeout: first,
            write_timeout: write,
            ..SocketSettings::default()
        };
        let mut table = KeepAlive::new(0, &settings, 0.0);
        let mut naive = Naive {
            lifetime: millis(lifetime),
            settings: settings.clone(),
            received: vec![0],
            has_message: false,
            pinged: None,
            blocked: None,
            is_reading: true,
        };
        let mut now = 0;
        for (pause, event) in events {
            let until = now + pause;
            // Sleeps until something is due or the event comes.
            loop {
                let blocked = naive.blocked.unwrap_or(NEVER);
                let reading = match naive.is_reading {
                    true => Reading::Yes,
                    false => Reading::Blocked,
                };
                match table.due(now, &settings, blocked, reading) {
                    Due::End(ending) => {
                        prop_assert_eq!(naive.due(now), Some(Some(ending.cause)));
                        return Ok(());
                    }
                    Due::Ping => {
                        prop_assert_eq!(naive.due(now), Some(None));
                        table.pinged(now);
                        naive.pinged = Some(now);
                    }
                    Due::Nothing(next) => {
                        prop_assert_eq!(naive.due(now), None);
                        prop_assert!(next > now);
                        let first = naive.deadlines().into_iter().map(|(at, _)| at).min();
                        prop_assert!(next <= first.unwrap_or(NEVER), "a deadline is missed");
                        let waits_for_reader = naive.pinged.is_some();
                        prop_assert!(
                            next == first.unwrap_or(NEVER) || waits_for_reader,
                            "woken for nothing"
                        );
                        if next > until {
                            break;
                        }
                        now = next;
                    }
                }
            }
            now = until;
            match event {
                Event::Received(is_message) => {
                    prop_assert_eq!(table.received(now), naive.pinged.take().is_some());
                    naive.received.push(now);
                    if is_message {
                        table.message();
                        naive.has_message = true;
                    }
                }
                Event::Blocked(is_blocked) => naive.blocked = is_blocked.then_some(now),
                Event::Reading(is_reading) => naive.is_reading = is_reading,
            }
        }
    }
}

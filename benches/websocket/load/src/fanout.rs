//! Fan-out: every message goes to all connections. Some of them send; all of them count what
//! arrives.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use clap::Args;
use serde_json::{Value, json};

use crate::client::Client;
use crate::connection::Message;
use crate::histogram::Histogram;
use crate::schedule::Schedule;
use crate::window::{Phase, Window};
use crate::{Common, deflate, frame, json_text};

/// A message that has not reached all members by then is lost for the others.
const LOST_AFTER: Duration = Duration::from_secs(5);

/// How long a room may take until all members get its messages.
const JOINING_MAX: Duration = Duration::from_secs(30);

/// How long a probe may take before another one is sent.
const ASK_AGAIN: Duration = Duration::from_secs(2);

/// How many compressed payloads are remembered.
const LATEST: usize = 16;

/// The digits at the start of a message, which are its number.
const NUMBER_BYTES: usize = 16;

#[derive(Args)]
pub struct Fanout {
    #[command(flatten)]
    common: Common,
    /// Members of the room
    #[arg(long, default_value_t = 1000)]
    connections: usize,
    /// Bytes of a message
    #[arg(long, default_value_t = 100)]
    size: usize,
    /// Members that send, in turn
    #[arg(long, default_value_t = 1)]
    senders: usize,
    /// Messages in flight, not received by all members yet
    #[arg(long, default_value_t = 1)]
    window: usize,
    /// An open loop: messages per second
    #[arg(long, conflicts_with = "window")]
    rate: Option<f64>,
}

/// A message in flight.
struct Sent {
    /// When it was sent, or was due.
    at: Instant,
    missing: usize,
}

/// The room as the generator sees it.
struct Room<'a> {
    options: &'a Fanout,
    client: Client,
    text: Vec<u8>,
    /// Of the latest message.
    number: u64,
    /// Of the first message that counts: earlier ones may not reach all members.
    first: u64,
    sent: HashMap<u64, Sent>,
    numbers: Numbers,
    /// Whether a message has reached all members, or was given up, since the last check.
    message_ended: bool,
    /// From sending to each member, and to the last one.
    each: Histogram,
    last: Histogram,
    deliveries: u64,
    bytes: u64,
    wrong: u64,
    lost: usize,
}

impl Fanout {
    pub fn run(&self) -> Result<Value> {
        ensure!(
            (1..=self.connections).contains(&self.senders),
            "expected 1 to {} senders, found {}",
            self.connections,
            self.senders
        );
        let mut room = Room::join(self)?;
        let mut schedule = Schedule::new(self.rate);
        let mut window = self.common.window();
        loop {
            let now = Instant::now();
            // A closed loop is measured from the end of a message to the end of another: one may
            // take seconds.
            if schedule.is_some() || std::mem::take(&mut room.message_ended) {
                match window.phase(now) {
                    Phase::Begins => room.begin(),
                    Phase::Over => break,
                    Phase::Running => {}
                }
            }
            let mut timeout = Duration::from_millis(50);
            if let Some(schedule) = &mut schedule {
                while let Some(due) = schedule.due(now) {
                    room.publish(due)?;
                }
                timeout = schedule.wait(Instant::now());
            } else {
                while room.sent.len() < self.window {
                    room.publish(Instant::now())?;
                }
            }
            let heard = room.hear(timeout, &window)?;
            if heard == 0 {
                room.give_up(now);
            }
        }
        let usage = window.usage();
        let (deliveries, bytes) = (room.deliveries, room.bytes);

        let deadline = Instant::now() + LOST_AFTER;
        while schedule.is_some() && !room.sent.is_empty() && Instant::now() < deadline {
            room.hear(Duration::from_millis(50), &window)?;
        }
        room.give_up(Instant::now());
        let mut result = json!({
            "bytes": bytes as f64 / deliveries as f64,
            "last_p50_us": room.last.percentile(50.0),
            "last_p99_us": room.last.percentile(99.0),
            "wrong": room.wrong,
            "lost": room.lost,
        });
        usage.report(deliveries, &room.each, &room.client.failures, &mut result);
        Ok(result)
    }
}

impl<'a> Room<'a> {
    /// A room in which all members get every message.
    fn join(options: &'a Fanout) -> Result<Self> {
        let mut room = Self {
            options,
            client: Client::open(options.common.target()?, options.connections)?,
            text: json_text(options.size.saturating_sub(NUMBER_BYTES)),
            number: 0,
            first: 0,
            sent: HashMap::new(),
            numbers: Numbers::default(),
            message_ended: false,
            each: Histogram::new(),
            last: Histogram::new(),
            deliveries: 0,
            bytes: 0,
            wrong: 0,
            lost: 0,
        };
        let window = options.common.window();
        let deadline = Instant::now() + JOINING_MAX;
        while Instant::now() < deadline {
            room.publish(Instant::now())?;
            let asked = Instant::now();
            while asked.elapsed() < ASK_AGAIN {
                room.hear(Duration::from_millis(20), &window)?;
                if !room.sent.contains_key(&room.number) {
                    room.first = room.number + 1;
                    room.sent.clear();
                    return Ok(room);
                }
            }
        }
        let missing = room.sent.values().map(|sent| sent.missing).min();
        bail!(
            "{} of {} members never heard a message",
            missing.unwrap_or_default(),
            options.connections
        );
    }

    fn begin(&mut self) {
        self.each.clear();
        self.last.clear();
        self.deliveries = 0;
        self.bytes = 0;
    }

    /// Sends the next message, from the next member in turn.
    fn publish(&mut self, at: Instant) -> Result<()> {
        self.number += 1;
        let message = [
            format!("{:0NUMBER_BYTES$}", self.number).as_bytes(),
            &self.text,
        ]
        .concat();
        let frame = if self.options.common.deflate {
            frame::encode(frame::TEXT, true, &deflate::compress(&message)?)
        } else {
            frame::encode(frame::TEXT, false, &message)
        };
        let missing = self.options.connections;
        self.sent.insert(self.number, Sent { at, missing });
        let sender = self.number as usize % self.options.senders;
        self.client.send(sender, &frame);
        Ok(())
    }

    /// Waits for input; returns how many connections had some.
    fn hear(&mut self, timeout: Duration, window: &Window) -> Result<usize> {
        let mut events = vec![];
        self.client.wait(&mut events, timeout)?;
        let Self {
            client,
            sent,
            numbers,
            ..
        } = self;
        let size = self.options.size;
        let open_loop = self.options.rate.is_some();
        for ready in &events {
            client.serve(*ready, |message| {
                self.deliveries += 1;
                self.bytes += message.payload.len() as u64;
                let Some(number) = numbers.of(message, size) else {
                    self.wrong += 1;
                    return;
                };
                let Entry::Occupied(mut entry) = sent.entry(number) else {
                    self.wrong += u64::from(number >= self.first);
                    return;
                };
                let Sent { at, missing } = entry.get_mut();
                *missing -= 1;
                let latency = at.elapsed();
                let counts = !open_loop || window.holds(*at);
                if counts {
                    self.each.add(latency);
                }
                if *missing == 0 {
                    if counts {
                        self.last.add(latency);
                    }
                    entry.remove();
                    self.message_ended = true;
                }
            });
        }
        Ok(events.len())
    }

    /// Treats messages that are too old as lost, so that others can be sent.
    fn give_up(&mut self, now: Instant) {
        self.sent.retain(|_, sent| {
            let late = now.saturating_duration_since(sent.at) >= LOST_AFTER;
            if late {
                self.lost += sent.missing;
                self.message_ended = true;
            }
            !late
        });
    }
}

/// Identifies the message of a payload. A compressed one is looked up among the latest, because all
/// members get the same bytes.
#[derive(Default)]
struct Numbers {
    latest: VecDeque<(Vec<u8>, u64)>,
}

impl Numbers {
    fn of(&mut self, message: &Message<'_>, size: usize) -> Option<u64> {
        if !message.compressed {
            return number(message.payload);
        }
        if let Some((_, number)) = self
            .latest
            .iter()
            .find(|(payload, _)| payload == message.payload)
        {
            return Some(*number);
        }
        let number = number(&deflate::decompress(message.payload, size).ok()?)?;
        self.latest.truncate(LATEST - 1);
        self.latest.push_front((message.payload.to_vec(), number));
        Some(number)
    }
}

fn number(message: &[u8]) -> Option<u64> {
    std::str::from_utf8(message.get(..NUMBER_BYTES)?)
        .ok()?
        .parse()
        .ok()
}
